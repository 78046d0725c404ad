//! The rules that pools of containers follow. Plain data, checked where settings are read.

use std::time::Duration;

use crate::id::PoolName;

/// The rules of one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    pub name: PoolName,
    /// What a container is expected to have; at least 1.
    pub slots_per_container: u32,
    /// So many containers are kept even if nobody needs them.
    pub min_containers: u32,
    /// Never more than these; at least 1, and at least `min_containers`.
    pub max_containers: u32,
    /// How long a trajectory waits for a slot.
    pub acquire_timeout: Duration,
    /// How long a container that nobody uses is kept.
    pub scale_down_after: Duration,
    /// So many containers start at a time; at least 1.
    pub max_starting: u32,
    /// From asking for a container until its agent answers.
    pub start_timeout: Duration,
    /// Give slots of the container that has the most free ones, rather than of the one that has the fewest: even load,
    /// at the price of containers that never fall idle.
    pub spread: bool,
    /// So many trajectories may wait; 0 refuses whoever finds no free slot.
    pub max_waiting: usize,
}
