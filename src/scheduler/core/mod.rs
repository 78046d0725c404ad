//! The pure core: what happens and when goes in, what is to be done comes out. No I/O, no clock, no chance. Every pool
//! has one of its own, and none knows of another.
//!
//! ```text
//! container:  Starting --ready--> Ready --drained, or stopped--> Ending --gone--> (none)
//!                 '----failed------'----------lost------------------'-----------> (none)
//! slot:       Clean --grant--> Leased --release--> Resetting --ready--> Clean
//!                                 ^ '--release, keep--> Kept --wiped--> Resetting
//!                                 '-grant to its owner---'
//!                                                  Resetting --cannot be emptied--> Quarantined
//! ```
//!
//! Invariants, each of which is a property test: a slot has at most one owner and an owner at most one slot; whoever
//! waits gets a slot in order of arrival; containers stay between min and max; a draining or lost container gets
//! nothing new; nothing waits while something free could serve it. The cost of an event does not depend on how many
//! slots or trajectories there are.
//!
//! A container that is gone leaves a key that fits nothing: late news of it is ignored.

mod container;
mod free;
mod line;
mod scaling;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::Instant,
};

use self::{
    container::{Container, Slot},
    free::Free,
    line::Line,
};
pub use self::{
    container::{ContainerKey, Counts, Phase},
    line::Ticket,
};
use super::config::PoolConfig;

/// One slot of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotKey {
    pub container: ContainerKey,
    pub index: u32,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The slot is now this waiter's; `kept`: with the files that it left there.
    Grant {
        ticket: Ticket,
        slot: SlotKey,
        kept: bool,
    },
    /// The waiter's time is over.
    TimedOut(Ticket),
    Start(ContainerKey),
    /// End the container, whatever it does.
    Stop(ContainerKey),
    /// Tell the agent that the slot was given back: it answers that the slot is ready again, or never will be.
    Release {
        slot: SlotKey,
        keep: bool,
    },
}

/// The line is as long as it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineFull;

/// See the module. `O` names the owner of a lease.
#[derive(Debug)]
pub struct Core<O> {
    config: PoolConfig,
    containers: Vec<Option<Container>>,
    /// Indexes of `containers` that are free.
    vacant: Vec<u32>,
    serial: u32,
    free: Free,
    line: Line<O>,
    /// Where the files of an owner who has left are, and when they were left there.
    kept: HashMap<O, (SlotKey, u64)>,
    kept_order: VecDeque<(O, u64)>,
    kept_serial: u64,
    counts: Counts,
    failures: u32,
    /// No container is started before.
    retry_at: Option<Instant>,
    /// When to look for containers that nobody uses.
    look_at: Option<Instant>,
    ending: bool,
}

impl<O: Clone + Eq + Hash> Core<O> {
    pub fn new(config: PoolConfig) -> Self {
        Self {
            free: Free::new(config.slots_per_container),
            config,
            containers: Vec::new(),
            vacant: Vec::new(),
            serial: 0,
            line: Line::new(),
            kept: HashMap::new(),
            kept_order: VecDeque::new(),
            kept_serial: 0,
            counts: Counts::default(),
            failures: 0,
            retry_at: None,
            look_at: None,
            ending: false,
        }
    }

    /// Starts what must always be there.
    pub fn begin(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.advance(now, effects);
    }

    /// Somebody wants a slot.
    ///
    /// # Errors
    /// If too many wait already.
    pub fn acquire(&mut self, owner: O, now: Instant, effects: &mut Vec<Effect>) -> Result<Ticket, LineFull> {
        if self.line.places() >= self.config.max_waiting {
            return Err(LineFull);
        }
        let ticket = self.line.join(owner.clone(), now + self.config.acquire_timeout);
        if let Some((slot, _)) = self.kept.get(&owner).copied() {
            self.forget_kept(&owner);
            self.line.leave(ticket);
            self.change(slot, Slot::Leased, now);
            effects.push(Effect::Grant { ticket, slot, kept: true });
        } else {
            self.advance(now, effects);
        }
        Ok(ticket)
    }

    /// Whoever has the ticket does not want a slot any more. Of a ticket that does not wait this means nothing.
    pub fn leave(&mut self, ticket: Ticket) {
        self.line.leave(ticket);
    }

