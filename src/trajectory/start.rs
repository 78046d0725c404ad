//! Trajectories that begin, and those that go on where an executor before this one has left them.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use tokio::sync::oneshot;
use tracing::error;

use super::{
    accounts::Allowance,
    request::Limits,
    state::{Moment, State},
    totals::Holdings,
};
use crate::{
    id::{TraceParent, TrajectoryKey},
    journal::{Entry, Recovered},
    scheduler::{Claim, Reclaimed},
    tool::Evidence,
};

/// A trajectory that is about to have a task of its own: see [`Directory::new`](super::Directory::new).
pub struct Start {
    pub(super) key: TrajectoryKey,
    pub(super) state: State,
    pub(super) journal: Entry,
    /// Of whoever asked for it; after a restart nobody knows.
    pub(super) trace: Option<Arc<TraceParent>>,
    /// Whether the slot that it had is still its own; none if it had none.
    pub(super) reclaim: Option<oneshot::Receiver<Result<Reclaimed, Arc<Evidence>>>>,
}

/// Makes trajectories of their records, and a claim of each slot that one of them had.
pub fn restore(recovered: Vec<Recovered>, limits: &Arc<Limits>) -> (Vec<Start>, Vec<Claim>) {
    let mut claims = Vec::new();
    let at = Moment {
        now: Instant::now(),
        wall: SystemTime::now(),
        others: Holdings::default(),
        tenant: Allowance::default(),
        can_record: true,
    };
    let restored = recovered.into_iter().filter_map(|Recovered { key, entry, records, is_complete }| {
        let Some(state) = State::restore(limits.clone(), records, at) else {
            error!(trajectory = %key, "the journal does not have the beginning of a trajectory: it is forgotten");
            entry.end();
            return None;
        };
        let reclaim = state.wanted_slot().map(|(location, generation)| {
            let (reply, answer) = oneshot::channel();
            let (location, opening) = ((*location).clone(), state.opening());
            claims.push(Claim { owner: key.clone(), location, generation, opening, is_complete, reply });
            answer
        });
        Some(Start { key, state, journal: entry, trace: None, reclaim })
    });
    (restored.collect(), claims)
}
