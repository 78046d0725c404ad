//! Containers on this machine: each is an agent's process, with a directory of its own below the state directory.
//!
//! ```text
//! containers/<id>/agent.json    what the agent is told, its token among it
//!                 agent.pid     which process it is; its own word
//!                 agent.sock    where it listens; bound before it is started, so that a connection never comes too soon
//!                 stderr.log    its log; the end of it is evidence
//!                 slots/        the agent's own
//! ```
//!
//! An agent is in a process group of its own and tied to no parent: it outlives an executor that dies, and ends itself
//! when no other comes. One that comes in time takes it over.

mod leftovers;
mod process;

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tracing::warn;

pub use self::leftovers::clear_leftovers;
use self::{leftovers::Leftover, process::Agent};
use super::{
    AdoptError, Backend, Container, ContainerEvent, Endpoint, StartError,
    ids::{IdRange, UserIds},
};
use crate::{
    id::{ContainerId, PoolName},
    sandbox::{
        agent::{self, Profile},
        client::{Address, Token},
        slot::{empty_trash, have_processes, sweep_cgroups},
    },
    tool::chain,
};

/// How often, and how far apart, what an agent has left is tried to be removed; whoever comes next tries again.
const SWEEPS: u32 = 10;
const SWEEP_INTERVAL: Duration = Duration::from_millis(50);

/// What local containers are to be like.
#[derive(Debug, Clone)]
pub struct LocalConfig {
    /// Holds a directory for each container.
    pub directory: PathBuf,
    /// The agent's program; this one, mostly.
    pub program: PathBuf,
    /// The first user id for slots, where the executor is root.
    pub uid_base: u32,
    pub pools: HashMap<PoolName, Profile>,
    /// The agent's log filter.
    pub log: String,
}

/// The backend of one machine.
pub struct LocalBackend {
    config: LocalConfig,
    ids: UserIds,
    node: String,
    /// Shared with whoever watches over a container.
    running: Arc<Mutex<Vec<Entry>>>,
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
        let ids = UserIds::new(config.uid_base, config.pools.values().map(|profile| profile.slots));
        Self { config, ids, node, running: Arc::default() }
    }

    /// Makes the container's directory and starts its agent there.
    fn launch(
        &self,
        id: &ContainerId,
        pool: &PoolName,
        profile: &Profile,
        directory: &Path,
        ids: &IdRange,
    ) -> Result<(Agent, Endpoint), LaunchError> {
        let step = |step| move |source| LaunchError { step, source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(step("make its directory"))?;
        let token = uuid::Uuid::new_v4().to_string();
        let config = agent::Config {
            uid_base: Some(ids.start()),
            token: token.clone(),
            tls: false,
            pool: pool.to_string(),
            profile: profile.clone(),
        };
        config.store(directory).map_err(|error| step("write its configuration")(io::Error::other(chain(&error))))?;
        let listener = process::bind(directory).map_err(step("bind its socket"))?;
        let agent = Agent::start(&self.config.program, id, directory, listener, &self.config.log)
            .map_err(step("start its agent"))?;
        let address = Address::Unix(directory.join(process::SOCKET));
        Ok((agent, Endpoint::new(address, Token::new(&token))))
    }
}

fn lock(running: &Mutex<Vec<Entry>>) -> MutexGuard<'_, Vec<Entry>> {
    // Each change is whole before the lock is given back.
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, thiserror::Error)]
#[error("could not {step}: {source}")]
struct LaunchError {
    step: &'static str,
    source: io::Error,
}

