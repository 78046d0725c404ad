//! Finds out whether this machine can isolate calls, by making a slot and looking at it from inside; never by
//! reading settings, which do not tell. Settings are read only afterwards, to say what to do about a failure.

use std::{
    fmt, fs,
    io::{self, Read},
    path::Path,
    time::Duration,
};

use super::{
    Runner, RunnerEnd, Slot, SlotConfig, Stdio, Step, empty_trash,
    error::{At as _, SlotError},
    helper, trash_beside,
};
use crate::tool::job::{Exit, Process, Program};

/// A slot is made in some milliseconds; a machine that needs longer than this cannot serve.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How well calls are isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// All namespaces, a mapped user, no capabilities, a system call filter.
    L0,
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::L0 => f.write_str("L0"),
        }
    }
}

/// This machine, as it is set up, cannot isolate calls.
#[derive(Debug)]
pub struct Unavailable {
    problem: Problem,
    remedies: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Slot(#[from] SlotError),
    #[error("a command in the test slot did not end as it should: {0}")]
    Command(String),
    #[error("the test slot is not isolated: {0}")]
    NotIsolated(String),
    #[error("the test slot was not ready within {} s", TIMEOUT.as_secs())]
    TimedOut,
}

impl Unavailable {
    /// What can be done about it, the likeliest first; one sentence each.
    pub fn remedies(&self) -> &[String] {
        &self.remedies
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "calls cannot be isolated on this machine: {}", self.problem)?;
        let mut cause = std::error::Error::source(&self.problem);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        self.remedies.iter().try_for_each(|remedy| write!(f, "\n  - {remedy}"))
    }
}

impl std::error::Error for Unavailable {}

/// Makes a slot as `config` says, tests it from inside, and removes it again, its directory included.
///
/// # Errors
/// What is missing, and what to do about it.
pub async fn probe(config: &SlotConfig) -> Result<Isolation, Unavailable> {
    let result = match tokio::time::timeout(TIMEOUT, test(config)).await {
        Ok(result) => result,
        Err(_) => Err(Problem::TimedOut),
    };
    // Leftovers are no failure: the directory's owner clears it anyway.
    let _ = empty_trash(&trash_beside(&config.directory));
    let _ = fs::remove_dir(&config.directory);
    result.map_err(|problem| Unavailable { remedies: remedies(&problem, config), problem })
}

async fn test(config: &SlotConfig) -> Result<Isolation, Problem> {
    let slot = Slot::create(config).await?;
    let mut runner = slot.runner().await?;
    let (end, output) = run(&mut runner, Program::Shell("echo works; exit 7".into())).await?;
    if end != Exit::Code(7) || output != "works\n" {
        return Err(Problem::Command(format!("/bin/sh: {end:?}, {output:?}")));
    }
    let witness = Program::Argv(vec![helper::THIS_PROGRAM.into(), helper::INSPECT.into()]);
    let (end, output) = run(&mut runner, witness).await?;
    if end != Exit::Code(0) {
        let faults: Vec<&str> = output.lines().collect();
        return Err(Problem::NotIsolated(if faults.is_empty() { format!("{end:?}") } else { faults.join("; ") }));
    }
    slot.destroy().await?;
    Ok(Isolation::L0)
}

/// Runs a program of few words: they must fit the pipe.
async fn run(runner: &mut Runner, program: Program) -> Result<(Exit, String), Problem> {
    let (mut read, write) = io::pipe().at(Step::StartCall)?;
    let stdio = Stdio { stdin: None, stderr: write.try_clone().at(Step::StartCall)?.into(), stdout: write.into() };
    runner.start(&Process { program, ..Process::default() }, stdio).await?;
    match runner.ended().await? {
        RunnerEnd::NotStarted { message, .. } => Err(Problem::Command(message)),
        RunnerEnd::Ended { exit, .. } => {
            let mut output = String::new();
            // All writers are gone, so this does not wait.
            let _ = read.read_to_string(&mut output);
            Ok((exit, output))
        }
    }
}

fn remedies(problem: &Problem, config: &SlotConfig) -> Vec<String> {
    let Problem::Slot(SlotError::Step { step, source, .. }) = problem else { return Vec::new() };
    match step {
        Step::Unshare | Step::MapUser | Step::BecomeUser => user_namespace_remedies(source, config),
        Step::MountProc | Step::PrivateProc => vec![
            "in a container, /proc must not be masked: add `--security-opt systempaths=unconfined` (beside \
             `--security-opt seccomp=unconfined` where namespaces are refused), or use `--privileged`"
                .into(),
        ],
        Step::OpenSource
        | Step::MountRoot
        | Step::MountSource
        | Step::MountDev
        | Step::MountTmp
        | Step::MountWorkspace
        | Step::EnterRoot => mount_remedies(source),
        Step::StartMaker | Step::StartKeeper | Step::StartRunner => {
            vec!["every user must be allowed to execute this program's file (mode 755)".into()]
        }
        Step::PrepareDirectory => vec!["name a state directory that this user can write to".into()],
        _ => Vec::new(),
    }
}

fn is(error: &io::Error, errno: rustix::io::Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

const CONTAINER: &str = "in a container, run it with `--privileged`, or as an ordinary user with `--security-opt \
                         seccomp=unconfined --security-opt systempaths=unconfined`";

/// A setting that turns user namespaces off: where it is, the value that does so, and how to change it.
const SWITCHES: [(&str, &str, &str); 3] = [
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "allow user namespaces: `sysctl -w kernel.unprivileged_userns_clone=1`",
    ),
    ("/proc/sys/user/max_user_namespaces", "0", "allow user namespaces: `sysctl -w user.max_user_namespaces=15000`"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor restricts user namespaces: `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or install \
         an AppArmor profile that grants `userns` to this program",
    ),
];

fn user_namespace_remedies(error: &io::Error, config: &SlotConfig) -> Vec<String> {
    let mut remedies: Vec<String> = SWITCHES
        .iter()
        .filter(|(path, off, _)| fs::read_to_string(path).is_ok_and(|value| value.trim() == *off))
        .map(|(_, _, remedy)| (*remedy).to_owned())
        .collect();
    if is(error, rustix::io::Errno::NOSPC) && remedies.is_empty() {
        remedies.push("too many user namespaces exist: raise user.max_user_namespaces".into());
    }
    if config.host_id.is_some() {
        remedies.push(
            "the slots' user ids must be mapped where this runs as root (see /proc/self/uid_map); else run it as an \
             ordinary user"
                .into(),
        );
    } else {
        remedies.push("run it as root".into());
    }
    if in_container() {
        remedies.push(CONTAINER.into());
    }
    remedies
}

fn mount_remedies(error: &io::Error) -> Vec<String> {
    let mut remedies = Vec::new();
    if is(error, rustix::io::Errno::NOSYS) {
        remedies.push("Linux 5.12 or later is needed".into());
    } else if (is(error, rustix::io::Errno::ACCESS) || is(error, rustix::io::Errno::PERM)) && in_container() {
        remedies.push(CONTAINER.into());
        remedies.push("where AppArmor confines the container, add `--security-opt apparmor=unconfined`".into());
    }
    remedies
}

fn in_container() -> bool {
    ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists())
        || fs::read_to_string("/proc/1/environ").is_ok_and(|environment| environment.contains("container="))
}
