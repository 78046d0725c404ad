//! The servers under test, each a process of its own.

use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use tempfile::TempDir;

use crate::Result;

pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    state: Option<TempDir>,
}

pub(crate) const ROOMY: [(&str, &str); 3] = [("SLOTS", "60"), ("MIN_CONTAINERS", "2"), ("MAX_CONTAINERS", "2")];

impl Server {
    /// This program again, as one of the floors.
    pub(crate) fn floor(name: &str) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg(name);
        Self::start(command, None)
    }

    /// The executor, with a slot for every trajectory.
    pub(crate) fn executor() -> Result<Self> {
        Self::executor_with(&ROOMY)
    }

    /// Another program, with the same settings.
    pub(crate) fn executor_of(program: &Path) -> Result<Self> {
        Self::run(program, &ROOMY)
    }

    pub(crate) fn executor_with(settings: &[(&str, &str)]) -> Result<Self> {
        Self::run(Path::new(env!("CARGO_BIN_EXE_tool-executor")), settings)
    }

    fn run(program: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let state = TempDir::new()?;
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--state-dir"]).arg(state.path());
        // Those that are to run over Nomad are told so by their settings.
        command.env_remove("NOMAD_ADDR");
        // Servers that are compared run beside one another, and share no user.
        static USERS: AtomicU32 = AtomicU32::new(70_000);
        command.env("TOOL_EXECUTOR_UID_BASE", USERS.fetch_add(1_000, Ordering::Relaxed).to_string());
        command.envs(settings.iter().map(|(name, value)| (format!("TOOL_EXECUTOR_{name}"), value)));
        Self::start(command, Some(state))
    }

    fn start(mut command: Command, state: Option<TempDir>) -> Result<Self> {
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on http://").ok_or("it did not start")?.to_owned();
        Ok(Self { child, address, state })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.state.is_some() {
            // In good order, so that no agent is left.
            let pid = rustix::process::Pid::from_child(&self.child);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        } else {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
