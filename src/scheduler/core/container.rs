//! One container and its slots, counted as they change.

use std::time::Instant;

/// Names a container for as long as it is there, and nothing after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContainerKey {
    pub(super) index: u32,
    pub(super) serial: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Starting,
    Ready,
    /// Gets nothing new, and ends with its last lease.
    Draining,
    /// Told to end.
    Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Clean,
    /// Free, with the files of an owner who may come back.
    Kept,
    Leased,
    /// At the agent, being emptied.
    Resetting,
    Quarantined,
}

/// Slots by state, of a pool or a container. What a container that is about to end has free counts nowhere: nobody can
/// have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub available: u32,
    pub acquired: u32,
    pub starting: u32,
    pub resetting: u32,
    pub quarantined: u32,
    /// Containers in any phase.
    pub containers: u32,
    /// Containers that are starting.
    pub containers_starting: u32,
    /// Containers that are starting or ready.
    pub containers_up: u32,
    /// Trajectories in line; of a pool only.
    pub waiting: usize,
}

impl Counts {
    /// A part of the whole has changed.
    pub(super) fn replace(&mut self, before: Self, after: Self) {
        let change = |whole: &mut u32, before: u32, after: u32| *whole = *whole - before + after;
        change(&mut self.available, before.available, after.available);
        change(&mut self.acquired, before.acquired, after.acquired);
        change(&mut self.starting, before.starting, after.starting);
        change(&mut self.resetting, before.resetting, after.resetting);
        change(&mut self.quarantined, before.quarantined, after.quarantined);
        change(&mut self.containers, before.containers, after.containers);
        change(&mut self.containers_starting, before.containers_starting, after.containers_starting);
        change(&mut self.containers_up, before.containers_up, after.containers_up);
    }
}

#[derive(Debug)]
pub(super) struct Container {
    pub(super) serial: u32,
    pub(super) phase: Phase,
    /// When it became ready.
    pub(super) since: Instant,
    /// One byte each, so that looking at all of them costs what looking at one does.
    pub(super) slots: Box<[Slot]>,
    size: u32,
    clean: u32,
    kept: u32,
    leased: u32,
    resetting: u32,
    quarantined: u32,
    idle_since: Option<Instant>,
}

impl Container {
    pub(super) fn new(serial: u32, size: u32, now: Instant) -> Self {
        Self {
            serial,
            phase: Phase::Starting,
            since: now,
            slots: Box::default(),
            size,
            clean: 0,
            kept: 0,
            leased: 0,
            resetting: 0,
            quarantined: 0,
            idle_since: None,
        }
    }

    /// It is there: every slot is clean.
    pub(super) fn begin(&mut self, now: Instant) {
        self.phase = Phase::Ready;
        self.since = now;
        self.idle_since = Some(now);
        self.slots = vec![Slot::Clean; self.size as usize].into();
        self.clean = self.size;
    }

    pub(super) fn change(&mut self, index: u32, slot: Slot, now: Instant) {
        let Some(place) = self.slots.get_mut(index as usize) else { return };
        let old = std::mem::replace(place, slot);
        *self.count(old) -= 1;
        *self.count(slot) += 1;
        match self.leased + self.resetting {
            0 => _ = self.idle_since.get_or_insert(now),
            _ => self.idle_since = None,
        }
    }

    fn count(&mut self, slot: Slot) -> &mut u32 {
        match slot {
            Slot::Clean => &mut self.clean,
            Slot::Kept => &mut self.kept,
            Slot::Leased => &mut self.leased,
            Slot::Resetting => &mut self.resetting,
            Slot::Quarantined => &mut self.quarantined,
        }
    }

    pub(super) fn find_clean(&self) -> Option<u32> {
        let index = self.slots.iter().position(|slot| *slot == Slot::Clean)?;
        u32::try_from(index).ok()
    }

    /// Slots that a new lease may have.
    pub(super) fn free(&self) -> u32 {
        if self.phase == Phase::Ready { self.clean } else { 0 }
    }

    /// No slot of it will ever be used again.
    pub(super) fn is_useless(&self) -> bool {
        self.quarantined == self.size
    }

    /// Since when nobody has used it.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.idle_since
    }

    pub(super) fn counts(&self) -> Counts {
        let (starting, ready) = (self.phase == Phase::Starting, self.phase == Phase::Ready);
        Counts {
            available: if ready { self.clean + self.kept } else { 0 },
            acquired: self.leased,
            starting: if starting { self.size } else { 0 },
            resetting: if ready { self.resetting } else { 0 },
            quarantined: self.quarantined,
            containers: 1,
            containers_starting: u32::from(starting),
            containers_up: u32::from(starting || ready),
            waiting: 0,
        }
    }
}
