//! Finds out how well this machine can isolate calls, by making a slot and looking at it from inside; never by reading
//! settings, which do not tell. Settings are read only afterwards, to say what to do about a failure.

use std::{
    fmt, fs,
    io::{self, Read},
    net::{Ipv4Addr, TcpListener},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::Path,
    time::Duration,
};

use rustix::io::Errno;

use super::{
    Isolation, Runner, RunnerEnd, Slot, SlotConfig, Stdio, Step, empty_trash,
    error::{At as _, SlotError},
    helper::{self, inspect::Expected},
    remedies::{gain, loss, remedies},
    trash_beside,
};
use crate::tool::{
    chain,
    job::{Exit, Process, Program, StartFailure},
};

/// A slot is made in some milliseconds; a machine that needs longer than this cannot serve.
const TIMEOUT: Duration = Duration::from_secs(20);

/// This machine, as it is set up, cannot isolate calls as well as is asked for.
#[derive(Debug)]
pub struct Unavailable {
    minimum: Isolation,
    /// Why not at each level that was tried, best first; never empty.
    tried: Vec<(Isolation, Problem)>,
    remedies: Vec<String>,
    /// Below the minimum, what works.
    found: Option<Isolation>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
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

    /// What could be had if the minimum were lower.
    pub fn found(&self) -> Option<Isolation> {
        self.found
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.tried.as_slice(), self.found) {
            ([(_, problem)], None) => write!(f, "calls cannot be isolated on this machine: {}", chain(problem))?,
            (tried, _) => {
                write!(f, "calls cannot be isolated on this machine as isolation_minimum = {} asks for", self.minimum)?;
                for (level, problem) in tried {
                    write!(f, "\n  {level}: {}", chain(problem))?;
                }
            }
        }
        self.remedies.iter().try_for_each(|remedy| write!(f, "\n  - {remedy}"))
    }
}

impl std::error::Error for Unavailable {}

/// Makes a slot as `config` says, but at the best level that can be had, tests it from inside, and removes it again, its
/// directory included.
///
/// # Errors
/// What is missing, and what to do about it; or that the best is below `minimum`.
pub async fn probe(config: &SlotConfig, minimum: Isolation) -> Result<Isolation, Unavailable> {
    let (tried, found) = descend(config).await;
    clear(&config.directory);
    match found {
        Some(level) if level <= minimum => Ok(level),
        _ => Err(unavailable(minimum, tried, found, config)),
    }
}

fn unavailable(
    minimum: Isolation,
    tried: Vec<(Isolation, Problem)>,
    found: Option<Isolation>,
    config: &SlotConfig,
) -> Unavailable {
    let mut all: Vec<String> = Vec::new();
    for (level, problem) in tried.iter().filter(|(level, _)| *level <= minimum || found.is_none()) {
        for remedy in remedies(*level, problem, config) {
            if !all.contains(&remedy) {
                all.push(remedy);
            }
        }
    }
    if let Some(level) = found {
        all.push(format!("or accept less, with isolation_minimum = \"{level}\": {}", loss(level)));
    }
    Unavailable { minimum, tried, remedies: all, found }
}

/// Tries one level after the other, until one holds or something fails that no lower level would do without.
async fn descend(config: &SlotConfig) -> (Vec<(Isolation, Problem)>, Option<Isolation>) {
    let mut tried = Vec::new();
    let mut next = Some(Isolation::L0);
    while let Some(level) = next {
        match test_at(level, config).await {
            Ok(()) => return (tried, Some(level)),
            Err(problem) => {
                next = below(level, &problem, config.host_id.is_some());
                tried.push((level, problem));
            }
        }
    }
    (tried, None)
}

/// What to try after this. Only a refusal, or a slot that is not what it should be, makes it worth while: what fails for
/// another reason would soon fail again, or stand for a mistake in the settings.
fn below(level: Isolation, problem: &Problem, own_user: bool) -> Option<Isolation> {
    if !is_refusal(problem) {
        return None;
    }
    let last = if own_user { Isolation::L2 } else { Isolation::L2Minus };
    match level {
        Isolation::L0 if is_for_proc(problem) => Some(Isolation::L1),
        Isolation::L0 | Isolation::L1 if own_user => Some(Isolation::L1B),
        Isolation::L0 | Isolation::L1 | Isolation::L1B => Some(last),
        Isolation::L2 | Isolation::L2Minus => None,
    }
}

fn is_refusal(problem: &Problem) -> bool {
    const REFUSALS: [Errno; 7] =
        [Errno::PERM, Errno::ACCESS, Errno::NOSYS, Errno::INVAL, Errno::NOSPC, Errno::USERS, Errno::OPNOTSUPP];
    match problem {
        Problem::Slot(SlotError::Step { source, .. }) => REFUSALS.iter().any(|errno| is(source, *errno)),
        Problem::NotIsolated(_) => true,
        Problem::Slot(_) | Problem::Command(_) | Problem::TimedOut => false,
    }
}

/// Removes a throw-away slot's directory. Leftovers are no failure: the directory's owner clears it anyway.
pub(super) fn clear(directory: &Path) {
    let _ = empty_trash(directory);
    let _ = empty_trash(&trash_beside(directory));
    let _ = fs::remove_dir(directory);
}

/// The kernel refuses a /proc of one's own to whoever has only a masked one.
fn is_for_proc(problem: &Problem) -> bool {
    let Problem::Slot(SlotError::Step { step: Step::MountProc | Step::PrivateProc, source, .. }) = problem else {
        return false;
    };
    is_denied(source)
}

