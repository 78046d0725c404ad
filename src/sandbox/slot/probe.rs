//! Finds out whether this machine can isolate calls, by making a slot and looking at it from inside; never by
//! reading settings, which do not tell. Settings are read only afterwards, to say what to do about a failure.

use std::{
    fmt, fs,
    io::{self, Read},
    path::Path,
    time::Duration,
};

use rustix::io::Errno;

use super::{
    Isolation, Runner, RunnerEnd, Slot, SlotConfig, Stdio, Step, empty_trash,
    error::{At as _, SlotError},
    helper, trash_beside,
};
use crate::tool::job::{Exit, Process, Program, StartFailure};

/// A slot is made in some milliseconds; a machine that needs longer than this cannot serve.
const TIMEOUT: Duration = Duration::from_secs(20);

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

/// Makes a slot as `config` says, but at the best level that can be had, tests it from inside, and removes it again, its
/// directory included.
///
/// # Errors
/// What is missing, and what to do about it.
pub async fn probe(config: &SlotConfig) -> Result<Isolation, Unavailable> {
    let mut result = test_at(Isolation::L0, config).await;
    if result.as_ref().is_err_and(is_for_proc) {
        result = test_at(Isolation::L1, config).await;
    }
    // Leftovers are no failure: the directory's owner clears it anyway.
    let _ = empty_trash(&config.directory);
    let _ = empty_trash(&trash_beside(&config.directory));
    let _ = fs::remove_dir(&config.directory);
    result.map_err(|problem| Unavailable { remedies: remedies(&problem, config), problem })
}

/// The kernel refuses a /proc of one's own to whoever has only a masked one.
fn is_for_proc(problem: &Problem) -> bool {
    let Problem::Slot(SlotError::Step { step: Step::MountProc | Step::PrivateProc, source, .. }) = problem else {
        return false;
    };
    is_denied(source)
}

async fn test_at(isolation: Isolation, config: &SlotConfig) -> Result<Isolation, Problem> {
    // Copying the workspace's source says nothing about the machine, and may take long.
    let config = SlotConfig { isolation, workspace_source: None, ..config.clone() };
    match tokio::time::timeout(TIMEOUT, test(&config)).await {
        Ok(result) => result.map(|()| isolation),
        Err(_) => Err(Problem::TimedOut),
    }
}

async fn test(config: &SlotConfig) -> Result<(), Problem> {
    let slot = Slot::create(config).await?;
    let mut runner = slot.runner().await?;
    let shell = run(&mut runner, Program::Shell("echo works; exit 7".into())).await?;
    // An image need not have one: then programs alone can be run there.
    if let Some((end, output)) = shell
        && (end != Exit::Code(7) || output != "works\n")
    {
        return Err(Problem::Command(format!("/bin/sh: {end:?}, {output:?}")));
    }
    let mut witness = vec![helper::THIS_PROGRAM.into(), helper::INSPECT.into()];
    witness.extend(config.writable_root.then(|| helper::WRITABLE_ROOT.into()));
    let witness = Program::Argv(witness);
    let Some((end, output)) = run(&mut runner, witness).await? else {
        return Err(Problem::Command("its own program is not there".to_owned()));
    };
    if end != Exit::Code(0) {
        let faults: Vec<&str> = output.lines().collect();
        return Err(Problem::NotIsolated(if faults.is_empty() { format!("{end:?}") } else { faults.join("; ") }));
    }
    slot.destroy().await?;
    Ok(())
}

/// Runs a program of few words: they must fit the pipe. None if there is no such program.
async fn run(runner: &mut Runner, program: Program) -> Result<Option<(Exit, String)>, Problem> {
    let (mut read, write) = io::pipe().at(Step::StartCall)?;
    let stdio = Stdio { stdin: None, stderr: write.try_clone().at(Step::StartCall)?.into(), stdout: write.into() };
    runner.start(&Process { program, ..Process::default() }, stdio)?;
    match runner.ended().await? {
        RunnerEnd::NotStarted { kind: StartFailure::NotFound, .. } => Ok(None),
        RunnerEnd::NotStarted { message, .. } => Err(Problem::Command(message)),
        RunnerEnd::Ended { exit, .. } => {
            let mut output = String::new();
            // All writers are gone, so this does not wait.
            let _ = read.read_to_string(&mut output);
            Ok(Some((exit, output)))
        }
    }
}

