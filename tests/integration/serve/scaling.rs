//! Containers come and go with what is asked of them, and nobody waits for somebody else's call.

use std::time::{Duration, Instant};

use super::counts::adds_up;
use crate::support::{
    client::{Stream, bash, execute},
    server::Server,
};

#[tokio::test]
async fn containers_are_added_at_once_and_taken_away_when_idle() {
    let server = Server::with(&[("SLOTS", "2"), ("MAX_CONTAINERS", "3"), ("SCALE_DOWN_AFTER", "300ms")]);
    let pool = server.pool_until("the first container", |pool| pool.available_slots == 2).await;
    assert_eq!((pool.containers.len(), pool.min_containers, pool.max_containers), (1, 1, 3));
    let started = Instant::now();
    let mut streams = Vec::new();
    for index in 0..6 {
        let stream = Stream::open(&server, &format!("scaled-{index}")).await;
        stream.batch(vec![bash("a", "true")]).await;
        streams.push(stream);
    }
    for stream in &mut streams {
        assert!(stream.result().await.success);
    }
    assert!(started.elapsed() < Duration::from_secs(10), "nobody waited for a timeout");
    let pool = server.pool_until("three containers", |pool| pool.acquired_slots == 6).await;
    assert_eq!(pool.containers.len(), 3);
    for index in 0..6 {
        let trajectory_id = format!("scaled-{index}");
        let release = tool_executor::pb::toolexecutor::ReleaseRequest { trajectory_id, keep_workspace: false };
        server.client().await.release(release).await.expect("it is released");
    }
    let pool = server.pool_until("one container", |pool| pool.containers.len() == 1 && pool.available_slots == 2).await;
    assert_eq!(pool.total_slots, 2);
}

#[tokio::test]
async fn one_slow_call_delays_nobody_else() {
    let server = Server::with(&[("SLOTS", "2"), ("MAX_CONTAINERS", "1")]);
    let slow = Stream::open(&server, "slow").await;
    slow.batch(vec![bash("a", "sleep 60")]).await;
    let mut quick = Stream::open(&server, "quick").await;
    assert!(quick.bash("a", "true").await.success);
    // Somebody stands in line for a slot; whoever has one goes on.
    let waiter = Stream::open(&server, "waiter").await;
    waiter.batch(vec![bash("a", "true")]).await;
    server.pool_until("a waiter", |pool| pool.waiting_trajectories == 1).await;
    let started = Instant::now();
    for n in 0..20 {
        assert!(quick.bash(&format!("q{n}"), "true").await.success);
    }
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn counts_add_up() {
    let server = Server::start();
    assert!(execute(&server, "counted", bash("a", "true")).await.success);
    assert!(!execute(&server, "counted", bash("b", "false")).await.success);
    let status = server.status().await;
    assert_eq!((status.trajectories, status.queue_size, status.running_calls), (1, 0, 0));
    assert_eq!((status.total_requests, status.total_errors, &*status.backend), (2, 1, server.backend()));
    adds_up(&status);
    let containers = status.pools.iter().flat_map(|pool| &pool.containers);
    assert!(containers.clone().all(|container| container.isolation == "L0"), "{status:?}");
}
