//! What the backend is told: plain data.

use std::time::Duration;

use super::api::ClientConfig;
use crate::{
    id::PoolName,
    sandbox::{agent::Profile, client::Token},
};

/// The backend's settings.
#[derive(Debug, Clone)]
pub struct NomadConfig {
    pub client: ClientConfig,
    /// Tells this executor's containers from another's.
    pub executor_id: String,
    /// Of the default pool's template; the others' begin with it.
    pub job_id: String,
    /// What agents are opened with is made from it.
    pub secret: Token,
    pub pools: Vec<NomadPool>,
    /// The first user id for slots.
    pub uid_base: u32,
    /// What executor and agents say to each other is encrypted.
    pub agent_tls: bool,
    /// The agent's program, where pools have it downloaded.
    pub program: Option<Program>,
    /// The agents' log filter.
    pub log: String,
    /// How long a container may wait for a node that has room.
    pub placement_timeout: Duration,
    /// When Nomad counts a container as lost whose node is cut off.
    pub lost_after: Duration,
    /// From the hosts that Nomad tells to those by which agents are reached from here.
    pub address_rewrite: Vec<(String, String)>,
    /// End what an executor before this one has left, rather than adopt it.
    pub purge_on_start: bool,
    /// Remove the templates at the end, unless another executor has containers of them.
    pub purge_on_shutdown: bool,
}

/// A pool, as the backend knows it.
#[derive(Debug, Clone)]
pub struct NomadPool {
    pub name: PoolName,
    /// So many are wanted at any time.
    pub min_containers: u32,
    pub container: ContainerSpec,
    pub profile: Profile,
}

/// A file that Nomad's clients can download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub url: String,
    /// In hexadecimal.
    pub sha256: String,
}

/// What a container is under Nomad.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSpec {
    pub image: String,
    pub driver: Driver,
    pub privileged: bool,
    /// In MHz.
    pub cpu: u32,
    pub memory_bytes: u64,
    /// Up to which it may go where the node has more (memory oversubscription).
    pub memory_max_bytes: Option<u64>,
    pub datacenters: Vec<String>,
    pub node_pool: Option<String>,
    pub constraints: Vec<Constraint>,
    /// Of the Docker driver: `host`, or the name of a network.
    pub network_mode: Option<String>,
    /// Laid over what the executor tells the driver.
    pub driver_config: serde_json::Map<String, serde_json::Value>,
    pub agent: AgentDelivery,
    /// Where the agent's program is, if it is there already.
    pub agent_path: String,
}

/// What runs a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Driver {
    #[default]
    Docker,
    /// A process of the node as it is.
    RawExec,
    /// A process of the node in a root of its own.
    Exec,
    /// `apptainer exec`, started as a process of the node.
    Apptainer,
}

/// How the agent's program comes into a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AgentDelivery {
    /// Nomad downloads it from this executor.
    #[default]
    Artifact,
    /// It is there, at a path of the image, or of the node where there is no image.
    Present,
}

/// Which nodes may run a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Constraint {
    pub attribute: String,
    pub operator: String,
    pub value: String,
}
