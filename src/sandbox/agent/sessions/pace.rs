//! How fast is read what nobody waits for. Beyond that its writer finds the pipe or the terminal full, and neither of them
//! costs the agent more than a small part of a processor.

use std::time::Duration;

use tokio::time::Instant;

/// What may be read beyond the rate, as the time that it takes at the rate.
const AHEAD: Duration = Duration::from_millis(60);

/// See the module.
pub(super) struct Pace {
    /// In bytes each second.
    rate: u64,
    /// Until when what was read has been paid for.
    paid: Instant,
    held_until: Instant,
}

impl Pace {
    pub(super) fn new(rate: u64) -> Self {
        let now = Instant::now();
        Self { rate, paid: now, held_until: now }
    }

    pub(super) fn spend(&mut self, bytes: usize) {
        let now = Instant::now();
        self.paid = self.paid.max(now) + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        // Then for long enough that it is not looked at for every few bytes.
        if self.paid > now + AHEAD {
            self.held_until = self.paid - AHEAD / 2;
        }
    }

    /// Until when nothing is to be read.
    pub(super) fn held_up(&self) -> Option<Instant> {
        (self.held_until > Instant::now()).then_some(self.held_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bursts_are_read_at_once_and_a_flood_at_the_rate() {
        let mut pace = Pace::new(1_000_000);
        pace.spend(50_000);
        assert_eq!(pace.held_up(), None);
        let (begin, mut read, mut held) = (Instant::now(), 0, 0);
        while begin.elapsed() < Duration::from_secs(10) {
            if let Some(until) = pace.held_up() {
                tokio::time::sleep_until(until).await;
                held += 1;
            } else {
                pace.spend(1000);
                read += 1000;
            }
        }
        assert!((9_900_000..10_100_000).contains(&read), "{read}");
        assert!((100..400).contains(&held), "{held}");
        // Who was quiet has earned no more than a burst.
        tokio::time::sleep(Duration::from_secs(3600)).await;
        pace.spend(60_000);
        assert_eq!(pace.held_up(), None);
        pace.spend(1000);
        assert!(pace.held_up().is_some());
    }
}
