//! What keeps a trajectory alive, and what does not.

use std::time::{Duration, Instant};

use tool_executor::pb::toolexecutor::{
    ListTrajectoriesRequest, Open, TrajectoryOptions, TrajectoryStatus, tool_executor_client::ToolExecutorClient,
};

use crate::support::{
    client::{PATIENCE, Stream, bash, execute, open, seconds},
    proxy::Proxy,
    server::Server,
};

async fn trajectory(server: &Server, id: &str) -> Option<TrajectoryStatus> {
    let request = ListTrajectoriesRequest::default();
    let listed = server.client().await.list_trajectories(request).await.expect("a page").into_inner();
    listed.trajectories.into_iter().find(|trajectory| trajectory.trajectory_id == id)
}

async fn until(server: &Server, id: &str, what: &str, is_so: impl Fn(Option<&TrajectoryStatus>) -> bool) {
    let asked = Instant::now();
    loop {
        let status = trajectory(server, id).await;
        if is_so(status.as_ref()) {
            return;
        }
        assert!(asked.elapsed() < PATIENCE, "waiting for {what}: {status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_lease_runs_from_when_nobody_attends() {
    let server = Server::start();
    let leased = |id: &str| {
        let options = TrajectoryOptions { lease: seconds(1), ..TrajectoryOptions::default() };
        Open { options: Some(options), ..open(id) }
    };
    let attached = Stream::try_open(&server, leased("attached")).await.expect("it opens");
    let stream = Stream::try_open(&server, leased("running")).await.expect("it opens");
    stream.batch(vec![bash("a", "touch begun; sleep 2.5; echo done")]).await;
    until(&server, "running", "the call to run", |status| status.is_some_and(|status| status.running_calls == 1)).await;
    drop(stream);
    let left = Stream::try_open(&server, leased("left")).await.expect("it opens");
    assert_eq!(left.opened.lease, seconds(1));
    drop(left);
    until(&server, "left", "the end of the lease", |status| status.is_none()).await;
    let running = trajectory(&server, "running").await.expect("a call keeps it alive");
    assert!(!running.attached && running.running_calls == 1 && running.lease_ends_at.is_none(), "{running:?}");
    // More than its lease after its stream had gone.
    let again = execute(&server, "running", bash("a", "touch begun; sleep 2.5; echo done")).await;
    assert_eq!(again.output, "done");
    let ending = trajectory(&server, "running").await.expect("its lease begins with the end of its last call");
    assert!(ending.lease_ends_at.is_some());
    until(&server, "running", "the end of the lease", |status| status.is_none()).await;
    let kept = trajectory(&server, "attached").await.expect("a stream keeps it alive");
    assert!(kept.attached && kept.lease_ends_at.is_none());
    drop(attached);
}

#[tokio::test]
async fn a_client_that_vanishes_is_noticed() {
    let server = Server::with(&[("KEEPALIVE_INTERVAL", "1s"), ("KEEPALIVE_TIMEOUT", "1s")]);
    let proxy = Proxy::before(&server.address).await;
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", proxy.address())).expect("an address");
    let client = ToolExecutorClient::new(channel.connect().await.expect("it answers"));
    let mut stream = Stream::over(client, open("vanished")).await.expect("it opens");
    assert!(stream.bash("a", "touch file").await.success);
    // A client that says nothing, and answers, is there.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(trajectory(&server, "vanished").await.is_some_and(|status| status.attached));
    proxy.freeze();
    until(&server, "vanished", "its stream to be gone", |status| status.is_some_and(|status| !status.attached)).await;
    assert!(trajectory(&server, "vanished").await.is_some_and(|status| status.lease_ends_at.is_some()));
    let again = Stream::try_open(&server, open("vanished")).await.expect("nobody needs to be thrown out");
    assert!(again.opened.resumed);
}
