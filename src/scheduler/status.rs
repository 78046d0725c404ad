//! What there is, for people and monitors.

use std::time::{Duration, SystemTime};

use super::core::SlotState;
use crate::{
    id::{ContainerId, PoolName, TrajectoryId},
    tool::limit::SlotLimit,
};

/// One pool at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStatus {
    pub name: PoolName,
    /// The sum of the five below.
    pub total_slots: u32,
    /// Clean, or kept for an owner who is not there.
    pub available_slots: u32,
    pub acquired_slots: u32,
    /// Of containers that start.
    pub starting_slots: u32,
    pub resetting_slots: u32,
    pub quarantined_slots: u32,
    pub waiting_trajectories: u32,
    pub min_containers: u32,
    pub max_containers: u32,
    pub containers: Vec<ContainerStatus>,
    /// Why the last container failed to start, if none has started since.
    pub last_start_failure: Option<String>,
}

/// One container at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerStatus {
    /// None until the backend has named it.
    pub id: Option<ContainerId>,
    /// The machine that it runs on; empty until it is known.
    pub node: String,
    pub state: ContainerState,
    /// The level of isolation of its slots; empty until it is ready.
    pub isolation: String,
    /// Those of its pool that are its own.
    pub total_slots: u32,
    pub available_slots: u32,
    /// When it came into this state.
    pub since: SystemTime,
    /// Of each of its slots; none until it is ready.
    pub limits: Vec<SlotLimit>,
}

/// What a container is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    Starting,
    Ready,
    /// Gives nothing new; or is being stopped.
    Draining,
}

/// How much of each pool an overview shows.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Containers whose slots are told one by one: the first that have not more than this together.
    pub slots: usize,
    /// Of those who wait, the next first.
    pub waiting: usize,
}

/// One pool at one moment, in detail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolOverview {
    pub status: PoolStatus,
    /// Of each of its containers, in their order, as far as there is room for them; none of one that starts.
    pub slots: Vec<Vec<SlotStatus>>,
    /// Why trajectories wait, if any does.
    pub shortage: Option<String>,
    /// Those of the tenant.
    pub waiting: Vec<WaitingStatus>,
}

/// One slot at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotStatus {
    pub state: SlotState,
    /// Whose it is, if that is one of the tenant's.
    pub trajectory: Option<TrajectoryId>,
}

/// One trajectory that waits for a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingStatus {
    pub trajectory: TrajectoryId,
    /// 1 is next, of all tenants.
    pub position: u32,
    pub waited: Duration,
}
