//! How slots come and go, and what is left of them: nothing.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    os::fd::AsFd,
    process::{Command, Stdio},
};

use tool_executor::{
    sandbox::slot::{Isolation, Slot, SlotError, empty_trash, trash_beside},
    tool::job::Exit,
};

use super::bed::{self, Bed, PROGRAM, config, level, own_ids, shell, start_and_wait_for_output};
use crate::support::process;

#[tokio::test]
async fn a_new_slot_in_an_old_ones_place_is_empty() {
    let mut bed = Bed::new().await;
    let (tmp, retired) = if level().has_namespaces() { ("/tmp", 1) } else { ("$TMPDIR", 2) };
    bed.out(&format!("mkdir -p a/b; echo > a/b/f; chmod 000 a/b; chmod 500 a .; echo > {tmp}/f")).await;
    let Bed { slot, runner, config, .. } = &mut bed;
    let mut old = Slot::create(config).await.unwrap();
    std::mem::swap(slot, &mut old);
    *runner = slot.runner().await.unwrap();
    drop(old);
    assert_eq!(bed.out(&format!("ls -A; ls -A {tmp}")).await, "");
    let trash = trash_beside(&bed.config.directory);
    assert_eq!(std::fs::read_dir(&trash).unwrap().count(), retired);
    bed.end().await;
}

#[tokio::test]
async fn a_slot_that_is_dropped_leaves_no_process() {
    let mut bed = Bed::new().await;
    let mut output = start_and_wait_for_output(&mut bed.runner, "echo x; setsid sleep 1000 & sleep 1000").await;
    let (id, Bed { slot, runner, config, .. }) = (bed.config.host_id, bed);
    drop(slot);
    // Whoever could write to it is gone.
    output.read_to_end(&mut Vec::new()).unwrap();
    assert!(matches!(runner.ended().await, Err(SlotError::Gone("keeper"))));
    assert_eq!(id.map(bed::processes_of).unwrap_or_default(), Vec::<String>::new());
    empty_trash(&trash_beside(&config.directory)).unwrap();
}

#[tokio::test]
async fn a_creation_that_nobody_waits_for_leaves_no_process() {
    let home = tempfile::tempdir().unwrap();
    let config = config(home.path().join("slots/0"));
    // Let it begin, and then drop it.
    tokio::select! {
        biased;
        _ = Slot::create(&config) => {}
        () = tokio::task::yield_now() => {}
    }
    // The next one in its place can only be made once the workspace is there to be moved; then the first has ended or
    // is ended by its drop.
    let slot = Slot::create(&config).await.unwrap();
    slot.runner().await.unwrap();
    slot.destroy().await.unwrap();
}

#[tokio::test]
async fn the_death_of_the_keeper_is_noticed_by_everybody() {
    let mut bed = Bed::new().await;
    let mark = bed::long();
    let output = start_and_wait_for_output(&mut bed.runner, &format!("echo x; exec sleep {mark}")).await;
    bed::until_running(mark, 1).await;
    // Beside other tests' slots in this process: the one that this call is below.
    let call = process::marked(&mark.to_string()).into_iter();
    let keeper = call.filter_map(|pid| process::keeper_of(std::process::id(), pid)).next().unwrap();
    let keeper = rustix::process::Pid::from_raw(keeper.cast_signed()).unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::KILL).unwrap();
    bed.slot.lost().await;
    assert!(matches!(bed.runner.ended().await, Err(SlotError::Gone("keeper"))));
    assert!(!bed.runner.is_alive());
    let (stdio, ..) = bed::pipes(None);
    assert!(matches!(bed.runner.start(&shell("true"), stdio), Err(SlotError::Gone("keeper"))));
    assert!(matches!(bed.slot.runner().await, Err(SlotError::Gone("keeper"))));
    bed.slot.lost().await;
    drop(output);
    bed.end().await;
}

/// Runs one test of this program, an ignored one, in another process.
pub(crate) fn rerun(test: &str, through: &[&str]) -> Command {
    let this = env::current_exe().unwrap();
    let mut command = match through.split_first() {
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments).arg(this);
            command
        }
        None => Command::new(this),
    };
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    command
}

#[tokio::test]
#[ignore = "run by the_death_of_the_agent_ends_everything, which kills it"]
async fn an_agent_that_is_killed() {
    let mut bed = Bed::new().await;
    let stdout = std::io::stdout().as_fd().try_clone_to_owned().unwrap();
    let stdio = tool_executor::sandbox::slot::Stdio { stdin: None, stderr: stdout.try_clone().unwrap(), stdout };
    let script = "setsid sleep 1000 & trap '' TERM; echo; echo started; sleep 1000 & wait";
    bed.runner.start(&shell(script), stdio).unwrap();
    bed.slot.lost().await;
}

#[test]
fn the_death_of_the_agent_ends_everything() {
    let mut agent = rerun("slot::lifetime::an_agent_that_is_killed", &[]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(agent.stdout.take().unwrap());
    let mut line = String::new();
    while line != "started\n" {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "it ended early");
    }
    agent.kill().unwrap();
    agent.wait().unwrap();
    // The call's processes have it open: its end is theirs.
    output.read_to_end(&mut Vec::new()).unwrap();
}

/// Where an ordinary user can get at this program and its tests, and has a home and nothing else.
pub(crate) struct Outside {
    home: tempfile::TempDir,
}

impl Outside {
    pub(crate) const USER: u32 = 65_533;

    pub(crate) fn new() -> Self {
        let outside = Self { home: tempfile::tempdir().unwrap() };
        std::fs::copy(bed::program(), outside.place("program")).unwrap();
        std::fs::copy(env::current_exe().unwrap(), outside.place("tests")).unwrap();
        std::fs::create_dir(outside.place("home")).unwrap();
        std::os::unix::fs::chown(outside.place("home"), Some(Self::USER), Some(Self::USER)).unwrap();
        std::fs::set_permissions(outside.home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        outside
    }

    fn place(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }

    /// Runs the tests through this program, in that home.
    pub(crate) fn tests(&self, through: &[&str]) -> Command {
        let mut command = Command::new(through[0]);
        command.args(&through[1..]).arg(self.place("tests")).env_clear();
        command.envs([("HOME", self.place("home")), ("TMPDIR", self.place("home")), (PROGRAM, self.place("program"))]);
        command.current_dir("/");
        command
    }
}

/// Everything here again, as an ordinary user who has a home and nothing else.
#[test]
fn an_ordinary_user_has_slots_too() {
    let root = rustix::process::geteuid().is_root();
    if !root || !own_ids() || level() != Isolation::L0 || !bed::has_program("setpriv") {
        return;
    }
    let through = ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", "--inh-caps=-all"];
    let run = Outside::new().tests(&through).args(["slot::", "--test-threads=2"]).output().unwrap();
    std::io::stdout().write_all(&run.stdout).unwrap();
    std::io::stderr().write_all(&run.stderr).unwrap();
    assert!(run.status.success());
}

#[tokio::test]
async fn long_paths_are_no_obstacle() {
    let home = tempfile::tempdir().unwrap();
    let mut directory = home.path().to_owned();
    for _ in 0..12 {
        directory.push("n".repeat(200));
    }
    let config = config(directory.join("slot"));
    let slot = Slot::create(&config).await.unwrap();
    let mut runner = slot.runner().await.unwrap();
    assert_eq!(bed::sh(&mut runner, "pwd").await.exit(), Exit::Code(0));
    slot.destroy().await.unwrap();
}
