//! A real Nomad, as the environment's `NOMAD_BIN` names it: on loopback, in a directory of its own, with raw_exec.
//!
//! One at a time, since its agents and their tasks are much for a small machine. Dropped, it ends all that it has
//! started, and what its tasks have left: every process with its directory in its environment. What Nomad has mounted
//! there is unmounted, and the directory removed.

use std::{
    fs,
    io::{self, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Once,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

use super::nomad::ask::ask;

/// A program that these tests need, and that not every machine has.
const BINARY: &str = "NOMAD_BIN";
/// Starting is work for a machine of two cores; a test that waits for it fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between looks.
const LOOK: Duration = Duration::from_millis(20);

static ALONE: Mutex<()> = Mutex::const_new(());

pub(crate) struct RealNomad {
    binary: PathBuf,
    agents: Vec<Agent>,
    /// Where the API is asked.
    authority: String,
    directory: TempDir,
    _alone: MutexGuard<'static, ()>,
}

/// One process of Nomad's; its name is its configuration's.
struct Agent {
    name: &'static str,
    arguments: Vec<String>,
    process: Option<Child>,
}

/// What Nomad has of a container, and the process that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Allocation {
    pub(crate) id: String,
    pub(crate) job: String,
    pub(crate) status: String,
}

impl RealNomad {
    /// One agent that is all there is, and remembers nothing; none where the environment names no Nomad.
    pub(crate) async fn dev() -> Option<Self> {
        Self::start(&["dev"]).await
    }

    /// A server, and a client that can be ended without it. Either remembers.
    pub(crate) async fn pair() -> Option<Self> {
        Self::start(&["server", "client"]).await
    }

    async fn start(names: &[&'static str]) -> Option<Self> {
        let Some(binary) = std::env::var_os(BINARY) else {
            // Past the harness, which keeps what passing tests print; once for all of them.
            static TOLD: Once = Once::new();
            TOLD.call_once(|| drop(writeln!(io::stderr(), "left out: tests that need a Nomad, named by {BINARY}")));
            return None;
        };
        let alone = ALONE.lock().await;
        let directory = TempDir::with_prefix("real-nomad-").expect("a directory for Nomad");
        let ports: Vec<[u16; 3]> = names.iter().map(|_| free_ports()).collect();
        let authority = format!("127.0.0.1:{}", ports[0][0]);
        // All of them before any is started, so that each is ended whatever becomes of the next.
        let server = ports[0][1];
        let agents = names.iter().zip(ports).map(|(name, ports)| Agent::new(name, ports, server, directory.path()));
        let agents = agents.collect();
        let mut nomad = Self { binary: binary.into(), agents, authority, directory, _alone: alone };
        for name in names {
            nomad.bring_up(name).await;
        }
        nomad.until_ready().await;
        Some(nomad)
    }

    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.authority)
    }

    /// Starts an agent, and returns once another can join it.
    ///
    /// A client that registers with a server that cannot sign yet is refused, and comes back after some 20 s.
    pub(crate) async fn bring_up(&mut self, name: &str) {
        self.launch(name);
        if name == "server" {
            self.until("a server that can sign", async || {
                let keys = self.try_ask("GET", "/.well-known/jwks.json", &Value::Null).await?;
                keys["keys"].as_array().filter(|keys| !keys.is_empty()).map(|_| ())
            })
            .await;
        }
    }

    /// Starts an agent, for the first time or again.
    fn launch(&mut self, name: &str) {
        let directory = self.directory.path();
        let log = fs::OpenOptions::new().create(true).append(true).open(directory.join(format!("{name}.log")));
        let log = log.expect("its log can be written");
        let agent = self.agents.iter_mut().find(|agent| agent.name == name).expect("there is one of that name");
        let mut command = Command::new(&self.binary);
        command
            .arg("agent")
            .args(&agent.arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            // What it starts beside tasks is known by it, too.
            .env("TMPDIR", directory.join("tmp"))
            .current_dir(directory)
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("a second handle"))
            .stdout(log);
        agent.process = Some(command.spawn().expect("NOMAD_BIN can be started"));
    }

    /// Ends an agent alone: its tasks run on.
    pub(crate) fn end(&mut self, name: &str, signal: Signal) {
        let agent = self.agents.iter_mut().find(|agent| agent.name == name).expect("there is one of that name");
        let mut process = agent.process.take().expect("it runs");
        kill_process(Pid::from_child(&process), signal).expect("it can be signalled");
        process.wait().expect("it can be waited for");
    }

    /// Until it would start a container.
    pub(crate) async fn until_ready(&self) {
        self.until("a node that is ready", async || {
            let nodes = self.try_ask("GET", "/v1/nodes", &Value::Null).await;
            let is_ready =
                |node: &Value| node["Status"] == "ready" && node["Drivers"]["raw_exec"]["Healthy"] == json!(true);
            nodes.filter(|nodes| nodes.as_array().is_some_and(|nodes| nodes.iter().any(is_ready)))
        })
        .await;
    }

    /// What it answers; none if it does not, or not well.
    async fn try_ask(&self, method: &str, path: &str, body: &Value) -> Option<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let asked = ask(&self.authority, method, path, &[], body.as_bytes());
        let answer = tokio::time::timeout(Duration::from_secs(10), asked).await.ok()?.ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.try_ask("GET", path, &Value::Null).await.expect("Nomad answers")
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        self.try_ask("POST", path, &body).await.expect("Nomad answers")
    }

    /// Jobs of every kind, stopped ones included: their names.
    pub(crate) async fn jobs(&self) -> Vec<String> {
        let jobs = self.get("/v1/jobs").await;
        let name = |job: &Value| job["ID"].as_str().expect("a job has a name").to_owned();
        jobs.as_array().expect("it is a list").iter().map(name).collect()
    }

    pub(crate) async fn allocations(&self) -> Vec<Allocation> {
        let allocations = self.get("/v1/allocations").await;
        let one = |allocation: &Value| {
            let text = |name: &str| allocation[name].as_str().expect("an allocation has it").to_owned();
            Allocation { id: text("ID"), job: text("JobID"), status: text("ClientStatus") }
        };
        allocations.as_array().expect("it is a list").iter().map(one).collect()
    }

    /// The only node's name.
    pub(crate) async fn node(&self) -> String {
        self.get("/v1/nodes").await[0]["ID"].as_str().expect("there is a node").to_owned()
    }

    /// Waits for it, and panics if it does not come.
    pub(crate) async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let asked = Instant::now();
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            assert!(asked.elapsed() < PATIENCE, "waiting for {what}: {}", self.logs());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The process of an allocation's task, if it runs.
    pub(crate) fn task(&self, allocation: &str) -> Option<u32> {
        let place = format!("NOMAD_ALLOC_ID={allocation}");
        processes().find(|pid| environment(*pid).split(|byte| *byte == 0).any(|entry| entry == place.as_bytes()))
    }

    /// Every task's process, of whatever allocation.
    pub(crate) fn tasks(&self) -> Vec<u32> {
        let directory = format!("NOMAD_ALLOC_DIR={}", self.directory.path().display());
        processes().filter(|pid| contains(&environment(*pid), directory.as_bytes())).collect()
    }

    /// What tasks have left below their directories, by its name.
    pub(crate) fn left_in_tasks(&self, name: &str) -> Vec<PathBuf> {
        let allocations = fs::read_dir(self.directory.path().join("alloc")).into_iter().flatten().flatten();
        let place = allocations.map(|allocation| allocation.path().join("sandbox/local").join(name));
        place.filter(|place| place.exists()).collect()
    }

    /// The end of what its agents have said.
    fn logs(&self) -> String {
        let last = |agent: &Agent| {
            let log = fs::read_to_string(self.directory.path().join(format!("{}.log", agent.name))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            format!("\n{}:\n{}", agent.name, lines[lines.len().saturating_sub(15)..].join("\n"))
        };
        self.agents.iter().map(last).collect()
    }
}

