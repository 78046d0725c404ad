//! A trajectory that an executor before this one has left, from its records.
//!
//! What its records do not say: whether the calls that were handed over have arrived, and whether its slot is still
//! there. Until the agent has been asked, its slot is [`Slot::Reclaimed`] and nothing is handed over.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Live, Moment, Place, Stage, State,
    output::Printed,
    slot::{Loss, Slot},
};
use crate::{
    id::{CallNumber, Generation},
    journal::Record,
    tool::{
        Evidence, Executed, Location, ToolLabel, Verdict,
        job::{Order, Phases},
    },
    trajectory::{
        ledger::{self, Ledger, Pending},
        request::Limits,
    },
};

impl State {
    /// None if the records do not begin with a life.
    pub(in crate::trajectory) fn restore(limits: Arc<Limits>, records: Vec<Record>, at: Moment) -> Option<Self> {
        let mut state = Self::with_ledger(limits, Ledger::fold(records)?, at);
        let live: Vec<(CallNumber, bool, Live)> = state.ledger.pending_calls().map(|call| live(call, at)).collect();
        for (number, concurrent, live) in live {
            match (&live.stage, concurrent) {
                (Stage::Waiting, _) if live.is_external => state.outside.waiting.push_back(number),
                (Stage::Running { .. }, _) if live.is_external => _ = state.outside.running.insert(number),
                (Stage::Waiting, true) => state.beside.push_back(number),
                (Stage::Waiting, false) => state.in_order.push_back(number),
                (Stage::Running { .. }, true) => {}
                (Stage::Running { .. }, false) => state.running_in_order = Some(number),
            }
            state.live_bytes += live.bytes;
            state.live.insert(number, live);
        }
        if state.wanted_slot().is_some() {
            state.slot = Slot::Reclaimed;
        } else {
            // Calls whose workspace was lost before their end was heard of.
            let cause = "the executor ended before it heard how the call did".to_owned();
            state.end_running(&Arc::new(Evidence { cause, ..Evidence::default() }), at);
        }
        state.forget_outside(at);
        state.settle(at);
        Some(state)
    }

    /// The slot that it had, and the workspace there.
    pub(in crate::trajectory) fn wanted_slot(&self) -> Option<(Arc<Location>, Generation)> {
        self.ledger.place()
    }

    /// The calls that its slot has been given.
    pub(in crate::trajectory) fn running_orders(&self) -> impl Iterator<Item = (CallNumber, &Order)> {
        self.ledger
            .pending_calls()
            .filter(|pending| pending.handed_over)
            .filter_map(|Pending { call, .. }| Some((call.number, call.order()?)))
    }

    /// The slot is still its own. `arrived`: the calls that its agent has been given, and has yet to tell the end of.
    /// `is_exact`: no other can have run.
    pub(in crate::trajectory) fn on_reclaimed(
        &mut self,
        place: Place,
        arrived: &BTreeSet<CallNumber>,
        is_exact: bool,
        at: Moment,
    ) {
        self.slot = Slot::Held { place, lost: false };
        let running: Vec<CallNumber> = self.running();
        for number in running {
            if arrived.contains(&number) {
                continue;
            }
            if !is_exact {
                let cause = "its agent, of an earlier version, does not know the call any more".to_owned();
                let evidence = Arc::new(Evidence { cause, ..Evidence::default() });
                self.end_run(number, Verdict::container_lost(Executed::Unknown, evidence), Phases::default(), at);
                continue;
            }
            // It was on its way when the executor ended: it has not run, and takes its place again.
            self.commit(Record::TakenBack(number));
            let Some(live) = self.live.get_mut(&number) else { continue };
            live.stage = Stage::Waiting;
            let cancelled = live.cancelled;
            let concurrent = self.ledger.pending_call(number).is_some_and(|call| call.concurrent);
            let line = if concurrent { &mut self.beside } else { &mut self.in_order };
            let index = line.partition_point(|waiting| *waiting < number);
            line.insert(index, number);
            self.running_in_order.take_if(|running| *running == number);
            if let Some(cause) = cancelled {
                self.end_waiting(number, Verdict::cancelled_waiting(cause), at);
            }
        }
        self.settle(at);
    }

    /// The slot is gone, and with it what was to be learnt of the calls that were handed over.
    pub(in crate::trajectory) fn on_not_reclaimed(&mut self, evidence: &Arc<Evidence>, at: Moment) {
        self.end_running(evidence, at);
        self.lose_slot(Loss::Container(evidence.clone()), at);
        self.slot = Slot::None;
        self.settle(at);
    }
}

/// As it was, but for when it came, which is as far back as the clock of the wall says.
fn live(Pending { call, handed_over }: &Pending, at: Moment) -> (CallNumber, bool, Live) {
    let age = at.wall.duration_since(call.received_at).unwrap_or_default();
    let received: Instant = at.now.checked_sub(age).unwrap_or(at.now);
    let stage = match handed_over {
        // How long it waited is not known any more: its dispatch has it.
        true => {
            let printed = Printed::default();
            Stage::Running { queued: Duration::ZERO, slot_wait: Duration::ZERO, seen: false, printed }
        }
        false => Stage::Waiting,
    };
    let live = Live {
        id: call.id.clone(),
        tool: ToolLabel::Unknown,
        hash: ledger::hash(&call.id),
        bytes: call.size(),
        is_external: call.is_external(),
        received,
        turn: None,
        stage,
        cancelled: None,
        waiters: Vec::new(),
    };
    (call.number, call.concurrent, live)
}
