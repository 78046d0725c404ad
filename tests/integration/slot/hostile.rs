//! Commands that would end or fill the machine if a slot did not hold them.
//!
//! They run in a process that is itself in a private pid namespace, so that a defect ends the test and no more, and
//! each only after its slot has proved from inside that it is one.

use std::{fs, process::Command};

use tool_executor::{
    sandbox::slot::{self, Isolation, RunnerEnd, Slot},
    tool::job::Exit,
};

use super::{
    bed::{Bed, LEVEL, config, has_program, level, own_ids, own_proc, sh, start_and_wait_for_output},
    conditions::{self, Refused},
    lifetime::{Outside, rerun},
};

const ALL: [&str; 5] = [
    "kill_everything",
    "a_fork_bomb",
    "chains_of_forks_that_outrun_a_walk",
    "stopping_and_signalling_the_helpers",
    "a_thousand_leftovers",
];

#[test]
fn hostile_commands_are_held() {
    if !has_program("unshare") {
        return;
    }
    let root = rustix::process::geteuid().is_root();
    let mut through = vec!["unshare", "--pid", "--fork", "--mount-proc"];
    if !root {
        through.push("--map-root-user");
    }
    for test in ALL {
        passes(rerun(&format!("slot::hostile::{test}"), &through), test);
    }
}

#[test]
fn hostile_commands_are_held_at_every_level() {
    let outside = Outside::new();
    for level in [Isolation::L1B, Isolation::L2, Isolation::L2Minus] {
        let Some(through) = conditions::through(level) else { return };
        let private = ["unshare", "--pid", "--fork", "--mount-proc"].map(String::from);
        let through: Vec<_> = private.iter().chain(&through).map(String::as_str).collect();
        for test in ALL {
            let mut command = outside.tests(&through);
            conditions::confine(&mut command, Refused::at(level));
            let arguments =
                ["--exact", &format!("slot::hostile::{test}"), "--ignored", "--nocapture", "--test-threads=1"];
            command.env(LEVEL, level.name()).env(conditions::ARGUMENTS, arguments.join("\n"));
            passes(command, &format!("{test} at {level}"));
        }
    }
}

fn passes(mut command: Command, what: &str) {
    let run = command.output().unwrap();
    let output = String::from_utf8_lossy(&run.stdout);
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && output.contains("1 passed"), "{what}: {output}{stderr}");
}

/// A slot of a process that is process 1 of its own pid namespace, after the slot's proof.
async fn proven() -> Bed {
    assert_eq!(std::process::id(), 1, "this must run in a private pid namespace");
    let home = tempfile::tempdir().unwrap();
    let probed = slot::probe(&config(home.path().join("slots/probe")), level()).await;
    assert_eq!(probed.unwrap_or_else(|error| panic!("{error}")), level());
    let mut bed = Bed::with(|config| config.max_processes = own_ids().then_some(200)).await;
    if level() <= Isolation::L1 {
        let map = bed.out("cat /proc/self/uid_map").await;
        assert_eq!(map.split_whitespace().nth(2), Some("1"), "one user, and not the host's");
    }
    if level().has_namespaces() {
        let mine = fs::read_link("/proc/self/ns/pid").unwrap();
        assert_ne!(bed.out("readlink /proc/self/ns/pid").await, mine.to_str().unwrap());
    }
    is_quiet(&mut bed).await;
    bed
}

/// Proves that nothing runs in the slot but what must.
async fn is_quiet(bed: &mut Bed) {
    if own_proc() {
        return bed.is_quiet().await;
    }
    // This process, the warden and the runner.
    assert_eq!(processes().len(), 3, "{:?}", processes());
}

/// Of this pid namespace.
fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

async fn end(bed: Bed) {
    let Bed { slot, config, .. } = bed;
    slot.destroy().await.unwrap();
    // Nobody but this process is left in its pid namespace.
    assert_eq!(processes(), [1], "{config:?}");
}

#[tokio::test]
#[ignore = "run by hostile_commands_are_held"]
async fn kill_everything() {
    let mut bed = proven().await;
    let mut other = bed.slot.runner().await.unwrap();
    let output = start_and_wait_for_output(&mut other, "echo x; exec sleep 1000").await;
    for signal in ["KILL", "TERM", "STOP", "INT"] {
        // kill(-1) spares the sender itself, and the runner is out of its reach.
        let done = bed.sh(&format!("sleep 1000 & kill -{signal} -1; echo alive")).await;
        assert_eq!((done.exit(), &*done.stdout), (Exit::Code(0), "alive\n"), "{signal}");
    }
    other.cancel();
    assert!(matches!(other.ended().await.unwrap(), RunnerEnd::Ended { exit: Exit::Signal(9), .. }));
    drop(output);
    assert_eq!(bed.out("echo on").await, "on");
    end(bed).await;
}

#[tokio::test]
#[ignore = "run by hostile_commands_are_held"]
async fn a_fork_bomb() {
    let mut bed = proven().await;
    if !own_ids() {
        // Its processes would be counted with the user's own, so that no limit is set.
        return end(bed).await;
    }
    let output = start_and_wait_for_output(&mut bed.runner, "b() { b | b & }; echo x; b; sleep 1000").await;
    bed.runner.cancel();
    bed.runner.ended().await.unwrap();
    drop(output);
    is_quiet(&mut bed).await;
    end(bed).await;
}

#[tokio::test]
#[ignore = "run by hostile_commands_are_held"]
async fn chains_of_forks_that_outrun_a_walk() {
    let mut bed = proven().await;
    if !has_program("perl") {
        return end(bed).await;
    }
    // Each process lives just long enough to make the next.
    let chain = "perl -MPOSIX -e 'for (1..8) { if (!fork) { for (;;) { setsid(); exit if fork } } } print \"x\\n\"'";
    for _ in 0..5 {
        assert_eq!(bed.out(chain).await, "x");
        is_quiet(&mut bed).await;
    }
    end(bed).await;
}

#[tokio::test]
#[ignore = "run by hostile_commands_are_held"]
async fn stopping_and_signalling_the_helpers() {
    let mut bed = proven().await;
    bed.sh("for s in KILL STOP TERM INT HUP SEGV USR1 CHLD PIPE; do kill -$s 1; done; kill -9 0").await;
    assert_eq!(bed.out("echo on").await, "on");
    bed.sh("echo -1000 > /proc/self/oom_score_adj; echo 1000 > /proc/1/oom_score_adj; renice 19 1; prlimit -p 1 -n1")
        .await;
    assert_eq!(bed.out("echo on").await, "on");
    let mut another = bed.slot.runner().await.unwrap();
    assert_eq!(sh(&mut another, "echo on").await.stdout, "on\n");
    end(bed).await;
}

#[tokio::test]
#[ignore = "run by hostile_commands_are_held"]
async fn a_thousand_leftovers() {
    let mut bed = proven().await;
    let count = if own_ids() { 150 } else { 1000 };
    let script = format!("i=0; while [ $i -lt {count} ]; do setsid sleep 1000 & i=$((i+1)); done; echo all");
    assert_eq!(bed.out(&script).await, "all");
    is_quiet(&mut bed).await;
    // Killed with all of them alive, the slot is gone as a whole.
    let output = start_and_wait_for_output(&mut bed.runner, &format!("{script}; sleep 1000")).await;
    drop(output);
    let config = bed.config.clone();
    end(bed).await;
    Slot::create(&config).await.unwrap().destroy().await.unwrap();
}
