//! Dispatches whose answers are lost, or that count twice: one container comes of each, and no more.

use std::time::Duration;

use super::{live, nomad, only_container, running, works};
use crate::support::{
    nomad::{LostAnswer, Nomad},
    server::Server,
};

fn dispatches(nomad: &Nomad) -> usize {
    let dispatch = |path: &str| path.contains("/dispatch?");
    nomad.requests().iter().filter(|request| request.method != "GET" && dispatch(&request.path)).count()
}

#[tokio::test]
async fn a_dispatch_without_an_answer_is_looked_for_and_not_sent_again() {
    for how in [LostAnswer::LeadershipLost, LostAnswer::ConnectionCut, LostAnswer::NeverAnswers] {
        let nomad = nomad();
        nomad.apply_then_fail_dispatch(1, how);
        let server = Server::on(&nomad, &[("NOMAD_TIMEOUT", "1s")]);
        only_container(&server).await;
        works(&server, "a", "1").await;
        assert_eq!((dispatches(&nomad), nomad.children().len()), (1, 1), "{how:?}");
    }
}

#[tokio::test]
async fn a_child_too_many_is_found_and_stopped() {
    let nomad = nomad();
    nomad.double_dispatch(1);
    let server = Server::on(&nomad, &[]);
    only_container(&server).await;
    works(&server, "a", "1").await;
    assert_eq!(nomad.children().len(), 2);
    // At the next look of the watch.
    nomad.cut_streams();
    nomad.until("the other is stopped", |nomad| live(nomad) == 1 && running(nomad).len() == 1).await;
    works(&server, "a", "2").await;
}

#[tokio::test]
async fn a_dispatch_that_fails_is_tried_again_as_another() {
    let nomad = nomad();
    nomad.fail_requests("/v1/job/atropos-sandbox-tool-executor/dispatch", 500, "No cluster leader", Some(2));
    let server = Server::on(&nomad, &[]);
    works(&server, "a", "1").await;
    assert_eq!((dispatches(&nomad), nomad.children().len()), (3, 1));
}

#[tokio::test]
async fn a_template_that_somebody_removed_is_registered_again() {
    let nomad = nomad();
    let server = Server::on(&nomad, &[("SLOTS", "1"), ("MAX_CONTAINERS", "2")]);
    works(&server, "a", "1").await;
    let path = "/v1/job/atropos-sandbox-tool-executor?purge=true";
    let answer = crate::support::nomad::ask::ask(nomad.authority(), "DELETE", path, &[], b"").await;
    assert_eq!(answer.expect("it answers").status, 200);
    works(&server, "b", "1").await;
    works(&server, "a", "2").await;
}

#[tokio::test]
async fn the_template_is_written_only_if_it_is_not_as_it_should_be() {
    let nomad = nomad();
    let keep = ("PURGE_JOB_ON_SHUTDOWN", "false");
    let registered = |nomad: &Nomad| {
        nomad
            .requests()
            .iter()
            .filter(|request| request.method != "GET" && request.path.starts_with("/v1/jobs"))
            .count()
    };
    for (settings, count) in [(&[keep][..], 1), (&[keep], 1), (&[keep, ("MEMORY", "1GiB")], 2)] {
        let server = Server::on(&nomad, settings);
        works(&server, "a", "1").await;
        assert_eq!(registered(&nomad), count, "{settings:?}");
    }
}

#[tokio::test]
async fn an_idle_executor_leaves_nomad_alone() {
    let nomad = nomad();
    let server = Server::on(&nomad, &[]);
    works(&server, "a", "1").await;
    let before = nomad.requests().len();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let asked = nomad.requests().split_off(before);
    assert!(asked.len() <= 3, "{asked:?}");
}
