//! Where containers come from. A backend starts and stops containers and says when one has ended; it yields the
//! address of each one's agent and never sees a tool call.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use tokio::sync::mpsc;

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
    async fn start(&self, pool: &PoolName) -> Result<Container, StartError>;

    /// Ends the container and everything in it; returns when it is gone. Stopping what is gone already succeeds.
    async fn stop(&self, container: &ContainerId);
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

/// How to reach an agent.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub address: Address,
    pub token: Token,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
}

/// A shared secret, which is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

impl Token {
    pub fn new(secret: &str) -> Self {
        Self(secret.into())
    }

    /// For whoever must send or compare it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(***)")
    }
}

/// What a backend sees of a container from outside.
#[derive(Debug, Clone)]
pub enum ContainerEvent {
    /// It will be taken away: give it nothing new.
    Draining,
    /// It is gone.
    Lost(Evidence),
}

/// A container could not be started.
#[derive(Debug, Clone, thiserror::Error)]
#[error("could not start a container: {}", evidence.cause)]
pub struct StartError {
    pub evidence: Evidence,
}
