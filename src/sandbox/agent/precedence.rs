//! Which slots the processors serve first: those that have used little of late. Most calls are short, and a model waits
//! for them; a slot that takes what it can get, in one long call or in many, gives way to the others until it has used
//! less for a while. It still gets all that nobody else wants.
//!
//! Who gives way is found as water finds its level: of all that the slots have used of late, those that are served first
//! have used at most nine tenths, none of them more than the level, and whoever has used more gives way. So a hog beside
//! slots that work gives way alone, slots that all want the same all do and share equally, and nobody starves.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior};
use tracing::warn;

use crate::sandbox::slot::SlotCgroup;

/// How often slots are looked at.
const INTERVAL: Duration = Duration::from_millis(50);
/// Of late: what was used so long ago counts 1/e of what is used now.
const MEMORY: Duration = Duration::from_secs(1);
/// The part of what all have used that those have used at most who are served first.
const SERVED_FIRST: f64 = 0.9;
/// In processors: a slot that has used less of late than so much never gives way. It is 100 ms after a rest.
const AT_LEAST: f64 = 0.1;
/// A slot gives way until it has used so much less than makes one give way, and not for a moment only.
const RESTED: f64 = 0.75;

/// Of one slot.
#[derive(Debug)]
pub(super) struct Precedence {
    cgroup: Arc<SlotCgroup>,
    /// None until it was looked at since its slot was made.
    usage: Mutex<Option<Usage>>,
}

impl Precedence {
    /// None where the kernel does not tell what a slot uses, or cannot let one give way.
    pub(super) fn new(cgroup: Arc<SlotCgroup>) -> Option<Arc<Self>> {
        cgroup.cpu_used().ok()?;
        cgroup.give_way(false).ok()?;
        Some(Arc::new(Self { cgroup, usage: Mutex::default() }))
    }

    /// The slot is another's now, who begins anew.
    pub(super) fn renew(&self) {
        let usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner).take();
        if usage.is_some_and(|usage| usage.gives_way) {
            self.give_way(false);
        }
    }

    /// What it has used of late.
    fn look(&self, now: Instant) -> f64 {
        // A group that is gone has nothing to give.
        let Ok(used) = self.cgroup.cpu_used() else { return 0.0 };
        let mut usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        let usage = usage.get_or_insert_with(|| Usage::new(used, now));
        usage.account(used, now);
        usage.recent
    }

    fn decide(&self, level: f64) {
        let mut usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(usage) = usage.as_mut() else { return };
        let before = usage.gives_way;
        usage.decide(level);
        if usage.gives_way != before {
            self.give_way(usage.gives_way);
        }
    }

    fn give_way(&self, gives_way: bool) {
        if let Err(error) = self.cgroup.give_way(gives_way) {
            warn!(error = &error as &dyn std::error::Error, "a slot could not be given its place among the others");
        }
    }
}

/// Until it is dropped.
pub(super) async fn watch(slots: Vec<Arc<Precedence>>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = ticks.tick().await;
        let level = level(slots.iter().map(|slot| slot.look(now)).collect());
        slots.iter().for_each(|slot| slot.decide(level));
    }
}

/// What a slot may have used of late and be served first, in processors, where the slots have used so much.
fn level(mut used: Vec<f64>) -> f64 {
    used.sort_by(f64::total_cmp);
    let (mut left, mut slots) = (used.iter().sum::<f64>() * SERVED_FIRST, used.len());
    for used in used {
        let equal_part = left / slots as f64;
        if used >= equal_part {
            return equal_part.max(AT_LEAST);
        }
        (left, slots) = (left - used, slots - 1);
    }
    AT_LEAST
}

/// What a slot uses of the processors.
#[derive(Debug)]
struct Usage {
    /// In processors, and what is long ago counts less.
    recent: f64,
    gives_way: bool,
    /// When it was last accounted, and what the slot had used then since it has its control groups.
    at: Instant,
    used: Duration,
}

impl Usage {
    fn new(used: Duration, at: Instant) -> Self {
        Self { recent: 0.0, gives_way: false, at, used }
    }

    fn account(&mut self, used: Duration, now: Instant) {
        let spent = used.saturating_sub(self.used).as_secs_f64();
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.recent = self.recent * (-elapsed / MEMORY.as_secs_f64()).exp() + spent / MEMORY.as_secs_f64();
        (self.at, self.used) = (now, used);
    }

