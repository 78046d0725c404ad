//! What Nomad says, as far as anybody here reads it. Every field may be missing: empty ones are left out in some
//! answers, and `null` in others.

mod agent;
mod allocation;
mod evaluation;
mod job;
mod node;

use serde::{Deserialize, Deserializer};

pub use self::{
    agent::{AgentSelf, SelfToken},
    allocation::{
        AllocatedResources, Allocation, DesiredTransition, Network, Port, SharedResources, TaskEvent, TaskState,
    },
    evaluation::{Evaluation, PlacementFailure},
    job::{Dispatch, Dispatched, Job, JobStub, ParameterizedJob, Registered, Stopped, Validation},
    node::{Driver, NodeCpu, NodeMemory, NodeResources, NodeStub},
};

/// A list, and the state of the cluster that it is of.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed<T> {
    pub value: T,
    /// To wait for what comes after it: at least 1.
    pub index: u64,
}

/// `null` is what a missing one would be.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An empty text is none.
fn not_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}
