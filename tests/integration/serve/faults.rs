//! What a trainer is told when the sandbox dies under it.

use std::time::{Duration, Instant};

use tool_executor::pb::toolexecutor::{
    Attribution, Executed, Outcome, Reason, Reset, notice::Event, trajectory_request::Message, trajectory_response,
};

use crate::support::{
    client::{Stream, bash},
    dying::kill,
    process,
    server::Server,
};

#[tokio::test]
async fn a_dead_agent_is_noticed_at_once_and_replaced() {
    let server = Server::with(&[("MAX_CONTAINERS", "1")]);
    let mut stream = Stream::open(&server, "lost").await;
    assert!(stream.bash("before", "touch file").await.success);
    let agents = server.agents();
    let tree: Vec<u32> = agents.iter().flat_map(|agent| process::tree(*agent)).collect();
    assert!(tree.len() > 4, "an agent and the processes of its slots: {tree:?}");

    let mut running = bash("running", "echo begun; sleep 60");
    running.stream_output = true;
    let mut silent = bash("silent", "sleep 60");
    silent.concurrent = true;
    stream.batch(vec![silent, running, bash("waiting", "true")]).await;
    stream
        .until(|message| match message {
            trajectory_response::Message::Output(output) => Some(output),
            _ => None,
        })
        .await;
    let killed = Instant::now();
    agents.iter().for_each(|agent| kill(*agent));
    let mut ended = Vec::new();
    let mut told = None;
    while ended.len() < 3 || told.is_none() {
        match stream.next().await.expect("the stream goes on").expect("it has not ended") {
            trajectory_response::Message::Result(result) => ended.push(result),
            trajectory_response::Message::Notice(notice) => {
                if let Some(Event::SandboxLost(lost)) = notice.event {
                    told = Some(lost);
                }
            }
            _ => {}
        }
    }
    assert!(killed.elapsed() < Duration::from_secs(2), "it took {:?}", killed.elapsed());
    let evidence = told.and_then(|lost| lost.evidence).expect("the notice has evidence");
    assert!(evidence.cause.contains("signal"), "{}", evidence.cause);
    for (id, executed) in [("running", Executed::Yes), ("silent", Executed::Unknown), ("waiting", Executed::No)] {
        let result = ended.iter().find(|result| result.call_id == id).expect("it is answered");
        assert_eq!((result.outcome(), result.executed()), (Outcome::SandboxLost, executed), "{id}");
        assert_eq!(result.reason(), Reason::ContainerLost, "{id}");
        assert_eq!(result.attribution(), Attribution::Infrastructure, "{id}");
        let fault = result.fault.as_ref().expect("it has a fault");
        assert!(fault.evidence.as_ref().is_some_and(|evidence| evidence.location.is_some()), "{fault:?}");
    }

    stream.batch(vec![bash("refused", "ls")]).await;
    let refused = stream.result().await;
    assert_eq!((refused.outcome(), refused.reason()), (Outcome::SandboxLost, Reason::WorkspaceGone));
    assert_eq!((refused.executed(), refused.sequence), (Executed::No, 0));
    stream.send(Message::Reset(Reset { generation: 1 })).await;
    let generation = stream
        .until(|message| match message {
            trajectory_response::Message::WorkspaceReset(reset) => Some(reset.generation),
            _ => None,
        })
        .await;
    assert_eq!(generation, 2);
    let after = stream.bash("refused", "ls -A").await;
    assert_eq!((after.success, &*after.output, after.generation), (true, "", 2), "{after:?}");

    let gone = Instant::now();
    while tree.iter().any(|pid| process::is_alive(*pid)) {
        assert!(gone.elapsed() < Duration::from_secs(2), "nothing of the dead agent lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_dead_slot_takes_its_trajectory_alone() {
    let server = Server::with(&[("SLOTS", "2"), ("MAX_CONTAINERS", "1")]);
    let mut victim = Stream::open(&server, "victim").await;
    let mut neighbour = Stream::open(&server, "neighbour").await;
    assert!(neighbour.bash("a", "touch file").await.success);
    let marker = format!("4321.{}", std::process::id());
    victim.batch(vec![bash("a", &format!("exec sleep {marker}"))]).await;
    let agent = server.agents()[0];
    let keeper = loop {
        if let Some(keeper) = process::marked(&marker).into_iter().find_map(|pid| process::keeper_of(agent, pid)) {
            break keeper;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    kill(keeper);
    let lost = victim.result().await;
    assert_eq!((lost.outcome(), lost.reason()), (Outcome::SandboxLost, Reason::SlotLost));
    assert_eq!(neighbour.bash("b", "ls").await.output, "file");
    victim.send(Message::Reset(Reset { generation: 1 })).await;
    assert_eq!(victim.bash("b", "ls -A").await.output, "");
}

/// What a model has made is cleared away, however deep it goes.
#[tokio::test]
async fn a_dead_agents_files_are_cleared_away() {
    let server = Server::with(&[("MAX_CONTAINERS", "1")]);
    let mut stream = Stream::open(&server, "deep").await;
    let dig =
        "i=0; while [ $i -lt 200 ]; do mkdir d && cd -P d 2>/dev/null; i=$((i+1)); done; ln -s / link; chmod 000 .";
    stream.bash("dig", dig).await;
    let containers = server.state.path().join("containers");
    let list = || -> Vec<_> {
        std::fs::read_dir(&containers).expect("it is there").flatten().map(|entry| entry.path()).collect()
    };
    let first = list();
    assert_eq!(first.len(), 1);
    server.agents().into_iter().for_each(kill);
    let asked = Instant::now();
    while first[0].exists() {
        assert!(asked.elapsed() < Duration::from_secs(20), "it should have been cleared away: {:?}", list());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.pool_until("another container", |pool| pool.available_slots > 0).await;
}
