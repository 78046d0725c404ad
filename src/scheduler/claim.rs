//! Slots that trajectories have had under an executor before this one, and who had them.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::oneshot;

use super::lease::Lease;
use crate::{
    id::{CallNumber, Generation, Opening, PoolName, TrajectoryKey},
    sandbox::client::Wanted,
    tool::{Evidence, Location},
};

/// A slot that a trajectory had, and wants back.
pub struct Claim {
    pub owner: TrajectoryKey,
    pub location: Location,
    pub generation: Generation,
    pub opening: Opening,
    /// All that was written of it is known: see [`Wanted::is_complete`].
    pub is_complete: bool,
    /// If nothing is answered, the scheduler has ended.
    pub reply: oneshot::Sender<Result<Reclaimed, Arc<Evidence>>>,
}

/// It is the trajectory's again.
pub struct Reclaimed {
    pub lease: Lease,
    pub location: Location,
    /// The name of its level of isolation.
    pub isolation: Arc<str>,
    pub network_isolated: bool,
    /// Calls that have arrived at the agent, each of which runs there, or its end is told (again).
    pub calls: BTreeSet<CallNumber>,
    /// Any other call has never arrived there, or its end was acknowledged. Else that is not known of the others: the
    /// agent is of a build that does not tell.
    pub is_exact: bool,
}

/// To whom an executor before this one has given a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerOwner {
    pub key: TrajectoryKey,
    pub pool: PoolName,
    /// Of the workspace there.
    pub generation: Generation,
}

/// Of one container. What nobody claims of it is about to be emptied.
#[derive(Debug)]
pub struct FormerOwners {
    pub owners: Vec<FormerOwner>,
    /// It is once this is answered, or dropped.
    pub heard: oneshot::Sender<()>,
}

impl Claim {
    pub(super) fn wanted(&self) -> Wanted {
        let Self { owner, generation, opening, is_complete, .. } = self;
        let (slot, owner) = (self.location.slot, owner.clone());
        Wanted { slot, owner, generation: *generation, opening: *opening, is_complete: *is_complete }
    }

    /// The slot cannot be had. `evidence` is about its container.
    pub(super) fn refuse(self, evidence: &Evidence) {
        let location = Some(self.location);
        // A trajectory that has gone on without it needs no answer.
        let _ = self.reply.send(Err(Arc::new(Evidence { location, ..evidence.clone() })));
    }

    /// The slot cannot be had, for this reason.
    pub(super) fn refuse_because(self, cause: impl Into<String>) {
        self.refuse(&Evidence { cause: cause.into(), ..Evidence::default() });
    }
}
