//! The containers of a pool: how many there are, and what becomes of those who use one that goes.

use std::time::Instant;

use super::{
    super::{
        ContainerKey, ContainerState, Effect, OwnerId, Shortage, SlotKey, Turn,
        containers::Slot,
        owners::{Owners, Place},
        scaling::{self, Bounds, Demand, PROVEN_AFTER},
    },
    Pool,
};

impl Pool {
    pub(in super::super) fn adopt(&mut self, count: u32, turn: &mut Turn<'_>) {
        if self.closed {
            return;
        }
        let places = self.rules.max_containers.saturating_sub(self.containers.counts().present());
        for _ in 0..count.min(places) {
            let container = self.containers.add(turn.now);
            turn.effects.push(Effect::Start { container });
        }
        self.settle(turn);
    }

    pub(in super::super) fn reclaim(&mut self, slot: SlotKey, owner: OwnerId, turn: &mut Turn<'_>) {
        let is_free = turn.owners.place(owner) == Place::Out && turn.owners.kept(owner).is_none();
        let starts = self.containers.state(slot.container) == Some(ContainerState::Starting);
        if is_free && starts && self.reclaimed.iter().all(|(other, _)| *other != slot) {
            turn.owners.take(owner);
            self.reclaimed.push((slot, owner));
        } else {
            turn.owners.forget_if_out(owner, turn.effects);
        }
    }

    pub(in super::super) fn container_ready(&mut self, container: ContainerKey, slots: u32, turn: &mut Turn<'_>) {
        if self.containers.state(container) != Some(ContainerState::Starting) {
            return;
        }
        self.containers.make_ready(container, slots, turn.now);
        for (slot, owner) in self.take_reclaimed(container) {
            match self.containers.slot(slot) {
                Some(_) => self.containers.set(slot, Slot::Leased { owner, kept: false }, turn.now),
                None => turn.owners.step_out(owner, turn.effects),
            }
        }
        self.backoff.succeed(turn.now);
        self.start_failed = false;
        if slots == 0 {
            self.stop(container, turn);
        }
        self.settle(turn);
    }

    pub(in super::super) fn start_failed(&mut self, container: ContainerKey, jitter: u32, turn: &mut Turn<'_>) {
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

    pub(in super::super) fn drain(&mut self, container: ContainerKey, turn: &mut Turn<'_>) {
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

    pub(super) fn stop_if_drained(&mut self, container: ContainerKey, turn: &mut Turn<'_>) {
        if self.containers.state(container) == Some(ContainerState::Draining)
            && self.containers.slot_counts_of(container).is_some_and(|counts| counts.leased == 0)
        {
            self.stop(container, turn);
        }
    }

    pub(super) fn stop(&mut self, container: ContainerKey, turn: &mut Turn<'_>) {
        self.containers.move_on(container, ContainerState::Stopping);
        self.drop_kept_of(container, turn);
        turn.effects.push(Effect::Stop { container });
    }

    pub(in super::super) fn lose(&mut self, container: ContainerKey, jitter: u32, turn: &mut Turn<'_>) {
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

    pub(in super::super) fn stopped(&mut self, container: ContainerKey, turn: &mut Turn<'_>) {
        if self.containers.state(container).is_some() {
            self.take_away(container, turn);
        }
    }

    fn take_reclaimed(&mut self, container: ContainerKey) -> Vec<(SlotKey, OwnerId)> {
        self.reclaimed.extract_if(.., |(slot, _)| slot.container == container).collect()
    }

    /// Whoever held a slot of it has none now.
    fn take_away(&mut self, container: ContainerKey, turn: &mut Turn<'_>) {
        for (_, owner) in self.take_reclaimed(container) {
            turn.owners.step_out(owner, turn.effects);
        }
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

    /// A container that could go, and since when nobody uses it.
    pub(super) fn superfluous(&self, owners: &Owners) -> Option<(ContainerKey, Instant)> {
        let counts = self.containers.counts();
        let spare = counts.ready + counts.starting > self.rules.min_containers && owners.waiting(self.key) == 0;
        if spare { self.containers.longest_idle() } else { None }
    }

    pub(in super::super) fn deadline(&self, owners: &Owners) -> Option<Instant> {
        if self.closed {
            return None;
        }
        let wait = owners.waiting_since(self.key).map(|at| at + self.rules.acquire_timeout);
        let idle = self.superfluous(owners).map(|(_, since)| since + self.rules.scale_down_after);
        let retry = self.backoff.until().filter(|_| self.wants(owners) > 0);
        [wait, idle, retry].into_iter().flatten().min()
    }

    pub(in super::super) fn shortage(&self, owners: &Owners, now: Instant) -> Shortage {
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
    pub(in super::super) fn is_backing_off(&self, now: Instant) -> bool {
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

    pub(super) fn start_wanted(&mut self, turn: &mut Turn<'_>) {
        for _ in 0..self.wants(turn.owners) {
            let container = self.containers.add(turn.now);
            turn.effects.push(Effect::Start { container });
        }
    }
}
