//! Slots that trajectories have had under an executor before this one.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::oneshot;

use super::lease::Lease;
use crate::{
    id::{CallNumber, Generation, TrajectoryKey},
    sandbox::client::{Held, Wanted},
    tool::{Evidence, Location},
};

/// A slot that a trajectory had, and wants back.
pub struct Claim {
    pub owner: TrajectoryKey,
    pub location: Location,
    pub generation: Generation,
    /// If nothing is answered, everything has ended.
    pub reply: oneshot::Sender<Result<Reclaimed, Arc<Evidence>>>,
}

/// It is the trajectory's again.
pub struct Reclaimed {
    pub lease: Lease,
    pub location: Location,
    /// The name of its level of isolation.
    pub isolation: Arc<str>,
    pub network_isolated: bool,
    /// Calls that the agent was given in this workspace, each of which runs or will, or whose end it will tell again.
    pub calls: BTreeSet<CallNumber>,
    /// No other call can have run there, and not been heard of.
    pub is_exact: bool,
}

/// A claim that the agent has confirmed.
pub(super) struct Confirmed {
    pub(super) claim: Claim,
    pub(super) held: Held,
    pub(super) is_exact: bool,
}

impl Claim {
    pub(super) fn wanted(&self) -> Wanted {
        Wanted { slot: self.location.slot, owner: self.owner.clone(), generation: self.generation }
    }

    /// The slot cannot be had. `evidence` is about its container.
    pub(super) fn refuse(self, evidence: &Evidence) {
        let location = Some(self.location);
        // A trajectory that has gone on without it needs no answer.
        let _ = self.reply.send(Err(Arc::new(Evidence { location, ..evidence.clone() })));
    }
}
