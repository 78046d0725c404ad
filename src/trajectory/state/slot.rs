//! The slot: standing in line for one, running calls in it, losing it, having it emptied.

use std::{sync::Arc, time::SystemTime};

use super::{Effect, Live, Moment, Stage, State, output::Printed};
use crate::{
    id::{CallNumber, Generation, Opening},
    journal::{Errand, Record, Workspace},
    tool::{
        Circumstances, Evidence, Executed, Location, Verdict,
        job::{End, Ending},
        judge,
    },
    trajectory::request::{Notice, Response},
};

#[derive(Debug)]
pub(super) enum Slot {
    None,
    /// In line for one.
    Waiting,
    /// It had one under an executor before this one, and asks whether it still has it.
    Reclaimed,
    Held {
        place: Place,
        /// Its processes died: it is given back once the calls that ran in it have been answered.
        lost: bool,
    },
}

/// A slot as its holder sees it.
#[derive(Debug, Clone)]
pub(in crate::trajectory) struct Place {
    pub(in crate::trajectory) location: Location,
    /// The name of the level that it has.
    pub(in crate::trajectory) isolation: Arc<str>,
    pub(in crate::trajectory) network_isolated: bool,
}

/// What was lost, as far as it is known.
pub(super) enum Loss {
    /// The slot alone: why.
    Slot(String),
    Container(Arc<Evidence>),
}

/// A reset that was asked for and is not done.
#[derive(Debug)]
pub(super) struct Resetting {
    pub(super) generation: Generation,
    /// The slot has been told.
    pub(super) under_way: bool,
}

impl State {
    /// Stands in line if something needs a slot, and hands over what may run.
    pub(super) fn advance_calls(&mut self, at: Moment) {
        let held_back = self.is_held_back(at);
        if !held_back
            && self.running_in_order.is_none()
            && let Some(live) = self.in_order.front().and_then(|number| self.live.get_mut(number))
        {
            live.turn.get_or_insert(at.now);
        }
        if self.releasing.is_some() || self.resetting.is_some() {
            return;
        }
        let waiting = !held_back && (!self.in_order.is_empty() || !self.beside.is_empty());
        match &self.slot {
            Slot::None if waiting => self.acquire(),
            Slot::Waiting if !waiting && !self.ledger.options.acquire_slot => self.give_back_slot(false),
            Slot::Held { lost: false, .. } if waiting => self.hand_over(at),
            Slot::None | Slot::Waiting | Slot::Reclaimed | Slot::Held { .. } => {}
        }
    }

    pub(super) fn acquire(&mut self) {
        if matches!(self.slot, Slot::None) {
            self.slot = Slot::Waiting;
            self.effects.push(Effect::Acquire(self.ledger.options.pool.clone()));
        }
    }

    fn hand_over(&mut self, at: Moment) {
        if self.running_in_order.is_none() {
            self.running_in_order = self.in_order.pop_front();
            if let Some(number) = self.running_in_order {
                self.run(number, at);
            }
        }
        let mut room = self.limits.max_concurrent_calls.saturating_sub(self.running_in_slot());
        while room > 0
            && let Some(number) = self.beside.pop_front()
        {
            self.run(number, at);
            room -= 1;
        }
    }

    fn run(&mut self, number: CallNumber, at: Moment) {
        let Some(live) = self.live.get_mut(&number) else { return };
        let turn = live.turn.unwrap_or(live.received);
        let running = Stage::Running {
            queued: turn.saturating_duration_since(live.received),
            slot_wait: at.now.saturating_duration_since(turn),
            seen: false,
            printed: Printed::default(),
        };
        live.stage = running;
        let Some(order) = self.ledger.pending_call(number).and_then(|call| call.order().cloned()) else { return };
        self.commit(Record::HandedOver(number));
        self.effects.push(Effect::Run(number, order));
    }

    /// A place in the line, for people who wait.
    pub(in crate::trajectory) fn on_position(&mut self, position: u32, reason: Option<String>) {
        self.send(Response::Notice(Notice::WaitingForSlot { position, reason }));
    }

    pub(in crate::trajectory) fn on_granted(&mut self, place: Place, at: Moment) {
        let generation = match self.ledger.workspace {
            Workspace::Empty(generation) => generation,
            Workspace::None | Workspace::Present(_) | Workspace::Gone(_) => self.ledger.generation.next(),
        };
        self.commit(Record::Placed(Arc::new(place.location.clone())));
        self.commit(Record::Workspace(Workspace::Present(generation)));
        self.effects.push(Effect::OpenSlot(generation));
        self.send(Response::Notice(Notice::SlotAssigned {
            generation,
            location: Box::new(place.location.clone()),
            isolation: place.isolation.clone(),
        }));
        self.slot = Slot::Held { place, lost: false };
        self.settle(at);
    }

    /// Which of its lives this is.
    pub(in crate::trajectory) fn opening(&self) -> Opening {
        let since = self.ledger.opened_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Opening(u64::try_from(since.as_nanos()).unwrap_or_default())
    }

    /// No slot in time, or none to be had: what waited for it ends.
    pub(in crate::trajectory) fn on_wait_failed(&mut self, verdict: Verdict, at: Moment) {
        self.slot = Slot::None;
        self.end_all_waiting(verdict, at);
        self.settle(at);
    }

