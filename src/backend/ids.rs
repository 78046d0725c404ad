//! The user ids of slots: each container of an executor has a range of its own for as long as it lives, wherever it
//! runs, so that no two slots of a machine ever have the same.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// All ranges there are.
#[derive(Debug)]
pub(super) struct UserIds {
    base: u32,
    /// Of each range.
    width: u32,
    taken: Arc<Mutex<BTreeSet<u32>>>,
}

/// A range that is one container's until this is dropped.
#[derive(Debug)]
pub(super) struct IdRange {
    start: u32,
    taken: Arc<Mutex<BTreeSet<u32>>>,
}

impl UserIds {
    /// From `base` on, each wide enough for a container with the most of these numbers of slots.
    pub(super) fn new(base: u32, slots: impl Iterator<Item = u32>) -> Self {
        // One more: the last is for the agent's own test.
        Self { base, width: slots.max().unwrap_or_default() + 1, taken: Arc::default() }
    }

    /// The lowest that is free.
    pub(super) fn take(&self) -> IdRange {
        self.take_unless(|_| false)
    }

    /// The lowest that is free, and that nobody else uses, as `used` says: another executor on this machine may count
    /// from the same base on, and what an agent leaves that was killed may still be dying.
    pub(super) fn take_unless(&self, used: impl Fn(Range<u32>) -> bool) -> IdRange {
        let mut taken = lock(&self.taken);
        let starts = (self.base..).step_by(self.width as usize);
        let overlaps = |start: u32| {
            let before = start.saturating_sub(self.width - 1);
            taken.range(before..start.saturating_add(self.width)).next().is_some()
        };
        let is_used = |start: u32| used(start..start.saturating_add(self.width));
        let free = starts.into_iter().find(|start| !overlaps(*start) && !is_used(*start));
        let start = free.unwrap_or(self.base);
        taken.insert(start);
        IdRange { start, taken: self.taken.clone() }
    }

    /// The one that a container has already.
    pub(super) fn claim(&self, start: u32) -> IdRange {
        lock(&self.taken).insert(start);
        IdRange { start, taken: self.taken.clone() }
    }
}

impl IdRange {
    pub(super) fn start(&self) -> u32 {
        self.start
    }
}

impl Drop for IdRange {
    fn drop(&mut self) {
        lock(&self.taken).remove(&self.start);
    }
}

fn lock(taken: &Mutex<BTreeSet<u32>>) -> MutexGuard<'_, BTreeSet<u32>> {
    // Each change is whole before the lock is given back.
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_containers_have_an_id_in_common() {
        let ids = UserIds::new(1_000, [3, 9].into_iter());
        // Of an executor before this one, with another width.
        let adopted = ids.claim(1_015);
        let taken: Vec<_> = (0..3).map(|_| ids.take()).collect();
        assert_eq!(taken.iter().map(IdRange::start).collect::<Vec<_>>(), [1_000, 1_030, 1_040]);
        drop(adopted);
        assert_eq!(ids.take().start(), 1_010);
        // Somebody else has 1_015.
        assert_eq!(ids.take_unless(|range| range.contains(&1_015)).start(), 1_020);
    }
}
