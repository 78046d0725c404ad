//! Executors behind the proxies of `deploy/mesh`, each with its configuration as it stands there but for the ports.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{task::JoinSet, time::timeout};
use tonic::{Code, Status, transport::Channel};
use tool_executor::pb::toolexecutor::{Open, tool_executor_client::ToolExecutorClient};

use crate::support::{
    client::{PATIENCE, Stream, bash, open},
    http::Request,
    server::Server,
    skip,
    trainer::Trainer,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Nginx,
    Haproxy,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Nginx, Self::Haproxy];

    fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    /// The program, if it is on this machine.
    fn program(self) -> Option<PathBuf> {
        if let Some(program) = env::var_os(format!("TOOL_EXECUTOR_{}", self.name().to_uppercase())) {
            return Some(program.into());
        }
        let found = |directory: &str| Some(Path::new(directory).join(self.name())).filter(|path| path.exists());
        ["/usr/sbin", "/usr/bin", "/usr/local/sbin"].into_iter().find_map(found).or_else(|| skip(self.name()))
    }

    fn configuration(self) -> &'static str {
        match self {
            Self::Nginx => "deploy/mesh/nginx.conf",
            Self::Haproxy => "deploy/mesh/haproxy.cfg",
        }
    }

    fn command(self, program: &Path, configuration: &Path, directory: &Path) -> Command {
        let mut command = Command::new(program);
        match self {
            Self::Nginx => {
                let globals = format!("daemon off; pid {}/nginx.pid;", directory.display());
                command.arg("-p").arg(directory).arg("-c").arg(configuration).args(["-e", "stderr", "-g", &globals])
            }
            Self::Haproxy => command.arg("-db").arg("-f").arg(configuration),
        };
        command
    }
}

/// Ports that nobody listens on, of those that the kernel does not give to whoever takes any.
fn free_ports<const N: usize>() -> [u16; N] {
    let free = || loop {
        let port = fastrand::u16(20_000..32_000);
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return (port, listener);
        }
    };
    // Held until all are chosen.
    [(); N].map(|()| free()).map(|(port, _listener)| port)
}

/// A proxy before two executors.
struct Mesh {
    proxy: Child,
    executors: Vec<Server>,
    address: String,
    http: String,
    _directory: TempDir,
}

impl Mesh {
    /// None if there is no such proxy on this machine.
    fn start(kind: Kind) -> Option<Self> {
        let program = kind.program()?;
        let [one, two, front, http] = free_ports();
        let directory = TempDir::new().expect("a directory");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(kind.configuration());
        let text = fs::read_to_string(path).expect("it is there");
        let mut configuration = text;
        for (written, taken) in [("9001", one), ("9002", two), ("9000", front), ("9080", http)] {
            configuration = configuration.replace(&format!("127.0.0.1:{written}"), &format!("127.0.0.1:{taken}"));
        }
        if kind == Kind::Nginx {
            // Not where an installed one has them.
            let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|of| format!("{of}_temp_path {of};"));
            configuration = configuration.replace("http {", &format!("http {{ {}", paths.concat()));
        }
        let file = directory.path().join("configuration");
        fs::write(&file, configuration).expect("it can be written");
        let executors = [one, two].into_iter().map(executor).collect();
        let mut command = kind.command(&program, &file, directory.path());
        let proxy = command.stdin(Stdio::null()).spawn().expect("the proxy starts");
        let http = if kind == Kind::Nginx { http } else { front };
        let mesh = Self {
            proxy,
            executors,
            address: format!("127.0.0.1:{front}"),
            http: format!("127.0.0.1:{http}"),
            _directory: directory,
        };
        let asked = Instant::now();
        while std::net::TcpStream::connect(&mesh.address).is_err() {
            assert!(asked.elapsed() < PATIENCE, "{} does not listen", kind.name());
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(mesh)
    }

    async fn open(&self, open: Open) -> Result<Stream, Status> {
        open_at(&self.address, open).await
    }
}

/// On a connection of its own.
async fn open_at(address: &str, open: Open) -> Result<Stream, Status> {
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("it is an address");
    let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
    Stream::over(ToolExecutorClient::new(channel), open).await
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // In good order, so that its workers end, too.
        let _ = kill_process(Pid::from_child(&self.proxy), Signal::TERM);
        let _ = self.proxy.wait();
    }
}

