//! A stand-in for a Nomad server with its clients: it answers, places, starts, stops and fails as the real one was
//! recorded to, and goes wrong on cue.
//!
//! Tasks are real processes of this machine. The stand-in has a runtime of its own, so that a test that blocks does
//! not keep it from answering. Dropped, it ends every process it has started and removes every directory.
//!
//! What the real one does and this does not: restarts of a task by its policy, more than one group or task per job,
//! constraints but on a node's names, `follow` of logs, pages of lists, a limit of connections.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime};

mod access;
mod artifact;
pub(crate) mod ask;
mod calls;
mod choose;
mod client;
mod cues;
mod defaults;
mod door;
mod filter;
mod http;
mod jobs;
mod lists;
mod nodes;
mod process;
mod report;
mod schedule;
mod shape;
mod stream;
mod tables;
mod task;
mod world;

use door::Line;
use world::Shared;

/// A handle; the last one that is dropped ends it all.
#[derive(Clone)]
pub(crate) struct Nomad {
    shared: Arc<Shared>,
    running: Arc<Running>,
}

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) nodes: Vec<NodeSpec>,
    /// With ACLs: the capabilities of each token; `*` is all of them.
    pub(crate) acl: Option<BTreeMap<String, Vec<String>>>,
    /// From the dispatch to the start of the task, on the client's clock.
    pub(crate) task_start: Duration,
    /// From the dispatch until the server says `running`.
    pub(crate) running_after: Duration,
    /// From the end of a task until the server says so.
    pub(crate) report_after: Duration,
    /// From what keeps a task from starting until the server says `failed`; the real one takes 4.2 s.
    pub(crate) failed_after: Duration,
    /// Until a call without a leader is answered; the real one takes 5 s.
    pub(crate) no_leader_after: Duration,
    /// Where allocations have their directories, if not in a temporary place. It is the caller's to remove.
    pub(crate) alloc_dir: Option<std::path::PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: vec![NodeSpec::default()],
            acl: None,
            task_start: Duration::from_millis(100),
            running_after: Duration::from_millis(840),
            report_after: Duration::from_millis(250),
            failed_after: Duration::from_secs(1),
            no_leader_after: Duration::from_millis(100),
            alloc_dir: None,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct NodeSpec {
    pub(crate) name: String,
    pub(crate) datacenter: String,
    pub(crate) class: String,
    pub(crate) cpu: u64,
    pub(crate) memory_mb: u64,
    pub(crate) drivers: Vec<String>,
}

impl NodeSpec {
    pub(crate) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

impl Default for NodeSpec {
    fn default() -> Self {
        Self {
            name: "client-1".to_owned(),
            datacenter: "dc1".to_owned(),
            class: String::new(),
            cpu: 100_000,
            memory_mb: 1_000_000,
            drivers: ["raw_exec", "exec", "docker", "podman"].map(str::to_owned).to_vec(),
        }
    }
}

/// A dispatched child, purged ones included.
#[derive(Debug, Clone)]
pub(crate) struct ChildView {
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) meta: BTreeMap<String, String>,
    pub(crate) stopped: bool,
    pub(crate) purged: bool,
}

/// An allocation as the server has it, and the process that its client has.
#[derive(Debug, Clone)]
pub(crate) struct AllocationView {
    pub(crate) id: String,
    pub(crate) job_id: String,
    pub(crate) node: String,
    pub(crate) client_status: String,
    pub(crate) desired: String,
    pub(crate) pid: Option<u32>,
    pub(crate) port: Option<u16>,
}

/// A request that came in, whatever became of it.
#[derive(Debug, Clone)]
pub(crate) struct RequestView {
    pub(crate) at: Instant,
    pub(crate) method: String,
    /// As sent, with its query.
    pub(crate) path: String,
}

/// How the answer to a dispatch is lost that was carried out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LostAnswer {
    LeadershipLost,
    ConnectionCut,
    NeverAnswers,
}

/// What keeps a task from starting, and its text.
#[derive(Debug, Clone)]
pub(crate) enum TaskFailure {
    DriverFailure(String),
    ImagePull(String),
    ArtifactDownload(String),
    /// The user's name.
    BadUser(String),
    Validation,
}

impl Nomad {
    pub(crate) fn start() -> Self {
        Self::start_with(Options::default())
    }

    pub(crate) fn start_with(options: Options) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("nomad")
            .enable_all()
            .build()
            .expect("a runtime for the stand-in");
        let temporary = TempDir::new().expect("a directory for allocations");
        let directory = options.alloc_dir.clone().unwrap_or_else(|| temporary.path().to_owned());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port for the stand-in");
        listener.set_nonblocking(true).expect("the listener can be told");
        let address = listener.local_addr().expect("it has an address").to_string();
        let listener = {
            let _runtime = runtime.enter();
            TcpListener::from_std(listener).expect("the listener is tokio's now")
        };
        let (doorman, door) = door::door(listener).expect("it has an address");
        let shared = Shared::new(options, directory.clone(), doorman, runtime.handle().clone());
        let app = http::app(shared.clone()).into_make_service_with_connect_info::<Line>();
        runtime.spawn(async move { axum::serve(door, app).await });
        let running =
            Running { address, shared: shared.clone(), runtime: Some(runtime), directory, _temporary: temporary };
        Self { shared, running: Arc::new(running) }
    }

    /// `http://` and the port.
    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.running.address)
    }

    /// Host and port.
    pub(crate) fn authority(&self) -> &str {
        &self.running.address
    }

    pub(crate) fn children(&self) -> Vec<ChildView> {
        self.shared.world().children.clone()
    }

    /// The parameterized jobs that are there.
    pub(crate) fn templates(&self) -> Vec<String> {
        let children: Vec<String> = self.children().into_iter().map(|child| child.id).collect();
        self.shared.world().tables.jobs.keys().filter(|id| !children.contains(id)).cloned().collect()
    }

    pub(crate) fn allocations(&self) -> Vec<AllocationView> {
        let world = self.shared.world();
        let view = |alloc: &tables::Alloc| AllocationView {
            id: alloc.id.clone(),
            job_id: alloc.job_id.clone(),
            node: alloc.node_name.clone(),
            client_status: alloc.client_status.to_owned(),
            desired: alloc.desired_status.to_owned(),
            pid: world.locals.get(&alloc.id).and_then(|local| local.pid),
            port: alloc.ports.first().map(|port| port.value),
        };
        world.tables.allocs.iter().map(view).collect()
    }

    pub(crate) fn requests(&self) -> Vec<RequestView> {
        self.shared.world().requests.clone()
    }

    /// Below it each allocation has its directory, as below a client's `alloc_dir`.
    pub(crate) fn alloc_dir(&self) -> &std::path::Path {
        &self.running.directory
    }

    /// Waits for it, and panics if it does not come.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let asked = Instant::now();
        while !condition(self) {
            let (children, allocations) = (self.children(), self.allocations());
            assert!(asked.elapsed() < Duration::from_secs(20), "waiting for {what}: {children:#?} {allocations:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// What runs, and is ended.
struct Running {
    address: String,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
    directory: std::path::PathBuf,
    _temporary: TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let pids: Vec<u32> = {
            let mut world = self.shared.world();
            world.closed = true;
            world.wake();
            let running = world.locals.values().filter_map(|local| local.pid);
            running.chain(world.orphans.iter().copied()).collect()
        };
        process::reap(&pids, &self.directory);
        // A test that is over waits for no handler.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
