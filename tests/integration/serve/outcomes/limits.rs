//! Calls that run into each limit of their slot, with control groups and without. Each would end by itself if the limit
//! did not hold.

use tool_executor::pb::toolexecutor::{CallResult, Executed};

use super::{By, Case};
use crate::support::{
    cgroup::{Outer, has_groups},
    client::Stream,
    server::{OVER_NOMAD, Server},
};

/// Every script, by both, on one server; the slot and its files outlive each of them.
async fn exceed(server: &Server, scripts: &[&str], setting: &str) -> Vec<Case> {
    let mut stream = Stream::open(server, "limits").await;
    assert!(stream.bash("before", "echo kept > kept").await.success);
    let mut cases = Vec::new();
    for (number, script) in scripts.iter().enumerate() {
        for by in By::BOTH {
            stream.batch(vec![by.call(&format!("{number}-{by:?}"), script)]).await;
            let result = stream.result().await;
            assert_named(&result, setting, script);
            cases.push(Case::accepted(by, Executed::Yes, result));
            let after = stream.bash(&format!("{number}-{by:?}-after"), "cat kept; rm -f /workspace/f*").await;
            assert_eq!(after.output, "kept", "the slot and its files are there: {after:?}");
        }
    }
    cases
}

/// The limit is named, where it stands, and how it is known.
fn assert_named(result: &CallResult, setting: &str, script: &str) {
    let metadata = &result.metadata.as_ref().expect("it has some").fields;
    let text = |name: &str| match metadata.get(name).and_then(|value| value.kind.clone()) {
        Some(prost_types::value::Kind::StringValue(text)) => text,
        other => panic!("{name} is {other:?} after {script}: {result:?}"),
    };
    assert_eq!(text("limit"), setting, "{script}: {result:?}");
    assert!(!text("limit_evidence").is_empty());
    assert!(setting.is_empty() || result.error.contains(&text("limit_value")), "{result:?}");
}

const GROUPS: [(&str, &str); 2] = [("SANDBOX_CGROUPS", "true"), ("SANDBOX_CGROUPS", "false")];

pub(super) async fn process_limit() -> Vec<Case> {
    let many = "i=0; while [ $i -lt 150 ]; do sleep 20 & i=$((i+1)); done; wait";
    // It bears it, and goes on.
    let patient = "i=0; while [ $i -lt 150 ]; do (sleep 20 & :) & i=$((i+1)); done; sleep 20";
    let mut cases = Vec::new();
    for groups in GROUPS {
        let server = Server::with(&[groups, ("SANDBOX_MAX_PROCESSES", "60")]);
        cases.extend(exceed(&server, &[many, patient], "sandbox.max_processes").await);
    }
    cases
}

pub(super) async fn disk_limit() -> Vec<Case> {
    let size = ("SANDBOX_WORKSPACE_SIZE", "32MiB");
    let files = "for n in 1 2 3; do head -c 20000000 /dev/zero > f$n || exit 7; done; sleep 20";
    let quick = "for n in 1 2 3; do head -c 20000000 /dev/zero > f$n || exit 7; done";
    let zipped = "head -c 60000000 /dev/zero | gzip > bomb.gz; for n in 1 2; do gzip -dc bomb.gz | head -c 20000000 > f$n \
                  || exit 7; done; sleep 20";
    let mut cases = exceed(&Server::with(&[size]), &[files, quick, zipped], "sandbox.workspace_size").await;
    cases.extend(
        exceed(&Server::with(&[size]), &["exec head -c 60000000 /dev/zero > f"], "sandbox.max_file_size").await,
    );
    let tmpfs = [("SANDBOX_WORKSPACE", "tmpfs"), size, ("SANDBOX_WORKSPACE_INODES", "100")];
    cases.extend(exceed(&Server::with(&tmpfs), &[files, quick], "sandbox.workspace_size").await);
    let many = "for n in 1 2 3 4 5 6 7 8 9; do touch f$n-0 f$n-1 f$n-2 f$n-3 f$n-4 f$n-5 f$n-6 f$n-7 f$n-8 f$n-9 f$n-a \
                f$n-b || exit 7; done";
    cases.extend(exceed(&Server::with(&tmpfs), &[many], "sandbox.workspace_inodes").await);
    let inodes = [("SANDBOX_WORKSPACE_INODES", "100")];
    let slowly = format!("{many}; sleep 20");
    cases.extend(exceed(&Server::with(&inodes), &[&slowly], "sandbox.workspace_inodes").await);
    cases
}

pub(super) async fn cpu_limit() -> Vec<Case> {
    let one = "while :; do :; done";
    // None of these alone uses as much.
    let several = "for n in 1 2 3 4; do (while :; do :; done) & done; wait";
    let chain = "while :; do sh -c 'i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done'; done";
    let mut cases = Vec::new();
    for groups in GROUPS {
        let server = Server::with(&[groups, ("SANDBOX_CPU_TIME", "1s")]);
        cases.extend(exceed(&server, &[one, several, chain], "sandbox.cpu_time").await);
    }
    cases
}

/// One process, several that are killed one by one, and one whose shell says that all is well.
const HOGS: [&str; 3] = [
    "head -c 400000000 /dev/zero | tail | wc -c",
    "for n in 1 2 3; do head -c 400000000 /dev/zero | tail > /dev/null; done",
    "head -c 400000000 /dev/zero | tail > /dev/null; sleep 20; echo well",
];

pub(super) async fn out_of_memory() -> Vec<Case> {
    let server = Server::with(&[("SANDBOX_MEMORY", "96MiB"), ("SANDBOX_TMP_SIZE", "16MiB")]);
    if !has_groups(&server).await {
        return Vec::new();
    }
    exceed(&server, &HOGS, "sandbox.memory").await
}

/// The slot has a limit of its own that is never reached: what all of this is in has a lower one.
pub(super) async fn machine_memory() -> Vec<Case> {
    let Some(outer) = Outer::of(256 << 20).filter(|_| std::env::var_os(OVER_NOMAD).is_none()) else {
        return Vec::new();
    };
    let entering = outer.entering();
    let entering: Vec<&str> = entering.iter().map(String::as_str).collect();
    let server = Server::through(&entering, &[("SANDBOX_MEMORY", "2GiB"), ("MAX_CONTAINERS", "1")]);
    let cases = exceed(&server, &HOGS[..1], "").await;
    drop(server);
    cases
}
