//! One pool: what each event does to its slots ([`fleet`]: to its containers). Every one ends with [`Pool::settle`],
//! which brings about what must hold.

mod fleet;

use super::{
    ContainerState, Effect, Failure, OwnerId, PoolKey, Return, SlotKey, Turn,
    containers::{Containers, Slot},
    owners::{Owners, Place},
    scaling::Backoff,
};
use crate::scheduler::config::PoolConfig;

#[derive(Debug)]
pub(super) struct Pool {
    key: PoolKey,
    rules: PoolConfig,
    pub(super) containers: Containers,
    backoff: Backoff,
    /// The last start failed, and none has succeeded since.
    start_failed: bool,
    closed: bool,
}

impl Pool {
    pub(super) fn new(key: PoolKey, rules: PoolConfig) -> Self {
        let containers = Containers::new(key);
        Self { key, rules, containers, backoff: Backoff::default(), start_failed: false, closed: false }
    }

    pub(super) fn acquire(&mut self, owner: OwnerId, turn: &mut Turn<'_>) {
        let failure = match turn.owners.place(owner) {
            Place::Waiting | Place::Returning => return,
            Place::Holding => Some(Failure::HoldsOne),
            Place::Out if self.closed => Some(Failure::ShuttingDown),
            Place::Out if self.give_kept(owner, turn) => return,
            Place::Out if self.is_full(turn.owners) => Some(Failure::LineFull),
            Place::Out => None,
        };
        if let Some(failure) = failure {
            turn.effects.push(Effect::Fail { owner, failure });
            return turn.owners.forget_if_out(owner, turn.effects);
        }
        turn.owners.join(owner, self.key, turn.now);
        self.settle(turn);
    }

    /// The slot that has this one's files, if it is free, or will be and nobody else needs it.
    fn give_kept(&mut self, owner: OwnerId, turn: &mut Turn<'_>) -> bool {
        let Some(slot) = turn.owners.kept(owner) else { return false };
        match self.containers.slot(slot) {
            Some(Slot::Kept(_)) => {
                turn.owners.take_kept(owner, true);
                self.grant(owner, slot, true, turn);
                true
            }
            Some(Slot::Keeping(_)) if turn.owners.waiting(self.key) < self.containers.slot_counts().resetting => {
                turn.owners.await_kept(owner);
                true
            }
            _ => {
                self.containers.set(slot, Slot::Keeping(None), turn.now);
                turn.owners.take_kept(owner, false);
                false
            }
        }
    }

    fn is_full(&self, owners: &Owners) -> bool {
        owners.waiting(self.key) as usize >= self.rules.max_waiting && self.containers.slot_counts().clean == 0
    }

    fn grant(&mut self, owner: OwnerId, slot: SlotKey, kept: bool, turn: &mut Turn<'_>) {
        turn.owners.take(owner);
        self.containers.set(slot, Slot::Leased { owner, kept }, turn.now);
        turn.effects.push(Effect::Grant { owner, slot, kept });
    }

    pub(super) fn reclaim(&mut self, slot: SlotKey, owner: OwnerId, turn: &mut Turn<'_>) {
        let serves = [Some(ContainerState::Ready), Some(ContainerState::Draining)];
        if self.containers.slot(slot) == Some(Slot::Left)
            && serves.contains(&self.containers.state(slot.container))
            && turn.owners.place(owner) == Place::Out
            && turn.owners.kept(owner).is_none()
        {
            turn.owners.take(owner);
            self.containers.set(slot, Slot::Leased { owner, kept: true }, turn.now);
            self.settle(turn);
        }
    }

