//! The ladder: under the conditions of each rung, made without a container, the probe finds that rung and no other, and
//! slots keep their promises there.
//!
//! Where /proc is masked, as in a container, the kernel refuses another one; where a container's filter or the machine
//! refuses user namespaces, there is L1b; where it refuses all, L2.

use std::{fs, process::Command};

use tool_executor::{
    sandbox::slot::{self, Isolation, Slot, SlotError, Step},
    tool::job::Exit,
};

use super::{
    bed::{Bed, LEVEL, MASKED, config, has_program, level, start_and_wait_for_output},
    conditions::{self, ARGUMENTS, DOCKERS, Refused, confine, has_landlock},
    lifetime::{Outside, rerun},
};

/// This program's tests under conditions in which a level is the best that can be had.
fn tests_at(level: Isolation, outside: &Outside) -> Option<Command> {
    let mut command = unconfined(level, outside)?;
    confine(&mut command, Refused::at(level));
    Some(command)
}

/// All but what is refused.
fn unconfined(level: Isolation, outside: &Outside) -> Option<Command> {
    let through = conditions::through(level)?;
    let mut command = outside.tests(&through.iter().map(String::as_str).collect::<Vec<_>>());
    command.env(LEVEL, level.name()).env("PATH", "/usr/bin:/bin");
    Some(command)
}

fn succeeds(mut command: Command, arguments: &[&str], expected: &str) {
    let run = command.env(ARGUMENTS, arguments.join("\n")).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && stdout.contains(expected), "{arguments:?}: {stdout}{stderr}");
}

/// Whatever is said of slots in general.
const GENERAL: [&str; 7] = [
    "slot::artifacts",
    "slot::calls",
    "slot::files",
    "slot::isolation",
    "slot::lifetime",
    "slot::scope",
    "--test-threads=2",
];

#[test]
fn slots_are_slots_at_l1() {
    if !rustix::process::geteuid().is_root() || level() != Isolation::L0 || !has_program("unshare") {
        return;
    }
    let masked = "mount -t tmpfs none /proc/tty && exec \"$@\"";
    let through = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", masked, "sh"];
    let outside = Outside::new();
    let mut command = outside.tests(&through);
    command.env(LEVEL, Isolation::L1.name()).env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").args(GENERAL);
    succeeds(command, &[], "test result: ok. ");
}

#[test]
fn slots_are_slots_at_l1b() {
    everything_holds_at(Isolation::L1B);
}

#[test]
fn slots_are_slots_at_l2() {
    everything_holds_at(Isolation::L2);
}

#[test]
fn slots_are_slots_at_l2_minus() {
    everything_holds_at(Isolation::L2Minus);
}

fn everything_holds_at(level: Isolation) {
    let outside = Outside::new();
    if let Some(command) = tests_at(level, &outside) {
        succeeds(command, &GENERAL, "test result: ok. ");
    }
}

/// In a user namespace that has all users, as with Docker's `userns-remap`, the kernel is as strict about /proc as it is
/// with ordinary users.
#[test]
fn a_masked_proc_is_borne_at_l1b() {
    let outside = Outside::new();
    let Some(_) = tests_at(Isolation::L1B, &outside) else { return };
    // The mask is locked for whoever is in a user namespace below the one that it was made in.
    let script = r#"
        mount -t tmpfs none /proc/tty
        mapped='until grep -q 4294967295 /proc/self/gid_map; do :; done; exec "$@"'
        unshare --user --mount sh -c "$mapped" sh "$@" &
        for map in uid_map gid_map; do
            until echo 0 0 4294967295 > /proc/$!/$map; do :; done
        done 2> /dev/null
        wait $!
    "#;
    let mut command =
        outside.tests(&["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh"]);
    command.env(LEVEL, Isolation::L1B.name()).env(MASKED, "1").env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
    confine(&mut command, Refused::UserNamespaces);
    succeeds(command, &GENERAL, "test result: ok. ");
}

/// Where all is refused, nothing is what is left; and whoever asks for more than there is hears of what there is.
#[test]
fn the_minimum_is_kept() {
    let outside = Outside::new();
    let exactly = |test: &'static str| ["--exact", test, "--ignored", "--nocapture", "--test-threads=1"];
    for level in [Isolation::L2, Isolation::L2Minus] {
        let Some(command) = tests_at(level, &outside) else { return };
        succeeds(command, &exactly("slot::level::less_than_the_minimum_is_refused"), "1 passed");
        let Some(mut command) = unconfined(level, &outside) else { return };
        confine(&mut command, Refused::All);
        succeeds(command, &exactly("slot::level::nothing_can_be_had"), "1 passed");
    }
    let Some(command) = tests_at(Isolation::L1B, &outside) else { return };
    succeeds(command, &exactly("slot::level::less_than_the_minimum_is_refused"), "1 passed");
}

#[tokio::test]
#[ignore = "run by the_minimum_is_kept"]
async fn less_than_the_minimum_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let config = config(home.path().join("slots/probe"));
    let minimum = if config.isolation == Isolation::L1B { Isolation::L1 } else { Isolation::L1B };
    let refusal = slot::probe(&config, minimum).await.unwrap_err();
    assert_eq!(refusal.found(), Some(config.isolation));
    let text = refusal.to_string();
    assert!(text.contains("L0: could not make the slot's namespaces: Operation not permitted"), "{text}");
    let accept = format!("or accept less, with isolation_minimum = \"{}\": ", config.isolation);
    assert!(text.lines().last().unwrap().contains(&accept), "{text}");
    assert!(!config.directory.exists());
}

