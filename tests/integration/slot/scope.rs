//! What keeps slots without namespaces apart: a user, and Landlock. Nothing here is of interest at other levels.

use std::{fs, os::unix::fs::PermissionsExt};

use rustix::process::{Pid, Signal, kill_process};
use tool_executor::{
    sandbox::slot::{self, Isolation, Slot, SlotError},
    tool::job::Exit,
};

use super::bed::{
    Bed, config, has_program, level, long, pipes, running, sh, shell, start_and_wait_for_output, until_running,
};

fn elsewhere() -> bool {
    level().has_namespaces()
}

#[tokio::test]
async fn nobody_outside_the_call_can_be_signalled() {
    if elsewhere() {
        return;
    }
    let (mut bed, mut stranger) = (Bed::new().await, Bed::new().await);
    let mut other = bed.slot.runner().await.unwrap();
    let mark = long();
    let output = start_and_wait_for_output(&mut other, &format!("echo x; exec sleep {mark}")).await;
    let others = start_and_wait_for_output(&mut stranger.runner, &format!("echo x; exec sleep {mark}")).await;
    until_running(mark, 2).await;
    let find = |name: &str| {
        format!(
            "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline | grep -q '{name}' && echo ${{p#/proc/}}; done 2>/dev/null; true"
        )
    };
    let sleepers = bed.out(&find(&format!("^sleep {mark}"))).await;
    assert_eq!(sleepers.lines().count(), 2, "they are seen: {sleepers}");
    let helpers = bed.out(&find("^slot \\(warden\\|runner\\)")).await;
    assert!(helpers.lines().count() >= 4, "{helpers}");
    let agent = std::process::id().to_string();
    for pid in sleepers.lines().chain(helpers.lines()).chain([agent.as_str(), "$PPID"]) {
        for signal in ["0", "KILL", "STOP", "CONT"] {
            assert_ne!(bed.sh(&format!("kill -{signal} {pid}")).await.exit(), Exit::Code(0), "{signal} {pid}");
        }
    }
    assert_eq!(running(mark), 2);
    for (runner, output) in [(other, output), (stranger.runner, others)] {
        runner.cancel();
        runner.ended().await.unwrap();
        drop(output);
    }
    assert_eq!(running(mark), 0);
    assert_eq!(bed.out("echo on").await, "on");
    stranger.slot.destroy().await.unwrap();
    bed.end().await;
}

#[tokio::test]
async fn of_the_machines_files_only_some_are_seen() {
    if elsewhere() {
        return;
    }
    let mut bed = Bed::with(|config| config.read_only = vec!["/var/lib".into()]).await;
    for place in ["/", "/usr", "/etc", "/proc/sys/kernel", "/dev", "/run", "/var", "/tmp", "/var/tmp", "/dev/shm", ".."]
    {
        assert_ne!(bed.sh(&format!("echo > {place}/new")).await.exit(), Exit::Code(0), "{place}");
    }
    for file in ["/proc/sys/kernel/core_pattern", "/etc/passwd", "/proc/self/oom_score_adj", "/dev/mem", "/dev/ptmx"] {
        assert_ne!(bed.sh(&format!("echo > {file}")).await.exit(), Exit::Code(0), "{file}");
    }
    let agent = std::process::id();
    let private = ["environ", "maps", "mem", "root/etc/passwd", "cwd/.", "fd/0", "exe"]
        .map(|file| format!("/proc/{agent}/{file}"));
    for secret in private.iter().map(String::as_str).chain(["/etc/shadow", "/proc/kcore", "/proc/1/environ"]) {
        assert_ne!(bed.sh(&format!("cat {secret}")).await.exit(), Exit::Code(0), "{secret}");
    }
    for hidden in ["/", "/tmp", "/var", "/dev/shm", "/sys", "/run", "/root", "/home", ".."] {
        assert_ne!(bed.sh(&format!("ls {hidden}")).await.exit(), Exit::Code(0), "{hidden}");
    }
    assert_eq!(bed.out("ls /var/lib | wc -l").await, fs::read_dir("/var/lib").unwrap().count().to_string());
    bed.out("cat /etc/passwd /proc/self/status && ls /usr/bin && echo x > /dev/null").await;
    bed.out("f=$(mktemp) && echo x > $f && mv $f $HOME/moved && ln moved $TMPDIR/again && cat $TMPDIR/again").await;
    if has_program("perl") {
        // A mover that does not copy instead.
        let moves = "mkdir -p a/b; echo > a/f; perl -e 'print rename(\"a/f\", \"a/b/g\") && link(\"a/b/g\", \"h\")'";
        assert_eq!(bed.out(moves).await, "1");
    }
    bed.end().await;
}

