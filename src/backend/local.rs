//! Containers on this machine: each is an agent's process, with a directory of its own below the state directory.
//!
//! ```text
//! containers/<id>/agent.json    what the agent is told, its token among it
//!                 agent.sock    where it listens; bound before it is started, so that a connection never comes too soon
//!                 stderr.log    its log; the end of it is evidence
//!                 slots/        the agent's own
//! ```
//!
//! An agent is in a process group of its own and tied to no parent: it outlives an executor that dies, and ends itself
//! when no other comes.

mod leftovers;
mod process;

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tracing::warn;

pub use self::leftovers::end_leftovers;
use self::process::Agent;
use super::{Backend, Container, ContainerEvent, Endpoint, StartError};
use crate::{
    id::{ContainerId, PoolName},
    sandbox::{
        agent,
        client::{Address, Token},
        slot::{View, empty_trash},
    },
    tool::Evidence,
};

/// What every local container is to be like.
#[derive(Debug, Clone)]
pub struct LocalConfig {
    /// Holds a directory for each container.
    pub directory: PathBuf,
    /// The agent's program; this one, mostly.
    pub program: PathBuf,
    pub slots: u32,
    /// The first user id for slots, where the executor is root.
    pub uid_base: Option<u32>,
    pub network: bool,
    pub orphan_timeout: Duration,
    /// What slots see of this machine.
    pub view: View,
    pub read_only: Vec<PathBuf>,
    /// What slots never see.
    pub hidden: Vec<PathBuf>,
    pub workspace_source: Option<PathBuf>,
    pub writable_root: bool,
    /// Of a slot's /tmp.
    pub tmp_bytes: u64,
    pub max_open_files: u64,
    pub max_processes: Option<u64>,
    /// The agent's log filter.
    pub log: String,
}

/// The backend of one machine.
pub struct LocalBackend {
    config: LocalConfig,
    node: String,
    /// Shared with whoever watches over a container.
    running: Arc<Mutex<Running>>,
}

#[derive(Default)]
struct Running {
    /// Which ranges of user ids are taken.
    ordinals: BTreeSet<u32>,
    containers: Vec<Entry>,
}

struct Entry {
    id: ContainerId,
    /// Asks for its end.
    stop: watch::Sender<bool>,
    /// True once nothing is left of it.
    gone: watch::Receiver<bool>,
}

impl LocalBackend {
    pub fn new(config: LocalConfig) -> Self {
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { config, node, running: Arc::default() }
    }

    /// The lowest range of user ids that no container has.
    fn take_ordinal(&self) -> u32 {
        let mut running = lock(&self.running);
        let ordinal = (0..).find(|ordinal| !running.ordinals.contains(ordinal)).unwrap_or(u32::MAX);
        running.ordinals.insert(ordinal);
        ordinal
    }

    /// Makes the container's directory and starts its agent there.
    fn launch(&self, id: &ContainerId, directory: &Path, ordinal: u32) -> Result<(Agent, Endpoint), LaunchError> {
        let step = |step| move |source| LaunchError { step, source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(step("make its directory"))?;
        let token = uuid::Uuid::new_v4().to_string();
        let config = agent::Config {
            container_id: id.to_string(),
            slots: self.config.slots,
            // One more than there are slots: the last is for the agent's own test.
            uid_base: self.config.uid_base.map(|base| base + ordinal * (self.config.slots + 1)),
            network: self.config.network,
            token: token.clone(),
            orphan_timeout: self.config.orphan_timeout,
            view: self.config.view,
            read_only: self.config.read_only.clone(),
            hidden: self.config.hidden.clone(),
            workspace_source: self.config.workspace_source.clone(),
            writable_root: self.config.writable_root,
            tmp_bytes: self.config.tmp_bytes,
            max_open_files: self.config.max_open_files,
            max_processes: self.config.max_processes,
        };
        config.store(directory).map_err(|error| step("write its configuration")(io::Error::other(chain(&error))))?;
        let listener = process::bind(directory).map_err(step("bind its socket"))?;
        let agent = Agent::start(&self.config.program, directory, listener, &self.config.log)
            .map_err(step("start its agent"))?;
        let address = Address::Unix(directory.join(process::SOCKET));
        Ok((agent, Endpoint { address, token: Token::new(&token) }))
    }
}

fn lock(running: &Mutex<Running>) -> MutexGuard<'_, Running> {
    // Each change is whole before the lock is given back.
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, thiserror::Error)]
#[error("could not {step}: {source}")]
struct LaunchError {
    step: &'static str,
    source: io::Error,
}

/// An error with all of its causes, for evidence.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[async_trait]
impl Backend for LocalBackend {
    fn name(&self) -> &'static str {
        "local"
    }

    async fn start(&self, _pool: &PoolName) -> Result<Container, StartError> {
        let id = ContainerId::random();
        let directory = self.config.directory.join(id.as_str());
        let ordinal = self.take_ordinal();
        let (agent, endpoint) = match self.launch(&id, &directory, ordinal) {
            Ok(launched) => launched,
            Err(error) => {
                remove(&directory);
                lock(&self.running).ordinals.remove(&ordinal);
                return Err(StartError { evidence: Evidence { cause: error.to_string(), ..Evidence::default() } });
            }
        };
        // One event: its end.
        let (events, receiver) = mpsc::channel(1);
        let (stop, stopping) = watch::channel(false);
        let (gone, is_gone) = watch::channel(false);
        lock(&self.running).containers.push(Entry { id: id.clone(), stop, gone: is_gone });
        let all = self.running.clone();
        let watched = id.clone();
        // Ends with the agent.
        tokio::spawn(async move {
            let evidence = agent.wait(&directory, stopping).await;
            // Whoever has stopped it does not listen.
            let _ = events.send(ContainerEvent::Lost(evidence)).await;
            let cleared = tokio::task::spawn_blocking(move || remove(&directory)).await;
            if let Err(error) = cleared {
                warn!(error = &error as &dyn std::error::Error, "could not clear a container's directory away");
            }
            let mut running = lock(&all);
            running.ordinals.remove(&ordinal);
            running.containers.retain(|entry| entry.id != watched);
            gone.send_replace(true);
        });
        Ok(Container { id, node: self.node.clone(), endpoint, events: receiver })
    }

    async fn stop(&self, container: &ContainerId) {
        let gone = {
            let running = lock(&self.running);
            let Some(entry) = running.containers.iter().find(|entry| entry.id == *container) else { return };
            entry.stop.send_replace(true);
            entry.gone.clone()
        };
        let mut gone = gone;
        // An error means that the watch has ended, and the container with it.
        let _ = gone.wait_for(|gone| *gone).await;
    }
}

/// Removes a container's directory with everything in it. What slots have left there may be nested deeper than this
/// process may open files, and may forbid being looked at: see [`empty_trash`].
fn remove(directory: &Path) {
    let removed = empty_trash(directory).and_then(|()| fs::remove_dir(directory));
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(
            directory = %directory.display(),
            error = &error as &dyn std::error::Error,
            "could not remove a container's directory"
        );
    }
}
