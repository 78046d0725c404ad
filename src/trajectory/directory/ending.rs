//! The end of all of them: drained, or left to the next executor.

use std::{sync::atomic::Ordering, time::Duration};

use super::Directory;
use crate::trajectory::command::Command;

impl Directory {
    /// Takes nothing new, lets what was accepted finish for at most `timeout`, then cancels it; returns once every
    /// trajectory has ended and given its slot back.
    pub async fn drain(&self, timeout: Duration) {
        self.shared.draining.store(true, Ordering::Relaxed);
        self.tell_all(|| Command::Drain { remaining: timeout }).await;
        if tokio::time::timeout(timeout, self.all_ended()).await.is_err() {
            self.tell_all(|| Command::DrainDeadline).await;
            self.all_ended().await;
        }
    }

    /// Leaves every trajectory as it is, for the executor after this one; returns once nothing more happens to any. What
    /// they have been sent still reaches their clients.
    pub async fn hand_over(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
        let senders: Vec<_> = self.shared.lock().values().cloned().collect();
        for sender in senders {
            // One that has ended needs no telling.
            let _ = sender.send(Command::HandOver).await;
            sender.closed().await;
        }
    }

    async fn tell_all(&self, command: impl Fn() -> Command) {
        let senders: Vec<_> = self.shared.lock().values().cloned().collect();
        for sender in senders {
            // One that has ended needs no telling.
            let _ = sender.send(command()).await;
        }
    }

    async fn all_ended(&self) {
        // Coarse on purpose: this runs once in the life of a process.
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while self.counts().open_trajectories > 0 {
            tick.tick().await;
        }
    }
}
