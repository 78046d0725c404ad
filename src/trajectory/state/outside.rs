//! Calls of tools that run elsewhere. They need no slot and run beside everything else; what bounds them is room at
//! their source, which the driver asks for.
//!
//! ```text
//! waiting --AskOutside--> asked --room: HandedOver, RunExternal--> running --> ended
//! ```
//!
//! A call that has not been handed over has surely not run; of one that has, only the answer tells.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use super::{Effect, Moment, Stage, State, output::Printed};
use crate::{
    id::{CallId, CallNumber},
    journal::{Errand, Record},
    tool::{Executed, ExternalCall, ExternalEnding, Verdict, job::Phases},
};

/// The calls that are not a slot's.
#[derive(Debug, Default)]
pub(super) struct Outside {
    /// Nobody has asked for room for them.
    pub(super) waiting: VecDeque<CallNumber>,
    /// Room has been asked for.
    pub(super) asked: BTreeSet<CallNumber>,
    pub(super) running: BTreeSet<CallNumber>,
}

impl Outside {
    /// How many have not been handed over.
    pub(super) fn waits(&self) -> usize {
        self.waiting.len() + self.asked.len()
    }

    /// Those, in the order of their coming.
    pub(super) fn numbers(&self) -> Vec<CallNumber> {
        self.asked.iter().chain(&self.waiting).copied().collect()
    }
}

/// A call on its way to whoever has the tool.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::trajectory) struct Outgoing {
    pub(in crate::trajectory) id: CallId,
    pub(in crate::trajectory) call: ExternalCall,
    pub(in crate::trajectory) timeout: Duration,
}

impl State {
    /// Asks for room, in the order of their coming, for as many as may run at once.
    pub(super) fn advance_outside(&mut self, at: Moment) {
        if self.outside.waiting.is_empty() || self.is_held_back(at) {
            return;
        }
        let under_way = self.outside.asked.len() + self.outside.running.len();
        for _ in under_way..self.limits.max_concurrent_calls {
            let Some(number) = self.outside.waiting.pop_front() else { return };
            let Some(Errand::External { call, .. }) = self.ledger.pending_call(number).map(|call| &call.errand) else {
                continue;
            };
            self.effects.push(Effect::AskOutside(number, call.source.clone()));
            self.outside.asked.insert(number);
        }
    }

    /// There is room for the call.
    pub(in crate::trajectory) fn on_outside_room(&mut self, number: CallNumber, at: Moment) {
        if !self.outside.asked.remove(&number) {
            return; // It was cancelled.
        }
        let Some(live) = self.live.get_mut(&number) else { return };
        let Some(Errand::External { call, timeout }) = self.ledger.pending_call(number).map(|call| &call.errand) else {
            return;
        };
        let outgoing = Outgoing { id: live.id.clone(), call: call.clone(), timeout: *timeout };
        live.stage = Stage::Running {
            queued: at.now.saturating_duration_since(live.received),
            slot_wait: Duration::ZERO,
            seen: false,
            printed: Printed::default(),
        };
        self.outside.running.insert(number);
        self.commit(Record::HandedOver(number));
        self.effects.push(Effect::RunExternal(number, Box::new(outgoing)));
        self.settle(at);
    }

    /// The call has ended, one way or the other.
    pub(in crate::trajectory) fn on_external_ended(&mut self, number: CallNumber, ending: ExternalEnding, at: Moment) {
        if self.outside.running.contains(&number) {
            self.end_run(number, ending.end.judge(), ending.phases, at);
            self.settle(at);
        }
    }

    /// The task that had the call has panicked.
    pub(in crate::trajectory) fn on_outside_broken(&mut self, number: CallNumber, cause: &str, at: Moment) {
        if self.outside.running.contains(&number) {
            self.end_run(number, Verdict::external_broken(Executed::Unknown, cause), Phases::default(), at);
        } else if self.outside.asked.contains(&number) {
            self.end_waiting(number, Verdict::external_broken(Executed::No, cause), at);
        }
        self.settle(at);
    }

    /// Whoever had handed calls over is gone, and with it the connection on which their answers would have come.
    pub(super) fn forget_outside(&mut self, at: Moment) {
        for number in std::mem::take(&mut self.outside.running) {
            self.end_run(number, Verdict::external_forgotten(), Phases::default(), at);
        }
    }
}