/// The advice that fits a failure, by the step that failed and the kernel's error.
fn remedies(problem: &Problem, config: &SlotConfig) -> Vec<String> {
    let (step, source) = match problem {
        Problem::Slot(SlotError::Step { step, source, .. }) => (*step, source),
        Problem::Slot(SlotError::Gone("runner")) => return vec![LIBRARIES.into()],
        _ => return Vec::new(),
    };
    let denied = is_denied(source);
    match step {
        Step::Unshare | Step::MapUser | Step::BecomeUser => namespace_remedies(step, source, config),
        Step::OpenSource
        | Step::MountRoot
        | Step::MountSource
        | Step::MountDev
        | Step::MountTmp
        | Step::MountWorkspace
        | Step::MountProc
        | Step::PrivateProc
        | Step::EnterRoot
        | Step::NameHost
        | Step::RaiseLoopback
            if denied =>
        {
            // AppArmor lets an ordinary user's namespace be made, and then refuses what is done in it.
            let container = [CONTAINER, APPARMOR_CONTAINER].map(String::from);
            switched_off().into_iter().chain(in_container().then_some(container).into_iter().flatten()).collect()
        }
        Step::WritableRoot => vec![WRITABLE_ROOT.into()],
        _ if is(source, Errno::NOSYS) => vec!["Linux 5.12 or later is needed".into()],
        Step::StartKeeper | Step::StartRunner if denied => vec![EXECUTABLE.into()],
        Step::PrepareDirectory => vec!["name a state directory that this user can write to".into()],
        _ => Vec::new(),
    }
}

fn namespace_remedies(step: Step, error: &io::Error, config: &SlotConfig) -> Vec<String> {
    let mut remedies = switched_off();
    if is(error, Errno::NOSPC) && remedies.is_empty() {
        remedies.push("too many user namespaces exist: raise user.max_user_namespaces".into());
    }
    if in_container() {
        remedies.push(CONTAINER.into());
    } else if config.host_id.is_none() && !rustix::process::geteuid().is_root() {
        remedies.push("run it as root".into());
    }
    if step != Step::Unshare && config.host_id.is_some() {
        remedies.push(IDS.into());
    }
    remedies
}

fn is_denied(error: &io::Error) -> bool {
    is(error, Errno::PERM) || is(error, Errno::ACCESS)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

const CONTAINER: &str = "in a container, run it with `--privileged`, or with `--security-opt seccomp=unconfined` (with \
                         `--security-opt systempaths=unconfined` too, calls do not even see other processes)";

const APPARMOR_CONTAINER: &str = "where AppArmor confines the container, add `--security-opt apparmor=unconfined`";

const WRITABLE_ROOT: &str = "a writable root needs overlayfs (Linux 5.11 or later), a container's image with nothing \
                             mounted below its directories (/etc aside), and a state directory that is not in the \
                             image but on a volume; else use a read-only root";

const EXECUTABLE: &str = "every user must be allowed to execute this program's file (mode 755)";

const LIBRARIES: &str = "this program's shared libraries must lie in a directory that slots see: /usr, /lib, /opt, \
                         /nix or one that `sandbox.read_only` names; or use a static build";

const IDS: &str = "the slots' user ids must exist where this runs (see /proc/self/uid_map): choose others, or run it \
                   as an ordinary user";

/// The settings that turn user namespaces off: where each is, the value that does so, and how to change it.
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

fn switched_off() -> Vec<String> {
    let off = |(path, off, _): &&(&str, &str, &str)| fs::read_to_string(path).is_ok_and(|value| value.trim() == *off);
    SWITCHES.iter().filter(off).map(|(_, _, remedy)| (*remedy).to_owned()).collect()
}

fn in_container() -> bool {
    ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists())
        || fs::read_to_string("/proc/1/environ").is_ok_and(|environment| environment.contains("container="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(step: Step, errno: Errno) -> Problem {
        SlotError::Step { step, detail: String::new(), source: errno.into() }.into()
    }

    #[test]
    fn advice_fits_the_step_and_the_error() {
        let mut config = SlotConfig::new("/nowhere");
        let advice = |step, errno, config: &SlotConfig| remedies(&failed(step, errno), config).join("\n");
        assert!(advice(Step::MountRoot, Errno::NOSYS, &config).contains("5.12"));
        assert!(advice(Step::StartKeeper, Errno::ACCESS, &config).contains("mode 755"));
        assert_eq!(advice(Step::MountTmp, Errno::NOMEM, &config), "");
        assert!(!advice(Step::Unshare, Errno::PERM, &config).contains("uid_map"));
        config.host_id = Some(70_000);
        assert!(advice(Step::MapUser, Errno::PERM, &config).contains("uid_map"));
    }

    #[test]
    fn a_masked_proc_is_told_from_other_failures() {
        assert!(is_for_proc(&failed(Step::MountProc, Errno::PERM)));
        assert!(!is_for_proc(&failed(Step::MountProc, Errno::NOMEM)));
        assert!(!is_for_proc(&failed(Step::MountRoot, Errno::PERM)));
        assert!(!is_for_proc(&Problem::TimedOut));
    }

    #[test]
    fn the_message_has_the_step_its_cause_and_what_to_do() {
        let problem = failed(Step::MountRoot, Errno::NOSYS);
        let unavailable = Unavailable { remedies: remedies(&problem, &SlotConfig::new("/nowhere")), problem };
        let text = unavailable.to_string();
        let (first, rest) = text.split_once("\n  - ").unwrap();
        assert_eq!(
            first,
            "calls cannot be isolated on this machine: could not mount the slot's root: Function not implemented (os \
             error 38)"
        );
        assert_eq!(rest, "Linux 5.12 or later is needed");
    }
}