/// Everything that a user may do to all that it has, and what is left behind in memory that is everybody's.
#[tokio::test]
async fn what_landlock_leaves_open_is_refused() {
    if elsewhere() || !has_program("perl") || !cfg!(target_arch = "x86_64") {
        return;
    }
    let mut bed = Bed::new().await;
    let other = std::process::id();
    for call in [
        "29, 1, 4096, 0600 | 01000".to_owned(),         // shmget
        "64, 1, 1, 0600 | 01000".to_owned(),            // semget
        "68, 1, 0600 | 01000".to_owned(),               // msgget
        format!("141, 0, {other}, 19"),                 // setpriority of a process
        "141, 2, 0, 19".to_owned(),                     // of all of the user's
        format!("251, 1, {other}, 0"),                  // ioprio_set
        format!("203, {other}, 8, ($b = pack 'Q', 1)"), // sched_setaffinity
        format!("144, {other}, 5, ($b = pack 'l', 0)"), // sched_setscheduler
        "41, 2, 1, 0".to_owned(),                       // socket(AF_INET)
        "41, 10, 2, 0".to_owned(),                      // socket(AF_INET6)
        "41, 16, 3, 0".to_owned(),                      // socket(AF_NETLINK)
    ] {
        let script = format!("perl -e '$r = syscall({call}); print $r == -1 ? $!+0 : \"done\"'");
        assert_eq!(bed.out(&script.replace("'Q'", "\"Q\"").replace("'l'", "\"l\"")).await, "1", "{call}");
    }
    assert_eq!(bed.out("nice -n 5 echo still").await, "still");
    assert_eq!(bed.out("perl -e '$r = syscall(41, 1, 1, 0); print $r >= 0'").await, "1", "AF_UNIX is allowed");
    bed.end().await;
    let mut on = Bed::with(|config| config.network = true).await;
    assert_eq!(on.out("perl -e '$r = syscall(41, 2, 1, 0); print $r >= 0'").await, "1", "AF_INET is allowed");
    on.end().await;
}

#[tokio::test]
async fn a_runner_that_is_killed_takes_the_slot_along() {
    if elsewhere() {
        return;
    }
    let mut bed = Bed::new().await;
    let mut other = bed.slot.runner().await.unwrap();
    let mark = long();
    let sleeps = format!("setsid sleep {mark} & echo x; exec sleep {mark}");
    let outputs = [
        start_and_wait_for_output(&mut bed.runner, &sleeps).await,
        start_and_wait_for_output(&mut other, &sleeps).await,
    ];
    until_running(mark, 4).await;
    kill_process(parent_of(mark), Signal::KILL).unwrap();
    bed.slot.lost().await;
    // The slot has died with its first runner, so that is what each has died of.
    assert!(matches!(bed.runner.ended().await, Err(SlotError::Gone("keeper"))));
    assert!(matches!(other.ended().await, Err(SlotError::Gone("keeper"))));
    drop(outputs);
    let Bed { slot, .. } = bed;
    slot.destroy().await.unwrap();
    assert_eq!(running(mark), 0);
}