    /// The lease of a slot is over; its files may be kept for this owner.
    pub fn release(&mut self, slot: SlotKey, keep_for: Option<O>, now: Instant, effects: &mut Vec<Effect>) {
        if self.slot(slot) != Some(Slot::Leased) {
            return;
        }
        let keep = keep_for.filter(|owner| self.is_ready(slot.container) && !self.kept.contains_key(owner));
        effects.push(Effect::Release { slot, keep: keep.is_some() });
        match keep {
            // The agent does what it is told in order: whatever comes next finds the files kept.
            Some(owner) => {
                self.kept_serial += 1;
                self.kept.insert(owner.clone(), (slot, self.kept_serial));
                self.kept_order.push_back((owner.clone(), self.kept_serial));
                self.change(slot, Slot::Kept, now);
            }
            None => self.change(slot, Slot::Resetting, now),
        }
        self.end_if_drained(slot.container, now, effects);
        self.advance(now, effects);
    }

    /// The agent has emptied the slot.
    pub fn slot_ready(&mut self, slot: SlotKey, now: Instant, effects: &mut Vec<Effect>) {
        if self.slot(slot) != Some(Slot::Resetting) {
            return;
        }
        self.change(slot, Slot::Clean, now);
        self.end_if_drained(slot.container, now, effects);
        self.advance(now, effects);
    }

    /// The slot could not be emptied, and is never used again.
    pub fn slot_quarantined(&mut self, slot: SlotKey, now: Instant, effects: &mut Vec<Effect>) {
        if self.slot(slot) != Some(Slot::Resetting) {
            return;
        }
        self.change(slot, Slot::Quarantined, now);
        let useless = self.container(slot.container).is_some_and(Container::is_useless);
        if useless && self.is_ready(slot.container) {
            self.end(slot.container, effects);
        }
        self.end_if_drained(slot.container, now, effects);
        self.advance(now, effects);
    }

    pub fn container_ready(&mut self, key: ContainerKey, now: Instant, effects: &mut Vec<Effect>) {
        let Some(container) = self.container_mut(key) else { return };
        if container.phase != Phase::Starting {
            return;
        }
        let before = container.counts();
        container.begin(now);
        let after = container.counts();
        self.recount(key, before, after);
        self.failures = 0;
        self.retry_at = None;
        self.advance(now, effects);
    }

    /// It could not be started. `jitter` from 0 to 1 spreads the retries of many executors.
    pub fn container_failed(&mut self, key: ContainerKey, jitter: f64, now: Instant, effects: &mut Vec<Effect>) {
        if self.remove(key).is_some_and(|container| container.phase == Phase::Starting) {
            self.back_off(jitter, now);
        }
        self.advance(now, effects);
    }

    /// It is gone, by itself or because it was stopped.
    pub fn container_gone(&mut self, key: ContainerKey, jitter: f64, now: Instant, effects: &mut Vec<Effect>) {
        if let Some(container) = self.remove(key)
            && container.phase == Phase::Ready
            && now.saturating_duration_since(container.since) < scaling::SHORT_LIFE
        {
            self.back_off(jitter, now);
        }
        self.advance(now, effects);
    }

    /// It will be taken away: what runs in it may end, and nothing new comes.
    pub fn container_draining(&mut self, key: ContainerKey, now: Instant, effects: &mut Vec<Effect>) {
        if !self.is_ready(key) {
            return;
        }
        self.set_phase(key, Phase::Draining);
        self.forget_kept_in(key);
        self.end_if_drained(key, now, effects);
        self.advance(now, effects);
    }

    /// Ends every container and starts no more.
    pub fn shut_down(&mut self, effects: &mut Vec<Effect>) {
        self.ending = true;
        for key in self.keys() {
            if self.phase(key) != Some(Phase::Ending) {
                self.end(key, effects);
            }
        }
    }

    /// Time has passed: at least to [`Core::deadline`].
    pub fn on_time(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while self.line.front().is_some_and(|(_, deadline)| deadline <= now) {
            if let Some((ticket, _)) = self.line.pop() {
                effects.push(Effect::TimedOut(ticket));
            }
        }
        self.advance(now, effects);
        self.scale_down(now, effects);
    }

