//! Tells whoever watches over a container what becomes of it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::{Shared, sight::Sight, template::TASK};
use crate::{backend::ContainerEvent, tool::Evidence};

/// How much of the end of the agent's log is evidence, in bytes.
const STDERR_TAIL: u64 = 4096;
/// How long the news of a loss may wait for it.
const LOG_PATIENCE: Duration = Duration::from_secs(1);
/// More than may be told of one container before it is lost.
const EVENTS: usize = 16;

impl Shared {
    pub(super) fn follow(self: &Arc<Self>, mut sight: watch::Receiver<Sight>) -> mpsc::Receiver<ContainerEvent> {
        let (events, receiver) = mpsc::channel(EVENTS);
        let shared = self.clone();
        // Ends with the container, or when nobody listens any more.
        self.tasks.spawn(async move {
            let mut told = Sight::default();
            loop {
                let seen = sight.borrow_and_update().clone();
                if let Some(cause) = &seen.ended {
                    let evidence = shared.evidence(cause, &seen).await;
                    let _ = events.send(ContainerEvent::Lost(evidence)).await;
                    return;
                }
                let mut news = Vec::new();
                if told.draining.is_none()
                    && let Some(why) = &seen.draining
                {
                    news.push(ContainerEvent::Draining(why.clone()));
                }
                if told.trouble != seen.trouble {
                    news.push(ContainerEvent::Trouble(seen.trouble.clone()));
                }
                told = seen;
                for event in news {
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    changed = sight.changed() => if changed.is_err() { return },
                    () = events.closed() => return,
                }
            }
        });
        receiver
    }

    async fn evidence(&self, cause: &str, seen: &Sight) -> Evidence {
        let log = self.client.task_log_tail(&seen.allocation, TASK, STDERR_TAIL);
        let stderr_tail = timeout(LOG_PATIENCE, log).await.ok().and_then(Result::ok).unwrap_or_default();
        Evidence {
            cause: cause.to_owned(),
            events: seen.history.clone(),
            stderr_tail: stderr_tail.trim().to_owned(),
            ..Evidence::default()
        }
    }
}
