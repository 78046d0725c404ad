//! How calls end: a result in the log, sent to whoever waits for it; and what the log lets go of.

use std::{sync::Arc, time::Duration};

use super::{
    super::observer::{Answered, Failed},
    Effect, Moment, Stage, State,
};
use crate::{
    id::{CallNumber, Sequence},
    journal::Record,
    tool::{CallResult, Outcome, Timings, ToolLabel, Verdict, job::Phases},
};

impl State {
    /// Ends a call that was never handed over.
    pub(super) fn end_waiting(&mut self, number: CallNumber, verdict: Verdict, at: Moment) {
        if self.outside.asked.remove(&number) {
            self.effects.push(Effect::DropExternal(number));
        }
        for line in [&mut self.in_order, &mut self.beside, &mut self.outside.waiting] {
            // They are numbered as they come.
            if let Ok(index) = line.binary_search(&number) {
                line.remove(index);
            }
        }
        self.end(number, verdict, Phases::default(), at);
    }

    /// Of those that wait for a slot.
    pub(super) fn end_all_waiting(&mut self, verdict: Verdict, at: Moment) {
        let mut waiting: Vec<CallNumber> = self.in_order.drain(..).chain(self.beside.drain(..)).collect();
        waiting.sort_unstable();
        waiting.into_iter().for_each(|number| self.end(number, verdict.clone(), Phases::default(), at));
    }

    /// Of those that wait for a tool elsewhere.
    pub(super) fn end_all_waiting_outside(&mut self, verdict: Verdict, at: Moment) {
        self.outside.numbers().into_iter().for_each(|number| self.end_waiting(number, verdict.clone(), at));
    }

    /// Ends a call that was handed over.
    pub(super) fn end_run(&mut self, number: CallNumber, verdict: Verdict, phases: Phases, at: Moment) {
        self.running_in_order.take_if(|running| *running == number);
        self.outside.running.remove(&number);
        self.end(number, verdict, phases, at);
    }

    fn end(&mut self, number: CallNumber, verdict: Verdict, phases: Phases, at: Moment) {
        let Some(live) = self.live.remove(&number) else { return };
        let Some(call) = self.ledger.pending_call(number).cloned() else { return };
        self.live_bytes -= live.bytes;
        self.forget_printed(&live);
        let total = at.now.saturating_duration_since(live.received);
        let (queued, slot_wait) = match live.stage {
            // It has waited for others of its kind alone.
            Stage::Waiting if live.is_external => (total, Duration::ZERO),
            Stage::Waiting => {
                let turn = live.turn.unwrap_or(at.now);
                (turn.saturating_duration_since(live.received), at.now.saturating_duration_since(turn))
            }
            Stage::Running { queued, slot_wait, .. } => (queued, slot_wait),
        };
        let timings = timings(call.received_at, total, queued, slot_wait, phases);
        let sequence = self.ledger.last_sequence().next();
        let result = Arc::new(verdict.into_result(live.id, sequence, self.ledger.generation, timings));
        self.count(live.tool, &result);
        self.commit(Record::Ended { call: live.hash, result: result.clone() });
        for waiter in live.waiters {
            self.answer(Some(waiter), result.clone(), false);
        }
        self.answer(None, result, false);
        self.trim();
    }

    /// Lets go of the oldest results that have been sent, down to the trajectory's own bounds.
    pub(super) fn trim(&mut self) {
        let (max_results, max_bytes) = (self.limits.max_kept_results, self.limits.max_kept_result_bytes);
        self.let_go(|results, bytes| results > max_results || bytes > max_bytes);
    }

    /// All trajectories together hold nearly too much: those that can let go do so, one after the other.
    pub(in crate::trajectory) fn on_pressure(&mut self, at: Moment) {
        let (others, pressing) = (at.others.kept_bytes + self.printed_bytes, self.limits.pressing_result_bytes());
        self.let_go(|_, bytes| others + bytes >= pressing);
        self.settle(at);
    }

    /// Whether it has results that it need not keep.
    pub(in crate::trajectory) fn can_let_go(&self) -> bool {
        self.ledger.sent_results().next().is_some()
    }

    /// Lets go of the oldest results that have been sent for as long as what is kept, their number and their bytes, is
    /// too much.
    fn let_go(&mut self, too_much: impl Fn(usize, u64) -> bool) {
        let mut results = self.ledger.kept_results();
        let mut bytes = self.ledger.kept_bytes();
        let mut through = Sequence(0);
        for kept in self.ledger.sent_results() {
            if !too_much(results, bytes) {
                break;
            }
            through = kept.sequence;
            results -= 1;
            bytes -= kept.retained_bytes();
        }
        if through > Sequence(0) {
            self.commit(Record::Dropped { through });
        }
    }

    /// An answer, as totals and telemetry are told of it.
    pub(super) fn count(&mut self, tool: ToolLabel, result: &CallResult) {
        self.answers += 1;
        self.unsuccessful += u64::from(result.outcome != Outcome::Succeeded);
        let timings = (result.sequence > Sequence(0)).then_some(result.timings);
        let failed = || {
            Box::new(Failed {
                attribution: result.attribution,
                error: result.error.clone(),
                evidence: result.fault.as_ref().and_then(|fault| fault.evidence.clone()),
                place: self.location().cloned(),
            })
        };
        let failure = (result.outcome != Outcome::Succeeded).then(failed);
        self.answered.push(Answered {
            failure,
            call: result.call_id.clone(),
            tool,
            outcome: result.outcome,
            reason: result.reason,
            timings,
        });
    }
}

/// The executor's clock gives the total, the agent's gives execution and collection; what is left is the way there
/// and back, which is dispatch.
fn timings(
    received_at: std::time::SystemTime,
    total: Duration,
    queued: Duration,
    slot_wait: Duration,
    phases: Phases,
) -> Timings {
    let left = total.saturating_sub(queued + slot_wait);
    let execution = phases.execution.min(left);
    let collection = phases.collection.min(left - execution);
    Timings { received_at, queued, slot_wait, dispatch: left - execution - collection, execution, collection }
}
