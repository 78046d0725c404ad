//! Counters say what is so, at every moment that they are asked.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use tonic::transport::Channel;
use tool_executor::pb::toolexecutor::{
    CancelTrajectoriesRequest, ExecuteRequest, GetStatusRequest, GetStatusResponse, ListTrajectoriesRequest, Open,
    ReleaseRequest, TrajectoryOptions, TrajectoryStatus, tool_executor_client::ToolExecutorClient,
};

use crate::support::{
    client::{Stream, bash, open},
    server::Server,
};

const TRAJECTORIES: usize = 6;
/// At a time, of one trajectory.
const CALLS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn every_status_adds_up_under_load() {
    load(Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the same for a minute: cargo test --test integration every_status_adds_up -- --ignored"]
async fn every_status_adds_up_for_a_minute() {
    load(Duration::from_secs(60)).await;
}

async fn load(time: Duration) {
    // Fewer slots than trajectories, in containers that come and go.
    let server = Server::with(&[("SLOTS", "2"), ("MAX_CONTAINERS", "2"), ("SCALE_DOWN_AFTER", "0s")]);
    let channel = server.channel().await;
    let until = Instant::now() + time;
    let mut clients = JoinSet::new();
    let answers = Arc::new(AtomicUsize::new(0));
    for index in 0..TRAJECTORIES {
        clients.spawn(client(
            ToolExecutorClient::new(channel.clone()),
            format!("load-{index}"),
            until,
            answers.clone(),
        ));
    }
    let mut asking = ToolExecutorClient::new(channel);
    let mut last = 0;
    let mut seen = 0;
    while clients.try_join_next().is_none() {
        let before = answers.load(Ordering::SeqCst) as u64;
        let status = status(&mut asking).await;
        adds_up(&status);
        assert!(status.trajectories as usize <= TRAJECTORIES);
        assert!((status.queue_size + status.running_calls) as usize <= TRAJECTORIES * CALLS, "{status:?}");
        assert!(status.total_requests >= last.max(before), "whoever has an answer finds it counted: {status:?}");
        last = status.total_requests;
        for trajectory in list(&mut asking).await {
            assert!((trajectory.waiting_calls + trajectory.running_calls) as usize <= CALLS, "{trajectory:?}");
        }
        seen += 1;
    }
    clients.join_all().await;
    assert!(seen > 10, "it was looked {seen} times");

    // Now that nothing happens, they are the sums of each other.
    let held: u32 = list(&mut asking).await.iter().map(|trajectory| u32::from(trajectory.location.is_some())).sum();
    let pool = server.pool_until("what was released to be wiped", |pool| pool.resetting_slots == 0).await;
    assert_eq!((pool.acquired_slots, pool.waiting_trajectories), (held, 0), "{pool:?}");
    let status = status(&mut asking).await;
    adds_up(&status);
    let listed = list(&mut asking).await;
    assert_eq!(status.trajectories as usize, listed.len());
    assert_eq!((status.queue_size, status.running_calls), (0, 0));
    assert!(listed.iter().all(|trajectory| (trajectory.waiting_calls, trajectory.running_calls) == (0, 0)));
    assert_eq!(status.total_requests, answers.load(Ordering::SeqCst) as u64, "every answer is counted once");
}

pub(super) fn adds_up(status: &GetStatusResponse) {
    assert!(status.total_errors <= status.total_requests, "{status:?}");
    for pool in &status.pools {
        let parts = pool.available_slots
            + pool.acquired_slots
            + pool.starting_slots
            + pool.resetting_slots
            + pool.quarantined_slots;
        assert_eq!(pool.total_slots, parts, "{pool:?}");
        let containers = |count: fn(&tool_executor::pb::toolexecutor::ContainerStatus) -> u32| {
            pool.containers.iter().map(count).sum::<u32>()
        };
        assert_eq!(pool.total_slots, containers(|container| container.total_slots), "{pool:?}");
        assert_eq!(pool.available_slots, containers(|container| container.available_slots), "{pool:?}");
        assert!(pool.containers.len() <= pool.max_containers as usize, "{pool:?}");
    }
}

async fn status(client: &mut ToolExecutorClient<Channel>) -> GetStatusResponse {
    client.get_status(GetStatusRequest {}).await.expect("it has a status").into_inner()
}

async fn list(client: &mut ToolExecutorClient<Channel>) -> Vec<TrajectoryStatus> {
    let request = ListTrajectoriesRequest::default();
    client.list_trajectories(request).await.expect("a page").into_inner().trajectories
}

/// Calls, cancels and releases, by stream and without one.
async fn client(mut client: ToolExecutorClient<Channel>, id: String, until: Instant, answers: Arc<AtomicUsize>) {
    let mut number = 0;
    while Instant::now() < until {
        let options = TrajectoryOptions { labels: [("id".to_owned(), id.clone())].into(), ..Default::default() };
        let open = Open { take_over: true, options: Some(options), ..open(&id) };
        let mut stream = Stream::over(client.clone(), open).await.expect("it opens");
        for _ in 0..fastrand::usize(1..4) {
            let calls = (0..CALLS).map(|_| {
                number += 1;
                let mut call = bash(&number.to_string(), ["true", "false", "sleep 0.02"][fastrand::usize(..3)]);
                call.concurrent = fastrand::bool();
                call
            });
            stream.batch(calls.collect()).await;
            if fastrand::u8(..4) == 0 {
                let labels = [("id".to_owned(), id.clone())].into();
                let cancel = CancelTrajectoriesRequest { labels, release: false };
                client.cancel_trajectories(cancel).await.expect("it cancels");
            }
            for _ in 0..CALLS {
                stream.result().await;
                answers.fetch_add(1, Ordering::SeqCst);
            }
        }
        number += 1;
        let call = Some(bash(&number.to_string(), "true"));
        let request = ExecuteRequest { trajectory_id: id.clone(), call, ..ExecuteRequest::default() };
        client.execute(request).await.expect("it answers");
        answers.fetch_add(1, Ordering::SeqCst);
        if fastrand::bool() {
            let release = ReleaseRequest { trajectory_id: id.clone(), keep_workspace: fastrand::bool() };
            client.release(release).await.expect("it is released");
        } else {
            // The log is this client's no more.
            drop(stream);
            let release = ReleaseRequest { trajectory_id: id.clone(), keep_workspace: false };
            client.release(release).await.expect("it is released");
        }
    }
}
