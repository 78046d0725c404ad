//! At most once, whoever asks and however often; and the bounds of what is remembered for it.

use tokio::task::JoinSet;
use tonic::Code;
use tool_executor::pb::toolexecutor::{
    Call, CallResult, OutputLimits, Reason, TrajectoryOptions, trajectory_response::Message,
};

use crate::support::{
    client::{Stream, bash, command, execute, open, shell},
    server::Server,
};

const CALLS: usize = 60;

fn all() -> Vec<Call> {
    (0..CALLS).map(|n| bash(&n.to_string(), &format!("echo {n} >> log"))).collect()
}

/// A client that believes to be the only one: takes over, sends everything, and begins again when it is fenced.
async fn rival(address: String) -> Vec<CallResult> {
    let channel = tonic::transport::Channel::from_shared(format!("http://{address}")).expect("an address");
    let channel = channel.connect().await.expect("it answers");
    let client = tool_executor::pb::toolexecutor::tool_executor_client::ToolExecutorClient::new(channel);
    let mut results: Vec<CallResult> = Vec::new();
    'streams: loop {
        let mut open = open("shared");
        (open.take_over, open.last_sequence) = (true, results.len() as u64);
        let mut stream = match Stream::over(client.clone(), open).await {
            Ok(stream) => stream,
            // Fenced before it had its first answer.
            Err(status) => {
                assert_eq!(status.code(), Code::Aborted, "{status:?}");
                continue;
            }
        };
        let has = |call: &Call| results.iter().any(|result| result.call_id == call.call_id);
        let missing: Vec<Call> = all().into_iter().filter(|call| !has(call)).collect();
        // Twice in one batch, and once more.
        stream.try_batch([missing.clone(), missing.clone()].concat()).await;
        stream.try_batch(missing).await;
        while results.len() < CALLS {
            match stream.next().await {
                Ok(Some(Message::Result(result))) => {
                    assert!(result.success, "{result:?}");
                    if result.sequence > results.len() as u64 && !result.replayed {
                        assert_eq!(result.sequence, results.len() as u64 + 1, "in order, without gaps");
                        results.push(result);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => panic!("nobody has ended the trajectory"),
                Err(status) => {
                    assert_eq!(status.code(), Code::Aborted, "{status:?}");
                    continue 'streams;
                }
            }
        }
        return results;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rivals_and_unary_callers_run_each_call_once() {
    let server = Server::start();
    drop(Stream::open(&server, "shared").await);
    let mut rivals = JoinSet::new();
    for _ in 0..3 {
        rivals.spawn(rival(server.address.clone()));
    }
    let unary = async {
        let mut results = Vec::new();
        for call in all().into_iter().rev() {
            results.push(execute(&server, "shared", call).await);
        }
        results
    };
    let (unary, rivals) = tokio::join!(unary, rivals.join_all());
    let log = execute(&server, "shared", bash("log", "sort -n log | tr '\\n' ' '")).await.output;
    let expected: Vec<String> = (0..CALLS).map(|n| n.to_string()).collect();
    assert_eq!(log, expected.join(" "), "each ran once");
    for results in &rivals {
        for result in &unary {
            let same = &results[result.sequence as usize - 1];
            assert_eq!((&same.call_id, same.sequence), (&result.call_id, result.sequence), "all have the same answer");
        }
    }
}

#[tokio::test]
async fn two_that_open_at_once_are_not_both_attached() {
    let server = Server::start();
    let client = server.client().await;
    for round in 0..50 {
        let opens = (0..4).map(|_| Stream::over(client.clone(), open(&format!("new-{round}"))));
        let mut opened = JoinSet::new();
        opens.for_each(|open| drop(opened.spawn(open)));
        let (attached, refused): (Vec<_>, Vec<_>) = opened.join_all().await.into_iter().partition(Result::is_ok);
        assert_eq!(attached.len(), 1, "{round}");
        assert!(attached.iter().flatten().all(|stream| !stream.opened.resumed));
        assert!(refused.into_iter().filter_map(Result::err).all(|status| status.code() == Code::AlreadyExists));
    }
}

#[tokio::test]
async fn a_trajectory_has_no_more_ids_than_it_may() {
    let server = Server::with(&[("MAX_CALL_IDS", "3")]);
    let mut stream = Stream::open(&server, "ids").await;
    for id in ["a", "b", "c"] {
        assert!(stream.bash(id, "echo ran >> log").await.success);
    }
    let refused = stream.bash("d", "echo ran >> log").await;
    assert_eq!((refused.sequence, refused.reason()), (0, Reason::QueueFull), "{refused:?}");
    assert!(!refused.fault.expect("it is the service's").retryable, "waiting does not help: {}", refused.error);
    assert!(stream.bash("b", "echo ran >> log").await.replayed, "what is known is answered");
}

#[tokio::test]
async fn the_service_has_no_more_calls_than_it_may() {
    let server = Server::with(&[("MAX_TOTAL_CALLS_IN_FLIGHT", "2"), ("MAX_CALLS_IN_FLIGHT", "2")]);
    let mut busy = Stream::open(&server, "busy").await;
    busy.batch(vec![bash("a", "until [ -e go ]; do sleep 0.01; done"), bash("b", "true")]).await;
    // Of calls accepted by others it is known a moment later.
    while server.status().await.running_calls + server.status().await.queue_size < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let refused = execute(&server, "other", bash("a", "true")).await;
    assert_eq!((refused.sequence, refused.reason()), (0, Reason::QueueFull), "{refused:?}");
    assert!(refused.fault.as_ref().is_some_and(|fault| fault.retryable && fault.retry_after.is_some()), "{refused:?}");
    busy.send(tool_executor::pb::toolexecutor::trajectory_request::Message::Cancel(Default::default())).await;
    assert_eq!(busy.results(2).await.len(), 2);
    assert!(execute(&server, "other", bash("a", "true")).await.success, "the id that was refused is free");
}

/// Results of all trajectories together are held to a bound: those that have lain longest, of trajectories where nothing
/// happens, go first; those that nobody has been sent stay.
#[tokio::test]
async fn idle_trajectories_make_room_for_busy_ones() {
    let server = Server::with(&[("MAX_TOTAL_RESULT_BYTES", "4MiB"), ("MAX_KEPT_RESULT_BYTES", "4MiB")]);
    let mib = |id: &str| command(id, shell("head -c 1000000 /dev/zero"));
    let options = || {
        let limits = OutputLimits { head_bytes: Some(1 << 20), tail_bytes: None };
        Some(TrajectoryOptions { output_limits: Some(limits), ..TrajectoryOptions::default() })
    };
    let mut streams = Vec::new();
    for id in ["idle", "busy"] {
        let open = tool_executor::pb::toolexecutor::Open { options: options(), ..open(id) };
        streams.push(Stream::try_open(&server, open).await.expect("it opens"));
    }
    let [idle, busy] = &mut streams[..] else { unreachable!("there are two") };
    for id in ["a", "b", "c"] {
        idle.batch(vec![mib(id)]).await;
        assert!(idle.result().await.success);
    }
    for n in 0..8 {
        let id = n.to_string();
        // The others hear of it in their turn, a moment later.
        let result = loop {
            busy.batch(vec![mib(&id)]).await;
            let result = busy.result().await;
            if result.sequence > 0 {
                break result;
            }
            assert_eq!(result.reason(), Reason::QueueFull);
        };
        assert!(result.success, "{result:?}");
    }
    idle.batch(vec![mib("a")]).await;
    assert_eq!(idle.result().await.reason(), Reason::ResultDropped, "it has made room");
    busy.batch(vec![mib("7")]).await;
    assert!(busy.result().await.replayed, "the latest is kept");
}

/// However much they have been sent: it goes before anybody is refused for it.
#[tokio::test]
async fn who_reads_results_is_never_refused_for_those_that_were_read() {
    let server = Server::with(&[("MAX_TOTAL_RESULT_BYTES", "4MiB"), ("MAX_KEPT_RESULT_BYTES", "4MiB"), ("SLOTS", "4")]);
    let mut trainers = tokio::task::JoinSet::new();
    for number in 0..4 {
        let limits = OutputLimits { head_bytes: Some(1 << 20), tail_bytes: None };
        let options = Some(TrajectoryOptions { output_limits: Some(limits), ..TrajectoryOptions::default() });
        let open = tool_executor::pb::toolexecutor::Open { options, ..open(&format!("reads-{number}")) };
        let mut stream = Stream::try_open(&server, open).await.expect("it opens");
        trainers.spawn(async move {
            // Three times the bound, all together.
            for n in 0..100 {
                stream.batch(vec![command(&n.to_string(), shell("head -c 32000 /dev/zero"))]).await;
                let result = stream.result().await;
                assert!(result.success, "{n}: {:?}, {}", result.reason(), result.error);
            }
        });
    }
    while let Some(trainer) = trainers.join_next().await {
        trainer.expect("all its calls succeed");
    }
}
