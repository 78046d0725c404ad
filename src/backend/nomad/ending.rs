//! Ending children: each is stopped by itself, waited for until its allocation is terminal, and only then purged. Purged
//! sooner, Nomad would forget at once what may still run for a while, and take its ports for free.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::{Shared, api::Allocation};

/// From the stop until the end is seen: the agent's own patience, the driver's, and the time until the node reports.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long whoever stops a container waits for its end. A Nomad that is away may hear of it much later.
const WAIT: Duration = Duration::from_secs(20);
/// Between looks, where no event tells.
const LOOK: Duration = Duration::from_secs(1);
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(10);

impl Shared {
    /// Ends a child that is known. Goes on by itself, whoever waits for it; returns when nothing of it runs, or it
    /// cannot be waited for any longer.
    pub(super) async fn end(self: &Arc<Self>, child: &str) {
        let Some(mut sight) = self.registry.sight(child) else { return };
        let Some((mut gone, first)) = self.registry.begin_end(child) else { return };
        if first {
            let (shared, child) = (self.clone(), child.to_owned());
            // Bounded by the containers that there are, each of which is ended once.
            self.tasks.spawn(async move { shared.carry_out_end(&child).await });
        }
        let over = async {
            // An error means the same.
            tokio::select! {
                _ = gone.wait_for(|gone| *gone) => {}
                // What was never started is told seconds before Nomad says that it is terminal.
                _ = sight.wait_for(|sight| sight.ended.is_some()) => {}
            }
        };
        if timeout(WAIT, over).await.is_err() {
            warn!(child, "a container that was stopped has not ended in {WAIT:?}");
        }
    }

    /// Ends a child, known or not, and does not wait.
    pub(super) fn end_soon(self: &Arc<Self>, child: String) {
        let shared = self.clone();
        // Bounded by the children that there are, each of which is ended once at a time.
        if self.registry.knows(&child) {
            self.tasks.spawn(async move { shared.end(&child).await });
        } else if self.registry.begin_end_of_stray(&child) {
            self.tasks.spawn(async move {
                shared.carry_out_end(&child).await;
                shared.registry.stray_ended(&child);
            });
        }
    }

    async fn carry_out_end(&self, child: &str) {
        let mut delay = FIRST_DELAY;
        while let Err(error) = self.client.stop_job(child, false).await {
            warn!(child, error = &error as &dyn std::error::Error, "could not stop a container: trying again");
            sleep(delay + delay.mul_f64(fastrand::f64() / 2.0)).await;
            delay = (delay * 2).min(LONGEST_DELAY);
        }
        if self.until_terminal(child).await {
            self.purge(child).await;
        } else {
            // Stopped as it is, it will not come back; Nomad forgets it by itself.
            warn!(child, "a container that was stopped has not been seen to end: its node may be out of reach");
        }
        self.registry.gone(child);
    }

    /// Whether its end was seen.
    async fn until_terminal(&self, child: &str) -> bool {
        let mut sight = self.registry.sight(child);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let told = async {
                match &mut sight {
                    Some(sight) => sight.wait_for(|sight| sight.terminal).await.is_ok(),
                    None => pending().await,
                }
            };
            if timeout(LOOK, told).await == Ok(true) {
                return true;
            }
            // Nobody has told: it may never have been placed, or be forgotten, or the stream be down.
            match self.client.allocations(&format!("JobID == \"{child}\"")).await {
                Ok(listed) if listed.value.iter().all(Allocation::is_terminal) => return true,
                Ok(_) => {}
                Err(error) => debug!(child, error = &error as &dyn std::error::Error, "could not look at it"),
            }
        }
        false
    }

    /// What remains is for Nomad's own garbage collection.
    async fn purge(&self, child: &str) {
        if let Err(error) = self.client.stop_job(child, true).await {
            debug!(child, error = &error as &dyn std::error::Error, "could not purge an ended container");
        }
    }
}
