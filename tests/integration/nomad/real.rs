//! Over a real Nomad, where `NOMAD_BIN` names one: what the stand-in cannot prove.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;
use tool_executor::pb::toolexecutor::ReleaseRequest;

use crate::support::{
    client::{Stream, bash},
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

#[tokio::test]
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
