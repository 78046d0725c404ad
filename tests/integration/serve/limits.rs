//! One slot at its limits beside others: these go on, and so does it, and nothing is left in the end.
//!
//! What could fill the machine if a limit did not hold runs in a pid namespace of its own: see `slot::hostile`.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use tool_executor::pb::toolexecutor::{Outcome, Reason, Reset, trajectory_request, trajectory_response};

use crate::{
    slot::lifetime::rerun,
    support::{
        cgroup::{has_groups, mechanism, named},
        client::{PATIENCE, Stream, bash},
        dying::kill,
        server::Server,
    },
};

const SETTINGS: [(&str, &str); 6] = [
    ("MAX_CONTAINERS", "1"),
    ("SANDBOX_MEMORY", "128MiB"),
    ("SANDBOX_TMP_SIZE", "32MiB"),
    ("SANDBOX_MAX_PROCESSES", "100"),
    ("SANDBOX_WORKSPACE_SIZE", "64MiB"),
    ("SANDBOX_CPU_TIME", "5s"),
];

/// What each does, and what it ends as with control groups.
const HOSTILE: [(&str, &str, Outcome, Reason); 6] = [
    ("fork bomb", "b() { b | b & }; b; sleep 60", Outcome::LimitExceeded, Reason::ProcessLimit),
    ("patient bomb", "perl -e 'fork while 1'", Outcome::LimitExceeded, Reason::ProcessLimit),
    ("memory hog", "tail /dev/zero && sleep 60", Outcome::OutOfMemory, Reason::Unspecified),
    (
        "disk filler",
        "n=0; while :; do head -c 10000000 /dev/zero > f$n || exit 7; n=$((n+1)); done",
        Outcome::LimitExceeded,
        Reason::DiskLimit,
    ),
    (
        "zip bomb",
        "head -c 60000000 /dev/zero | gzip > z; n=0; while :; do gzip -dc z > f$n || exit 7; n=$((n+1)); done",
        Outcome::LimitExceeded,
        Reason::DiskLimit,
    ),
    ("burner", "while :; do :; done & while :; do :; done", Outcome::LimitExceeded, Reason::CpuLimit),
];

#[test]
fn hostile_calls_leave_their_neighbours_alone() {
    if !std::path::Path::new("/usr/bin/unshare").exists() {
        eprintln!("skipped: no unshare on this machine");
        return;
    }
    let mut through = vec!["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if !rustix::process::geteuid().is_root() {
        through.push("--map-root-user");
    }
    for test in ["with_groups", "without_groups"] {
        let run = rerun(&format!("serve::limits::{test}"), &through).output().unwrap();
        let (output, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success() && output.contains("1 passed"), "{test}: {output}{stderr}");
    }
}

#[tokio::test]
#[ignore = "run by hostile_calls_leave_their_neighbours_alone"]
async fn with_groups() {
    hostile(true).await;
}

#[tokio::test]
#[ignore = "run by hostile_calls_leave_their_neighbours_alone"]
async fn without_groups() {
    hostile(false).await;
}

async fn hostile(groups: bool) {
    assert_eq!(std::process::id(), 1, "this must run in a private pid namespace");
    let off = [("SANDBOX_CGROUPS", "false")];
    let server = Server::with(&[&SETTINGS[..], if groups { &[] } else { &off }].concat());
    let has_groups = has_groups(&server).await;
    let counted = mechanism(&server, "sandbox.max_processes").await;
    let mut hostile = Stream::open(&server, "hostile").await;
    let mut neighbour = Stream::open(&server, "neighbour").await;
    assert!(neighbour.bash("before", "echo mine > mine").await.success);
    let proof = "cat /proc/self/uid_map; readlink /proc/self/ns/pid; echo kept > kept";
    let proof = hostile.bash("proof", proof).await.output;
    let mine = std::fs::read_link("/proc/self/ns/pid").unwrap();
    assert_eq!(proof.split_whitespace().nth(2), Some("1"), "one user, and not the host's: {proof}");
    assert!(!proof.contains(mine.to_str().unwrap()), "{proof}");

    for (name, script, outcome, reason) in HOSTILE {
        // Without groups there is no counter, and a bomb that gives up is over before anybody looks.
        let unseen = name == "fork bomb" && !counted.starts_with("cgroup");
        if unseen || (reason == Reason::ProcessLimit && counted.starts_with("nothing")) {
            continue;
        }
        if script.starts_with("perl") && !std::path::Path::new("/usr/bin/perl").exists() {
            eprintln!("skipped: no perl on this machine");
            continue;
        }
        hostile.batch(vec![bash(name, script)]).await;
        let mut calls = 0;
        let result = loop {
            let beside = bash(&format!("{name}-{calls}"), "cat mine; echo > /tmp/f");
            neighbour.batch(vec![beside]).await;
            let result = tokio::select! {
                result = hostile.result() => Some(result),
                answer = neighbour.result() => {
                    assert_eq!(answer.output, "mine", "beside the {name}: {answer:?}");
                    None
                }
            };
            calls += 1;
            if let Some(result) = result {
                assert_eq!(neighbour.result().await.output, "mine", "beside the {name}");
                break result;
            }
        };
        let refused = !has_groups && outcome == Outcome::OutOfMemory;
        if refused {
            // A process is refused memory, and says so: that is all that is known.
            assert!(result.output.contains("memory exhausted") || !result.success, "{result:?}");
        } else {
            assert_eq!((result.outcome(), result.reason()), (outcome, reason), "{name}: {result:?}");
        }
        assert!(calls > 0, "{name}");
        let after = hostile.bash(&format!("{name}-after"), "cat kept; rm -f f* z").await;
        assert_eq!(after.output, "kept", "after the {name}: {after:?}");
    }
}

