//! The agent's process: how it is started, how it ends, and what it leaves as evidence.

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            net::{UnixListener, UnixStream},
            process::ExitStatusExt,
        },
    },
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    process::{Pid, Signal, kill_process, pidfd_send_signal},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    process::{Child, Command},
    sync::watch,
    time::timeout,
};
use tracing::warn;

use crate::{id::ContainerId, tool::Evidence};

pub(super) const SOCKET: &str = "agent.sock";
const STDERR: &str = "stderr.log";
/// How long an agent may take to end by itself; it has slots to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much of the end of its log is evidence, in bytes.
const STDERR_TAIL: u64 = 4096;

/// A process that runs.
pub(super) enum Agent {
    Started(Child),
    /// By an executor before this one.
    Adopted(AsyncFd<OwnedFd>),
}

/// Binds the agent's socket. A socket's address has 108 bytes, which a state directory may fill by itself: the directory
/// is named by a descriptor instead.
pub(super) fn bind(directory: &Path) -> io::Result<UnixListener> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, directory, flags, Mode::empty())?;
    UnixListener::bind(Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(SOCKET))
}

/// Whether an agent listens there.
pub(super) fn connect(directory: &Path) -> io::Result<UnixStream> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, directory, flags, Mode::empty())?;
    UnixStream::connect(Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(SOCKET))
}

impl Agent {
    /// With the listener as its standard input: the only copy there is from then on, so that connections are refused
    /// once it is dead.
    pub(super) fn start(
        program: &Path,
        id: &ContainerId,
        directory: &Path,
        listener: UnixListener,
        log: &str,
    ) -> io::Result<Self> {
        let stderr = fs::File::create(directory.join(STDERR))?;
        let child = Command::new(program)
            .arg("sandbox")
            .arg("--directory")
            .arg(directory)
            .args(["--container", id.as_str()])
            .env_clear()
            .env("TOOL_EXECUTOR_LOG", log)
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(stderr)
            .process_group(0)
            .spawn()?;
        Ok(Self::Started(child))
    }

    /// `process`: its pidfd.
    #[expect(deprecated, reason = "the replacement is unsafe; an OwnedFd keeps what it asks for: one descriptor, open")]
    pub(super) fn adopt(process: OwnedFd) -> io::Result<Self> {
        Ok(Self::Adopted(AsyncFd::with_interest(process, Interest::READABLE)?))
    }

    /// Waits for its end, and brings it about if `stop` says so. The evidence says how it ended.
    pub(super) async fn wait(mut self, directory: &Path, mut stop: watch::Receiver<bool>) -> Evidence {
        let ended = tokio::select! {
            ended = self.ended() => ended,
            // An error means that nobody can ask any more: then the agent is ended, too.
            () = async { drop(stop.wait_for(|stop| *stop).await) } => self.end().await,
        };
        let cause = match ended {
            Ok(Some(status)) => format!("the agent's process ended: {}", describe(status)),
            Ok(None) => "the agent's process ended; how, only its parent was told".to_owned(),
            Err(error) => format!("the agent's process cannot be waited for: {error}"),
        };
        Evidence { cause, stderr_tail: tail(&directory.join(STDERR)), ..Evidence::default() }
    }

    /// How, if that can be known. Cancel-safe.
    async fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        match self {
            Self::Started(child) => child.wait().await.map(Some),
            Self::Adopted(process) => process.readable().await.map(|_| None),
        }
    }

    /// Brings its end about.
    pub(super) async fn end(&mut self) -> io::Result<Option<ExitStatus>> {
        self.signal(Signal::TERM);
        match timeout(PATIENCE, self.ended()).await {
            Ok(ended) => ended,
            Err(_) => {
                warn!("an agent did not end in {PATIENCE:?} and is killed");
                self.signal(Signal::KILL);
                self.ended().await
            }
        }
    }

    /// It may have ended meanwhile: then there is nothing to signal.
    fn signal(&self, signal: Signal) {
        let _ = match self {
            Self::Started(child) => {
                let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
                pid.map_or(Ok(()), |pid| kill_process(pid, signal))
            }
            Self::Adopted(process) => pidfd_send_signal(process, signal),
        };
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// The last lines of a file; nothing if it cannot be read.
fn tail(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(STDERR_TAIL)))?;
        let mut bytes = Vec::new();
        file.take(STDERR_TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).trim().to_owned()
}