#[async_trait]
impl Backend for LocalBackend {
    fn name(&self) -> &'static str {
        "local"
    }

    async fn start(&self, pool: &PoolName) -> Result<Container, StartError> {
        let Some(profile) = self.config.pools.get(pool) else {
            return Err(StartError::because(format!("there is no pool `{pool}`")));
        };
        let id = ContainerId::random();
        let directory = self.config.directory.join(id.as_str());
        let ids = self.ids.take_unless(have_processes);
        let (agent, endpoint) = match self.launch(&id, pool, profile, &directory, &ids) {
            Ok(launched) => launched,
            Err(error) => {
                remove(&directory);
                return Err(StartError::because(error.to_string()));
            }
        };
        Ok(self.watch(id, directory, agent, endpoint, ids, None))
    }

    async fn adopt(&self) -> Result<Vec<(PoolName, Container)>, AdoptError> {
        let failed = |error: io::Error| AdoptError { cause: error.to_string(), for_now: false };
        let mut adopted = Vec::new();
        for directory in leftovers::directories(&self.config.directory).map_err(failed)? {
            let Some(Leftover { id, process, told }) = Leftover::find(&directory) else {
                // It has died since the others were cleared away.
                remove(&directory);
                continue;
            };
            let pool = PoolName::new(&told.pool);
            // One more than there are slots: see `UserIds`.
            let ids = self.ids.claim(told.uid_base.unwrap_or_default(), told.slots().saturating_add(1));
            let address = Address::Unix(directory.join(process::SOCKET));
            let agent = Agent::adopt(process).map_err(failed)?;
            let endpoint = Endpoint::new(address, Token::new(&told.token));
            let is_like = |profile| serde_json::to_value(profile).is_ok_and(|profile| profile == told.profile);
            let why = "its settings are not those of its pool any more";
            let draining = (!self.config.pools.get(&pool).is_some_and(is_like)).then(|| why.to_owned());
            adopted.push((pool, self.watch(id, directory, agent, endpoint, ids, draining)));
        }
        Ok(adopted)
    }

    async fn stop(&self, container: &ContainerId) {
        let gone = {
            let running = lock(&self.running);
            let Some(entry) = running.iter().find(|entry| entry.id == *container) else { return };
            entry.stop.send_replace(true);
            entry.gone.clone()
        };
        let mut gone = gone;
        // An error means that the watch has ended, and the container with it.
        let _ = gone.wait_for(|gone| *gone).await;
    }

    async fn close(&self) {}

    async fn leave(&self) {}
}

impl LocalBackend {
    /// Sees to it that nothing is left when the agent ends.
    fn watch(
        &self,
        id: ContainerId,
        directory: PathBuf,
        agent: Agent,
        endpoint: Endpoint,
        ids: IdRange,
        draining: Option<String>,
    ) -> Container {
        // Room for both events that there can be.
        let (events, receiver) = mpsc::channel(2);
        if let Some(why) = draining {
            let _ = events.try_send(ContainerEvent::Draining(why));
        }
        let (stop, stopping) = watch::channel(false);
        let (gone, is_gone) = watch::channel(false);
        lock(&self.running).push(Entry { id: id.clone(), stop, gone: is_gone });
        let all = self.running.clone();
        let watched = id.clone();
        // Ends with the agent.
        tokio::spawn(async move {
            let evidence = agent.wait(&directory, stopping).await;
            // Whoever has stopped it does not listen.
            let _ = events.send(ContainerEvent::Lost(evidence)).await;
            let cleared = tokio::task::spawn_blocking(move || remove(&directory)).await;
            // An agent that was killed has left its control groups; its slots die after it.
            for _ in 0..SWEEPS {
                if !sweep_cgroups() {
                    break;
                }
                tokio::time::sleep(SWEEP_INTERVAL).await;
            }
            if let Err(error) = cleared {
                warn!(error = &error as &dyn std::error::Error, "could not clear a container's directory away");
            }
            drop(ids);
            lock(&all).retain(|entry| entry.id != watched);
            gone.send_replace(true);
        });
        Container { id, node: self.node.clone(), endpoint, events: receiver }
    }
}

/// Removes a container's directory with everything in it. What slots have left there may be nested deeper than this
/// process may open files, and may forbid being looked at: see [`empty_trash`].
fn try_remove(directory: &Path) -> io::Result<()> {
    match empty_trash(directory).and_then(|()| fs::remove_dir(directory)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove(directory: &Path) {
    if let Err(error) = try_remove(directory) {
        warn!(
            directory = %directory.display(),
            error = &error as &dyn std::error::Error,
            "could not remove a container's directory"
        );
    }
}
