//! `check` over a cluster.

use std::process::Output;

use super::{nomad, quick};
use crate::support::{
    nomad::{NodeSpec, Nomad},
    server::Server,
};

fn check(nomad: &Nomad, settings: &[(&str, &str)]) -> (Output, String) {
    let state = tempfile::TempDir::new().expect("a directory");
    let mut command = Server::command_of("check", &state);
    command.envs(Server::over(&nomad.address()));
    command.envs(settings.iter().map(|(name, value)| (format!("TOOL_EXECUTOR_{name}"), value)));
    let output = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text)
}

fn assert_says(text: &str, line: &str) {
    assert!(text.lines().any(|found| found.starts_with(line)), "no line begins with {line:?}:\n{text}");
}

#[test]
fn all_is_well_and_nothing_is_left() {
    let nomad = nomad();
    let (output, text) = check(&nomad, &[]);
    assert!(output.status.success(), "{text}");
    for line in [
        "nomad: ok: http://127.0.0.1:",
        "nomad version: ok: ",
        "nomad access control: ok: warning: off",
        "nomad list-jobs: ok: granted",
        "nomad read-job: ok: granted",
        "nomad submit-job: ok: granted",
        "nomad dispatch-job: ok: granted",
        "nomad pool default: ok: room for 1953 on 1 node with raw_exec",
        "nomad agents' addresses: ok: ",
    ] {
        assert_says(&text, line);
    }
    assert!(nomad.templates().is_empty() && nomad.children().is_empty());
}

#[test]
fn each_missing_right_is_named() {
    for (right, line) in [
        ("list-jobs", "nomad list-jobs: FAILED: missing"),
        ("dispatch-job", "nomad dispatch-job: FAILED: missing"),
        ("node:read", "nomad node:read: ok: warning: missing"),
    ] {
        let nomad = nomad();
        nomad.deny(right);
        let (output, text) = check(&nomad, &[]);
        assert_says(&text, line);
        assert_eq!(output.status.success(), right == "node:read", "{text}");
    }
}

#[test]
fn a_cluster_that_is_not_there_or_too_small_is_told() {
    let nomad = nomad();
    let (output, text) = check(&nomad, &[("NOMAD_ADDRESS", "http://127.0.0.1:1")]);
    assert!(!output.status.success());
    assert_says(&text, "nomad: FAILED: GET /v1/status/leader: could not connect");

    let (output, text) = check(&nomad, &[("MEMORY", "900GiB"), ("MIN_CONTAINERS", "2")]);
    assert!(!output.status.success());
    assert_says(&text, "nomad pool default: FAILED: room for 1 on 1 node with raw_exec, and 2 are wanted");

    let mut options = quick();
    options.nodes = vec![NodeSpec { drivers: vec!["docker".to_owned()], ..NodeSpec::default() }];
    let (output, text) = check(&Nomad::start_with(options), &[]);
    assert!(!output.status.success());
    assert_says(&text, "nomad pool default: FAILED: no eligible node of 1 has a healthy driver raw_exec");
}
