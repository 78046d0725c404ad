//! Where containers come from. A backend starts and stops containers and says when one has ended; it yields the
//! address of each one's agent and never sees a tool call.

mod ids;
mod local;
pub mod nomad;

use async_trait::async_trait;
use tokio::sync::mpsc;

pub use self::{
    local::{LocalBackend, LocalConfig, clear_leftovers},
    nomad::{
        AgentDelivery, Constraint, ContainerSpec, Driver, Finding, NomadBackend, NomadConfig, NomadPool, Program,
        Verdict,
        api::{Address as NomadAddress, ClientConfig as NomadClientConfig, ClientError, HttpAuth, Requests},
        inspect as inspect_nomad,
    },
};
pub use crate::sandbox::client::{Address, Endpoint, Token};
use crate::{
    id::{ContainerId, PoolName},
    tool::Evidence,
};

/// Starts containers, somewhere.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// For status: `local` or `nomad`.
    fn name(&self) -> &'static str;

    /// Starts one container of the pool. Returns once its agent has an address, which may be before it answers there.
    ///
    /// Whoever waits may stop waiting, at a timeout or at the end: a start that is dropped leaves nothing running.
    async fn start(&self, pool: &PoolName) -> Result<Container, StartError>;

    /// Containers of this executor that run already, left by one before it, each with its pool. Asked before anything is
    /// started, and again after an error that is one for now. The caller stops those that it does not want.
    async fn adopt(&self) -> Result<Vec<(PoolName, Container)>, AdoptError>;

    /// Ends the container and everything in it; returns when it is gone. Stopping what is gone already succeeds.
    async fn stop(&self, container: &ContainerId);

    /// Clears away what there is beside containers. Called once, when all of them have been stopped.
    async fn close(&self);

    /// What it has asked others for so far, and how that went. Empty where it asks nobody.
    fn requests(&self) -> Vec<Requests> {
        Vec::new()
    }

    /// Leaves all there is to an executor to come, and does nothing by itself any more. Called once, instead of
    /// [`Self::close`].
    async fn leave(&self);
}

/// A container that has been started.
pub struct Container {
    pub id: ContainerId,
    /// The machine that it runs on, for people.
    pub node: String,
    pub endpoint: Endpoint,
    /// Closed after `Lost`.
    pub events: mpsc::Receiver<ContainerEvent>,
}

/// What a backend sees of a container from outside.
#[derive(Debug, Clone)]
pub enum ContainerEvent {
    /// It will be taken away, for this reason: give it nothing new.
    Draining(String),
    /// Something is wrong that is not its end, and that its end may come of; or is so no more.
    Trouble(Option<String>),
    /// It is gone.
    Lost(Evidence),
}

/// It cannot be told what runs.
#[derive(Debug, Clone, thiserror::Error)]
#[error("could not look for what an earlier executor has left: {cause}")]
pub struct AdoptError {
    pub cause: String,
    /// It may go well later.
    pub for_now: bool,
}

/// A container could not be started.
#[derive(Debug, Clone, thiserror::Error)]
#[error("could not start a container: {}", evidence.cause)]
pub struct StartError {
    pub evidence: Evidence,
}

impl StartError {
    fn because(cause: impl Into<String>) -> Self {
        Self { evidence: Evidence { cause: cause.into(), ..Evidence::default() } }
    }
}