#[tokio::test]
#[ignore = "run by the_minimum_is_kept"]
async fn nothing_can_be_had() {
    let home = tempfile::tempdir().unwrap();
    let config = config(home.path().join("slots/probe"));
    let refusal = slot::probe(&config, Isolation::L2Minus).await.unwrap_err();
    assert_eq!(refusal.found(), None);
    let text = refusal.to_string();
    assert!(text.contains("could not enter a Landlock domain that confines signals"), "{text}");
    assert!(text.contains("Linux 6.12") && !text.contains("accept less"), "{text}");
}

#[test]
fn a_masked_proc_costs_one_level() {
    if !has_program("unshare") {
        return;
    }
    let root = rustix::process::geteuid().is_root();
    for mask in ["mount -t tmpfs none /proc/tty", "mount --bind /dev/null /proc/uptime"] {
        run_masked(mask, "", root);
    }
    if root && has_program("setpriv") {
        let kept: String = DOCKERS.iter().map(|capability| format!(",+{capability}")).collect();
        run_masked("mount -t tmpfs none /proc/tty", &format!("setpriv --bounding-set=-all{kept}"), root);
    }
}

/// Runs these tests where `mask` has been done, through `program`.
fn run_masked(mask: &str, program: &str, root: bool) {
    let script = format!("{mask} && exec {program} \"$@\"");
    let mut through = vec!["unshare", "--mount", "--pid", "--fork", "--mount-proc"];
    if !root {
        through.push("--map-root-user");
    }
    through.extend(["sh", "-c", &script, "sh"]);
    for test in ["the_probe_finds_it", "a_slot_is_one_all_the_same", "calls_cannot_look_into_each_other"] {
        let run = rerun(&format!("slot::level::{test}"), &through).env("SECRET", "agent's").output().unwrap();
        let output = String::from_utf8_lossy(&run.stdout);
        let stderr = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success() && output.contains("1 passed"), "{script}, {test}: {output}{stderr}");
    }
}

async fn masked() -> Bed {
    Bed::with(|config| config.isolation = Isolation::L1).await
}

#[tokio::test]
#[ignore = "run by a_masked_proc_costs_one_level"]
async fn the_probe_finds_it() {
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path().join("slots/probe"));
    let error = Slot::create(&config).await.unwrap_err();
    assert!(matches!(error, SlotError::Step { step: Step::MountProc, .. }), "{error:?}");
    for network in [true, false] {
        config.network = network;
        let level = slot::probe(&config, Isolation::L1B).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(level, Isolation::L1);
        assert!(level.improvement().unwrap().contains("systempaths=unconfined"));
        assert!(!config.directory.exists());
    }
}

#[tokio::test]
#[ignore = "run by a_masked_proc_costs_one_level"]
async fn a_slot_is_one_all_the_same() {
    let mut bed = masked().await;
    // The masks are still there.
    let masks = || (fs::read_dir("/proc/tty").unwrap().count(), fs::read("/proc/uptime").unwrap().is_empty());
    let seen = bed.out("ls -A /proc/tty | wc -l; head -c 1 /proc/uptime | wc -c").await;
    assert_eq!(seen, format!("{}\n{}", masks().0, u8::from(!masks().1)));
    assert!(masks().0 == 0 || masks().1);
    assert_eq!(bed.out("umount /proc/tty /proc/uptime /proc/sys /proc; test -d /proc/self && echo kept").await, "kept");
    // Processes of the agent are seen, and that is all.
    assert_eq!(bed.sh("readlink /proc/1/root; cat /proc/[0-9]*/environ | grep -a SECRET").await.stdout, "");
    for file in ["/proc/1/environ", "/proc/1/maps", "/proc/1/root/etc/passwd", "/proc/1/mem", "/proc/1/cwd/."] {
        assert_ne!(bed.sh(&format!("cat {file}")).await.exit(), Exit::Code(0), "{file}");
    }
    for file in
        ["/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger", "/proc/1/oom_score_adj"]
    {
        assert_ne!(bed.sh(&format!("echo 1 > {file}")).await.exit(), Exit::Code(0), "{file}");
    }
    assert_eq!(bed.out("kill -9 -1; echo alive").await, "alive");
    assert_eq!(bed.out("cat /proc/self/oom_score_adj; echo x > f; cat f").await, "1000\nx");
    bed.end().await;
}

#[tokio::test]
#[ignore = "run by a_masked_proc_costs_one_level"]
async fn calls_cannot_look_into_each_other() {
    let mut bed = masked().await;
    let mut other = bed.slot.runner().await.unwrap();
    let output = start_and_wait_for_output(&mut other, "export MINE=secret; echo x; exec sleep 1000").await;
    let look = "for p in /proc/[0-9]*; do tr '\\0' '\\n' < $p/environ; done 2>/dev/null | grep -c MINE";
    assert_eq!(bed.out("cat /proc/[0-9]*/cmdline | grep -ac sleep").await, "1", "it is seen");
    if has_landlock() {
        assert_eq!(bed.sh(look).await.stdout, "0\n");
    }
    // Another slot is not looked into, with Landlock or without.
    let mut stranger = masked().await;
    assert_eq!(stranger.sh(look).await.stdout, "0\n");
    other.cancel();
    other.ended().await.unwrap();
    drop(output);
    stranger.end().await;
    bed.end().await;
}
