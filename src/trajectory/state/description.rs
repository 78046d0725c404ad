//! A trajectory as a list of them shows it, and as whoever looks at it alone.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{Moment, Slot, Stage, State};
use crate::{
    id::{CallId, Generation, Sequence},
    journal::{AcceptedCall, Options},
    tool::{CallResult, Location, ToolLabel},
};

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

/// What there is to see of one trajectory.
#[derive(Debug, Clone)]
pub struct Inspection {
    pub description: Description,
    /// The latest of those that are kept, oldest first.
    pub results: Vec<Arc<CallResult>>,
    /// That wait and run, in the order of their coming, the first of them.
    pub live: Vec<LiveCall>,
}

/// One call that was accepted and has not ended.
#[derive(Debug, Clone)]
pub struct LiveCall {
    pub id: CallId,
    pub tool: ToolLabel,
    pub received_at: SystemTime,
    /// Its phases follow one another: so far.
    pub queued: Duration,
    pub slot_wait: Duration,
    /// Since it was handed over, if it was.
    pub running: Option<Duration>,
}

impl State {
    /// At most `limit` of those that have ended, and of those that have not.
    pub(in crate::trajectory) fn inspect(&self, limit: usize, at: Moment) -> Inspection {
        let skipped = self.ledger.kept_results().saturating_sub(limit);
        let live = self.ledger.pending_calls().take(limit);
        Inspection {
            description: self.describe(),
            results: self.ledger.results_after(Sequence(0)).skip(skipped).cloned().collect(),
            live: live.filter_map(|pending| self.live_call(&pending.call, at)).collect(),
        }
    }

    fn live_call(&self, call: &AcceptedCall, at: Moment) -> Option<LiveCall> {
        let live = self.live.get(&call.number)?;
        let total = at.now.saturating_duration_since(live.received);
        let (queued, slot_wait, running) = match live.stage {
            Stage::Running { queued, slot_wait, .. } => {
                (queued, slot_wait, Some(total.saturating_sub(queued + slot_wait)))
            }
            Stage::Waiting => {
                let slot_wait = live.turn.map_or(Duration::ZERO, |turn| at.now.saturating_duration_since(turn));
                (total.saturating_sub(slot_wait), slot_wait, None)
            }
        };
        let (id, tool) = (live.id.clone(), live.tool.clone());
        Some(LiveCall { id, tool, received_at: call.received_at, queued, slot_wait, running })
    }

    /// Of the slot that it holds.
    pub(super) fn location(&self) -> Option<&Location> {
        match &self.slot {
            Slot::Held { place, .. } => Some(&place.location),
            Slot::None | Slot::Waiting | Slot::Reclaimed => None,
        }
    }

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
            location: self.location().cloned(),
            opened_at: self.ledger.opened_at,
        }
    }
}