    /// A call that was handed over has ended.
    pub(in crate::trajectory) fn on_ended(&mut self, number: CallNumber, ending: Ending, at: Moment) {
        let Some(live) = self.live.get(&number) else { return };
        let Some(call) = self.ledger.pending_call(number) else { return };
        let Errand::Slot { kind, order } = &call.errand else { return };
        let Slot::Held { place, .. } = &self.slot else { return };
        let lost = match &ending.end {
            End::SlotLost { cause, .. } => Some(cause.clone()),
            _ => None,
        };
        let circumstances = Circumstances {
            timeout: order.timeout,
            isolation: &place.isolation,
            network_isolated: place.network_isolated,
            cancelled: live.cancelled.unwrap_or_default(),
        };
        let verdict = judge(kind, ending.end, &circumstances);
        self.end_run(number, verdict, ending.phases, at);
        if let Some(cause) = lost {
            self.lose_slot(Loss::Slot(cause), at);
        }
        self.settle(at);
    }

    /// The slot is empty again, as a reset asked.
    pub(in crate::trajectory) fn on_slot_reset(&mut self, at: Moment) {
        if let Some(Resetting { generation, .. }) = self.resetting.take_if(|resetting| resetting.under_way) {
            self.commit(Record::Workspace(Workspace::Present(generation)));
            self.send(Response::WorkspaceReset(generation));
        }
        self.settle(at);
    }

    /// The slot's processes died; the agent answers for each call that ran.
    pub(in crate::trajectory) fn on_slot_lost(&mut self, cause: String, at: Moment) {
        self.lose_slot(Loss::Slot(cause), at);
        self.settle(at);
    }

    /// The container will be taken away: whoever is attached may want to be done with it before.
    pub(in crate::trajectory) fn on_container_draining(&mut self, cause: &str) {
        let Slot::Held { place, lost: false } = &self.slot else { return };
        let (location, cause) = (Box::new(place.location.clone()), cause.to_owned());
        self.send(Response::Notice(Notice::SandboxDraining { location, cause }));
    }

    /// The container is gone, and nobody will answer for what ran in it.
    pub(in crate::trajectory) fn on_container_lost(&mut self, evidence: &Arc<Evidence>, at: Moment) {
        self.end_running(evidence, at);
        self.lose_slot(Loss::Container(evidence.clone()), at);
        self.settle(at);
    }

    /// Nobody will answer for the calls that were handed over.
    pub(super) fn end_running(&mut self, evidence: &Arc<Evidence>, at: Moment) {
        for number in self.running() {
            let seen = matches!(self.live.get(&number), Some(Live { stage: Stage::Running { seen: true, .. }, .. }));
            let executed = if seen { Executed::Yes } else { Executed::Unknown };
            let verdict = Verdict::container_lost(executed, evidence.clone());
            self.end_run(number, verdict, Default::default(), at);
        }
    }

    /// How many calls the slot has been given.
    pub(super) fn running_in_slot(&self) -> usize {
        self.load().1 - self.outside.running.len()
    }

    /// The calls that the slot has been given, in the order of their coming.
    pub(super) fn running(&self) -> Vec<CallNumber> {
        let running =
            self.live.iter().filter(|(_, live)| matches!(live.stage, Stage::Running { .. }) && !live.is_external);
        let mut numbers: Vec<CallNumber> = running.map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        numbers
    }

    pub(super) fn lose_slot(&mut self, loss: Loss, at: Moment) {
        let location = match &mut self.slot {
            Slot::Held { place, lost: lost @ false } => {
                *lost = true;
                Some(place.location.clone())
            }
            Slot::Reclaimed => self.ledger.place().map(|(location, _)| (*location).clone()),
            Slot::None | Slot::Waiting | Slot::Held { .. } => return,
        };
        let (verdict, evidence) = match loss {
            Loss::Slot(cause) => (
                Verdict::slot_lost(Executed::No, &cause),
                Arc::new(Evidence { location, cause, ..Evidence::default() }),
            ),
            Loss::Container(evidence) => (Verdict::container_lost(Executed::No, evidence.clone()), evidence),
        };
        // Whoever has asked for an empty workspace loses nothing.
        if self.resetting.is_none() && self.releasing.is_none() {
            let generation = self.ledger.generation;
            self.commit(Record::Workspace(Workspace::Gone(generation)));
            self.send(Response::Notice(Notice::SandboxLost { generation, evidence }));
            self.end_all_waiting(verdict, at);
        }
    }

    /// A lost slot is given back once nothing that ran in it is unanswered.
    pub(super) fn advance_loss(&mut self) {
        if matches!(self.slot, Slot::Held { lost: true, .. }) && self.running_in_slot() == 0 {
            self.give_back_slot(false);
        }
    }

    /// An emptied workspace, once the calls of the old one have ended.
    pub(super) fn advance_reset(&mut self) {
        let running = self.running_in_slot();
        let Some(Resetting { generation, under_way }) = &mut self.resetting else { return };
        if running > 0 {
            return;
        }
        let generation = *generation;
        match self.slot {
            Slot::Held { .. } => {
                if !std::mem::replace(under_way, true) {
                    self.effects.push(Effect::ResetSlot(generation));
                }
                return;
            }
            Slot::Reclaimed => return,
            Slot::None | Slot::Waiting => {}
        }
        // There is no slot to empty, or it was lost while it was being emptied: the next one will be empty.
        self.resetting = None;
        self.commit(Record::Workspace(Workspace::Empty(generation)));
        self.send(Response::WorkspaceReset(generation));
        if self.ledger.options.acquire_slot {
            self.acquire();
        }
    }
}
