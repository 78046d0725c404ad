//! The stream of events, as it was recorded and as it may break.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tool_executor::backend::nomad::api::{ApiError, EventStream, Events, Payload, StreamEnd};

use super::player::{Answer, Player};

const TOPICS: [&str; 2] = ["Allocation:*", "Node:*"];
const GREETING: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(45);

async fn rest(stream: &mut EventStream) -> (Vec<Events>, StreamEnd) {
    let mut all = Vec::new();
    loop {
        match stream.next().await {
            Ok(events) => all.push(events),
            Err(end) => return (all, end),
        }
    }
}

fn kinds(events: &[Events]) -> Vec<(u64, &str)> {
    events.iter().flat_map(|line| &line.events).map(|event| (event.index, event.kind.as_str())).collect()
}

#[tokio::test(start_paused = true)]
async fn file_06_the_address_is_known_with_the_plan() {
    let player = Player::new();
    let mut stream = player.recorded("06", "stream_allocation_topic").events(&TOPICS, 168);
    assert_eq!(stream.next().await, Ok(Events::default()));
    assert_eq!(stream.last_index(), 168);
    let query = player.seen()[0].uri.query().expect("a query").to_owned();
    assert_eq!(query, "index=168&topic=Allocation%3A*&topic=Node%3A*");
    let plan = stream.next().await.expect("events");
    let event = &plan.events[0];
    assert_eq!((event.topic.as_str(), event.kind.as_str(), plan.index), ("Allocation", "PlanResult", 169));
    let Payload::Allocation(allocation) = &event.payload else { panic!("{event:?}") };
    assert_eq!((allocation.client_status.as_str(), &allocation.id), ("pending", &event.key));
    assert_eq!(allocation.port("agent").map(|port| port.value), Some(22455));
    let (events, end) = rest(&mut stream).await;
    assert_eq!((events.len(), stream.last_index()), (5, 182));
    // The recorder closed it; here it went on, and said nothing.
    assert_eq!(end, StreamEnd::Silent);
    assert_eq!(stream.next().await, Err(StreamEnd::Silent));
}

#[tokio::test(start_paused = true)]
async fn file_06_what_is_known_is_dropped() {
    let player = Player::new();
    let mut stream = player.recorded("06", "stream_index_0").events(&TOPICS, 171);
    let (events, _) = rest(&mut stream).await;
    let indexes: Vec<_> = kinds(&events).into_iter().map(|(index, _)| index).collect();
    assert_eq!((indexes.as_slice(), stream.last_index()), ([173, 175, 180, 182].as_slice(), 182));
}

#[tokio::test(start_paused = true)]
async fn file_06_heartbeats_keep_it_open() {
    let player = Player::new();
    let began = Instant::now();
    let mut stream = player.recorded("06", "stream_heartbeats").events(&TOPICS, 183);
    let (events, end) = rest(&mut stream).await;
    assert_eq!((events, end), (vec![Events::default(); 3], StreamEnd::Silent));
    let last = Duration::from_secs(60);
    assert!((last + SILENCE..last + SILENCE + Duration::from_secs(1)).contains(&began.elapsed()));
}

