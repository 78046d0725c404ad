//! The user ids of slots: each container of an executor has a range of its own for as long as it lives, wherever it
//! runs, so that no two slots of a machine ever have the same.

use std::{
    collections::BTreeSet,
    fmt,
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
    width: u32,
    /// Of it among those that are taken: its start, and where it is wider than ranges are now, the start of each further
    /// part of their width.
    parts: Vec<u32>,
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
        IdRange { start, width: self.width, parts: vec![start], taken: self.taken.clone() }
    }

    /// The one that a container has already, which may be of another width.
    pub(super) fn claim(&self, start: u32, width: u32) -> IdRange {
        let parts: Vec<u32> = (start..start.saturating_add(width)).step_by(self.width as usize).collect();
        lock(&self.taken).extend(&parts);
        IdRange { start, width, parts, taken: self.taken.clone() }
    }

    /// The same, as it was printed. By its start alone, as an earlier build printed it, it is as wide as they are now.
    pub(super) fn claim_printed(&self, text: &str) -> Option<IdRange> {
        let (start, width) = match text.split_once('+') {
            Some((start, width)) => (start, width.parse().ok()?),
            None => (text, self.width),
        };
        Some(self.claim(start.parse().ok()?, width))
    }
}

impl IdRange {
    pub(super) fn start(&self) -> u32 {
        self.start
    }
}

/// Its first id, and how many there are.
impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.start, self.width)
    }
}

impl Drop for IdRange {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        for start in &self.parts {
            taken.remove(start);
        }
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
        let adopted = ids.claim_printed("1015").unwrap();
        let taken: Vec<_> = (0..3).map(|_| ids.take()).collect();
        assert_eq!(taken.iter().map(IdRange::start).collect::<Vec<_>>(), [1_000, 1_030, 1_040]);
        drop(adopted);
        assert_eq!(ids.take().start(), 1_010);
        // Somebody else has 1_015.
        assert_eq!(ids.take_unless(|range| range.contains(&1_015)).start(), 1_020);
    }

    #[test]
    fn a_container_of_wider_ranges_has_all_of_its_own() {
        let ids = UserIds::new(1_000, [3].into_iter());
        let wide = ids.claim(1_002, 9);
        let printed = wide.to_string();
        let next = ids.take();
        assert_eq!(next.start(), 1_016, "the last part of a wide one is as wide as the others");
        drop(wide);
        let wide = ids.claim_printed(&printed).unwrap();
        assert_eq!(wide.start(), 1_002);
        assert_eq!(ids.take().start(), 1_020);
        drop(wide);
        assert_eq!(ids.take().start(), 1_000);
        assert!(ids.claim_printed("1000+x").is_none() && ids.claim_printed("").is_none());
    }
}
