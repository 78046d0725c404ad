//! What a pool of containers is to be like.

use std::time::Duration;

use crate::id::PoolName;

/// The settings of one pool.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    pub name: PoolName,
    pub slots_per_container: u32,
    pub min_containers: u32,
    pub max_containers: u32,
    /// How long a trajectory waits for a slot.
    pub acquire_timeout: Duration,
    /// A container without a lease for so long is stopped, as far as `min_containers` allows.
    pub scale_down_after: Duration,
    /// Containers that may be starting at a time.
    pub max_starting: u32,
    /// From the start of a container until its agent answers.
    pub start_timeout: Duration,
    /// Put new leases where most slots are free, rather than where fewest are.
    pub spread: bool,
    /// Trajectories that may wait for a slot.
    pub max_waiting: usize,
}