#[tokio::test]
async fn nothing_is_left_of_a_slot_whose_warden_is_killed() {
    if elsewhere() {
        return;
    }
    let mut bed = Bed::new().await;
    let mark = long();
    let output =
        start_and_wait_for_output(&mut bed.runner, &format!("setsid sleep {mark} & echo x; exec sleep {mark}")).await;
    until_running(mark, 2).await;
    kill_process(parent(parent_of(mark)), Signal::KILL).unwrap();
    bed.slot.lost().await;
    let Bed { slot, mut runner, .. } = bed;
    slot.destroy().await.unwrap();
    assert_eq!(running(mark), 0, "and not only soon");
    assert!(runner.ended().await.is_err());
    let (stdio, ..) = pipes(None);
    assert!(runner.start(&shell("true"), stdio).is_err());
    drop(output);
}

/// The runner of a call that sleeps for so long.
fn parent_of(mark: u32) -> Pid {
    let sleeper = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let arguments = fs::read(entry.path().join("cmdline")).ok()?;
        (arguments == format!("sleep\0{mark}\0").as_bytes()).then(|| entry.file_name().to_str()?.parse().ok())?
    });
    parent(Pid::from_raw(sleeper.unwrap()).unwrap())
}

fn parent(pid: Pid) -> Pid {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    Pid::from_raw(parent.trim().parse().unwrap()).unwrap()
}

#[tokio::test]
async fn what_needs_mounts_is_refused_in_plain_words() {
    if elsewhere() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path().join("slots/0"));
    config.workspace_source = Some("/usr/share".into());
    let error = Slot::create(&config).await.unwrap_err();
    assert_eq!(error.to_string(), "workspace_source needs mounts, and without namespaces there are none");
    let refusal = slot::probe(&config, Isolation::L2Minus).await.unwrap_err().to_string();
    assert!(refusal.contains("workspace_source needs mounts"), "{refusal}");
    config.workspace_source = None;
    config.writable_root = true;
    let error = Slot::create(&config).await.unwrap_err();
    assert!(error.to_string().starts_with("a writable root needs mounts"), "{error}");
}

#[tokio::test]
async fn another_runner_is_not_seen_into() {
    if elsewhere() {
        return;
    }
    let mut bed = Bed::new().await;
    let mut other = bed.slot.runner().await.unwrap();
    let output = start_and_wait_for_output(&mut other, "export MINE=secret; echo x; exec sleep 1000").await;
    let look = "for p in /proc/[0-9]*; do tr '\\0' '\\n' < $p/environ; done 2>/dev/null | grep -c MINE=";
    assert_eq!(bed.sh(look).await.stdout, "0\n");
    other.cancel();
    other.ended().await.unwrap();
    drop(output);
    let mut again = bed.slot.runner().await.unwrap();
    assert_eq!(
        sh(&mut again, "export MINE=secret; cat /proc/self/environ /proc/$$/environ | tr '\\0' '\\n' | grep -c MINE=")
            .await
            .stdout,
        "1\n"
    );
    bed.end().await;
}

#[tokio::test]
async fn a_workspace_that_its_user_cannot_come_to_is_none() {
    if level() != Isolation::L2 {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let mut config = config(home.path().join("state/slots/probe"));
    // The executor's directory is one below that, which is somebody else's.
    config.hidden = vec![home.path().join("state")];
    let refusal = slot::probe(&config, level()).await.unwrap_err().to_string();
    let step = format!("L2: could not let the slot's user through to its workspace ({})", home.path().display());
    assert!(refusal.contains(&step) && refusal.contains("mode 711"), "{refusal}");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).unwrap();
    assert_eq!(slot::probe(&config, level()).await.unwrap_or_else(|error| panic!("{error}")), level());
    let mode = |path: &str| fs::metadata(home.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("state"), mode("state/slots")), (0o711, 0o711), "no more than it takes");
}
