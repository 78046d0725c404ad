//! A Nomad that is not there, or not itself: what runs goes on, and what comes after it works.

use std::time::Duration;

use rustix::process::Signal;

use super::{SINGLE, lost, nomad, running, works};
use crate::support::{
    client::{Stream, bash, execute},
    nomad::Nomad,
    server::Server,
};

/// Calls go on while Nomad is so, and another container starts when it is itself again.
async fn survives(what: &str, begin: impl Fn(&Nomad), end: impl Fn(&Nomad)) {
    let nomad = nomad();
    let server = Server::on(&nomad, &[("SLOTS", "1"), ("MAX_CONTAINERS", "2"), ("NOMAD_TIMEOUT", "1s")]);
    let mut stream = Stream::open(&server, "a").await;
    assert!(stream.bash("1", "touch file").await.success);
    begin(&nomad);
    stream.batch(vec![bash("2", "sleep 1; ls")]).await;
    assert_eq!(stream.result().await.output, "file", "{what}");
    end(&nomad);
    works(&server, "b", "1").await;
    assert_eq!(stream.bash("3", "ls").await.output, "file", "{what}");
    assert_eq!(running(&nomad).len(), 2, "{what}");
}

#[tokio::test]
async fn no_leader() {
    survives("no leader", |nomad| nomad.no_leader(true), |nomad| nomad.no_leader(false)).await;
}

#[tokio::test]
async fn requests_that_hang() {
    survives("it hangs", |nomad| nomad.hang(true), |nomad| nomad.hang(false)).await;
}

#[tokio::test]
async fn connections_that_are_refused() {
    let refuse = |nomad: &Nomad| {
        nomad.refuse_connections(true);
        nomad.cut_streams();
    };
    survives("refused", refuse, |nomad| nomad.refuse_connections(false)).await;
}

#[tokio::test]
async fn too_many_requests() {
    let limit = |nomad: &Nomad| nomad.fail_requests("/v1/", 429, "Too many requests", None);
    survives("429", limit, |nomad| nomad.heal_requests()).await;
}

#[tokio::test]
async fn a_restart() {
    survives("restart", |nomad| nomad.restart(Duration::from_millis(800)), |_| ()).await;
}

#[tokio::test]
async fn without_events_the_list_tells() {
    let nomad = nomad();
    nomad.silent_streams(true);
    let server = Server::on(&nomad, &SINGLE);
    let mut stream = Stream::open(&server, "a").await;
    assert!(stream.bash("1", "true").await.success, "an address is found all the same");
    // The agent's connection breaks at once, and the list says why.
    nomad.kill_task(&running(&nomad)[0].id, Signal::KILL);
    let evidence = lost(&mut stream).await;
    assert!(evidence.cause.contains("signal 9"), "{evidence:?}");
}

#[tokio::test]
async fn a_list_of_before_brings_nothing_back() {
    let nomad = nomad();
    let server = Server::on(&nomad, &SINGLE);
    let mut stream = Stream::open(&server, "a").await;
    assert!(stream.bash("1", "true").await.success);
    nomad.stale_lists(true);
    nomad.kill_task(&running(&nomad)[0].id, Signal::KILL);
    lost(&mut stream).await;
    nomad.cut_streams();
    works(&server, "b", "1").await;
    nomad.stale_lists(false);
    works(&server, "b", "2").await;
}

#[tokio::test]
async fn a_nomad_that_has_forgotten_everything() {
    let nomad = nomad();
    let server = Server::on(&nomad, &SINGLE);
    let mut stream = Stream::open(&server, "a").await;
    assert!(stream.bash("1", "touch file").await.success);
    nomad.forget_everything();
    nomad.cut_streams();
    assert_eq!(stream.bash("2", "ls").await.output, "file", "its agent answers");
    works(&server, "b", "1").await;
    assert_eq!(stream.bash("3", "ls").await.output, "file");
}

#[tokio::test]
async fn while_nomad_is_away_a_trainer_hears_why_it_waits() {
    let nomad = nomad();
    let server =
        Server::on(&nomad, &[("MIN_CONTAINERS", "0"), ("NOMAD_TIMEOUT", "1s"), ("NOMAD_PLACEMENT_TIMEOUT", "1s")]);
    nomad.no_leader(true);
    let result = execute(&server, "a", bash("1", "true")).await;
    let evidence = super::no_capacity(&result);
    assert!(evidence.cause.contains("No cluster leader"), "{evidence:?}");
    assert!(result.fault.is_some_and(|fault| fault.retryable));
}
