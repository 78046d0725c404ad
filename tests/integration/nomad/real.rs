//! Over a real Nomad, where `NOMAD_BIN` names one: what the stand-in cannot prove.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;
use tool_executor::pb::toolexecutor::{
    Call, ContainerState, Evidence, Executed, Open, Outcome, Reason, ReleaseRequest, Reset, SandboxDraining,
    notice::Event, trajectory_request::Message, trajectory_response,
};

use crate::support::{
    client::{Stream, bash, open, seconds},
    process,
    real_nomad::RealNomad,
    server::Server,
};

/// One slot for each container, three of them at most, and none that is not needed for longer than a second.
const SMALL: [(&str, &str); 3] = [("SLOTS", "1"), ("MAX_CONTAINERS", "3"), ("SCALE_DOWN_AFTER", "1s")];

fn start(nomad: &RealNomad, more: &[(&str, &str)]) -> Server {
    let state = TempDir::new().expect("a directory for the state");
    Server::at(&nomad.address(), state, &[&SMALL, more].concat())
}

/// A new executor in the place of one that has ended.
fn succeed(nomad: &RealNomad, mut ended: Server, more: &[(&str, &str)]) -> Server {
    let state = std::mem::replace(&mut ended.state, TempDir::new().expect("a directory"));
    Server::at(&nomad.address(), state, &[&SMALL, more].concat())
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("it is not 0");
    kill_process(pid, Signal::KILL).expect("it can be killed");
}

/// Its containers, in order.
async fn containers(server: &Server) -> Vec<String> {
    let pool = server.status().await.pools.remove(0);
    assert!(pool.containers.iter().all(|container| container.state() == ContainerState::Ready), "{pool:?}");
    let mut names: Vec<String> = pool.containers.into_iter().map(|container| container.container_id).collect();
    names.sort();
    names
}

async fn noticed<T>(stream: &mut Stream, pick: impl Fn(Event) -> Option<T>) -> T {
    let picked = |message| match message {
        trajectory_response::Message::Notice(notice) => notice.event.and_then(&pick),
        _ => None,
    };
    stream.until(picked).await
}

async fn lost(stream: &mut Stream) -> Evidence {
    let lost = |event| if let Event::SandboxLost(lost) = event { lost.evidence } else { None };
    noticed(stream, lost).await
}

async fn draining(stream: &mut Stream) -> SandboxDraining {
    noticed(stream, |event| if let Event::SandboxDraining(draining) = event { Some(draining) } else { None }).await
}

/// With an empty workspace, wherever it is.
async fn reset(stream: &mut Stream, generation: u64) {
    stream.send(Message::Reset(Reset { generation })).await;
    let begun = Instant::now();
    let result = stream.bash(&format!("after-{generation}"), "ls -A").await;
    assert!(result.success && result.output.is_empty(), "{result:?}");
    println!("reset to the first result in another container: {:?}", begun.elapsed());
}

async fn release(server: &Server, trajectory: &str) {
    let request = ReleaseRequest { trajectory_id: trajectory.to_owned(), keep_workspace: false };
    server.client().await.release(request).await.expect("it is released");
}

