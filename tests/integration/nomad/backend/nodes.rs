//! Nodes that are lost, cut off, drained or full of something more important.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{SINGLE, draining, lost, nomad, only_container, quick, refused_as_gone, running, within, works};
use crate::support::{
    client::{Stream, bash},
    nomad::{NodeSpec, Nomad},
    server::Server,
};

fn two_nodes() -> Nomad {
    let mut options = quick();
    options.nodes = vec![NodeSpec::named("one"), NodeSpec::named("two")];
    Nomad::start_with(options)
}

#[tokio::test]
async fn a_task_that_is_killed_is_a_loss_with_evidence() {
    let nomad = nomad();
    let server = Server::on(&nomad, &SINGLE);
    let mut stream = Stream::open(&server, "a").await;
    assert!(stream.bash("1", "true").await.success);
    let allocation = running(&nomad).remove(0);
    let killed = Instant::now();
    nomad.kill_task(&allocation.id, Signal::KILL);
    let evidence = lost(&mut stream).await;
    within("the loss", killed, Duration::from_secs(2));
    assert!(evidence.cause.contains("signal 9"), "{evidence:?}");
    assert_eq!(evidence.location.expect("it was somewhere").container_id, allocation.id);
    assert!(evidence.events.iter().any(|event| event.starts_with("Terminated")), "{:?}", evidence.events);
    refused_as_gone(&mut stream, "2").await;
    works(&server, "b", "1").await;
    nomad.until("the dead one is purged", |nomad| nomad.children()[0].purged).await;
}

#[tokio::test]
async fn out_of_memory_is_told_as_such() {
    let nomad = nomad();
    let server = Server::on(&nomad, &SINGLE);
    let mut stream = Stream::open(&server, "a").await;
    assert!(stream.bash("1", "true").await.success);
    nomad.oom_kill(&running(&nomad)[0].id);
    let evidence = lost(&mut stream).await;
    assert!(evidence.cause.contains("out of memory"), "{evidence:?}");
}

#[tokio::test]
async fn a_preempted_container_is_told_as_such() {
    let nomad = nomad();
    let server = Server::on(&nomad, &SINGLE);
    let mut stream = Stream::open(&server, "a").await;
    assert!(stream.bash("1", "true").await.success);
    nomad.preempt(&running(&nomad)[0].id);
    let evidence = lost(&mut stream).await;
    assert!(evidence.cause.contains("preempted"), "{evidence:?}");
}

#[tokio::test]
async fn an_allocation_that_is_stopped_by_hand_is_lost_and_what_replaces_it_is_not_kept() {
    let nomad = nomad();
    let server = Server::on(&nomad, &SINGLE);
    let mut stream = Stream::open(&server, "a").await;
    assert!(stream.bash("1", "true").await.success);
    let first = running(&nomad).remove(0);
    nomad.stop_allocation(&first.id);
    let evidence = lost(&mut stream).await;
    assert!(evidence.cause.contains("Nomad has stopped it"), "{evidence:?}");
    works(&server, "b", "1").await;
    nomad
        .until("its replacement is gone", |nomad| {
            running(nomad).iter().all(|allocation| allocation.job_id != first.job_id)
        })
        .await;
}

#[tokio::test]
async fn a_node_out_of_nomads_sight_changes_nothing_while_its_agent_answers() {
    let nomad = nomad();
    let server = Server::on(&nomad, &SINGLE);
    let mut stream = Stream::open(&server, "a").await;
    assert!(stream.bash("1", "touch file").await.success);
    let allocation = running(&nomad).remove(0);
    nomad.lose_node(&allocation.node);
    let state = |nomad: &Nomad| nomad.allocations()[0].client_status.clone();
    nomad.until("Nomad does not know any more", |nomad| state(nomad) == "unknown").await;
    assert_eq!(stream.bash("2", "ls").await.output, "file");
    nomad.return_node(&allocation.node);
    nomad.until("Nomad knows again", |nomad| state(nomad) == "running").await;
    assert_eq!(stream.bash("3", "ls").await.output, "file");
    assert_eq!(only_container(&server).await.container_id, allocation.id);
}

