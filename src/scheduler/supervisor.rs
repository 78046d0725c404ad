//! Watches over one container: starts it, links to its agent, says what happens to it, and stops it.
//!
//! ```text
//!            started, linked          stop
//! starting -----------------> ready --------> stopped
//!    |                          |
//!    | not in time, or gone     | gone, or silent for too long
//!    v                          v
//!  failed                     lost, and then stopped for good
//! ```
//!
//! Told to leave it, it ends at once, wherever the container is in this, and the container goes on.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::core::ContainerKey;
use crate::{
    backend::{Backend, Container, ContainerEvent},
    id::{ContainerId, PoolName},
    sandbox::client::{Attached, ConnectError, Connected, Held, Link, LinkEvent, LinkOptions, Wanted, connect},
    tool::{Evidence, Location, chain},
};

/// What a supervisor says. Bounded by the slots of its container, each of which has one release under way at most.
pub(super) enum Report {
    /// The backend has started it.
    Launched {
        id: ContainerId,
        node: String,
    },
    /// Its agent answers.
    Ready(Box<Ready>),
    /// It did not come to that, and is gone. The last report.
    Failed(Evidence),
    /// It will be taken away, for this reason.
    Draining(String),
    SlotReady {
        slot: u32,
        kept: bool,
    },
    SlotQuarantined {
        slot: u32,
        cause: String,
    },
    /// It is gone, or given up. The last report.
    Lost(Arc<Evidence>),
    /// It was stopped as asked. The last report.
    Stopped,
}

/// A container whose agent answers.
pub(super) struct Ready {
    pub(super) link: Link,
    /// Of its first slot.
    pub(super) location: Location,
    pub(super) attached: Attached,
    /// An earlier executor has started it.
    pub(super) taken_over: bool,
    /// It is known already that it will be taken away, for this reason.
    pub(super) draining: Option<String>,
    /// What is to be had of its slots that were wanted, in order.
    pub(super) held: Vec<Result<Held, &'static str>>,
}

/// See the module.
pub(super) struct Supervisor {
    pub(super) key: ContainerKey,
    pub(super) pool: PoolName,
    pub(super) start_timeout: Duration,
    /// It runs already.
    pub(super) adopted: Option<Container>,
    /// Of its slots, if it does.
    pub(super) wanted: Vec<Wanted>,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) link: LinkOptions,
    /// The container is not wanted any more.
    pub(super) stop: CancellationToken,
    /// The container is left as it is, for an executor to come.
    pub(super) leave: CancellationToken,
    pub(super) reports: mpsc::UnboundedSender<(ContainerKey, Report)>,
}

/// What has been seen of a container that may matter later.
#[derive(Default)]
struct Seen {
    trouble: Option<String>,
    /// Told once it is ready, where trajectories have slots in it: it would be stopped before.
    draining: Option<String>,
    is_ready: bool,
}

/// Why a ready container is watched no longer.
enum End {
    Stop,
    Leave,
    Gone(Evidence),
    /// The agent is silent, whatever became of it.
    Silent(String),
    /// Another executor has taken the container over.
    Stale,
}

impl Supervisor {
    pub(super) async fn run(mut self) {
        let mut container = None;
        let mut seen = Seen::default();
        let adopted = self.adopted.take();
        let taken_over = adopted.is_some();
        let started = tokio::select! {
            started = self.start(adopted, &mut container, &mut seen) => Some(started),
            () = self.stop.cancelled() => None,
            () = self.leave.cancelled() => return,
        };
        match (started, container) {
            (Some(Ok(connected)), Some(container)) => self.watch(container, connected, taken_over, seen).await,
            (Some(Err(evidence)), container) => {
                let evidence = self.abandon(troubled(evidence, seen.trouble), container).await;
                self.report(Report::Failed(evidence));
            }
            (None, Some(container)) => {
                self.backend.stop(&container.id).await;
                self.report(Report::Stopped);
            }
            // Linked to nothing: that cannot be.
            (None | Some(Ok(_)), None) => self.report(Report::Stopped),
        }
    }

    /// `launched` is what has to be stopped if this fails, or is given up.
    async fn start(
        &self,
        adopted: Option<Container>,
        launched: &mut Option<Container>,
        seen: &mut Seen,
    ) -> Result<Connected, Evidence> {
        let deadline = Instant::now() + self.start_timeout;
        let container = match adopted {
            Some(container) => container,
            None => timeout_at(deadline, self.backend.start(&self.pool))
                .await
                .map_err(|_| self.too_late())?
                .map_err(|error| error.evidence)?,
        };
        self.report(Report::Launched { id: container.id.clone(), node: container.node.clone() });
        let container = launched.insert(container);
        let (id, endpoint) = (container.id.clone(), container.endpoint.clone());
        tokio::select! {
            connected = connect(id, endpoint, self.link.clone(), deadline, &self.wanted) => {
                connected.map_err(|error| match error {
                    ConnectError::TooLate(last) => because(format!("{}: {}", self.too_late().cause, chain(&*last))),
                    other => because(chain(&other)),
                })
            }
            evidence = self.gone(&mut container.events, seen) => Err(evidence),
        }
    }

