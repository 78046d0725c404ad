//! The containers of a pool: how many there are, and what becomes of those who use one that goes.

use std::time::Instant;

use super::{
    super::{
        ContainerKey, ContainerState, Effect, Shortage, Turn,
        containers::Slot,
        owners::Owners,
        scaling::{self, Bounds, Demand, PROVEN_AFTER},
    },
    Pool,
};

impl Pool {
    pub(in super::super) fn adopt(&mut self, count: u32, in_use: u32, turn: &mut Turn<'_>) {
        if self.closed {
            return;
        }
        let places = self.rules.max_containers.saturating_sub(self.containers.counts().present());
        for _ in 0..count.min(places.max(in_use)) {
            let container = self.containers.add(turn.now);
            turn.effects.push(Effect::Start { container });
        }
        self.settle(turn);
    }

    pub(in super::super) fn container_ready(&mut self, container: ContainerKey, slots: u32, turn: &mut Turn<'_>) {
        if self.containers.state(container) != Some(ContainerState::Starting) {
            return;
        }
        self.has_started(container, slots, Slot::Clean, turn);
        self.stop_if_drained(container, turn);
        self.settle(turn);
    }

    pub(in super::super) fn container_taken_over(&mut self, container: ContainerKey, slots: u32, turn: &mut Turn<'_>) {
        if self.containers.state(container) != Some(ContainerState::Starting) {
            return;
        }
        self.has_started(container, slots, Slot::Left, turn);
        self.settle(turn);
    }

    /// With so many slots, all of which are like this one.
    fn has_started(&mut self, container: ContainerKey, slots: u32, slot: Slot, turn: &mut Turn<'_>) {
        self.containers.make_ready(container, slots, slot, turn.now);
        self.backoff.succeed(turn.now);
        self.start_failed = false;
        let counts = self.containers.counts();
        if slots == 0 {
            self.stop(container, turn);
        } else if counts.ready + counts.starting > self.rules.max_containers {
            self.containers.move_on(container, ContainerState::Draining);
        }
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
            Some(ContainerState::Draining) => self.stop_if_drained(container, turn),
            // It would be taken away as soon as it is there.
            Some(ContainerState::Starting) => self.stop(container, turn),
            Some(ContainerState::Stopping) | None => return,
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
                Slot::Clean
                | Slot::Leased { .. }
                | Slot::Wiping
                | Slot::Left
                | Slot::Keeping(None)
                | Slot::Quarantined => continue,
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