    pub(super) fn take_back(&mut self, slot: SlotKey, owner: OwnerId, how: Return, turn: &mut Turn<'_>) {
        let Some(Slot::Leased { owner: holder, kept }) = self.containers.slot(slot) else { return };
        if holder != owner {
            return;
        }
        let serves = self.containers.state(slot.container) == Some(ContainerState::Ready);
        match how {
            Return::Unused if kept && serves => {
                self.containers.set(slot, Slot::Kept(owner), turn.now);
                turn.owners.step_aside(owner);
                turn.owners.offer_kept(owner, slot);
            }
            Return::Unused if !kept => {
                turn.owners.step_out(owner, turn.effects);
                self.free(slot, turn);
            }
            Return::Keep if serves && !self.needs_more(turn.owners) => {
                self.containers.set(slot, Slot::Keeping(Some(owner)), turn.now);
                turn.effects.push(Effect::Release { slot, keep: true });
                turn.owners.step_aside(owner);
                turn.owners.reserve_kept(owner, slot);
            }
            Return::Unused | Return::Wipe | Return::Keep => {
                self.wipe(slot, turn);
                turn.owners.step_out(owner, turn.effects);
            }
        }
        self.stop_if_drained(slot.container, turn);
        self.settle(turn);
    }

    fn wipe(&mut self, slot: SlotKey, turn: &mut Turn<'_>) {
        self.containers.set(slot, Slot::Wiping, turn.now);
        turn.effects.push(Effect::Release { slot, keep: false });
    }

    /// More trajectories wait than slots are about to be free.
    fn needs_more(&self, owners: &Owners) -> bool {
        owners.waiting(self.key) > self.containers.slot_counts().resetting
    }

    pub(super) fn slot_ready(&mut self, slot: SlotKey, kept: bool, turn: &mut Turn<'_>) {
        if self.containers.state(slot.container) != Some(ContainerState::Ready) {
            return;
        }
        match (self.containers.slot(slot), kept) {
            (Some(Slot::Wiping | Slot::Left), false) => self.free(slot, turn),
            // It should have been wiped, and says that it was not.
            (Some(Slot::Wiping | Slot::Left), true) => return self.quarantine(slot, turn),
            (Some(Slot::Keeping(owner)), false) => {
                if let Some(owner) = owner {
                    self.drop_kept(owner, false, turn);
                }
                self.free(slot, turn);
            }
            (Some(Slot::Keeping(Some(owner))), true) => self.slot_kept(slot, owner, turn),
            (Some(Slot::Keeping(None)), true) => self.wipe(slot, turn),
            (Some(Slot::Clean | Slot::Leased { .. } | Slot::Kept(_) | Slot::Quarantined) | None, _) => return,
        }
        self.settle(turn);
    }

    /// A slot is free and has its owner's files, who may have come back for them meanwhile.
    fn slot_kept(&mut self, slot: SlotKey, owner: OwnerId, turn: &mut Turn<'_>) {
        if turn.owners.place(owner) == Place::Returning {
            turn.owners.take_kept(owner, false);
            self.grant(owner, slot, true, turn);
        } else {
            self.containers.set(slot, Slot::Kept(owner), turn.now);
            turn.owners.offer_kept(owner, slot);
        }
    }

    /// What was kept for this one is gone. If it waits for that, it joins the line; or hears of the end.
    fn drop_kept(&mut self, owner: OwnerId, offered: bool, turn: &mut Turn<'_>) {
        if turn.owners.place(owner) != Place::Returning {
            return turn.owners.drop_kept(owner, offered, turn.effects);
        }
        turn.owners.take_kept(owner, offered);
        if self.closed {
            turn.effects.push(Effect::Fail { owner, failure: Failure::ShuttingDown });
            turn.owners.step_out(owner, turn.effects);
        } else {
            turn.owners.join(owner, self.key, turn.now);
        }
    }

    /// The owner goes to another pool, or does not want them any more.
    pub(super) fn give_up_kept(&mut self, owner: OwnerId, slot: SlotKey, turn: &mut Turn<'_>) {
        match self.containers.slot(slot) {
            Some(Slot::Kept(_)) => {
                turn.owners.take_kept(owner, true);
                self.wipe(slot, turn);
            }
            Some(Slot::Keeping(_)) => {
                turn.owners.take_kept(owner, false);
                self.containers.set(slot, Slot::Keeping(None), turn.now);
            }
            Some(Slot::Clean | Slot::Leased { .. } | Slot::Wiping | Slot::Left | Slot::Quarantined) | None => {}
        }
        self.settle(turn);
    }