impl Drop for RealNomad {
    fn drop(&mut self) {
        for mut process in self.agents.iter_mut().filter_map(|agent| agent.process.take()) {
            let _ = process.kill();
            let _ = process.wait();
        }
        let directory = self.directory.path().to_owned();
        let needle = directory.as_os_str().as_encoded_bytes();
        let begun = Instant::now();
        let mut groups = Vec::new();
        loop {
            let left: Vec<u32> = processes().filter(|pid| contains(&environment(*pid), needle)).collect();
            if left.is_empty() || begun.elapsed() > Duration::from_secs(5) {
                break;
            }
            for pid in left {
                groups.extend(control_groups(pid));
                let _ = Pid::from_raw(pid.cast_signed()).map(|pid| kill_process(pid, Signal::KILL));
            }
            thread::sleep(LOOK);
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mounted = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
        // The last was mounted on top of what was there before.
        for place in mounted.filter(|place| place.starts_with(&directory)).collect::<Vec<_>>().into_iter().rev() {
            let _ = unmount(place, UnmountFlags::DETACH);
        }
        // Only those that are empty can be removed.
        groups.iter().for_each(|group| drop(fs::remove_dir(group)));
    }
}

impl Agent {
    /// `server`: the port at which the client finds its server.
    fn new(name: &'static str, [http, rpc, serf]: [u16; 3], server: u16, directory: &Path) -> Self {
        let mut arguments = Vec::new();
        let place = directory.display();
        let client = format!(
            r#"client {{
                enabled = true
                servers = ["127.0.0.1:{server}"]
                network_interface = "lo"
                alloc_dir = "{place}/alloc"
                state_dir = "{place}/{name}-state"
                # Apart from those of other agents on this machine.
                min_dynamic_port = {first}
                max_dynamic_port = {last}
                options = {{
                    "driver.allowlist" = "raw_exec"
                    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
                }}
            }}
            plugin "raw_exec" {{ config {{ enabled = true }} }}"#,
            first = 12_000 + http % 7_000,
            last = 12_000 + http % 7_000 + 100,
        );
        // So that a client that is gone is missed within seconds.
        let server = r#"server {
                enabled = true
                bootstrap_expect = 1
                min_heartbeat_ttl = "1s"
                heartbeat_grace = "1s"
            }"#;
        let what = match name {
            "server" => server.to_owned(),
            "client" => client,
            _ => {
                arguments.push("-dev".to_owned());
                client
            }
        };
        let data = if name == "dev" { String::new() } else { format!("data_dir = \"{place}/{name}\"") };
        let text = format!(
            r#"name = "{name}"
            bind_addr = "127.0.0.1"
            advertise {{
                http = "127.0.0.1"
                rpc = "127.0.0.1"
                serf = "127.0.0.1"
            }}
            ports {{
                http = {http}
                rpc = {rpc}
                serf = {serf}
            }}
            {data}
            disable_update_check = true
            log_level = "INFO"
            {what}
            "#
        );
        let file = directory.join(format!("{name}.hcl"));
        fs::write(&file, text).expect("its configuration can be written");
        fs::create_dir_all(directory.join("tmp")).expect("its directory can be made");
        arguments.push(format!("-config={}", file.display()));
        Self { name, arguments, process: None }
    }
}

/// That nobody listens at for now.
fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("it has an address").port())
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("there is /proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// As it was started; empty for a zombie, and for other people's.
fn environment(pid: u32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Those that Nomad has made for a task.
fn control_groups(pid: u32) -> Vec<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let place = |line: &str| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let below = Path::new("/sys/fs/cgroup").join(controllers.trim_start_matches("name="));
        path.contains("nomad").then(|| below.join(path.trim_start_matches('/')))
    };
    groups.lines().filter_map(place).collect()
}