pub(super) fn is_denied(error: &io::Error) -> bool {
    is(error, Errno::PERM) || is(error, Errno::ACCESS)
}

pub(super) fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

async fn test_at(isolation: Isolation, config: &SlotConfig) -> Result<(), Problem> {
    let mut config = SlotConfig { isolation, ..config.clone() };
    if isolation.has_namespaces() {
        // Copying the workspace's source says nothing about the machine, and may take long.
        config.workspace_source = None;
    }
    match tokio::time::timeout(TIMEOUT, test(&config)).await {
        Ok(result) => result,
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
    let bait = Bait::lay(config).at(Step::PrepareDirectory)?;
    let expected = serde_json::to_string(&bait.expected).map_err(io::Error::other).at(Step::StartCall)?;
    let witness = Program::Argv(vec![helper::THIS_PROGRAM.into(), helper::INSPECT.into(), expected]);
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

/// What the witness should not get at, though nothing but the slot's isolation keeps it from that.
struct Bait {
    expected: Expected,
    _port: Option<TcpListener>,
    _socket: UnixListener,
}

impl Bait {
    fn lay(config: &SlotConfig) -> io::Result<Self> {
        let file = fs::canonicalize(&config.directory)?.join("of-the-agent");
        fs::write(&file, "not for calls")?;
        // A machine without loopback has nothing to reach on it.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok();
        let socket = format!("tool-executor-{}", uuid::Uuid::now_v7());
        Ok(Self {
            expected: Expected {
                level: config.isolation,
                network: config.network,
                writable_root: config.writable_root,
                user: config.host_id,
                agent: rustix::process::getpid().as_raw_pid(),
                file,
                port: port.as_ref().and_then(|port| Some(port.local_addr().ok()?.port())),
                socket: socket.clone(),
            },
            _port: port,
            _socket: UnixListener::bind_addr(&SocketAddr::from_abstract_name(&socket)?)?,
        })
    }
}

impl Drop for Bait {
    fn drop(&mut self) {
        // It goes with the slot's directory otherwise.
        let _ = fs::remove_file(&self.expected.file);
    }
}

/// Runs a program of few words: they must fit the pipe. None if there is no such program.
pub(super) async fn run(runner: &mut Runner, program: Program) -> Result<Option<(Exit, String)>, Problem> {
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

impl Isolation {
    /// What would make it better.
    pub fn improvement(self) -> Option<&'static str> {
        gain(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(step: Step, errno: Errno) -> Problem {
        SlotError::Step { step, detail: String::new(), source: errno.into() }.into()
    }

    #[test]
    fn the_ladder_is_descended_one_rung_at_a_time_and_by_refusals_alone() {
        use Isolation::{L0, L1, L1B, L2, L2Minus};
        let (proc, users) = (failed(Step::MountProc, Errno::PERM), failed(Step::Unshare, Errno::PERM));
        assert_eq!(below(L0, &proc, true), Some(L1));
        assert_eq!(below(L0, &users, true), Some(L1B));
        assert_eq!(below(L1, &proc, true), Some(L1B));
        assert_eq!(below(L1B, &users, true), Some(L2));
        assert_eq!(below(L0, &users, false), Some(L2Minus));
        assert_eq!(below(L1, &users, false), Some(L2Minus));
        assert_eq!((below(L2, &users, true), below(L2Minus, &users, false)), (None, None));
        assert_eq!(below(L0, &Problem::NotIsolated("so".into()), false), Some(L2Minus));
        for other in [
            failed(Step::OpenSource, Errno::NOENT),
            failed(Step::MountProc, Errno::NOMEM),
            Problem::TimedOut,
            Problem::Command("no".into()),
            SlotError::HostRoot.into(),
            SlotError::Gone("runner").into(),
        ] {
            assert_eq!(below(L0, &other, true), None, "{other:?}");
        }
    }

    #[test]
    fn the_message_has_the_step_its_cause_and_what_to_do() {
        let tried = vec![(Isolation::L0, failed(Step::MountRoot, Errno::NOSYS))];
        let config = SlotConfig::new("/nowhere");
        let text = unavailable(Isolation::L1B, tried, None, &config).to_string();
        let (first, rest) = text.split_once("\n  - ").unwrap();
        assert_eq!(
            first,
            "calls cannot be isolated on this machine: could not mount the slot's root: Function not implemented (os \
             error 38)"
        );
        assert_eq!(rest, "Linux 5.12 or later is needed");
    }

    #[test]
    fn whoever_asks_for_too_much_is_told_what_there_is() {
        let tried = vec![
            (Isolation::L0, failed(Step::Unshare, Errno::PERM)),
            (Isolation::L1B, failed(Step::Unshare, Errno::PERM)),
        ];
        let config = SlotConfig { host_id: Some(70_000), ..SlotConfig::new("/nowhere") };
        let unavailable = unavailable(Isolation::L1B, tried, Some(Isolation::L2), &config);
        let text = unavailable.to_string();
        assert!(text.contains("isolation_minimum = L1b asks for\n  L0: could not make"), "{text}");
        assert!(text.contains("\n  L1b: could not make"), "{text}");
        assert!(text.contains("accept less, with isolation_minimum = \"L2\": "), "{text}");
        assert_eq!(unavailable.found(), Some(Isolation::L2));
    }
}
