//! Containers as allocations of a Nomad cluster: for each pool one parameterized job is the template, and each container
//! is one dispatched child of it. No other way of Nomad's to run many of a kind lets one say which of them is to go.
//!
//! ```text
//! start -> launch: ensure the template, dispatch, find the address -> Container (its name is the allocation's ID)
//! adopt -> the children of an executor of this name, from their meta
//! stop  -> ending: stop the child, wait until it is terminal, purge it
//!
//! Nomad --events, lists--> watch --> registry (a sight of each child) --> follow --> draining, trouble, lost
//! ```
//!
//! A child that bears this executor's name and is not known is ended; other executors' are left alone.

mod adopt;
pub mod api;
mod cause;
mod credentials;
mod ending;
mod follow;
mod inspect;
mod launch;
mod registry;
mod sight;
mod spec;
mod template;
mod templates;
#[cfg(test)]
mod testing;
mod watch;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::Notify, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use self::{
    api::{Client, ClientError},
    registry::Registry,
    template::EXECUTOR,
    watch::Watch,
};
pub use self::{
    inspect::{Finding, Verdict, inspect},
    spec::{AgentDelivery, Constraint, ContainerSpec, Driver, NomadConfig, NomadPool, Program},
};
use super::{AdoptError, Backend, Container, StartError, ids::UserIds};
use crate::id::{ContainerId, PoolName};

/// For what is still being ended when the backend closes, and for the templates.
const CLOSING: Duration = Duration::from_secs(10);

/// The backend of a cluster.
pub struct NomadBackend {
    shared: Arc<Shared>,
}

struct Shared {
    config: NomadConfig,
    client: Client,
    registry: Arc<Registry>,
    ids: UserIds,
    /// Templates that are as they should be.
    ensured: tokio::sync::Mutex<HashSet<String>>,
    /// Endings and followers; each ends by itself.
    tasks: TaskTracker,
    /// Asks for a look at the list.
    nudge: Notify,
    /// What is left has been adopted, so that the rest is nobody's.
    sweeps: AtomicBool,
    closing: CancellationToken,
}

impl NomadBackend {
    /// Begins to watch.
    ///
    /// # Errors
    /// If a certificate or a key cannot be used.
    pub fn new(config: NomadConfig) -> Result<Self, ClientError> {
        let shared = Arc::new(Shared {
            client: Client::new(&config.client)?,
            registry: Arc::new(Registry::new(config.address_rewrite.clone())),
            ids: UserIds::new(config.uid_base, config.pools.iter().map(|pool| pool.profile.slots)),
            ensured: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
            nudge: Notify::new(),
            sweeps: AtomicBool::new(false),
            closing: CancellationToken::new(),
            config,
        });
        shared.tasks.spawn(Watch::new(shared.clone()).run());
        Ok(Self { shared })
    }
}

impl Shared {
    /// Those whose `selector` is one of the templates.
    fn filter(&self, selector: &str) -> String {
        let one = |pool| format!("{selector} == \"{}\"", template::id(&self.config, pool));
        self.config.pools.iter().map(one).collect::<Vec<_>>().join(" or ")
    }

    /// Jobs that are this executor's.
    fn own_children(&self) -> String {
        format!("({}) and Meta.{EXECUTOR} == \"{}\"", self.filter("ParentID"), self.config.executor_id)
    }

    fn may_sweep(&self) -> bool {
        self.sweeps.load(Ordering::Relaxed)
    }

    fn sweep_from_now_on(&self) {
        self.sweeps.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl Backend for NomadBackend {
    fn name(&self) -> &'static str {
        "nomad"
    }

    async fn start(&self, pool: &PoolName) -> Result<Container, StartError> {
        match self.shared.config.pools.iter().find(|known| known.name == *pool) {
            Some(pool) => self.shared.launch(pool).await,
            None => Err(StartError::because(format!("there is no pool `{pool}`"))),
        }
    }

    async fn adopt(&self) -> Result<Vec<(PoolName, Container)>, AdoptError> {
        self.shared
            .adopt()
            .await
            .map_err(|error| AdoptError { for_now: error.is_transient(), cause: error.to_string() })
    }

    async fn stop(&self, container: &ContainerId) {
        if let Some(child) = self.shared.registry.child_of(container) {
            self.shared.end(&child).await;
        }
    }

    fn requests(&self) -> Vec<api::Requests> {
        self.shared.client.requests()
    }

    async fn leave(&self) {
        // What the next executor starts is not this one's to end.
        self.shared.closing.cancel();
    }

    async fn close(&self) {
        for child in self.shared.registry.children() {
            self.shared.end_soon(child);
        }
        self.shared.closing.cancel();
        self.shared.tasks.close();
        let rest = async {
            self.shared.tasks.wait().await;
            if self.shared.config.purge_on_shutdown
                && let Err(error) = self.shared.remove_templates().await
            {
                warn!(error = &error as &dyn std::error::Error, "could not remove the templates");
            }
        };
        if timeout(CLOSING, rest).await.is_err() {
            warn!("not all has been seen to end in {CLOSING:?}: agents without an executor end by themselves");
        }
    }
}