    /// When something happens by itself.
    pub fn deadline(&self) -> Option<Instant> {
        let waiting = self.line.front().map(|(_, deadline)| deadline);
        let retry = self.retry_at.filter(|_| self.lacks_containers() > 0);
        [waiting, retry, self.look_at].into_iter().flatten().min()
    }

    /// Slots by state, and how many wait.
    pub fn counts(&self) -> Counts {
        Counts { waiting: self.line.len(), ..self.counts }
    }

    /// Of one container; none if it is gone.
    pub fn container_counts(&self, key: ContainerKey) -> Option<Counts> {
        self.container(key).map(Container::counts)
    }

    pub fn phase(&self, key: ContainerKey) -> Option<Phase> {
        self.container(key).map(|container| container.phase)
    }

    /// Those who wait, first come first.
    pub fn waiting(&self) -> impl Iterator<Item = Ticket> {
        self.line.tickets()
    }

    /// When the next start may be tried, after one that has failed.
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    fn end_if_drained(&mut self, key: ContainerKey, now: Instant, effects: &mut Vec<Effect>) {
        let drained = self
            .container(key)
            .is_some_and(|container| container.phase == Phase::Draining && container.idle_since().is_some());
        if drained {
            self.end(key, effects);
            self.look_again(now);
        }
    }

    fn end(&mut self, key: ContainerKey, effects: &mut Vec<Effect>) {
        self.set_phase(key, Phase::Ending);
        self.forget_kept_in(key);
        effects.push(Effect::Stop(key));
    }

    fn look_again(&mut self, now: Instant) {
        if self.counts.containers_up > self.config.min_containers {
            self.look_at.get_or_insert(now + self.config.scale_down_after);
        }
    }

    fn add(&mut self, now: Instant) -> ContainerKey {
        self.serial = self.serial.wrapping_add(1);
        let container = Container::new(self.serial, self.config.slots_per_container, now);
        let after = container.counts();
        let index = match self.vacant.pop() {
            Some(index) => {
                self.containers[index as usize] = Some(container);
                index
            }
            None => {
                self.containers.push(Some(container));
                self.containers.len() as u32 - 1
            }
        };
        let key = ContainerKey { index, serial: self.serial };
        self.recount(key, Counts::default(), after);
        key
    }

    fn remove(&mut self, key: ContainerKey) -> Option<Container> {
        let before = self.container(key)?.counts();
        let container = self.containers[key.index as usize].take()?;
        self.vacant.push(key.index);
        self.recount(key, before, Counts::default());
        self.forget_kept_in(key);
        Some(container)
    }

    fn set_phase(&mut self, key: ContainerKey, phase: Phase) {
        let Some(container) = self.container_mut(key) else { return };
        let before = container.counts();
        container.phase = phase;
        let after = container.counts();
        self.recount(key, before, after);
    }

    fn change(&mut self, key: SlotKey, slot: Slot, now: Instant) {
        let Some(container) = self.container_mut(key.container) else { return };
        let before = container.counts();
        container.change(key.index, slot, now);
        let after = container.counts();
        let idle = container.idle_since().is_some();
        self.recount(key.container, before, after);
        if idle {
            self.look_again(now);
        }
    }

    fn recount(&mut self, key: ContainerKey, before: Counts, after: Counts) {
        self.counts.replace(before, after);
        let free = self.container(key).map_or(0, Container::free);
        self.free.set(key.index, free);
    }

    fn keys(&self) -> Vec<ContainerKey> {
        let keys = (0..).zip(&self.containers).filter_map(|(index, container)| {
            container.as_ref().map(|container| ContainerKey { index, serial: container.serial })
        });
        keys.collect()
    }

    fn container(&self, key: ContainerKey) -> Option<&Container> {
        self.containers.get(key.index as usize)?.as_ref().filter(|container| container.serial == key.serial)
    }

    fn container_mut(&mut self, key: ContainerKey) -> Option<&mut Container> {
        self.containers.get_mut(key.index as usize)?.as_mut().filter(|container| container.serial == key.serial)
    }

    fn is_ready(&self, key: ContainerKey) -> bool {
        self.phase(key) == Some(Phase::Ready)
    }

    fn slot(&self, key: SlotKey) -> Option<Slot> {
        self.container(key.container)?.slots.get(key.index as usize).copied()
    }
}
