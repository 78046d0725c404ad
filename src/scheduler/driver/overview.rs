//! What there is, gathered for whoever asks.

use super::{
    super::{
        core::{self, ContainerKey, PoolKey},
        status::{ContainerState, ContainerStatus, Extent, PoolOverview, PoolStatus, SlotStatus, WaitingStatus},
    },
    Driver, Pool,
};
use crate::id::{Tenant, TrajectoryId};

impl Driver {
    pub(super) fn status(&self) -> Vec<PoolStatus> {
        (0..).map(PoolKey).zip(&self.pools).map(|(key, pool)| self.pool_status(key, pool).0).collect()
    }

    pub(super) fn overview(&self, tenant: &Tenant, extent: Extent) -> Vec<PoolOverview> {
        let pools = (0..).map(PoolKey).zip(&self.pools);
        pools.map(|(key, pool)| self.pool_overview(key, pool, tenant, extent)).collect()
    }

    fn pool_overview(&self, key: PoolKey, pool: &Pool, tenant: &Tenant, extent: Extent) -> PoolOverview {
        let (status, containers) = self.pool_status(key, pool);
        let slot = |(state, owner): (core::SlotState, Option<core::OwnerId>)| SlotStatus {
            state,
            trajectory: owner.and_then(|owner| self.trajectory(owner, tenant)),
        };
        let mut room = extent.slots;
        let shown = containers.iter().zip(&status.containers).take_while(|(_, container)| {
            let fits = container.total_slots as usize <= room;
            room = room.saturating_sub(container.total_slots as usize);
            fits
        });
        let slots = shown.map(|(container, _)| self.core.slots(*container).map(slot).collect()).collect();
        let waiting = (1..).zip(self.core.line(key)).filter_map(|(position, owner)| {
            let trajectory = self.trajectory(owner, tenant)?;
            Some(WaitingStatus { trajectory, position, waited: self.names.waited(owner)? })
        });
        PoolOverview { slots, shortage: self.reason(key), waiting: waiting.take(extent.waiting).collect(), status }
    }

    /// Its id, if it is one of the tenant's.
    fn trajectory(&self, owner: core::OwnerId, tenant: &Tenant) -> Option<TrajectoryId> {
        self.names.key(owner).filter(|key| key.tenant == *tenant).map(|key| key.id.clone())
    }

    /// With the core's names of the containers, in the same order.
    fn pool_status(&self, key: PoolKey, pool: &Pool) -> (PoolStatus, Vec<ContainerKey>) {
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
        let mut containers = Vec::new();
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
            let described = ContainerStatus {
                id: watched.id.clone(),
                node: watched.node.clone(),
                state,
                isolation: watched.agent.as_ref().map_or_else(String::new, |agent| agent.isolation.to_string()),
                total_slots: available + starting + counts.leased + counts.resetting + counts.quarantined,
                available_slots: available,
                since: watched.since,
                limits: watched.agent.as_ref().map_or_else(Vec::new, |agent| agent.limits.clone()),
            };
            containers.push((*container, described));
        }
        containers.sort_by(|(_, one), (_, other)| one.id.cmp(&other.id));
        let (keys, described) = containers.into_iter().unzip();
        status.containers = described;
        status.total_slots = status.available_slots
            + status.acquired_slots
            + status.starting_slots
            + status.resetting_slots
            + status.quarantined_slots;
        (status, keys)
    }
}
