//! The real agent in a directory of its own, as a backend starts it.

use std::{
    fs::File,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tool_executor::sandbox::{
    agent::{Config, Profile},
    client::{Address, Endpoint, Token},
    slot::{Isolation, Limits, View, can_assign_ids},
};

pub(crate) const TOKEN: &str = "the agent's token";

/// In its directory.
const LOG: &str = "stderr.log";

const PROGRAM: &str = env!("CARGO_BIN_EXE_tool-executor");

/// Above what the tests of slots use.
const FIRST_ID: u32 = 4_000_000;
/// How many ids an agent takes at most.
const IDS: u32 = 100;

/// A running agent; dropped, it is ended with everything in its slots.
pub(crate) struct Agent {
    child: Child,
    pid: Pid,
    directory: TempDir,
    uid_base: Option<u32>,
}

impl Agent {
    /// With so many slots, and an orphan timeout that no test reaches.
    pub(crate) fn start(slots: u32) -> Self {
        Self::with(slots, |_| ())
    }

    pub(crate) fn with(slots: u32, change: impl FnOnce(&mut Config)) -> Self {
        Self::launch(Command::new(PROGRAM), slots, None, change)
    }

    /// On this port of the machine's network, encrypted.
    pub(crate) fn on(port: u16, slots: u32) -> Self {
        Self::launch(Command::new(PROGRAM), slots, Some(port), |config| config.tls = true)
    }

    /// Whose slots are on a disk of their own that has room for so many files and directories. Only for root.
    pub(crate) fn on_small_disk(slots: u32, inodes: u32) -> Self {
        let mut command = Command::new("unshare");
        let mount = format!(
            "mkdir \"$3/slots\" && mount -t tmpfs -o mode=700,nr_inodes={inodes} tmpfs \"$3/slots\" && exec {PROGRAM} \"$@\""
        );
        command.args(["--mount", "sh", "-c", &mount, "sh"]);
        Self::launch(command, slots, None, |_| ())
    }

    /// As the first process of a container: the one below [`Agent::pid`].
    pub(crate) fn as_init(slots: u32) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", PROGRAM]);
        Self::launch(command, slots, None, |_| ())
    }

    fn launch(mut command: Command, slots: u32, port: Option<u16>, change: impl FnOnce(&mut Config)) -> Self {
        let ids = user_ids(IDS);
        let mut config = Config {
            pool: String::new(),
            uid_base: can_assign_ids(ids..ids + IDS).then_some(ids),
            token: TOKEN.to_owned(),
            tls: false,
            profile: Profile {
                slots,
                isolation_minimum: Isolation::L1B,
                network: false,
                orphan_timeout: Duration::from_secs(600),
                view: View::Host,
                read_only: Vec::new(),
                hidden: Vec::new(),
                workspace_source: None,
                writable_root: false,
                tmp_bytes: 64 << 20,
                max_open_files: 1024,
                max_processes: None,
                limits: Limits::default(),
            },
        };
        change(&mut config);
        let directory = TempDir::new().expect("a directory for the agent");
        let uid_base = config.uid_base;
        config.store(directory.path()).expect("its configuration can be written");
        let listener = UnixListener::bind(directory.path().join("agent.sock")).expect("its socket can be bound");
        let child = command
            .args(["sandbox", "--directory"])
            .arg(directory.path())
            .args(["--container", "container"])
            .args(port.map(|port| format!("--port={port}")))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("TOOL_EXECUTOR_LOG", "error")
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(File::create(directory.path().join(LOG)).expect("its log can be written"))
            .process_group(0)
            .spawn()
            .expect("the agent starts");
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).expect("it has an id");
        Self { child, pid, directory, uid_base }
    }

    /// Where it listens, from the moment of its start.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    /// Of all that its slots have on this side.
    pub(crate) fn slots(&self) -> PathBuf {
        self.directory.path().join("slots")
    }

    /// What it has said on its standard error.
    pub(crate) fn log(&self) -> PathBuf {
        self.directory.path().join(LOG)
    }

    pub(crate) fn is_running(&self) -> bool {
        super::process::is_alive(self.pid())
    }

    /// Of one slot's workspace, on this side.
    pub(crate) fn workspace(&self, slot: u32) -> PathBuf {
        self.slots().join(format!("{slot}/workspace"))
    }

    /// What it sees at the path, where it has mounts of its own.
    pub(crate) fn seen(&self, path: &Path) -> PathBuf {
        Path::new("/proc").join(self.pid().to_string()).join("root").join(path.strip_prefix("/").expect("absolute"))
    }

    /// The user id of a slot, where slots have users of their own.
    pub(crate) fn user_id(&self, slot: u32) -> Option<u32> {
        self.uid_base.map(|base| base + slot)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_pid().cast_unsigned()
    }

    /// The most memory that it had at any time, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        super::process::peak_memory(self.pid())
    }

    /// Its share of memory, with that of everything below it, in bytes.
    pub(crate) fn pss(&self) -> u64 {
        super::process::tree(self.pid()).into_iter().map(super::process::pss).sum()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("it can be signalled");
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        self.child.wait().await.expect("it can be waited for")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprint!("{}", std::fs::read_to_string(self.log()).unwrap_or_default());
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(self.pid, Signal::TERM);
            let _ = waitpid(Some(self.pid), WaitOptions::empty());
        }
    }
}

/// So many user ids that are nobody else's: no two slots of a machine may share one, whatever else is being tested on it.
pub(crate) fn user_ids(count: u32) -> u32 {
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| (FIRST_ID + fastrand::u32(..2_000) * 100_000).into());
    NEXT.fetch_add(count, Ordering::Relaxed)
}

/// At a socket: the agent's own, or a proxy's in front of it.
pub(crate) fn endpoint(socket: PathBuf) -> Endpoint {
    Endpoint::new(Address::Unix(socket), Token::new(TOKEN))
}
