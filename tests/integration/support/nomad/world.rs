//! The server's state: what Raft would hold, the event log, and what the pretended clients know.
//!
//! Everything that happens is a change of [`World`] under one lock. A change takes a new index with [`World::step`]
//! and tells it with [`World::publish`], which also wakes blocking queries. What comes later is a closure that is
//! given to [`World::later`]; after [`World::forget`] those that were on their way do nothing.

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tokio::{runtime::Handle, sync::watch};

use super::{
    ChildView, NodeSpec, Options, RequestView,
    client::Local,
    cues::Cues,
    door::Doorman,
    shape,
    tables::{Alloc, Node, Tables},
};

/// How many raft entries the event stream can replay.
const BACKLOG: usize = 100;

pub(super) struct Shared {
    world: Mutex<World>,
    /// Counts changes of the state and of the cues: what waits looks again.
    pub(super) changes: watch::Sender<u64>,
    pub(super) door: Doorman,
    pub(super) runtime: Handle,
    pub(super) options: Options,
}

impl Shared {
    pub(super) fn new(options: Options, alloc_dir: PathBuf, door: Doorman, runtime: Handle) -> Arc<Self> {
        Arc::new_cyclic(|shared: &Weak<Self>| {
            let mut world = World {
                tables: Tables::default(),
                frozen: None,
                log: VecDeque::new(),
                locals: HashMap::new(),
                orphans: Vec::new(),
                children: Vec::new(),
                requests: Vec::new(),
                cues: Cues::default(),
                closed: false,
                down: false,
                alloc_dir,
                generation: 0,
                shared: shared.clone(),
                changes: watch::Sender::new(0),
            };
            world.found(&options.nodes);
            let changes = world.changes.clone();
            Self { world: Mutex::new(world), changes, door, runtime, options }
        })
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        // A test that panics with the lock held must still be able to clean up.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct World {
    pub(super) tables: Tables,
    /// What lists answer from while they are stale.
    pub(super) frozen: Option<Tables>,
    pub(super) log: VecDeque<(u64, Vec<Value>)>,
    /// What the clients know, by allocation; it outlives the server's own record.
    pub(super) locals: HashMap<String, Local>,
    /// Processes of a time that was forgotten.
    pub(super) orphans: Vec<u32>,
    pub(super) children: Vec<ChildView>,
    pub(super) requests: Vec<RequestView>,
    pub(super) cues: Cues,
    /// Nothing is started any more.
    pub(super) closed: bool,
    /// The agent is being restarted: its clients report nothing.
    pub(super) down: bool,
    pub(super) alloc_dir: PathBuf,
    pub(super) generation: u64,
    pub(super) shared: Weak<Shared>,
    changes: watch::Sender<u64>,
}

impl World {
    /// The state of a new cluster.
    fn found(&mut self, nodes: &[NodeSpec]) {
        self.tables = Tables { index: 7, ..Tables::default() };
        for spec in nodes {
            let index = self.step();
            self.tables.at.nodes = index;
            self.tables.nodes.push(Node {
                id: uuid(),
                spec: spec.clone(),
                status: "ready",
                eligible: true,
                drain: Value::Null,
                create_index: index,
                modify_index: index,
            });
        }
    }

    /// A dev agent that was restarted: no state, and its tasks run on.
    pub(super) fn forget(&mut self, nodes: &[NodeSpec]) {
        self.generation += 1;
        let processes = self.locals.drain().filter_map(|(_, local)| local.pid);
        self.orphans.extend(processes);
        self.log.clear();
        self.children.clear();
        self.frozen = None;
        self.found(nodes);
        self.wake();
    }

    /// Takes the next index.
    pub(super) fn step(&mut self) -> u64 {
        self.tables.index += 1;
        self.tables.index
    }

    /// One line of the event stream; several may have one index.
    pub(super) fn publish(&mut self, index: u64, events: Vec<Value>) {
        self.log.push_back((index, events));
        while self.log.len() > BACKLOG {
            self.log.pop_front();
        }
        self.wake();
    }

    /// Makes what waits look again.
    pub(super) fn wake(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Does it after so long, unless all has been forgotten by then.
    pub(super) fn later(&self, after: Duration, act: impl FnOnce(&mut World) + Send + 'static) {
        let (shared, generation) = (self.shared.clone(), self.generation);
        let Some(runtime) = shared.upgrade().map(|shared| shared.runtime.clone()) else { return };
        runtime.spawn(async move {
            tokio::time::sleep(after).await;
            let Some(shared) = shared.upgrade() else { return };
            let mut world = shared.world();
            if world.generation == generation && !world.closed {
                act(&mut world);
            }
        });
    }

    pub(super) fn options(&self) -> Options {
        self.shared.upgrade().map(|shared| shared.options.clone()).unwrap_or_default()
    }

    pub(super) fn alloc(&self, id: &str) -> Option<&Alloc> {
        self.tables.allocs.iter().find(|alloc| alloc.id == id)
    }

    /// An allocation and the index of its table, to change both.
    pub(super) fn alloc_mut(&mut self, id: &str) -> Option<&mut Alloc> {
        self.tables.allocs.iter_mut().find(|alloc| alloc.id == id)
    }

    /// Marks it as changed at this index by the server.
    pub(super) fn touch(&mut self, id: &str, index: u64, by_server: bool) {
        self.tables.at.allocs = index;
        if let Some(alloc) = self.alloc_mut(id) {
            alloc.modify_index = index;
            alloc.modify_time = nanos();
            if by_server {
                alloc.alloc_modify_index = index;
            }
        }
    }

    pub(super) fn node(&self, name: &str) -> Option<&Node> {
        self.tables.nodes.iter().find(|node| node.spec.name == name || node.id == name)
    }

    pub(super) fn node_mut(&mut self, name: &str) -> &mut Node {
        let found = self.tables.nodes.iter_mut().find(|node| node.spec.name == name || node.id == name);
        found.unwrap_or_else(|| panic!("there is no node {name}"))
    }

    /// Whether the client of this node can talk to the server.
    pub(super) fn is_reachable(&self, node_id: &str) -> bool {
        !self.down && self.node(node_id).is_some_and(|node| node.status == "ready")
    }

    pub(super) fn alloc_event(&self, index: u64, kind: &str, id: &str) -> Option<Value> {
        let alloc = self.alloc(id)?;
        let payload = json!({ "Allocation": shape::alloc(alloc, false) });
        Some(shape::event(index, "Allocation", kind, id, json!([alloc.job_id, ""]), payload))
    }

    pub(super) fn eval_event(&self, index: u64, kind: &str, id: &str) -> Option<Value> {
        let eval = self.tables.evals.get(id)?;
        let payload = json!({ "Evaluation": eval });
        Some(shape::event(index, "Evaluation", kind, id, json!([eval["JobID"], ""]), payload))
    }

    pub(super) fn job_event(&self, index: u64, kind: &str, id: &str) -> Option<Value> {
        let job = self.tables.jobs.get(id)?;
        Some(shape::event(index, "Job", kind, id, Value::Null, json!({ "Job": job.doc })))
    }

    pub(super) fn node_event(&self, index: u64, kind: &str, name: &str) -> Option<Value> {
        let node = self.node(name)?;
        Some(shape::event(index, "Node", kind, &node.id, Value::Null, json!({ "Node": shape::node(node) })))
    }
}

/// Nanoseconds since 1970.
pub(super) fn nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn rfc3339() -> String {
    humantime_serde::re::humantime::format_rfc3339_nanos(SystemTime::now()).to_string()
}

pub(super) fn uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}
