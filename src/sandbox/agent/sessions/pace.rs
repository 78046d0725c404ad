//! How fast is read what nobody waits for. Beyond that its writer finds the pipe or the terminal full, and neither of them
//! costs the agent more than a part of a processor.

use std::time::Duration;

use tokio::time::Instant;

/// How much may be spent before it is made up for.
const AHEAD: Duration = Duration::from_millis(60);

/// See the module. Time is spent, and passes.
pub(super) struct Pace {
    /// Until when what was spent has been made up for.
    even: Instant,
    held_until: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { even: now, held_until: now }
    }

    /// So many bytes, where so many may be read each second.
    pub(super) fn spend_bytes(&mut self, bytes: usize, rate: u32) {
        self.spend(Duration::from_secs(bytes as u64) / rate);
    }

    pub(super) fn spend(&mut self, time: Duration) {
        let now = Instant::now();
        self.even = self.even.max(now) + time;
        // Then for long enough that it is not looked at for every few bytes.
        if self.even > now + AHEAD {
            self.held_until = self.even - AHEAD / 2;
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
        const RATE: u32 = 1_000_000;
        let mut pace = Pace::new();
        pace.spend_bytes(50_000, RATE);
        assert_eq!(pace.held_up(), None);
        let (begin, mut read, mut held) = (Instant::now(), 0, 0);
        while begin.elapsed() < Duration::from_secs(10) {
            if let Some(until) = pace.held_up() {
                tokio::time::sleep_until(until).await;
                held += 1;
            } else {
                pace.spend_bytes(1000, RATE);
                read += 1000;
            }
        }
        assert!((9_900_000..10_100_000).contains(&read), "{read}");
        assert!((100..400).contains(&held), "{held}");
        // Who was quiet has earned no more than a burst.
        tokio::time::sleep(Duration::from_secs(3600)).await;
        pace.spend_bytes(60_000, RATE);
        assert_eq!(pace.held_up(), None);
        pace.spend_bytes(1000, RATE);
        assert!(pace.held_up().is_some());
    }
}