    fn decide(&mut self, level: f64) {
        self.gives_way = self.recent > if self.gives_way { level * RESTED } else { level };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose slots want so many processors each.
    struct Machine {
        processors: f64,
        slots: Vec<(f64, Usage)>,
    }

    impl Machine {
        fn new(processors: f64, wanted: &[f64]) -> Self {
            let now = Instant::now();
            let slots = wanted.iter().map(|wanted| (*wanted, Usage::new(Duration::ZERO, now))).collect();
            Self { processors, slots }
        }

        /// Lets an interval pass; what each slot has got of it, in processors.
        fn tick(&mut self) -> Vec<f64> {
            let mut left = self.processors;
            let mut got = vec![0.0; self.slots.len()];
            for served_last in [false, true] {
                let rank: Vec<usize> =
                    (0..got.len()).filter(|index| self.slots[*index].1.gives_way == served_last).collect();
                let wanted: f64 = rank.iter().map(|index| self.slots[*index].0).sum();
                let part = (left / wanted).min(1.0);
                for index in rank {
                    got[index] = self.slots[index].0 * part;
                    left -= got[index];
                }
            }
            for ((_, usage), got) in self.slots.iter_mut().zip(&got) {
                usage.account(usage.used + INTERVAL.mul_f64(*got), usage.at + INTERVAL);
            }
            let level = level(self.slots.iter().map(|(_, usage)| usage.recent).collect());
            self.slots.iter_mut().for_each(|(_, usage)| usage.decide(level));
            got
        }

        /// What each has got on average while the time passed, in processors.
        fn run(&mut self, time: Duration) -> Vec<f64> {
            let ticks = (time.as_secs_f64() / INTERVAL.as_secs_f64()) as usize;
            let mut sums = vec![0.0; self.slots.len()];
            for _ in 0..ticks {
                let got = self.tick();
                sums.iter_mut().zip(got).for_each(|(sum, got)| *sum += got / ticks as f64);
            }
            sums
        }

        fn who_gives_way(&self) -> Vec<bool> {
            self.slots.iter().map(|(_, usage)| usage.gives_way).collect()
        }
    }

    #[test]
    fn a_hog_gives_way_to_those_who_do_little_and_to_those_who_work() {
        for neighbours in [0.01, 0.09, 0.3] {
            let mut machine = Machine::new(2.0, &[2.0, neighbours, neighbours, neighbours, neighbours]);
            machine.run(Duration::from_millis(300));
            assert_eq!(machine.who_gives_way(), [true, false, false, false, false], "{neighbours}");
            let got = machine.run(Duration::from_secs(60));
            assert!(got[1..].iter().all(|got| (got - neighbours).abs() < 1e-9), "{neighbours}: {got:?}");
            assert_eq!(machine.who_gives_way(), [true, false, false, false, false], "{neighbours}");
        }
    }

    #[test]
    fn who_does_as_much_in_short_calls_gives_way_too() {
        let mut machine = Machine::new(2.0, &[0.0, 0.02, 0.02]);
        for tick in 0..200 {
            machine.slots[0].0 = if tick % 10 < 3 { 2.0 } else { 0.0 };
            machine.tick();
            assert!(tick < 10 || machine.who_gives_way() == [true, false, false], "{tick}");
        }
    }

    #[test]
    fn those_who_want_the_same_get_the_same() {
        for slots in [2, 5, 64] {
            let got = Machine::new(2.0, &vec![1.0; slots]).run(Duration::from_secs(60));
            assert!(got.iter().all(|got| (got / (2.0 / slots as f64) - 1.0).abs() < 0.1), "{slots}: {got:?}");
        }
        // One after another has come, and the last soon has what the others have.
        let mut machine = Machine::new(2.0, &[2.0, 2.0, 2.0, 0.0]);
        machine.run(Duration::from_secs(10));
        machine.slots[3].0 = 2.0;
        machine.run(Duration::from_secs(5));
        let got = machine.run(Duration::from_secs(60));
        assert!(got.iter().all(|got| (got / 0.5 - 1.0).abs() < 0.1), "{got:?}");
    }

    #[test]
    fn nobody_starves_beside_many_who_do_a_little_less() {
        let mut wanted = vec![0.25; 8];
        wanted.push(0.5);
        let got = Machine::new(2.0, &wanted).run(Duration::from_secs(60));
        assert!(got[8] > 0.1, "{got:?}");
    }

    #[test]
    fn who_has_done_little_does_not_give_way_though_nobody_does_less() {
        let mut machine = Machine::new(2.0, &[0.09, 0.0, 0.0]);
        machine.run(Duration::from_secs(10));
        assert_eq!(machine.who_gives_way(), [false; 3]);
        machine.slots[0].0 = 1.0;
        machine.run(Duration::from_secs(2));
        assert_eq!(machine.who_gives_way(), [true, false, false]);
        machine.slots[0].0 = 0.0;
        machine.run(Duration::from_secs(3));
        assert_eq!(machine.who_gives_way(), [false; 3]);
    }
}