    pub(super) fn quarantine(&mut self, slot: SlotKey, turn: &mut Turn<'_>) {
        let offered = match self.containers.slot(slot) {
            // Its holder hears of it and gives it back, and then the agent says so again.
            Some(Slot::Leased { .. } | Slot::Quarantined) | None => return,
            Some(Slot::Kept(owner)) => Some((owner, true)),
            Some(Slot::Keeping(owner)) => owner.map(|owner| (owner, false)),
            Some(Slot::Clean | Slot::Wiping | Slot::Left) => None,
        };
        self.containers.set(slot, Slot::Quarantined, turn.now);
        if let Some((owner, offered)) = offered {
            self.drop_kept(owner, offered, turn);
        }
        let counts = self.containers.slot_counts_of(slot.container).unwrap_or_default();
        let usable = counts.clean + counts.leased + counts.resetting + counts.kept;
        if usable == 0 && self.containers.state(slot.container) == Some(ContainerState::Ready) {
            self.stop(slot.container, turn);
        }
        self.settle(turn);
    }

    pub(super) fn tick(&mut self, turn: &mut Turn<'_>) {
        while let Some(owner) = turn.owners.next(self.key)
            && turn.owners.waiting_since(self.key).is_some_and(|at| turn.now >= at + self.rules.acquire_timeout)
        {
            turn.effects.push(Effect::Fail { owner, failure: Failure::TimedOut });
            turn.owners.step_out(owner, turn.effects);
        }
        self.settle(turn);
        while let Some((container, since)) = self.superfluous(turn.owners)
            && turn.now >= since + self.rules.scale_down_after
        {
            self.stop(container, turn);
            // Whoever came back for what was kept there needs another slot, and has it before the next one goes.
            self.settle(turn);
        }
    }

    pub(super) fn shut_down(&mut self, turn: &mut Turn<'_>) {
        self.closed = true;
        while let Some(owner) = turn.owners.next(self.key) {
            turn.effects.push(Effect::Fail { owner, failure: Failure::ShuttingDown });
            turn.owners.step_out(owner, turn.effects);
        }
        let containers: Vec<_> = self.containers.keys().collect();
        for container in containers {
            if self.containers.state(container) != Some(ContainerState::Stopping) {
                self.stop(container, turn);
            }
        }
    }

    /// Brings about what must hold after every event.
    fn settle(&mut self, turn: &mut Turn<'_>) {
        if self.closed {
            return;
        }
        self.serve(turn);
        // A wipe takes milliseconds, a start much longer: so kept slots go first.
        while self.needs_more(turn.owners)
            && let Some(owner) = turn.owners.oldest_kept(self.key)
            && let Some(slot) = turn.owners.kept(owner)
        {
            self.wipe(slot, turn);
            turn.owners.drop_kept(owner, true, turn.effects);
        }
        if self.backoff.active(turn.now) {
            return self.fail_if_hopeless(turn);
        }
        self.start_wanted(turn);
    }

    /// Gives the clean slots to those who have waited for longest.
    fn serve(&mut self, turn: &mut Turn<'_>) {
        while let Some(owner) = turn.owners.next(self.key)
            && let Some(slot) = self.containers.choose_clean(self.rules.spread)
        {
            self.grant(owner, slot, false, turn);
        }
    }

    /// A slot is clean. If anybody waits there was no other, so that there is nothing to choose.
    fn free(&mut self, slot: SlotKey, turn: &mut Turn<'_>) {
        let serves = self.containers.state(slot.container) == Some(ContainerState::Ready) && !self.closed;
        match turn.owners.next(self.key).filter(|_| serves) {
            Some(owner) => self.grant(owner, slot, false, turn),
            None => self.containers.set(slot, Slot::Clean, turn.now),
        }
    }

    /// With no container, and none that could be started for now, nobody is kept waiting.
    fn fail_if_hopeless(&mut self, turn: &mut Turn<'_>) {
        let counts = self.containers.counts();
        if !self.start_failed || counts.ready + counts.starting > 0 {
            return;
        }
        let failure = Failure::StartFailed { retry_after: self.backoff.remaining(turn.now) };
        while let Some(owner) = turn.owners.next(self.key) {
            turn.effects.push(Effect::Fail { owner, failure });
            turn.owners.step_out(owner, turn.effects);
        }
    }
}
