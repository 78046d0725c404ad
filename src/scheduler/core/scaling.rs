//! What follows from every event: who gets what is free, whose kept files must go, and how many containers there should
//! be.

use std::{
    hash::Hash,
    time::{Duration, Instant},
};

use super::{
    Core, Effect, SlotKey,
    container::{Container, ContainerKey, Phase, Slot},
};

/// How long after a failed start the next one waits; it doubles with each, up to [`MAX_BACKOFF`].
pub(super) const MIN_BACKOFF: Duration = Duration::from_millis(500);
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// A container that is lost sooner than this after it was ready counts as one that could not be started.
pub(super) const SHORT_LIFE: Duration = Duration::from_secs(5);

impl<O: Clone + Eq + Hash> Core<O> {
    /// Gives what is free to whoever waits, and sees to it that more comes where that is not enough.
    pub(super) fn advance(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.ending {
            return;
        }
        while self.line.len() > 0
            && let Some(slot) = self.find_clean()
            && let Some((ticket, _)) = self.line.pop()
        {
            self.change(slot, Slot::Leased, now);
            effects.push(Effect::Grant { ticket, slot, kept: false });
        }
        // Emptying a slot is quicker than starting a container.
        while self.line.len() > self.counts.resetting as usize
            && let Some(slot) = self.oldest_kept()
        {
            effects.push(Effect::Release { slot, keep: false });
            self.change(slot, Slot::Resetting, now);
        }
        if self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        for _ in 0..self.lacks_containers() {
            let key = self.add(now);
            effects.push(Effect::Start(key));
        }
    }

    /// How many containers should be started.
    pub(super) fn lacks_containers(&self) -> u32 {
        if self.ending {
            return 0;
        }
        let counts = &self.counts;
        let coming = counts.resetting as usize + counts.starting as usize;
        let per_container = self.config.slots_per_container.max(1) as usize;
        let wanted = self.line.len().saturating_sub(coming).div_ceil(per_container);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let lacking = self.config.min_containers.saturating_sub(counts.containers_up);
        let room = self.config.max_containers.saturating_sub(counts.containers);
        let may_start = self.config.max_starting.saturating_sub(counts.containers_starting);
        wanted.max(lacking).min(room).min(may_start)
    }

    fn find_clean(&mut self) -> Option<SlotKey> {
        let index = if self.config.spread { self.free.emptiest() } else { self.free.fullest() }?;
        let container = self.containers[index as usize].as_mut()?;
        let slot = container.find_clean()?;
        Some(SlotKey { container: ContainerKey { index, serial: container.serial }, index: slot })
    }

    fn oldest_kept(&mut self) -> Option<SlotKey> {
        while let Some((owner, serial)) = self.kept_order.pop_front() {
            if let Some((slot, current)) = self.kept.get(&owner).copied()
                && current == serial
            {
                self.kept.remove(&owner);
                return Some(slot);
            }
        }
        None
    }

    pub(super) fn forget_kept(&mut self, owner: &O) {
        self.kept.remove(owner);
        if self.kept_order.len() > 2 * self.kept.len() + 16 {
            let kept = &self.kept;
            self.kept_order.retain(|(owner, serial)| kept.get(owner).is_some_and(|(_, current)| current == serial));
        }
    }

    /// Nobody can come back to a container that ends.
    pub(super) fn forget_kept_in(&mut self, key: ContainerKey) {
        self.kept.retain(|_, (slot, _)| slot.container != key);
    }

    pub(super) fn back_off(&mut self, jitter: f64, now: Instant) {
        let backoff = MIN_BACKOFF.saturating_mul(1 << self.failures.min(10)).min(MAX_BACKOFF);
        self.failures += 1;
        self.retry_at = Some(now + backoff.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0));
    }

    /// Ends what nobody has used for long, as far as the minimum allows.
    pub(super) fn scale_down(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.ending || self.look_at.is_none_or(|at| now < at) {
            return;
        }
        self.look_at = None;
        for key in self.keys() {
            if self.counts.containers_up <= self.config.min_containers {
                return;
            }
            let idle = self.container(key).filter(|container| container.phase == Phase::Ready);
            let Some(since) = idle.and_then(Container::idle_since) else { continue };
            let at = since + self.config.scale_down_after;
            if at <= now {
                self.end(key, effects);
            } else {
                self.look_at = Some(self.look_at.map_or(at, |earlier| earlier.min(at)));
            }
        }
    }
}
