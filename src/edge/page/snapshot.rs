//! What a page shows, gathered once for all who look at it.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use super::{
    super::access::Caller,
    history::{History, Recent},
};
use crate::{
    id::TrajectoryKey,
    scheduler::{self, Extent, PoolOverview},
    trajectory::{Counts, Directory, Inspection, Listed},
};

/// Slots of a pool that have a square each; containers beyond them have a bar.
const SLOTS: usize = 1_024;
/// Trajectories that wait, of each pool.
const WAITING: usize = 20;
/// Trajectories of the list.
pub(super) const LISTED: usize = 50;
/// Calls of a trajectory: as many that have ended, and that have not.
pub(super) const CALLS: usize = 100;

/// The service at one moment, as one tenant may see it.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) at: SystemTime,
    pub(super) uptime: Duration,
    pub(super) backend: &'static str,
    pub(super) draining: bool,
    pub(super) counts: Counts,
    pub(super) pools: Vec<PoolOverview>,
    pub(super) recent: Recent,
    /// The first by their ids.
    pub(super) trajectories: Vec<Listed>,
}

/// Where it is gathered.
pub(super) struct Source {
    pub(super) directory: Directory,
    pub(super) scheduler: scheduler::Handle,
    pub(super) history: std::sync::Arc<History>,
    pub(super) backend: &'static str,
    pub(super) started: tokio::time::Instant,
}

impl Source {
    pub(super) async fn snapshot(&self, caller: &Caller) -> Snapshot {
        let tenant = &caller.tenant;
        let extent = Extent { slots: SLOTS, waiting: WAITING };
        let pools = self.scheduler.overview(tenant, extent).await;
        let trajectories = self.directory.list(tenant, &BTreeMap::new(), None, LISTED).await;
        Snapshot {
            at: SystemTime::now(),
            uptime: self.started.elapsed(),
            backend: self.backend,
            draining: self.directory.is_draining(),
            counts: if caller.is_operator { self.directory.counts() } else { self.directory.counts_of(tenant) },
            pools,
            recent: self.history.recent(tenant, caller.is_operator),
            trajectories,
        }
    }

    /// `None` if there is no such trajectory.
    pub(super) async fn trajectory(&self, key: &TrajectoryKey) -> Option<Inspection> {
        self.directory.inspect(key, CALLS).await
    }
}
