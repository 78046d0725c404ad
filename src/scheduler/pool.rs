//! A pool as its driver knows it: the core, which knows numbers, and the names and connections behind them.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    config::PoolConfig,
    core::{ContainerKey, Core, Phase, Ticket},
    handle::{Outcome, Position},
    status::{ContainerState, ContainerStatus, PoolStatus},
};
use crate::{
    id::{ContainerId, TrajectoryKey},
    sandbox::client::Link,
    tool::Evidence,
};

pub(super) struct Pool {
    pub(super) config: PoolConfig,
    pub(super) core: Core<TrajectoryKey>,
    pub(super) waiting: HashMap<Ticket, Waiter>,
    pub(super) containers: HashMap<ContainerKey, Known>,
    pub(super) last_failure: Option<Arc<Evidence>>,
}

pub(super) struct Waiter {
    pub(super) waiter: u64,
    pub(super) owner: TrajectoryKey,
    pub(super) positions: mpsc::Sender<Position>,
    pub(super) told: Option<u32>,
    pub(super) outcome: Outcome,
}

/// A container as the world sees it.
pub(super) struct Known {
    pub(super) stop: CancellationToken,
    pub(super) since: SystemTime,
    pub(super) ready: Option<Ready>,
}

pub(super) struct Ready {
    pub(super) id: ContainerId,
    pub(super) node: String,
    pub(super) link: Link,
    pub(super) isolation: Arc<str>,
    pub(super) network_isolated: bool,
}

impl Pool {
    pub(super) fn new(config: PoolConfig) -> Self {
        Self {
            core: Core::new(config.clone()),
            config,
            waiting: HashMap::new(),
            containers: HashMap::new(),
            last_failure: None,
        }
    }

    /// Why nobody gets a slot just now.
    pub(super) fn reason(&self) -> Option<String> {
        if let Some(failure) = &self.last_failure {
            return Some(format!("a container could not be started: {}", failure.cause));
        }
        let counts = self.core.counts();
        if counts.containers_starting > 0 {
            return Some(format!("{} containers are starting", counts.containers_starting));
        }
        let full = counts.containers >= self.config.max_containers;
        full.then(|| format!("every slot is taken, and the pool has its {} containers", self.config.max_containers))
    }

    /// Tells somebody who waits where they stand, if that is news.
    pub(super) fn tell(&mut self, ticket: Ticket, position: u32, reason: Option<String>) {
        if let Some(waiter) = self.waiting.get_mut(&ticket)
            && waiter.told != Some(position)
            && waiter.positions.try_send(Position { position, reason }).is_ok()
        {
            waiter.told = Some(position);
        }
    }

    /// For whoever asks how it is.
    pub(super) fn status(&self) -> PoolStatus {
        let pool = self;
        let counts = pool.core.counts();
        let mut containers: Vec<ContainerStatus> = pool
            .containers
            .iter()
            .filter_map(|(key, known)| {
                let state = match pool.core.phase(*key)? {
                    Phase::Starting => ContainerState::Starting,
                    Phase::Ready => ContainerState::Ready,
                    Phase::Draining | Phase::Ending => ContainerState::Draining,
                };
                let ready = known.ready.as_ref();
                Some(ContainerStatus {
                    id: ready.map(|ready| ready.id.clone()),
                    node: ready.map(|ready| ready.node.clone()).unwrap_or_default(),
                    state,
                    isolation: ready.map(|ready| ready.isolation.to_string()).unwrap_or_default(),
                    total_slots: pool.config.slots_per_container,
                    available_slots: pool.core.container_counts(*key).unwrap_or_default().available,
                    since: known.since,
                })
            })
            .collect();
        containers.sort_by(|a, b| a.id.cmp(&b.id));
        PoolStatus {
            name: pool.config.name.clone(),
            total_slots: counts.available + counts.acquired + counts.starting + counts.resetting + counts.quarantined,
            available_slots: counts.available,
            acquired_slots: counts.acquired,
            starting_slots: counts.starting,
            resetting_slots: counts.resetting,
            quarantined_slots: counts.quarantined,
            waiting_trajectories: u32::try_from(counts.waiting).unwrap_or(u32::MAX),
            min_containers: pool.config.min_containers,
            max_containers: pool.config.max_containers,
            containers,
            last_start_failure: pool.last_failure.as_ref().map(|evidence| evidence.cause.clone()),
        }
    }
}
