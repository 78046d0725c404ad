//! One pool: what each event does to it. Every one ends with [`Pool::settle`], which brings about what must hold.

use std::time::Instant;

use super::{
    ContainerKey, ContainerState, Effect, Failure, OwnerId, PoolKey, Return, Shortage, SlotKey, Turn,
    containers::{Containers, Slot},
    owners::{Owners, Place},
    scaling::{self, Backoff, Bounds, Demand, PROVEN_AFTER},
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
            (Some(Slot::Wiping), false) => self.free(slot, turn),
            // It should have been wiped, and says that it was not.
            (Some(Slot::Wiping), true) => return self.quarantine(slot, turn),
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

    /// The owner goes to another pool.
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
            Some(Slot::Clean | Slot::Leased { .. } | Slot::Wiping | Slot::Quarantined) | None => {}
        }
        self.settle(turn);
    }

    pub(super) fn quarantine(&mut self, slot: SlotKey, turn: &mut Turn<'_>) {
        let offered = match self.containers.slot(slot) {
            // Its holder hears of it, and gives it back: then it is tried once more.
            Some(Slot::Leased { .. } | Slot::Quarantined) | None => return,
            Some(Slot::Kept(owner)) => Some((owner, true)),
            Some(Slot::Keeping(owner)) => owner.map(|owner| (owner, false)),
            Some(Slot::Clean | Slot::Wiping) => None,
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

    pub(super) fn container_ready(&mut self, container: ContainerKey, slots: u32, turn: &mut Turn<'_>) {
        if self.containers.state(container) != Some(ContainerState::Starting) {
            return;
        }
        self.containers.make_ready(container, slots, turn.now);
        self.backoff.succeed(turn.now);
        self.start_failed = false;
        if slots == 0 {
            self.stop(container, turn);
        }
        self.settle(turn);
    }

    pub(super) fn start_failed(&mut self, container: ContainerKey, jitter: u32, turn: &mut Turn<'_>) {
        match self.containers.state(container) {
            Some(ContainerState::Starting) => {
                self.backoff.fail(turn.now, jitter);
                self.start_failed = true;
            }
            // Nobody wanted it any more.
            Some(ContainerState::Stopping) => {}
            Some(ContainerState::Ready | ContainerState::Draining) | None => return,
        }
        self.take_away(container, turn);
    }

    pub(super) fn drain(&mut self, container: ContainerKey, turn: &mut Turn<'_>) {
        match self.containers.state(container) {
            Some(ContainerState::Ready) => {
                self.containers.move_on(container, ContainerState::Draining);
                self.drop_kept_of(container, turn);
                self.stop_if_drained(container, turn);
            }
            // It would be taken away as soon as it is there.
            Some(ContainerState::Starting) => self.stop(container, turn),
            Some(ContainerState::Draining | ContainerState::Stopping) | None => return,
        }
        self.settle(turn);
    }

    fn stop_if_drained(&mut self, container: ContainerKey, turn: &mut Turn<'_>) {
        if self.containers.state(container) == Some(ContainerState::Draining)
            && self.containers.slot_counts_of(container).is_some_and(|counts| counts.leased == 0)
        {
            self.stop(container, turn);
        }
    }

    fn stop(&mut self, container: ContainerKey, turn: &mut Turn<'_>) {
        self.containers.move_on(container, ContainerState::Stopping);
        self.drop_kept_of(container, turn);
        turn.effects.push(Effect::Stop { container });
    }

    pub(super) fn lose(&mut self, container: ContainerKey, jitter: u32, turn: &mut Turn<'_>) {
        match self.containers.state(container) {
            Some(ContainerState::Ready | ContainerState::Draining) => {
                let lived = self.containers.ready_at(container).map(|at| turn.now.saturating_duration_since(at));
                if lived.is_some_and(|lived| lived < PROVEN_AFTER) {
                    self.backoff.fail(turn.now, jitter);
                }
                self.take_away(container, turn);
            }
            // `StartFailed` or `Stopped` follows.
            Some(ContainerState::Starting | ContainerState::Stopping) | None => {}
        }
    }

    pub(super) fn stopped(&mut self, container: ContainerKey, turn: &mut Turn<'_>) {
        if self.containers.state(container).is_some() {
            self.take_away(container, turn);
        }
    }

    /// Whoever held a slot of it has none now.
    fn take_away(&mut self, container: ContainerKey, turn: &mut Turn<'_>) {
        for (_, slot) in self.containers.slots_of(container) {
            if let Slot::Leased { owner, .. } = slot {
                turn.owners.step_out(owner, turn.effects);
            }
        }
        self.drop_kept_of(container, turn);
        self.containers.remove(container);
        self.settle(turn);
    }

    /// Files that are kept there will not be given to anybody.
    fn drop_kept_of(&mut self, container: ContainerKey, turn: &mut Turn<'_>) {
        let slots: Vec<_> = self.containers.slots_of(container).collect();
        for (key, slot) in slots {
            let (owner, offered) = match slot {
                Slot::Kept(owner) => (owner, true),
                Slot::Keeping(Some(owner)) => (owner, false),
                Slot::Clean | Slot::Leased { .. } | Slot::Wiping | Slot::Keeping(None) | Slot::Quarantined => continue,
            };
            self.containers.set(key, Slot::Keeping(None), turn.now);
            self.drop_kept(owner, offered, turn);
        }
    }

    pub(super) fn tick(&mut self, turn: &mut Turn<'_>) {
        while let Some(owner) = turn.owners.next(self.key)
            && turn.owners.waiting_since(self.key).is_some_and(|at| turn.now >= at + self.rules.acquire_timeout)
        {
            turn.effects.push(Effect::Fail { owner, failure: Failure::TimedOut });
            turn.owners.step_out(owner, turn.effects);
        }
        while let Some((container, since)) = self.superfluous(turn.owners)
            && turn.now >= since + self.rules.scale_down_after
        {
            self.stop(container, turn);
        }
        self.settle(turn);
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

    /// A container that could go, and since when nobody uses it.
    fn superfluous(&self, owners: &Owners) -> Option<(ContainerKey, Instant)> {
        let counts = self.containers.counts();
        let spare = counts.ready + counts.starting > self.rules.min_containers && owners.waiting(self.key) == 0;
        if spare { self.containers.longest_idle() } else { None }
    }

    pub(super) fn deadline(&self, owners: &Owners) -> Option<Instant> {
        if self.closed {
            return None;
        }
        let wait = owners.waiting_since(self.key).map(|at| at + self.rules.acquire_timeout);
        let idle = self.superfluous(owners).map(|(_, since)| since + self.rules.scale_down_after);
        let retry = self.backoff.until().filter(|_| self.wants(owners) > 0);
        [wait, idle, retry].into_iter().flatten().min()
    }

    pub(super) fn shortage(&self, owners: &Owners, now: Instant) -> Shortage {
        let counts = self.containers.counts();
        if !self.needs_more(owners) {
            Shortage::Resetting
        } else if counts.starting > 0 {
            Shortage::Starting
        } else if self.backoff.active(now) {
            Shortage::BackingOff
        } else {
            Shortage::AtMaximum
        }
    }

    #[cfg(test)]
    pub(super) fn is_backing_off(&self, now: Instant) -> bool {
        self.backoff.active(now)
    }

    fn wants(&self, owners: &Owners) -> u32 {
        let counts = self.containers.counts();
        let demand = Demand {
            waiting: owners.waiting(self.key),
            coming: self.containers.slot_counts().resetting,
            starting: counts.starting,
            useful: counts.ready + counts.starting,
            present: counts.present(),
        };
        let bounds = Bounds {
            slots_per_container: self.rules.slots_per_container,
            min: self.rules.min_containers,
            max: self.rules.max_containers,
            max_starting: self.rules.max_starting,
        };
        scaling::to_start(demand, bounds)
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
        for _ in 0..self.wants(turn.owners) {
            let container = self.containers.add(turn.now);
            turn.effects.push(Effect::Start { container });
        }
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
