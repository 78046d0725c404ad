//! What is left at the end: nothing.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{live, nomad, only_container, running, works};
use crate::support::{nomad::Nomad, process, server::Server};

fn ended(server: &mut Server) {
    server.signal(Signal::TERM);
    assert!(server.wait().success());
}

fn templates(nomad: &Nomad) -> usize {
    nomad.templates().len()
}

#[tokio::test]
async fn an_end_leaves_nothing_behind() {
    let nomad = nomad();
    let mut server = Server::on(&nomad, &[("MIN_CONTAINERS", "2")]);
    server.pool_until("both are ready", |pool| pool.available_slots == 8).await;
    works(&server, "a", "1").await;
    let tree: Vec<u32> = server.agents().into_iter().flat_map(process::tree).collect();
    assert!(tree.len() > 4, "{tree:?}");
    ended(&mut server);
    assert_eq!((running(&nomad).len(), live(&nomad), templates(&nomad)), (0, 0, 0));
    assert!(nomad.children().iter().all(|child| child.purged), "{:?}", nomad.children());
    assert_eq!(tree.iter().filter(|pid| process::is_alive(**pid)).count(), 0);
}

#[tokio::test]
async fn the_template_stays_where_that_is_wanted() {
    let nomad = nomad();
    let mut server = Server::on(&nomad, &[("PURGE_JOB_ON_SHUTDOWN", "no")]);
    works(&server, "a", "1").await;
    ended(&mut server);
    assert_eq!((running(&nomad).len(), live(&nomad), templates(&nomad)), (0, 0, 1));
}

#[tokio::test]
async fn a_container_that_is_not_needed_any_more_is_stopped_and_purged() {
    let nomad = nomad();
    let settings = [("SLOTS", "1"), ("MIN_CONTAINERS", "0"), ("SCALE_DOWN_AFTER", "100ms")];
    let server = Server::on(&nomad, &settings);
    works(&server, "a", "1").await;
    let release =
        tool_executor::pb::toolexecutor::ReleaseRequest { trajectory_id: "a".to_owned(), keep_workspace: false };
    server.client().await.release(release).await.expect("it is released");
    nomad.until("it is purged", |nomad| nomad.children().iter().all(|child| child.purged)).await;
    // Stopped, seen to be terminal, and only then forgotten.
    let deletes: Vec<_> =
        nomad.requests().into_iter().filter(|request| request.method == "DELETE").map(|request| request.path).collect();
    assert!(deletes[0].ends_with("purge=false") && deletes[1].ends_with("purge=true"), "{deletes:?}");
    works(&server, "b", "1").await;
}

#[tokio::test]
async fn agents_without_an_executor_end_their_allocations() {
    let nomad = nomad();
    let mut server = Server::on(&nomad, &[("ORPHAN_TIMEOUT", "1s")]);
    only_container(&server).await;
    server.signal(Signal::KILL);
    server.wait();
    nomad.until("the allocation is complete", |nomad| nomad.allocations()[0].client_status == "complete").await;
}

#[tokio::test]
async fn an_end_while_nomad_is_away_is_not_held_up_for_ever() {
    let nomad = nomad();
    let mut server = Server::on(&nomad, &[("NOMAD_TIMEOUT", "1s"), ("ORPHAN_TIMEOUT", "1s")]);
    works(&server, "a", "1").await;
    nomad.hang(true);
    let asked = Instant::now();
    ended(&mut server);
    super::within("the end", asked, Duration::from_secs(40));
    nomad.hang(false);
    nomad.until("the agents have ended by themselves", |nomad| running(nomad).is_empty()).await;
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_nomad() {
    let nomad = nomad();
    let mut server = Server::on(&nomad, &[("NOMAD_TIMEOUT", "10s")]);
    works(&server, "a", "1").await;
    nomad.hang(true);
    let asked = Instant::now();
    let deletes = |nomad: &Nomad| nomad.requests().iter().any(|request| request.method == "DELETE");
    server.signal(Signal::TERM);
    nomad.until("it waits for Nomad", deletes).await;
    server.signal(Signal::TERM);
    server.wait();
    super::within("the end", asked, Duration::from_secs(3));
}
