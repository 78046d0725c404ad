//! A trajectory as a list of them shows it.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use super::{Slot, State};
use crate::{id::Generation, journal::Options, tool::Location};

/// What a list of trajectories says of one.
#[derive(Debug, Clone)]
pub struct Description {
    pub options: Arc<Options>,
    pub open: bool,
    pub attached: bool,
    pub generation: Generation,
    pub waiting: usize,
    pub running: usize,
    pub finished: u64,
    /// Set while nothing keeps it alive.
    pub lease_ends: Option<Instant>,
    /// Of the slot that it holds.
    pub location: Option<Location>,
    pub opened_at: SystemTime,
}

impl State {
    pub(in crate::trajectory) fn describe(&self) -> Description {
        let (waiting, running) = self.load();
        Description {
            options: self.ledger.options.clone(),
            open: self.is_open(),
            attached: self.stream.is_some(),
            generation: self.ledger.generation,
            waiting,
            running,
            finished: self.ledger.last_sequence().0,
            lease_ends: self.deadline(),
            location: match &self.slot {
                Slot::Held { place, .. } => Some(place.location.clone()),
                Slot::None | Slot::Waiting | Slot::Reclaimed => None,
            },
            opened_at: self.ledger.opened_at,
        }
    }
}