/// Each with a slot of its own.
async fn streams(server: &Server, count: usize) -> Vec<Stream> {
    let mut streams = Vec::new();
    for index in 0..count {
        let stream = Stream::open(server, &format!("t{index}")).await;
        stream.batch(vec![bash("first", "touch file")]).await;
        streams.push(stream);
    }
    for stream in &mut streams {
        let result = stream.result().await;
        assert!(result.success, "{result:?}");
    }
    streams
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn containers_come_and_go_and_nothing_is_left() {
    let Some(nomad) = RealNomad::dev().await else { return };
    let begun = Instant::now();
    let mut server = start(&nomad, &[]);
    server.pool_until("the first container", |pool| pool.available_slots == 1).await;
    println!("start of the executor to its first container ready: {:?}", begun.elapsed());
    let begun = Instant::now();
    let mut streams = streams(&server, 3).await;
    println!("calls in three containers, two of which are started for them: {:?}", begun.elapsed());
    assert_eq!(nomad.tasks().len(), 3);
    for stream in &mut streams {
        assert_eq!(stream.bash("second", "ls").await.output, "file");
    }
    drop(streams);
    for index in 0..3 {
        release(&server, &format!("t{index}")).await;
    }
    let begun = Instant::now();
    server.pool_until("one container", |pool| pool.containers.len() == 1 && pool.available_slots == 1).await;
    println!("three containers to one: {:?}", begun.elapsed());
    nomad.until("one task", async || (nomad.tasks().len() == 1).then_some(())).await;
    // Two that have ended are purged.
    nomad.until("one child and the template", async || (nomad.jobs().await.len() == 2).then_some(())).await;

    let tree: Vec<u32> = nomad.tasks().into_iter().flat_map(process::tree).collect();
    let begun = Instant::now();
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    println!("SIGTERM to the end: {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(nomad.jobs().await, [""; 0], "neither a child nor the template");
    assert!(tree.iter().all(|pid| !process::is_alive(*pid)), "no process");
    assert_eq!(nomad.left_in_tasks("slots").len(), 0, "no slot's directory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_killed_container_is_told_and_another_takes_its_place() {
    let Some(nomad) = RealNomad::dev().await else { return };
    let server = start(&nomad, &[]);
    let mut stream = streams(&server, 1).await.remove(0);
    let before = containers(&server).await;
    let task = nomad.task(&before[0]).expect("its process runs");
    let mut call = bash("running", "echo begun; sleep 60");
    call.stream_output = true;
    stream.batch(vec![call]).await;
    let begun = |message| matches!(message, trajectory_response::Message::Output(_)).then_some(());
    stream.until(begun).await;
    let killed = Instant::now();
    kill(task);
    let result = stream.result().await;
    println!("kill to SANDBOX_LOST: {:?}", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(2));
    assert_eq!((result.outcome(), result.reason()), (Outcome::SandboxLost, Reason::ContainerLost));
    assert_eq!(result.executed(), Executed::Yes);
    let evidence = result.fault.and_then(|fault| fault.evidence).expect("it has evidence");
    println!("{evidence:?}");
    assert!(evidence.cause.contains("signal 9") || evidence.cause.contains("exit code 137"), "{evidence:?}");
    assert!(evidence.events.iter().any(|event| event.starts_with("Terminated")), "{evidence:?}");
    assert_eq!(evidence.location.expect("it has a place").container_id, before[0]);
    reset(&mut stream, 1).await;
    println!("kill to the next container's first result: {:?}", killed.elapsed());
    let after = containers(&server).await;
    assert!(!after.is_empty() && !after.contains(&before[0]), "{before:?} {after:?}");
    // What is left of the first one is cleared away.
    nomad
        .until("no record of it", async || {
            nomad.allocations().await.iter().all(|allocation| allocation.id != before[0]).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_successor_goes_on_with_what_runs() {
    let Some(nomad) = RealNomad::dev().await else { return };
    let mut server = start(&nomad, &[]);
    let mut streams = streams(&server, 2).await;
    let (before, jobs, tasks) = (containers(&server).await, nomad.jobs().await, nomad.tasks());
    assert_eq!((before.len(), jobs.len(), tasks.len()), (2, 3, 2));
    let long = bash("long", "echo begun; sleep 3; echo ran >> log; cat log");
    streams[0].batch(vec![Call { stream_output: true, ..long }]).await;
    let begun = |message| matches!(message, trajectory_response::Message::Output(_)).then_some(());
    streams[0].until(begun).await;
    drop(streams);
    server.signal(Signal::KILL);
    server.wait();
    let begun = Instant::now();
    let server = succeed(&nomad, server, &[]);
    server.pool_until("both containers", |pool| pool.acquired_slots == 2).await;
    println!("start to both containers adopted: {:?}", begun.elapsed());
    assert_eq!(containers(&server).await, before);
    assert_eq!((nomad.jobs().await, nomad.tasks()), (jobs, tasks), "nothing new, and nothing ended");
    for index in 0..2 {
        let open = Open { last_sequence: 1, ..open(&format!("t{index}")) };
        let mut stream = Stream::try_open(&server, open).await.expect("it is known");
        if index == 0 {
            let long = stream.result().await;
            assert_eq!((long.call_id.as_str(), long.output.trim()), ("long", "begun\nran"), "{long:?}");
        }
        assert_eq!(stream.bash("second", "ls file").await.output.trim(), "file");
    }
    assert_eq!(containers(&server).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_successor_without_the_state_empties_what_it_adopts() {
    let Some(nomad) = RealNomad::dev().await else { return };
    let settings = [("EXECUTOR_ID", "trainer"), ("SECRET", "shared")];
    let mut server = start(&nomad, &settings);
    drop(streams(&server, 2).await);
    let (before, jobs, tasks) = (containers(&server).await, nomad.jobs().await, nomad.tasks());
    server.signal(Signal::KILL);
    server.wait();
    let server = start(&nomad, &settings);
    server.pool_until("both containers", |pool| pool.available_slots == 2).await;
    assert_eq!(containers(&server).await, before);
    assert_eq!((nomad.jobs().await, nomad.tasks()), (jobs, tasks), "nothing new, and nothing ended");
    for index in 0..2 {
        let mut stream = Stream::open(&server, &format!("t{index}")).await;
        assert!(!stream.opened.resumed, "trajectories were the first one's");
        assert_eq!(stream.bash("first", "ls -A").await.output, "", "and so was what they left");
    }
    assert_eq!(containers(&server).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_program_is_delivered_as_an_artifact() {
    let Some(nomad) = RealNomad::dev().await else { return };
    let begun = Instant::now();
    let server = start(&nomad, &[("AGENT", "artifact")]);
    let mut stream = streams(&server, 1).await.remove(0);
    println!("start of the executor to the first result, with a download: {:?}", begun.elapsed());
    let programs = nomad.left_in_tasks("tool-executor");
    assert_eq!(programs.len(), containers(&server).await.len());
    let mine = std::fs::metadata(env!("CARGO_BIN_EXE_tool-executor")).expect("it is there").len();
    assert_eq!(std::fs::metadata(&programs[0]).expect("it is there").len(), mine);
    assert_eq!(stream.bash("second", "ls").await.output, "file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_drained_node_is_told_and_gets_nothing_new() {
    let Some(nomad) = RealNomad::dev().await else { return };
    let server = start(&nomad, &[("SLOTS", "2"), ("ACQUIRE_TIMEOUT_S", "2")]);
    let mut stream = streams(&server, 1).await.remove(0);
    let node = nomad.node().await;
    let begun = Instant::now();
    let deadline = Duration::from_secs(8);
    let drain = json!({ "DrainSpec": { "Deadline": deadline.as_nanos() as u64 } });
    nomad.post(&format!("/v1/node/{node}/drain"), drain).await;
    let told = draining(&mut stream).await;
    println!("drain to its notice: {:?}: {told:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(told.cause.contains("drained"), "{told:?}");
    // The container's other slot is free, and nobody's.
    let mut late = Stream::open(&server, "late").await;
    let refused = late.bash("first", "true").await;
    assert_eq!((refused.outcome(), refused.reason()), (Outcome::NoCapacity, Reason::SlotTimeout), "{refused:?}");
    println!("{:?}", refused.fault);
    assert!(stream.bash("second", "ls").await.success, "what runs goes on");
    let evidence = lost(&mut stream).await;
    println!("drain to the container's end: {:?}: {evidence:?}", begun.elapsed());
    assert!(begun.elapsed() >= deadline - Duration::from_millis(500), "not before its deadline");
    assert!(begun.elapsed() < deadline + Duration::from_secs(7));
    assert!(evidence.cause.contains("Nomad has stopped it"), "{evidence:?}");

    nomad.post(&format!("/v1/node/{node}/drain"), json!({ "DrainSpec": null, "MarkEligible": true })).await;
    reset(&mut stream, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_ineligible_node_keeps_what_it_has() {
    let Some(nomad) = RealNomad::dev().await else { return };
    let server = start(&nomad, &[("SLOTS", "2"), ("ACQUIRE_TIMEOUT_S", "2")]);
    let mut stream = streams(&server, 1).await.remove(0);
    let path = format!("/v1/node/{}/eligibility", nomad.node().await);
    nomad.post(&path, json!({ "Eligibility": "ineligible" })).await;
    let told = draining(&mut stream).await;
    assert!(told.cause.contains("takes nothing new"), "{told:?}");
    let mut late = Stream::open(&server, "late").await;
    let refused = late.bash("first", "true").await;
    assert_eq!((refused.outcome(), refused.reason()), (Outcome::NoCapacity, Reason::SlotTimeout), "{refused:?}");
    println!("{:?}", refused.fault);
    assert_eq!(stream.bash("second", "ls").await.output, "file");
    nomad.post(&path, json!({ "Eligibility": "eligible" })).await;
    let begun = Instant::now();
    server.pool_until("another container", |pool| pool.available_slots > 0).await;
    println!("eligible to a container: {:?}", begun.elapsed());
    assert!(late.bash("second", "true").await.success);
    assert_eq!(stream.bash("third", "ls").await.output, "file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn executors_of_two_names_leave_each_other_alone() {
    let Some(nomad) = RealNomad::dev().await else { return };
    let mut one = start(&nomad, &[("EXECUTOR_ID", "one")]);
    let other = start(&nomad, &[("EXECUTOR_ID", "other")]);
    drop(streams(&one, 2).await);
    let mut stream = streams(&other, 1).await.remove(0);
    let (ones, others) = (containers(&one).await, containers(&other).await);
    assert_eq!((ones.len(), others.len(), nomad.tasks().len()), (2, 1, 3));
    // Killed, and back: it adopts its own.
    one.signal(Signal::KILL);
    one.wait();
    let mut one = succeed(&nomad, one, &[("EXECUTOR_ID", "one")]);
    one.pool_until("its containers", |pool| pool.acquired_slots == 2).await;
    assert_eq!((containers(&one).await, containers(&other).await), (ones, others.clone()));
    // Ended, with all that is its own.
    one.signal(Signal::TERM);
    assert!(one.wait().success());
    assert_eq!(nomad.tasks().len(), 1);
    assert_eq!(containers(&other).await, others);
    assert_eq!(stream.bash("second", "ls").await.output, "file");
    // There is still a template for more.
    let mut second = Stream::open(&other, "second").await;
    assert!(second.bash("first", "true").await.success);
    drop(other);
    assert_eq!(nomad.jobs().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_executor_delivers_its_own_program_whoever_else_has() {
    let Some(nomad) = RealNomad::dev().await else { return };
    let one = start(&nomad, &[("EXECUTOR_ID", "one"), ("AGENT", "artifact")]);
    drop(streams(&one, 1).await);
    let other = start(&nomad, &[("EXECUTOR_ID", "other"), ("AGENT", "artifact")]);
    drop(streams(&other, 1).await);
    // Its address goes with it.
    drop(other);
    let mut second = Stream::open(&one, "second").await;
    let result = second.bash("first", "true").await;
    assert!(result.success, "{result:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_that_is_gone_takes_nothing_with_it() {
    let Some(mut nomad) = RealNomad::pair().await else { return };
    let server = start(&nomad, &[]);
    let mut stream = streams(&server, 1).await.remove(0);
    let before = containers(&server).await;
    let status = async |nomad: &RealNomad| {
        let allocations = nomad.allocations().await;
        allocations.into_iter().find(|allocation| allocation.id == before[0]).expect("it is known").status
    };
    nomad.until("it runs", async || (status(&nomad).await == "running").then_some(())).await;
    nomad.end("client", Signal::KILL);
    let begun = Instant::now();
    let mut calls = 0;
    nomad
        .until("it is out of sight", async || {
            calls += 1;
            assert_eq!(stream.bash(&format!("silent-{calls}"), "ls").await.output, "file");
            (status(&nomad).await == "unknown").then_some(())
        })
        .await;
    println!("the client's end to `unknown`: {:?}, {calls} calls meanwhile", begun.elapsed());
    let mut call = bash("long", "sleep 5; ls");
    call.timeout = seconds(60);
    stream.batch(vec![call]).await;
    nomad.bring_up("client").await;
    let begun = Instant::now();
    nomad.until("it is back", async || (status(&nomad).await == "running").then_some(())).await;
    println!("the client's start to `running` again: {:?}", begun.elapsed());
    assert_eq!(stream.result().await.output, "file");
    assert_eq!(containers(&server).await, before);
    // It takes part again.
    let mut second = Stream::open(&server, "second").await;
    assert!(second.bash("first", "true").await.success);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nomad_restarts_under_running_calls() {
    let Some(mut nomad) = RealNomad::pair().await else { return };
    let mut server = start(&nomad, &[]);
    let mut stream = streams(&server, 1).await.remove(0);
    let before = containers(&server).await;
    let mut call = bash("long", "sleep 12; ls");
    call.timeout = seconds(60);
    stream.batch(vec![call]).await;
    nomad.end("client", Signal::TERM);
    nomad.end("server", Signal::KILL);
    let begun = Instant::now();
    nomad.bring_up("server").await;
    nomad.bring_up("client").await;
    nomad.until_ready().await;
    println!("start of Nomad to a node that is ready: {:?}", begun.elapsed());
    let result = stream.result().await;
    assert_eq!(result.output, "file", "{result:?}");
    assert_eq!(containers(&server).await, before);
    let begun = Instant::now();
    let mut second = Stream::open(&server, "second").await;
    assert!(second.bash("first", "true").await.success);
    println!("and a second container: {:?}", begun.elapsed());
    drop((stream, second));
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    assert_eq!(nomad.jobs().await, [""; 0]);
    assert_eq!(nomad.tasks(), [0; 0]);
}

/// What cannot be told to end is left for a successor.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_executor_ends_and_starts_while_nomad_is_away() {
    let Some(mut nomad) = RealNomad::pair().await else { return };
    let mut server = start(&nomad, &[]);
    drop(streams(&server, 1).await);
    let before = containers(&server).await;
    nomad.end("server", Signal::KILL);
    let begun = Instant::now();
    server.signal(Signal::TERM);
    server.wait();
    println!("SIGTERM without a Nomad to the end: {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(40));
    assert_eq!(nomad.tasks().len(), 1, "its agent has not heard of the end");
    nomad.bring_up("server").await;
    nomad.until_ready().await;
    let server = succeed(&nomad, server, &[]);
    server.pool_until("a container", |pool| pool.available_slots > 0).await;
    assert_eq!(containers(&server).await, before);
    let mut stream = Stream::open(&server, "t0").await;
    assert_eq!(stream.bash("first", "ls -A").await.output, "");
}
