//! Which segments are still needed, and who is to state anew what he remembers so that old ones can go. Pure.
//!
//! A life needs every segment from that of its last statement on. So the oldest goes when no life began to be written
//! there. Two things bound what is kept: a life that has written much since its last statement makes another; and when
//! all segments together are many times as large as what lives, those who hold the oldest do, a few at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap, hash_map};

use super::segment::CAPACITY;

/// Kept however little of it lives, in bytes. It is read in half a second.
const FREE: u64 = 8 * CAPACITY;
/// How many times as large as what lives the segments may be.
const FACTOR: u64 = 3;
/// A life may have written so much since its last statement, whatever the size of that, in bytes.
const SLACK: u64 = 256 << 10;
/// And so many times as much as that. What is stated anew costs more than what is written once: of a life of many small
/// calls every result that is kept is among it.
const SINCE: u64 = 4;
/// How many are asked at a time: a statement costs as much as it has to say.
const ASKED: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lives {
    lives: HashMap<u64, Life>,
    /// Those that begin in a segment.
    beginning: BTreeMap<u64, BTreeSet<u64>>,
    segments: BTreeMap<u64, u64>,
    asked: BTreeSet<u64>,
    /// Of all lives.
    bytes: u64,
}

#[derive(Debug)]
struct Life {
    segment: u64,
    /// Written with the last statement, and since.
    stated: u64,
    since: u64,
}

impl Lives {
    /// There is another segment, of so many bytes.
    pub(super) fn add_segment(&mut self, number: u64, bytes: u64) {
        self.segments.insert(number, bytes);
    }

