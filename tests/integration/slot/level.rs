//! What is left of isolation where /proc is masked, as in a container: the kernel refuses another one then.

use std::fs;

use landlock::{CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
use tool_executor::{
    sandbox::slot::{self, Isolation, Slot, SlotError, Step},
    tool::job::Exit,
};

use super::{
    bed::{Bed, config, has_program, start_and_wait_for_output},
    lifetime::rerun,
};

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

/// The capabilities that root has in a container of Docker's.
const DOCKERS: [&str; 14] = [
    "audit_write",
    "chown",
    "dac_override",
    "fowner",
    "fsetid",
    "kill",
    "mknod",
    "net_bind_service",
    "net_raw",
    "setfcap",
    "setgid",
    "setpcap",
    "setuid",
    "sys_chroot",
];

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
        let level = slot::probe(&config).await.unwrap_or_else(|error| panic!("{error}"));
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

fn has_landlock() -> bool {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement).scope(Scope::Signal);
    ruleset.and_then(|ruleset| ruleset.create()).is_ok()
}
