//! The real binary, serving on a port of its own from a state directory of its own.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use super::nomad::Nomad;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::transport::{Channel, ClientTlsConfig};
use tool_executor::pb::toolexecutor::{GetStatusResponse, PoolStatus, tool_executor_client::ToolExecutorClient};

/// Set, executors run over a Nomad each: see `nomad::suite`.
pub(crate) const OVER_NOMAD: &str = "TOOL_EXECUTOR_TEST_OVER_NOMAD";

/// A running executor; dropped, it is ended with everything that it has started.
pub(crate) struct Server {
    command: Command,
    child: Child,
    /// What its containers run on, if that is not this machine alone; ended after it.
    pub(crate) nomad: Option<Nomad>,
    /// Whether it says that connections are encrypted.
    pub(crate) private: bool,
    pub(crate) address: String,
    pub(crate) state: TempDir,
}

impl Server {
    /// With the settings of a test: one container of four slots.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// `settings`: names without their prefix, and values.
    pub(crate) fn with(settings: &[(&str, &str)]) -> Self {
        let state = TempDir::new().expect("a directory for the state");
        let mut command = Self::command(&state);
        command.envs(settings.iter().map(|(name, value)| (format!("TOOL_EXECUTOR_{name}"), value)));
        Self::run(command, state)
    }

    /// Started by this program, which is given the executor's command as further arguments.
    pub(crate) fn through(program: &[&str], settings: &[(&str, &str)]) -> Self {
        let state = TempDir::new().expect("a directory for the state");
        let inner = Self::command(&state);
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(inner.get_program()).args(inner.get_args()).current_dir(state.path());
        command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.envs(settings.iter().map(|(name, value)| (format!("TOOL_EXECUTOR_{name}"), value)));
        Self::run(command, state)
    }

    /// The command that starts an executor, with a clean environment and small pools.
    pub(crate) fn command(state: &TempDir) -> Command {
        Self::command_of("serve", state)
    }

    pub(crate) fn command_of(subcommand: &str, state: &TempDir) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tool-executor"));
        command
            .args([subcommand, "--listen", "127.0.0.1:0", "--state-dir"])
            .arg(state.path())
            .current_dir(state.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            // No two servers of a machine may share any.
            .env("TOOL_EXECUTOR_UID_BASE", super::agent::user_ids(1_000).to_string())
            .env("TOOL_EXECUTOR_SLOTS", "4")
            .env("TOOL_EXECUTOR_MAX_CONTAINERS", "2");
        command
    }

    /// What makes an executor use the Nomad at this address, with the binary of the test as its agents' program.
    pub(crate) fn over(nomad: &str) -> [(&'static str, String); 6] {
        [
            ("TOOL_EXECUTOR_NOMAD_ADDRESS", nomad.to_owned()),
            ("TOOL_EXECUTOR_DRIVER", "raw_exec".to_owned()),
            ("TOOL_EXECUTOR_AGENT", "present".to_owned()),
            ("TOOL_EXECUTOR_AGENT_PATH", env!("CARGO_BIN_EXE_tool-executor").to_owned()),
            ("TOOL_EXECUTOR_CPU", "50".to_owned()),
            ("TOOL_EXECUTOR_UID_BASE", super::agent::user_ids(1_000).to_string()),
        ]
    }

    pub(crate) fn run(mut command: Command, state: TempDir) -> Self {
        let nomad = std::env::var_os(OVER_NOMAD).map(|_| Nomad::start());
        command.envs(nomad.iter().flat_map(|nomad| Self::over(&nomad.address())));
        Self::launch(command, state, nomad)
    }

    /// Over this Nomad, which others may use too.
    pub(crate) fn on(nomad: &Nomad, settings: &[(&str, &str)]) -> Self {
        let state = TempDir::new().expect("a directory for the state");
        Self::on_with(nomad, state, settings)
    }

    pub(crate) fn on_with(nomad: &Nomad, state: TempDir, settings: &[(&str, &str)]) -> Self {
        Self::launch(Self::command_over(&nomad.address(), &state, settings), state, Some(nomad.clone()))
    }

    /// Over the Nomad at this address, which is not the stand-in.
    pub(crate) fn at(nomad: &str, state: TempDir, settings: &[(&str, &str)]) -> Self {
        Self::launch(Self::command_over(nomad, &state, settings), state, None)
    }

    fn command_over(nomad: &str, state: &TempDir, settings: &[(&str, &str)]) -> Command {
        let mut command = Self::command(state);
        command.envs(Self::over(nomad));
        command.envs(settings.iter().map(|(name, value)| (format!("TOOL_EXECUTOR_{name}"), value)));
        command
    }

    fn launch(mut command: Command, state: TempDir, nomad: Option<Nomad>) -> Self {
        let (child, private, address) = Self::spawn(&mut command);
        Self { command, child, nomad, private, address, state }
    }

    /// Another executor like it, with the same state, which must have ended.
    pub(crate) fn start_again(&mut self) {
        self.wait();
        (self.child, self.private, self.address) = Self::spawn(&mut self.command);
    }

    /// Ends it as a machine's memory shortage or an operator in despair would, and starts another.
    pub(crate) fn kill_and_start_again(&mut self) {
        self.signal(Signal::KILL);
        self.start_again();
    }

    /// From now on, executors like it have this setting.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.command.env(format!("TOOL_EXECUTOR_{name}"), value);
    }