    /// A life has written so many bytes to a segment, the newest; `stated`: they stand for all before. True if it is to
    /// state itself anew.
    pub(super) fn wrote(&mut self, life: u64, segment: u64, bytes: u64, stated: bool) -> bool {
        if stated {
            self.end(life);
        }
        self.bytes += bytes;
        match self.lives.entry(life) {
            hash_map::Entry::Vacant(entry) => {
                entry.insert(Life { segment, stated: bytes, since: 0 });
                self.beginning.entry(segment).or_default().insert(life);
                false
            }
            hash_map::Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                known.since += bytes;
                known.since > SLACK + SINCE * known.stated && self.asked.insert(life)
            }
        }
    }

    /// Nobody has heard what was asked of him.
    pub(super) fn ask_anew(&mut self) {
        self.asked.clear();
    }

    /// It needs nothing any more.
    pub(super) fn end(&mut self, life: u64) {
        self.asked.remove(&life);
        let Some(known) = self.lives.remove(&life) else { return };
        self.bytes -= known.stated + known.since;
        if let Some(beginning) = self.beginning.get_mut(&known.segment) {
            beginning.remove(&life);
            if beginning.is_empty() {
                self.beginning.remove(&known.segment);
            }
        }
    }

    /// Segments older than `current` that nobody needs, which are forgotten.
    pub(super) fn take_needless(&mut self, current: u64) -> Vec<u64> {
        let first = self.beginning.first_key_value().map_or(current, |(segment, _)| (*segment).min(current));
        self.forget_before(first)
    }

    /// Segments before this one are not there any more: which those are.
    pub(super) fn forget_before(&mut self, oldest: u64) -> Vec<u64> {
        let needed = self.segments.split_off(&oldest);
        std::mem::replace(&mut self.segments, needed).into_keys().collect()
    }

    pub(super) fn oldest_segment(&self) -> Option<u64> {
        self.segments.first_key_value().map(|(number, _)| *number)
    }

    /// Who is to state himself anew, because too much is kept for him.
    pub(super) fn ask(&mut self, current: u64) -> Vec<u64> {
        let total: u64 = self.segments.values().sum();
        if total <= FREE.max(FACTOR * self.bytes) { Vec::new() } else { self.ask_oldest(current, u64::MAX) }
    }

    /// The same, since the disk has no room for another segment: `room` is what is left of the current one, in bytes.
    /// That is for what becomes of calls that were accepted, too, so that no more than half of it is asked for.
    pub(super) fn ask_for_room(&mut self, current: u64, room: u64) -> Vec<u64> {
        self.ask_oldest(current, room / 2)
    }

    fn ask_oldest(&mut self, current: u64, mut bytes: u64) -> Vec<u64> {
        let Some((segment, oldest)) = self.beginning.first_key_value() else { return Vec::new() };
        if *segment >= current {
            return Vec::new();
        }
        let may_state = |life: &&u64| {
            let Some(known) = self.lives.get(life).filter(|_| !self.asked.contains(life)) else { return false };
            // A statement is seldom longer than what it stands for.
            let rest = bytes.checked_sub(known.stated + known.since);
            bytes = rest.unwrap_or(bytes);
            rest.is_some()
        };
        let room = ASKED.saturating_sub(self.asked.len());
        let asked: Vec<u64> = oldest.iter().filter(may_state).take(room).copied().collect();
        self.asked.extend(&asked);
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_segments_go_when_nobody_needs_them() {
        let mut lives = Lives::default();
        for segment in 1..=3 {
            lives.add_segment(segment, CAPACITY);
            assert!(!lives.wrote(segment, segment, 100, false));
        }
        assert!(lives.take_needless(3).is_empty());
        lives.end(2);
        assert!(lives.take_needless(3).is_empty(), "the first is needed, and what comes after it may be");
        lives.wrote(1, 3, 50, true);
        assert_eq!(lives.take_needless(3), [1, 2]);
        lives.end(1);
        lives.end(3);
        assert!(lives.take_needless(3).is_empty(), "the newest is written to");
        assert_eq!(lives.bytes, 0);
    }

    #[test]
    fn whoever_has_written_much_is_asked_once() {
        let mut lives = Lives::default();
        lives.add_segment(1, CAPACITY);
        lives.wrote(7, 1, 1000, false);
        let asked: Vec<_> = (1..=1000).filter(|_| lives.wrote(7, 1, 1000, false)).collect();
        assert_eq!(asked, [SLACK / 1000 + SINCE + 1]);
        assert!(!lives.wrote(7, 1, 90_000, true));
        assert!(!lives.wrote(7, 1, SLACK + SINCE * 90_000, false), "in proportion to what it states");
        assert!(lives.wrote(7, 1, 1, false));
    }

    #[test]
    fn those_who_hold_the_oldest_are_asked_a_few_at_a_time() {
        let mut lives = Lives::default();
        let newest = FREE / CAPACITY + 1;
        for segment in 1..=newest {
            lives.add_segment(segment, CAPACITY);
        }
        assert!((0..100).all(|life| !lives.wrote(life, 1, 100, false)));
        let mut statements = 0;
        let mut asked = lives.ask(newest);
        while let Some(life) = asked.pop() {
            statements += 1;
            lives.wrote(life, newest, 100, true);
            asked.extend(lives.ask(newest));
            assert!(asked.len() <= ASKED);
        }
        assert_eq!(statements, 100);
        assert!(lives.take_needless(newest).into_iter().eq(1..newest));
        assert!(lives.ask(newest).is_empty());
    }

    #[test]
    fn on_a_full_disk_no_more_is_asked_for_than_there_is_room_for() {
        let mut lives = Lives::default();
        for segment in 1..=2 {
            lives.add_segment(segment, CAPACITY);
        }
        for (life, bytes) in [(1, 100), (2, 5_000), (3, 300), (4, 200)] {
            lives.wrote(life, 1, bytes, true);
        }
        assert!(lives.ask(2).is_empty());
        assert_eq!(lives.ask_for_room(2, 1_000), [1, 3]);
        assert_eq!(lives.ask_for_room(2, 1_000), [4]);
        assert!(lives.ask_for_room(2, 1_000).is_empty());
    }
}
