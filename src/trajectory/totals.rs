//! What all trajectories hold together. Each adds its own part, whole: whoever looks sees the sum of parts that were all
//! true, never half of a change.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// See the module.
#[derive(Default)]
pub(super) struct Totals(Mutex<Counts>);

/// What all trajectories hold together at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub open_trajectories: u64,
    /// Of these, whose lease runs.
    pub leased_trajectories: u64,
    pub waiting_calls: u64,
    pub running_calls: u64,
    /// Of what these calls carry.
    pub call_bytes: u64,
    /// Of results, and of the output of calls that run.
    pub kept_bytes: u64,
    /// Since the service started.
    pub answers: u64,
    pub unsuccessful_answers: u64,
}

/// What one trajectory adds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) open: bool,
    /// Open, and nobody attends to it.
    pub(super) leased: bool,
    pub(super) waiting: usize,
    pub(super) running: usize,
    pub(super) call_bytes: u64,
    pub(super) kept_bytes: u64,
    /// Since it was made.
    pub(super) answers: u64,
    pub(super) unsuccessful: u64,
}

/// What is bounded over all trajectories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Holdings {
    /// Accepted and not ended.
    pub(super) calls: usize,
    pub(super) call_bytes: u64,
    pub(super) kept_bytes: u64,
}

impl Counts {
    /// What the others hold, where one adds this part to the sum.
    pub(super) fn without(&self, part: &Part) -> Holdings {
        let calls = usize::try_from(self.waiting_calls + self.running_calls).unwrap_or(usize::MAX);
        Holdings {
            calls: calls - part.waiting - part.running,
            call_bytes: self.call_bytes - part.call_bytes,
            kept_bytes: self.kept_bytes - part.kept_bytes,
        }
    }
}

impl Totals {
    pub(super) fn get(&self) -> Counts {
        *self.lock()
    }

    /// The kept bytes of all, after the change.
    pub(super) fn change(&self, before: &Part, now: &Part) -> u64 {
        let mut counts = self.lock();
        let change = |total: &mut u64, before: u64, now: u64| *total = *total + now - before;
        change(&mut counts.open_trajectories, before.open.into(), now.open.into());
        change(&mut counts.leased_trajectories, before.leased.into(), now.leased.into());
        change(&mut counts.waiting_calls, before.waiting as u64, now.waiting as u64);
        change(&mut counts.running_calls, before.running as u64, now.running as u64);
        change(&mut counts.call_bytes, before.call_bytes, now.call_bytes);
        change(&mut counts.kept_bytes, before.kept_bytes, now.kept_bytes);
        change(&mut counts.answers, before.answers, now.answers);
        change(&mut counts.unsuccessful_answers, before.unsuccessful, now.unsuccessful);
        counts.kept_bytes
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Sums do not fail halfway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn nobody_sees_half_a_change() {
        let totals = Totals::default();
        let begun = Barrier::new(2);
        std::thread::scope(|scope| {
            let busy = scope.spawn(|| {
                // A call that waits and runs in turn, and each time is answered without success.
                let mut before = Part { waiting: 1, ..Part::default() };
                totals.change(&Part::default(), &before);
                begun.wait();
                for answers in 1..50_000 {
                    let (waiting, running) = (before.running, before.waiting);
                    let now = Part { waiting, running, answers, unsuccessful: answers, ..Part::default() };
                    totals.change(&before, &now);
                    before = now;
                }
            });
            begun.wait();
            while !busy.is_finished() {
                let counts = totals.get();
                assert_eq!(counts.waiting_calls + counts.running_calls, 1);
                assert_eq!(counts.answers, counts.unsuccessful_answers);
            }
        });
        assert_eq!(totals.get().answers, 49_999);
    }
}