#[tokio::test]
async fn a_container_that_is_given_up_does_not_come_back() {
    let nomad = two_nodes();
    let server = Server::on(&nomad, &[("SLOTS", "1"), ("MAX_CONTAINERS", "2"), ("AGENT_GRACE", "1s")]);
    let mut stream = Stream::open(&server, "a").await;
    assert!(stream.bash("1", "true").await.success);
    let first = running(&nomad).remove(0);
    nomad.lose_node(&first.node);
    let state = |nomad: &Nomad| nomad.allocations()[0].client_status.clone();
    nomad.until("Nomad does not know any more", |nomad| state(nomad) == "unknown").await;
    // What is on that node cannot be reached from here either.
    let pid = i32::try_from(first.pid.expect("it runs")).expect("it is a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("it is not 0");
    rustix::process::kill_process(pid, Signal::STOP).expect("it can be stopped");
    let evidence = lost(&mut stream).await;
    assert!(evidence.events.iter().any(|event| event.contains("lost sight of its node")), "{evidence:?}");
    nomad.until("it is deleted", |nomad| nomad.children()[0].stopped).await;
    rustix::process::kill_process(pid, Signal::CONT).expect("it can go on");
    nomad.return_node(&first.node);
    nomad.until("it is ended", |nomad| running(nomad).iter().all(|other| other.id != first.id)).await;
    works(&server, "b", "1").await;
}

#[tokio::test]
async fn a_draining_node_gets_nothing_new_and_its_trajectories_are_told() {
    let nomad = two_nodes();
    let server = Server::on(&nomad, &[("SLOTS", "2"), ("MAX_CONTAINERS", "2")]);
    let mut stream = Stream::open(&server, "a").await;
    assert!(stream.bash("1", "true").await.success);
    let first = running(&nomad).remove(0);
    nomad.drain_node(&first.node, Duration::from_secs(2));
    let cause = draining(&mut stream).await;
    assert!(cause.contains(&first.node) && cause.contains("drained"), "{cause}");
    // There is a free slot beside it, which is not given.
    let mut other = Stream::open(&server, "b").await;
    assert!(other.bash("1", "true").await.success);
    nomad
        .until("another container is on another node", |nomad| {
            running(nomad).iter().any(|allocation| allocation.node != first.node)
        })
        .await;
    assert!(stream.bash("2", "true").await.success, "until the deadline all goes on");
    let evidence = lost(&mut stream).await;
    assert!(evidence.cause.contains("Nomad has stopped it"), "{evidence:?}");
    assert!(other.bash("2", "true").await.success);
}

#[tokio::test]
async fn an_ineligible_node_gets_nothing_new() {
    let nomad = two_nodes();
    let server = Server::on(&nomad, &[("SLOTS", "2"), ("MAX_CONTAINERS", "2")]);
    let mut stream = Stream::open(&server, "a").await;
    assert!(stream.bash("1", "true").await.success);
    let first = running(&nomad).remove(0);
    nomad.set_eligible(&first.node, false);
    assert!(draining(&mut stream).await.contains("takes nothing new"));
    works(&server, "b", "1").await;
    assert!(stream.bash("2", "true").await.success);
    assert_eq!(running(&nomad).len(), 2);
}

#[tokio::test]
async fn without_a_right_to_look_at_nodes_all_else_works() {
    let nomad = nomad();
    nomad.deny("node:read");
    let server = Server::on(&nomad, &SINGLE);
    let mut stream = Stream::open(&server, "a").await;
    stream.batch(vec![bash("1", "sleep 60")]).await;
    nomad.until("it runs", |nomad| !running(nomad).is_empty()).await;
    server.pool_until("it is given", |pool| pool.acquired_slots == 1).await;
    nomad.kill_task(&running(&nomad)[0].id, Signal::KILL);
    assert!(lost(&mut stream).await.cause.contains("signal 9"));
}