#[tokio::test(start_paused = true)]
async fn file_06_a_bad_call_is_told() {
    let player = Player::new();
    for name in ["stream_bad_index", "stream_bad_topic_syntax"] {
        let end = player.recorded("06", name).events(&TOPICS, 0).next().await;
        assert!(matches!(&end, Err(StreamEnd::Failed(ApiError::Invalid { .. }))), "{end:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn file_10_nodes_tell_first() {
    let player = Player::new();
    let (events, _) = rest(&mut player.recorded("10", "events_all_steps").events(&TOPICS, 0)).await;
    let mut nodes = events.iter().flat_map(|line| &line.events).filter_map(|event| match &event.payload {
        Payload::Node(node) => Some((event.kind.as_str(), node)),
        _ => None,
    });
    assert!(nodes.by_ref().any(|(kind, node)| kind == "NodeEligibility" && !node.is_usable() && !node.drain));
    assert!(nodes.by_ref().any(|(kind, node)| kind == "NodeDrain" && node.drain));
    assert!(nodes.by_ref().any(|(kind, node)| kind == "NodeDrain" && !node.drain && node.is_usable()));
}

#[tokio::test(start_paused = true)]
async fn files_13_and_27_a_refused_stream_says_nothing() {
    let player = Player::new();
    for (number, name) in [
        ("13", "stream_no_token"),
        ("13", "stream_bad_token"),
        ("13", "stream_node_topic_executor"),
        ("13", "stream_alloc_and_node_topic_executor"),
        ("13", "stream_bad_token_watched_75s"),
        ("27", "refused_0"),
        ("27", "refused_3"),
    ] {
        let began = Instant::now();
        let end = player.recorded(number, name).events(&TOPICS, 0).next().await;
        assert_eq!(end, Err(StreamEnd::Refused), "{name}");
        let took = began.elapsed();
        assert!((GREETING..GREETING + Duration::from_secs(1)).contains(&took), "{name}: {took:?}");
    }
    // The agent came across it at once.
    let began = Instant::now();
    let end = player.recorded("13", "stream_other_namespace_executor").events(&TOPICS, 0).next().await;
    assert_eq!(end, Err(StreamEnd::Refused));
    assert!(began.elapsed() < GREETING);
    assert_eq!(player.recorded("27", "accepted").events(&TOPICS, 0).next().await, Ok(Events::default()));
    // A token that is revoked ends it some seconds later.
    let (events, end) = rest(&mut player.recorded("13", "stream_token_revoked").events(&TOPICS, 34)).await;
    assert_eq!((events.len(), end), (1, StreamEnd::Closed));
}

#[tokio::test(start_paused = true)]
async fn file_14_one_index_may_come_in_several_lines() {
    let player = Player::new();
    let (events, _) = rest(&mut player.recorded("14", "gc_events").events(&TOPICS, 1429)).await;
    let kinds = kinds(&events);
    // Of before, as Nomad begins a little early.
    assert_eq!(kinds.iter().filter(|(index, _)| *index <= 1429).count(), 0);
    assert_eq!(kinds.iter().filter(|(_, kind)| *kind == "JobBatchDeregistered").count(), 5);
    assert_eq!(kinds.iter().filter(|(index, _)| *index == 1435).count(), 2);
    let job = events.iter().flat_map(|line| &line.events).find(|event| event.topic == "Job").expect("a job");
    assert!(matches!(&job.payload, Payload::Job(said) if said.id == job.key));
}

#[tokio::test(start_paused = true)]
async fn files_16_to_20_a_server_goes() {
    let player = Player::new();
    for (number, name) in [("16", "stream_over_kill"), ("17", "SIGKILL_stream"), ("17", "SIGTERM_stream")] {
        let (events, end) = rest(&mut player.recorded(number, name).events(&TOPICS, 0)).await;
        assert_eq!((events.len(), end), (2, StreamEnd::Closed), "{name}");
    }
    // Through an agent whose server dies, nothing tells.
    let mut stream = player.recorded("18", "stream_through_client_over_server_kill").events(&TOPICS, 0);
    let (events, end) = rest(&mut stream).await;
    assert_eq!((events.len(), end), (18, StreamEnd::Silent));
    for (number, name) in [("18", "server_down_stream"), ("20", "stream")] {
        let end = player.recorded(number, name).events(&TOPICS, 0).next().await;
        assert!(matches!(&end, Err(StreamEnd::Failed(ApiError::Retryable { .. }))), "{end:?}");
    }
    assert_eq!(player.recorded("19", "stream").events(&TOPICS, 0).next().await, Ok(Events::default()));
    let end = player.answer([Answer::Never]).events(&TOPICS, 0).next().await;
    assert!(matches!(&end, Err(StreamEnd::Failed(ApiError::TimedOut { .. }))), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn waiting_may_be_given_up_and_taken_up() {
    let player = Player::new();
    let mut stream = player.recorded("06", "stream_allocation_topic").events(&TOPICS, 168);
    let mut indexes = Vec::new();
    // Whatever it waits for, a connection among it, is dropped every 10 ms.
    while indexes.len() < 7 {
        if let Ok(events) = timeout(Duration::from_millis(10), stream.next()).await {
            indexes.push(events.expect("events").index);
        }
    }
    assert_eq!(indexes, [0, 169, 171, 173, 175, 180, 182]);
    assert_eq!(player.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_line_may_be_anything() {
    let player = Player::new();
    let stream = |line: &str| {
        let line = (Duration::ZERO, line.to_owned());
        player.answer([Answer::Stream { status: 200, lines: vec![line], end: None }]).events(&TOPICS, 0)
    };
    let end = stream("rpc error: Permission denied\n").next().await;
    assert!(matches!(&end, Err(StreamEnd::Failed(ApiError::Denied { .. }))), "{end:?}");
    let end = stream("{\"Index\": \"x\"}\n").next().await;
    assert!(matches!(&end, Err(StreamEnd::Failed(ApiError::Malformed { .. }))), "{end:?}");
    let end = stream(&"x".repeat((16 << 20) + 1)).next().await;
    assert!(matches!(&end, Err(StreamEnd::Failed(ApiError::Malformed { .. }))), "{end:?}");
    // Without its end, it is none.
    assert_eq!(stream("{}").next().await, Err(StreamEnd::Refused));
}
