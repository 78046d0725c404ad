//! How many containers a pool should start, and how long it waits after one has failed.

use std::time::{Duration, Instant};

/// After the first failure in a row; doubled by each further one.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// A container that lived for so long was a good one. One that is lost sooner counts as a failed start, or containers
/// that die of what they find would be started without end.
pub(super) const PROVEN_AFTER: Duration = Duration::from_secs(10);

/// What decides how many containers to start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    /// Trajectories that wait.
    pub(super) waiting: u32,
    /// Slots that will be free without a new container: those that are being wiped.
    pub(super) coming: u32,
    pub(super) starting: u32,
    /// Those that serve or will: ready and starting.
    pub(super) useful: u32,
    /// All that use up the machine, whatever their state.
    pub(super) present: u32,
}

/// The bounds within which it decides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) slots_per_container: u32,
    pub(super) min: u32,
    pub(super) max: u32,
    pub(super) max_starting: u32,
}

/// How many containers to start now: as many as the line needs that nothing else will serve, and as many as are missing
/// to the least number.
pub(super) fn to_start(demand: Demand, bounds: Bounds) -> u32 {
    let slots = bounds.slots_per_container.max(1);
    let unserved = demand.waiting.saturating_sub(demand.coming);
    let for_the_line = unserved.div_ceil(slots).saturating_sub(demand.starting);
    let for_the_minimum = bounds.min.saturating_sub(demand.useful);
    for_the_line
        .max(for_the_minimum)
        .min(bounds.max.saturating_sub(demand.present))
        .min(bounds.max_starting.saturating_sub(demand.starting))
}

/// Keeps a pool from starting containers that fail again at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// In a row.
    failures: u32,
    until: Option<Instant>,
    /// When the last container became ready, unless a failure came since.
    succeeded: Option<Instant>,
}

impl Backoff {
    pub(super) fn succeed(&mut self, now: Instant) {
        self.succeeded = Some(now);
        self.until = None;
    }

    /// `jitter` is a random number: pools that fail together should not try again together.
    pub(super) fn fail(&mut self, now: Instant, jitter: u32) {
        if self.succeeded.take().is_some_and(|at| now.saturating_duration_since(at) >= PROVEN_AFTER) {
            self.failures = 0;
        }
        // Containers that were started together and fail together are one failure.
        if self.active(now) {
            return;
        }
        let longest = FIRST_DELAY.saturating_mul(1 << self.failures.min(16)).min(LONGEST_DELAY);
        self.failures = self.failures.saturating_add(1);
        let delay = longest / 2 + (longest / 2).mul_f64(f64::from(jitter) / f64::from(u32::MAX));
        self.until = Some(now + delay);
    }

    /// Whether nothing is to be started now.
    pub(super) fn active(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    pub(super) fn remaining(&self, now: Instant) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { slots_per_container: 10, min: 1, max: 5, max_starting: 2 };
    const CALM: Demand = Demand { waiting: 0, coming: 0, starting: 0, useful: 1, present: 1 };

    #[test]
    fn starts_what_the_line_needs_and_nothing_else_serves() {
        assert_eq!(to_start(CALM, BOUNDS), 0);
        assert_eq!(to_start(Demand { waiting: 1, ..CALM }, BOUNDS), 1);
        assert_eq!(to_start(Demand { waiting: 10, ..CALM }, BOUNDS), 1);
        assert_eq!(to_start(Demand { waiting: 11, ..CALM }, BOUNDS), 2);
        assert_eq!(to_start(Demand { waiting: 11, coming: 1, ..CALM }, BOUNDS), 1);
        assert_eq!(to_start(Demand { waiting: 3, coming: 3, ..CALM }, BOUNDS), 0);
        assert_eq!(to_start(Demand { waiting: 10, starting: 1, useful: 2, present: 2, ..CALM }, BOUNDS), 0);
        assert_eq!(to_start(Demand { waiting: 11, starting: 1, useful: 2, present: 2, ..CALM }, BOUNDS), 1);
    }

    #[test]
    fn keeps_within_its_bounds() {
        assert_eq!(to_start(Demand { waiting: 1000, ..CALM }, BOUNDS), 2);
        assert_eq!(to_start(Demand { waiting: 1000, useful: 4, present: 4, ..CALM }, BOUNDS), 1);
        assert_eq!(to_start(Demand { waiting: 1000, useful: 0, present: 5, ..CALM }, BOUNDS), 0);
        assert_eq!(to_start(Demand { useful: 0, present: 0, ..CALM }, BOUNDS), 1);
        assert_eq!(to_start(Demand { useful: 0, present: 5, ..CALM }, BOUNDS), 0);
    }

    #[test]
    fn waits_longer_after_each_failure_and_anew_after_a_good_container() {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        let mut now = start;
        let mut delays = Vec::new();
        for _ in 0..12 {
            backoff.fail(now, u32::MAX);
            delays.push(backoff.remaining(now));
            // One that fails beside it changes nothing.
            backoff.fail(now, 0);
            assert_eq!(backoff.remaining(now), *delays.last().unwrap());
            now += *delays.last().unwrap();
            assert!(!backoff.active(now));
        }
        assert_eq!(delays[..4], [100, 200, 400, 800].map(Duration::from_millis));
        assert_eq!(delays[11], LONGEST_DELAY);

        backoff.succeed(now);
        now += PROVEN_AFTER / 2;
        backoff.fail(now, 0);
        assert_eq!(backoff.remaining(now), LONGEST_DELAY / 2, "it did not live long enough to count");

        now += LONGEST_DELAY;
        backoff.succeed(now);
        now += PROVEN_AFTER;
        backoff.fail(now, 0);
        assert_eq!(backoff.remaining(now), FIRST_DELAY / 2);
    }
}
