//! Which slots the processors serve first: those that have used little of late. Most calls are short, and a model waits
//! for them; a slot that takes what it can get, in one long call or in many, gives way to the others until it has used
//! less for a while. It still gets all that nobody else wants.
//!
//! A slot earns half of its equal part of the processors, and saves up [`BURST`] at most. So what is served first takes
//! half of the processors in the long run, and whoever gives way does not starve.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior};
use tracing::warn;

use crate::sandbox::slot::SlotCgroup;

/// How often slots are looked at.
const INTERVAL: Duration = Duration::from_millis(50);
/// Of a processor's time, that a slot which has done nothing may use before it gives way.
const BURST: Duration = Duration::from_millis(100);
/// How far a slot is set back at most, however much it has used.
const DEBT: Duration = Duration::from_millis(100);

/// Of one slot.
#[derive(Debug)]
pub(super) struct Precedence {
    cgroup: Arc<SlotCgroup>,
    /// None until it was looked at since its slot was made.
    credit: Mutex<Option<Credit>>,
    /// In processors.
    earns: f64,
}

impl Precedence {
    /// `slots`: as many share the processors. None where the kernel does not tell what a slot uses, or cannot let one
    /// give way.
    pub(super) fn new(cgroup: Arc<SlotCgroup>, slots: u32) -> Option<Arc<Self>> {
        cgroup.cpu_used().ok()?;
        cgroup.give_way(false).ok()?;
        // One is what there is at least.
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let earns = processors as f64 / f64::from(slots.max(1)) / 2.0;
        Some(Arc::new(Self { cgroup, credit: Mutex::default(), earns }))
    }

    /// The slot is another's now, who begins anew.
    pub(super) fn renew(&self) {
        let credit = self.credit.lock().unwrap_or_else(PoisonError::into_inner).take();
        if credit.is_some_and(|credit| credit.is_spent) {
            self.give_way(false);
        }
    }

    fn look(&self, now: Instant) {
        // A group that is gone has nothing to give.
        let Ok(used) = self.cgroup.cpu_used() else { return };
        let mut credit = self.credit.lock().unwrap_or_else(PoisonError::into_inner);
        let credit = credit.get_or_insert_with(|| Credit::new(used, now));
        let was_spent = credit.is_spent;
        credit.account(used, self.earns, now);
        if credit.is_spent != was_spent {
            self.give_way(credit.is_spent);
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
        slots.iter().for_each(|slot| slot.look(now));
    }
}

/// What a slot may use before it gives way.
#[derive(Debug)]
struct Credit {
    /// In seconds of a processor.
    saved: f64,
    is_spent: bool,
    /// When it was last accounted, and what the slot had used then since it has its control groups.
    at: Instant,
    used: Duration,
}

impl Credit {
    fn new(used: Duration, at: Instant) -> Self {
        Self { saved: BURST.as_secs_f64(), is_spent: false, at, used }
    }

    fn account(&mut self, used: Duration, earns: f64, now: Instant) {
        let earned = earns * now.saturating_duration_since(self.at).as_secs_f64();
        let spent = used.saturating_sub(self.used).as_secs_f64();
        self.saved = (self.saved + earned - spent).clamp(-DEBT.as_secs_f64(), BURST.as_secs_f64());
        (self.at, self.used) = (now, used);
        // Not for a moment only, in either direction.
        if self.saved <= 0.0 {
            self.is_spent = true;
        } else if self.saved >= BURST.as_secs_f64() / 2.0 {
            self.is_spent = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EARNS: f64 = 0.1;

    /// A slot that uses so much of a processor in each interval; after which of them it gives way.
    fn gives_way(credit: &mut Credit, uses: &[f64]) -> Vec<bool> {
        uses.iter()
            .map(|part| {
                credit.account(credit.used + INTERVAL.mul_f64(*part), EARNS, credit.at + INTERVAL);
                credit.is_spent
            })
            .collect()
    }

    #[test]
    fn whoever_uses_a_processor_for_long_gives_way_until_it_has_rested() {
        let mut credit = Credit::new(Duration::from_secs(9), Instant::now());
        assert_eq!(gives_way(&mut credit, &[1.0, 1.0, 1.0, 1.0]), [false, false, true, true]);
        assert_eq!(gives_way(&mut credit, &[2.0; 100]), [true; 100], "it is not set back further and further");
        // 100 ms of debt and half of the burst, at a tenth of a processor.
        let rested = gives_way(&mut credit, &[0.0; 40]).iter().filter(|gives_way| **gives_way).count();
        assert!((29..=30).contains(&rested), "{rested}");
    }

    #[test]
    fn whoever_uses_less_than_it_earns_never_gives_way() {
        let mut credit = Credit::new(Duration::ZERO, Instant::now());
        assert_eq!(gives_way(&mut credit, &[0.09; 1000]), [false; 1000]);
        // Now and then more.
        let now_and_then: Vec<f64> = (0..1000).map(|index| if index % 20 == 0 { 1.5 } else { 0.0 }).collect();
        assert_eq!(gives_way(&mut credit, &now_and_then), [false; 1000]);
    }

    #[test]
    fn many_short_calls_are_as_much_as_a_long_one() {
        let mut credit = Credit::new(Duration::ZERO, Instant::now());
        let told = gives_way(&mut credit, &[0.3; 100]);
        assert!(
            told[..9].iter().all(|gives_way| !gives_way) && told[12..].iter().all(|gives_way| *gives_way),
            "{told:?}"
        );
    }
}
