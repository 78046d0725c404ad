//! What the scheduler says of its pools.

use std::time::SystemTime;

use crate::id::{ContainerId, PoolName};

/// A pool; `total_slots` is the sum of the five counts below it.
#[derive(Debug, Clone)]
pub struct PoolStatus {
    pub name: PoolName,
    pub total_slots: u32,
    pub available_slots: u32,
    pub acquired_slots: u32,
    pub starting_slots: u32,
    pub resetting_slots: u32,
    pub quarantined_slots: u32,
    pub waiting_trajectories: u32,
    pub min_containers: u32,
    pub max_containers: u32,
    pub containers: Vec<ContainerStatus>,
    /// Why the last container could not be started, if none has been since.
    pub last_start_failure: Option<String>,
}

#[derive(Debug, Clone)]
pub struct ContainerStatus {
    /// None until it has one.
    pub id: Option<ContainerId>,
    pub node: String,
    pub state: ContainerState,
    pub isolation: String,
    pub total_slots: u32,
    pub available_slots: u32,
    /// When it came into this state.
    pub since: SystemTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    Starting,
    Ready,
    Draining,
}
