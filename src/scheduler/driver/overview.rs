//! What there is, gathered for whoever asks.

use super::{
    super::{
        core::{self, PoolKey},
        status::{ContainerState, ContainerStatus, PoolStatus},
    },
    Driver, Pool,
};

impl Driver {
    pub(super) fn status(&self) -> Vec<PoolStatus> {
        (0..).map(PoolKey).zip(&self.pools).map(|(key, pool)| self.pool_status(key, pool)).collect()
    }

    fn pool_status(&self, key: PoolKey, pool: &Pool) -> PoolStatus {
        let mut status = PoolStatus {
            name: pool.config.name.clone(),
            total_slots: 0,
            available_slots: 0,
            acquired_slots: 0,
            starting_slots: 0,
            resetting_slots: 0,
            quarantined_slots: 0,
            waiting_trajectories: self.core.waiting(key),
            min_containers: pool.config.min_containers,
            max_containers: pool.config.max_containers,
            containers: Vec::new(),
            last_start_failure: pool.last_start_failure.as_ref().map(|evidence| evidence.cause.clone()),
        };
        for (container, watched) in self.containers.iter().filter(|(container, _)| container.pool() == key) {
            let counts = self.core.slot_counts(*container).unwrap_or_default();
            let (state, starting, available) = match self.core.container_state(*container) {
                Some(core::ContainerState::Starting) => (ContainerState::Starting, pool.config.slots_per_container, 0),
                Some(core::ContainerState::Ready) => (ContainerState::Ready, 0, counts.clean + counts.kept),
                // What is free in it is there for nobody.
                Some(core::ContainerState::Draining | core::ContainerState::Stopping) => {
                    (ContainerState::Draining, 0, 0)
                }
                // It is being cleared away.
                None => continue,
            };
            status.starting_slots += starting;
            status.available_slots += available;
            status.acquired_slots += counts.leased;
            status.resetting_slots += counts.resetting;
            status.quarantined_slots += counts.quarantined;
            status.containers.push(ContainerStatus {
                id: watched.id.clone(),
                node: watched.node.clone(),
                state,
                isolation: watched.agent.as_ref().map_or_else(String::new, |agent| agent.isolation.to_string()),
                total_slots: available + starting + counts.leased + counts.resetting + counts.quarantined,
                available_slots: available,
                since: watched.since,
                limits: watched.agent.as_ref().map_or_else(Vec::new, |agent| agent.limits.clone()),
            });
        }
        status.containers.sort_by(|one, other| one.id.cmp(&other.id));
        status.total_slots = status.available_slots
            + status.acquired_slots
            + status.starting_slots
            + status.resetting_slots
            + status.quarantined_slots;
        status
    }
}