    fn spawn(command: &mut Command) -> (Child, bool, String) {
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().expect("the binary starts");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        stdout.read_line(&mut line).expect("stdout can be read");
        let (scheme, address) = line
            .trim()
            .strip_prefix("listening on http")
            .and_then(|rest| rest.split_once("://"))
            .unwrap_or_else(|| panic!("it said {line:?}, and ended with {:?}", child.wait()));
        (child, scheme == "s", address.to_owned())
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).expect("it is an address");
        endpoint.connect().await.expect("the server answers")
    }

    /// A connection that is encrypted so.
    ///
    /// # Errors
    /// If one of the two does not trust the other.
    pub(crate) async fn private_channel(&self, tls: ClientTlsConfig) -> Result<Channel, tonic::transport::Error> {
        let endpoint = Channel::from_shared(format!("https://{}", self.address)).expect("it is an address");
        endpoint.tls_config(tls)?.connect().await
    }

    pub(crate) async fn client(&self) -> ToolExecutorClient<Channel> {
        ToolExecutorClient::new(self.channel().await).max_decoding_message_size(16 << 20)
    }

    pub(crate) async fn status(&self) -> GetStatusResponse {
        self.client()
            .await
            .get_status(tool_executor::pb::toolexecutor::GetStatusRequest {})
            .await
            .expect("it has a status")
            .into_inner()
    }

    /// The default pool, once it is as the test waits for it to be.
    pub(crate) async fn pool_until(&self, what: &str, done: impl Fn(&PoolStatus) -> bool) -> PoolStatus {
        let mut client = self.client().await;
        let asked = std::time::Instant::now();
        loop {
            let status = client.get_status(tool_executor::pb::toolexecutor::GetStatusRequest {}).await;
            let status = status.expect("it has a status").into_inner();
            let pool = status.pools.first().expect("it has a pool").clone();
            if done(&pool) {
                return pool;
            }
            assert!(asked.elapsed() < Duration::from_secs(20), "waiting for {what}: {pool:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it can be signalled");
    }

    /// Waits until the process has ended by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let asked = std::time::Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status;
            }
            assert!(asked.elapsed() < Duration::from_secs(60), "it should have ended");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The name of where its containers run.
    pub(crate) fn backend(&self) -> &'static str {
        if self.nomad.is_some() { "nomad" } else { "local" }
    }

    /// Its agents' processes.
    pub(crate) fn agents(&self) -> Vec<u32> {
        match &self.nomad {
            Some(nomad) => nomad.allocations().iter().filter_map(|allocation| allocation.pid).collect(),
            None => super::process::marked(&self.state.path().join("containers").display().to_string()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The second signal ends it at once: the clients of a test that is over read no more.
        for _ in 0..2 {
            if matches!(self.child.try_wait(), Ok(None)) {
                let _ = kill_process(self.pid(), Signal::TERM);
                let asked = std::time::Instant::now();
                while asked.elapsed() < Duration::from_millis(300) && matches!(self.child.try_wait(), Ok(None)) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
        let _ = self.child.wait();
    }
}