    fn too_late(&self) -> Evidence {
        because(format!("it was not ready within {:?}", self.start_timeout))
    }

    /// Ends what may have come of a failed start, and adds what its end shows.
    async fn abandon(&self, evidence: Evidence, container: Option<Container>) -> Evidence {
        let Some(mut container) = container else { return evidence };
        self.backend.stop(&container.id).await;
        let mut evidence = located(evidence, &container);
        while let Ok(event) = container.events.try_recv() {
            if let ContainerEvent::Lost(last) = event {
                evidence.events.extend(last.events);
                if evidence.stderr_tail.is_empty() {
                    evidence.stderr_tail = last.stderr_tail;
                }
            }
        }
        evidence
    }

    /// Waits for the container's end, as the backend sees it; keeps what may have led to it.
    async fn gone(&self, events: &mut mpsc::Receiver<ContainerEvent>, seen: &mut Seen) -> Evidence {
        loop {
            match events.recv().await {
                Some(ContainerEvent::Lost(evidence)) => return evidence,
                Some(ContainerEvent::Draining(why)) if seen.is_ready || self.wanted.is_empty() => {
                    self.report(Report::Draining(why));
                }
                Some(ContainerEvent::Draining(why)) => seen.draining = Some(why),
                Some(ContainerEvent::Trouble(now)) => seen.trouble = now,
                None => pending().await,
            }
        }
    }

    async fn watch(&self, mut container: Container, connected: Connected, taken_over: bool, mut seen: Seen) {
        let Connected { link, attached, held, mut events } = connected;
        let (location, draining) = (location(&container), seen.draining.take());
        let ready = Ready { link: link.clone(), location, attached, taken_over, draining, held };
        self.report(Report::Ready(Box::new(ready)));
        seen.is_ready = true;
        let end = tokio::select! {
            evidence = self.gone(&mut container.events, &mut seen) => End::Gone(evidence),
            end = self.relay(&mut events) => end,
            () = self.stop.cancelled() => End::Stop,
            () = self.leave.cancelled() => End::Leave,
        };
        match end {
            End::Leave => link.leave(),
            End::Stop => {
                // First the link, which would else be made again.
                link.lose(&Arc::new(located(because("the executor has stopped it"), &container)));
                self.backend.stop(&container.id).await;
                self.report(Report::Stopped);
            }
            End::Gone(evidence) => {
                self.give_up(&link, located(evidence, &container));
                self.backend.stop(&container.id).await;
            }
            End::Silent(cause) => {
                self.give_up(&link, troubled(located(because(cause), &container), seen.trouble));
                self.backend.stop(&container.id).await;
            }
            // It is the other's now: it must not be stopped.
            End::Stale => {
                error!(container = %container.id, "its agent obeys a later executor: is there one with the same state?");
                self.give_up(&link, located(because("another executor has taken it over"), &container));
            }
        }
    }

    /// Whoever holds a slot of it hears so at once; but not before it is said that there are no more slots in it, or he
    /// might be given the next one there.
    fn give_up(&self, link: &Link, evidence: Evidence) {
        let evidence = Arc::new(evidence);
        self.report(Report::Lost(evidence.clone()));
        link.lose(&evidence);
    }

    /// Passes on what the agent says of its slots.
    async fn relay(&self, events: &mut mpsc::UnboundedReceiver<LinkEvent>) -> End {
        loop {
            match events.recv().await {
                Some(LinkEvent::SlotReady { slot, kept }) => self.report(Report::SlotReady { slot, kept }),
                Some(LinkEvent::SlotQuarantined { slot, cause }) => {
                    self.report(Report::SlotQuarantined { slot, cause });
                }
                Some(LinkEvent::Lost { cause }) => return End::Silent(cause),
                Some(LinkEvent::Stale) => return End::Stale,
                None => pending().await,
            }
        }
    }

    fn report(&self, report: Report) {
        // The driver outlives every supervisor, except where the whole program ends.
        let _ = self.reports.send((self.key, report));
    }
}

fn because(cause: impl Into<String>) -> Evidence {
    Evidence { cause: cause.into(), ..Evidence::default() }
}

fn location(container: &Container) -> Location {
    Location { container: container.id.clone(), node: container.node.clone(), slot: 0 }
}

/// What is known of the end of this container.
fn located(evidence: Evidence, container: &Container) -> Evidence {
    Evidence { location: evidence.location.or_else(|| Some(location(container))), ..evidence }
}

/// With what was wrong already before the end.
fn troubled(mut evidence: Evidence, trouble: Option<String>) -> Evidence {
    evidence.events.extend(trouble);
    evidence
}