/// Until no group has this in its name.
fn gone(part: &str) {
    let asked = Instant::now();
    while let groups = named(part)
        && !groups.is_empty()
    {
        assert!(asked.elapsed() < PATIENCE, "{groups:?} should be gone");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
async fn no_group_is_left() {
    let server = Server::with(&[("MAX_CONTAINERS", "1")]);
    if !has_groups(&server).await {
        return;
    }
    let container = async || {
        let pool = server.pool_until("a container", |pool| pool.available_slots > 0).await;
        pool.containers.into_iter().map(|container| container.container_id).next().expect("there is one")
    };
    let first = container().await;
    assert!(!named(&first).is_empty(), "one in each hierarchy");
    let mut stream = Stream::open(&server, "left").await;
    let place = stream.bash("place", "cat /proc/self/cgroup").await.output;
    assert!(place.contains(&format!("tool-executor.{first}/")), "{place}");
    // An agent that is killed cannot clear away.
    server.agents().into_iter().for_each(kill);
    if server.nomad.is_none() {
        gone(&first);
    }
    let asked = Instant::now();
    let second = loop {
        let second = container().await;
        if second != first {
            break second;
        }
        assert!(asked.elapsed() < PATIENCE, "another should come");
    };
    gone(&first);
    drop(stream);
    drop(server);
    gone(&second);
}

#[tokio::test]
async fn who_uses_a_processor_for_long_gives_way() {
    let server = Server::with(&[("MAX_CONTAINERS", "1"), ("SLOTS", "2")]);
    if !has_groups(&server).await {
        return;
    }
    let mut burner = Stream::open(&server, "burner").await;
    let mut neighbour = Stream::open(&server, "neighbour").await;
    let place = |text: String| {
        let group = text.lines().find_map(|line| line.split_once(":cpu:")).map(|(_, group)| group.to_owned());
        let group = group.map(|group| Path::new("/sys/fs/cgroup/cpu").join(group.trim_start_matches('/')));
        group.map(|group| group.join("cpu.idle")).filter(|file| file.exists())
    };
    let (Some(burners), Some(neighbours)) = (
        place(burner.bash("place", "cat /proc/self/cgroup").await.output),
        place(neighbour.bash("place", "cat /proc/self/cgroup").await.output),
    ) else {
        eprintln!("skipped: no control group of version 1 that can give way");
        return;
    };
    let gives_way = |file: &Path| fs::read_to_string(file).expect("the slot is there").trim() == "1";
    assert!(!gives_way(&burners));
    burner.batch(vec![bash("burn", "while :; do :; done")]).await;
    let asked = Instant::now();
    while !gives_way(&burners) {
        assert!(asked.elapsed() < PATIENCE, "it should give way");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    neighbour.bash("short", "true").await;
    assert!(!gives_way(&neighbours));
    // Whoever has the slot next is not to pay for it.
    burner.send(trajectory_request::Message::Reset(Reset { generation: 1 })).await;
    let reset = |message| matches!(message, trajectory_response::Message::WorkspaceReset(_)).then_some(());
    burner.until(reset).await;
    assert!(!gives_way(&burners));
}

#[tokio::test]
async fn limits_are_told_with_what_holds_them() {
    let server = Server::with(&[("SANDBOX_CPU_TIME", "90s"), ("SANDBOX_CGROUPS", "no")]);
    let pool = server.pool_until("a container", |pool| pool.available_slots > 0).await;
    let told = |name: &str| {
        let limits = &pool.containers[0].limits;
        let limit = limits.iter().find(|limit| limit.name == name).unwrap_or_else(|| panic!("{name}: {limits:?}"));
        (limit.value.clone(), limit.mechanism.clone())
    };
    assert_eq!(told("sandbox.memory").0, "4 GiB");
    assert!(told("sandbox.memory").1.starts_with("RLIMIT_DATA"));
    assert_eq!(told("sandbox.cpu_time").0, "1m 30s");
    assert!(told("sandbox.cpu_weight").1.starts_with("nothing"));
    assert_eq!(told("sandbox.max_file_size"), ("8 GiB".to_owned(), "RLIMIT_FSIZE".to_owned()));
    assert_eq!(told("sandbox.workspace_size"), ("8 GiB".to_owned(), "measured while calls run".to_owned()));
    assert_eq!(pool.containers[0].limits.len(), 9);
}

#[test]
fn check_tells_of_them_too() {
    let state = tempfile::TempDir::new().expect("a directory");
    let mut command: Command = Server::command_of("check", &state);
    let output = command.env("TOOL_EXECUTOR_SANDBOX_WORKSPACE", "tmpfs").output().expect("it runs");
    assert!(!output.status.success(), "8 GiB in memory are more than the slot's 4");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("sandbox.memory must be more than"), "{errors}");

    let mut command = Server::command_of("check", &state);
    command.envs([("TOOL_EXECUTOR_SANDBOX_WORKSPACE", "tmpfs"), ("TOOL_EXECUTOR_SANDBOX_WORKSPACE_SIZE", "1GiB")]);
    let output = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("limit: sandbox.workspace_size: 1 GiB (tmpfs)\n"), "{text}");
    assert!(text.contains("limit: sandbox.max_processes: 4096 ("), "{text}");
}