/// How many are opened behind a proxy, and for how many of them each executor has slots.
const TRAJECTORIES: usize = 16;

fn executor(port: u16) -> Server {
    let state = TempDir::new().expect("a directory");
    let mut command = Server::command(&state);
    command.args(["--listen", &format!("127.0.0.1:{port}")]);
    // For all: the proxies place by a hash of ids and ports, the ports differ in each run, and one may get most.
    command.env("TOOL_EXECUTOR_SLOTS", TRAJECTORIES.to_string()).env("TOOL_EXECUTOR_MAX_CONTAINERS", "1");
    command.env("TOOL_EXECUTOR_ON_SHUTDOWN", "hand_over");
    Server::run(command, state)
}

/// Their containers would be left for others.
fn end_with_their_containers(mesh: &mut Mesh) {
    for executor in &mut mesh.executors {
        executor.signal(Signal::TERM);
        executor.wait();
        executor.set("ON_SHUTDOWN", "end");
        executor.start_again();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trajectory_is_found_where_it_is() {
    for kind in Kind::ALL {
        let Some(mut mesh) = Mesh::start(kind) else { continue };
        let ids: Vec<String> = (0..TRAJECTORIES).map(|number| format!("episode-{number}")).collect();
        for id in &ids {
            let mut stream = mesh.open(open(id)).await.expect("it opens");
            let written = stream.bash("first", &format!("echo {id} > file")).await;
            assert!(written.success, "{kind:?}, {id}: {written:?}");
        }
        for id in &ids {
            // A new connection each.
            let mut stream = mesh.open(Open { last_sequence: 1, ..open(id) }).await.expect("it is there");
            assert!(stream.opened.resumed, "{kind:?}");
            assert_eq!(stream.bash("second", "cat file").await.output, id.as_str());
        }
        let mut shares = Vec::new();
        for executor in &mesh.executors {
            shares.push(executor.status().await.trajectories);
        }
        assert_eq!(shares.iter().sum::<u32>() as usize, TRAJECTORIES);
        assert!(shares.iter().all(|share| *share > 0), "{kind:?}: one has all: {shares:?}");
        end_with_their_containers(&mut mesh);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_goes_through() {
    for kind in Kind::ALL {
        let Some(mut mesh) = Mesh::start(kind) else { continue };
        let health = Request::get(&mesh.http, "/health").send().await;
        assert_eq!(health.status, 200, "{kind:?}: {health:?}");
        end_with_their_containers(&mut mesh);
    }
}

/// One after the other is restarted, again and again, while trainers are at work.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_load_loses_no_call() {
    for kind in Kind::ALL {
        let Some(mut mesh) = Mesh::start(kind) else { continue };
        let mut trainers = JoinSet::new();
        for number in 0..6 {
            let address = mesh.address.clone();
            trainers.spawn(async move {
                let mut trainer = Trainer::new(number);
                while let Err(status) = trainer.go_on(async |open| open_at(&address, open).await).await {
                    assert_eq!(status.code(), Code::Unavailable, "{kind:?}: {status:?}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                trainer
            });
        }
        let mut restarts = 0;
        // The longest of them are still at work then.
        while restarts < 6 {
            let executor = &mut mesh.executors[restarts % 2];
            executor.signal(Signal::TERM);
            tokio::task::block_in_place(|| executor.start_again());
            restarts += 1;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let trainers = timeout(4 * PATIENCE, trainers.join_all()).await.expect("they finish");
        for trainer in &trainers {
            assert!(trainer.has_finished());
            let mut stream = mesh.open(Open { take_over: true, ..open(&trainer.id) }).await.expect("it is there");
            stream.batch(vec![bash("log", "sort -n log | tr '\\n' ' '")]).await;
            let log = loop {
                let result = stream.result().await;
                if result.call_id == "log" {
                    break result.output;
                }
            };
            let expected: Vec<String> = (0..Trainer::CALLS).map(|number| number.to_string()).collect();
            assert_eq!(log, expected.join(" "), "{kind:?}, {}: each ran exactly once", trainer.id);
        }
        end_with_their_containers(&mut mesh);
    }
}
