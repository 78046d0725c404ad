//! What the kernel takes from each process of a slot, and what its runner watches: without control groups, as root and
//! as an ordinary user.

use std::time::Duration;

use tool_executor::{
    sandbox::slot::{Enforcement, LimitHit, Limits, RunnerEnd, Slot, SlotConfig, Storage},
    tool::job::Exit,
};

use super::bed::{Bed, Done, config, has_program};

fn limit(done: &Done) -> Option<LimitHit> {
    match &done.end {
        RunnerEnd::Ended { limit, .. } => *limit,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_file_that_is_too_large_ends_its_process() {
    let mut bed = Bed::with(|config| config.limits.file_bytes = Some(1 << 20)).await;
    let done = bed.sh("exec head -c 2000000 /dev/zero > f").await;
    assert_eq!((done.exit(), limit(&done)), (Exit::Signal(libc::SIGXFSZ), Some(LimitHit::FileSize)));
    assert_eq!(bed.out("stat -c %s f").await, (1 << 20).to_string());
    let done = bed.sh("head -c 1000000 /dev/zero > g").await;
    assert_eq!((done.exit(), limit(&done)), (Exit::Code(0), None));
    // Whatever the program makes of it, its exit code alone proves nothing.
    assert_eq!(limit(&bed.sh("exit 153").await), None);
    bed.end().await;
}

#[tokio::test]
async fn a_process_that_asks_for_too_much_memory_is_refused_it() {
    let mut bed = Bed::with(|config| config.process_memory_bytes = Some(64 << 20)).await;
    let done = bed.sh("head -c 200000000 /dev/zero | tail | wc -c").await;
    assert!(done.stderr.contains("memory exhausted"), "{done:?}");
    assert_eq!(bed.out("echo on").await, "on");
    bed.end().await;
}

#[tokio::test]
async fn time_counts_for_the_call_as_a_whole() {
    let mut bed = Bed::with(|config| config.limits.cpu_time = Some(Duration::from_secs(1))).await;
    for script in ["while :; do :; done", "for n in 1 2 3 4; do (while :; do :; done) & done; wait; sleep 100"] {
        let done = bed.sh(script).await;
        assert_eq!(limit(&done), Some(LimitHit::CpuTime), "{script}: {done:?}");
        let (usage, _) = done.usage();
        let used = usage.user_cpu + usage.system_cpu;
        assert!((1.0..3.0).contains(&used.as_secs_f64()), "{script}: {used:?}");
    }
    // Each call has its own.
    for _ in 0..3 {
        let done = bed.sh("i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done; echo on").await;
        assert_eq!((limit(&done), &*done.stdout), (None, "on\n"));
    }
    bed.end().await;
}

#[tokio::test]
async fn processes_are_counted_by_slot() {
    let home = tempfile::tempdir().unwrap();
    let trial = SlotConfig { max_processes: Some(50), ..config(home.path().join("slots/trial")) };
    let trial = SlotConfig { limits: Limits { cgroups: false, ..Limits::default() }, ..trial };
    let enforcement = Enforcement::try_out("trial", &trial).await;
    assert!(!trial.directory.exists(), "nothing is left of the trial");
    let told = enforcement.describe(&trial).into_iter().find(|limit| limit.name == "sandbox.max_processes").unwrap();
    if told.mechanism != "RLIMIT_NPROC" {
        assert!(told.mechanism.starts_with("nothing") && trial.host_id.is_none(), "{told}");
        eprintln!("skipped: this kernel counts the processes of all slots together");
        return;
    }
    let mut beds = Vec::new();
    for _ in 0..2 {
        let apply = |config: &mut SlotConfig| {
            config.max_processes = trial.max_processes;
            enforcement.apply(config);
        };
        beds.push(Bed::with(apply).await);
    }
    let begun = "i=0; while [ $i -lt 40 ]; do sleep 100 & i=$((i+1)); done; echo begun; wait";
    let output = super::bed::start_and_wait_for_output(&mut beds[0].runner, begun).await;
    // The other slot's are not counted here, though they may be of the same user.
    assert_eq!(beds[1].out("i=0; while [ $i -lt 40 ]; do sleep 9 & i=$((i+1)); done; echo all").await, "all");
    let done = beds[1].sh("i=0; while [ $i -lt 60 ]; do sleep 9 & i=$((i+1)); done; echo all").await;
    assert_eq!(limit(&done), Some(LimitHit::Processes), "{done:?}");
    // One that bears it, and is at its limit whenever that is looked at, is ended.
    let bears = "exec perl -e 'while (1) { my $p = fork; if (!defined $p) { select undef, undef, undef, 0.01 } \
                 elsif (!$p) { sleep 100; exit } }'";
    let done = beds[1].sh(bears).await;
    assert_eq!(limit(&done), Some(LimitHit::Processes), "{done:?}");
    assert_eq!(beds[1].out("echo on").await, "on");
    drop(output);
    for bed in beds {
        bed.slot.destroy().await.unwrap();
    }
}

#[tokio::test]
async fn a_workspace_in_memory_is_held_to_its_size() {
    let limits = Limits {
        workspace: Storage::Tmpfs,
        workspace_bytes: Some(4 << 20),
        workspace_inodes: Some(50),
        ..Limits::default()
    };
    let mut bed = Bed::with(|config| config.limits = limits).await;
    let seen = bed.out("stat -fc %T /workspace; stat -c '%a %u %g' /workspace; cd /workspace && pwd").await;
    assert_eq!(seen, "tmpfs\n700 0 0\n/workspace");
    assert!(bed.sh("head -c 5000000 /dev/zero > f").await.stderr.contains("No space left"));
    let files = bed.slot.workspace();
    assert_eq!(files.room().unwrap().0, 0);
    assert!(files.write("g", &[1; 100_000]).is_err());
    bed.out("rm f").await;
    // Through both doors, and each can change what came through the other.
    assert_eq!(files.write("a/b", b"from outside"), Ok(12));
    assert_eq!(bed.out("cat a/b; stat -c %u:%g a/b; echo inside > a/b; chmod 700 a").await, "from outside0:0");
    assert_eq!(files.read("a/b", 100).unwrap(), "inside\n");
    assert!(bed.sh("for i in $(seq 60); do touch $i || exit 7; done").await.exit() == Exit::Code(7));
    let config = bed.config.clone();
    bed.end().await;
    let slot = Slot::create(&config).await.unwrap();
    let mut runner = slot.runner().await.unwrap();
    assert_eq!(super::bed::sh(&mut runner, "ls -A").await.stdout, "");
    slot.destroy().await.unwrap();
    assert!(has_program("stat"));
}
