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

use std::{collections::BTreeSet, future::pending, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{
    claim::{Claim, Confirmed},
    core::ContainerKey,
};
use crate::{
    backend::{Backend, Container, ContainerEvent},
    id::{ContainerId, PoolName},
    sandbox::client::{Attached, ConnectError, Connected, Link, LinkEvent, LinkOptions, Wanted, connect},
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
    Ready {
        link: Link,
        location: Location,
        attached: Attached,
        /// Slots of it that are in use already.
        confirmed: Vec<Confirmed>,
    },
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

/// See the module.
pub(super) struct Supervisor {
    pub(super) key: ContainerKey,
    pub(super) pool: PoolName,
    pub(super) start_timeout: Duration,
    /// It runs already.
    pub(super) adopted: Option<Container>,
    /// Of its slots, if it does.
    pub(super) claims: Vec<Claim>,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) link: LinkOptions,
    /// The container is not wanted any more.
    pub(super) stop: CancellationToken,
    /// The container is left as it is, for an executor to come.
    pub(super) leave: CancellationToken,
    pub(super) reports: mpsc::UnboundedSender<(ContainerKey, Report)>,
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
        let mut trouble = None;
        let (adopted, claims) = (self.adopted.take(), std::mem::take(&mut self.claims));
        let wanted: Vec<Wanted> = claims.iter().map(Claim::wanted).collect();
        let started = tokio::select! {
            started = self.start(adopted, &wanted, &mut container, &mut trouble) => Some(started),
            () = self.stop.cancelled() => None,
            () = self.leave.cancelled() => return,
        };
        match (started, container) {
            (Some(Ok(ready)), Some(container)) => self.watch(container, ready, claims, trouble).await,
            (Some(Err(evidence)), container) => {
                let evidence = self.abandon(troubled(evidence, trouble), container).await;
                claims.into_iter().for_each(|claim| claim.refuse(&evidence));
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
        wanted: &[Wanted],
        launched: &mut Option<Container>,
        trouble: &mut Option<String>,
    ) -> Result<Ready, Evidence> {
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
        let connecting = connect(container.id.clone(), container.endpoint.clone(), self.link.clone(), deadline, wanted);
        let ready = async {
            let connected = connecting.await.map_err(|error| match error {
                ConnectError::TooLate(last) => because(format!("{}: {}", self.too_late().cause, chain(&*last))),
                other => because(chain(&other)),
            })?;
            timeout_at(deadline, empty(connected)).await.unwrap_or_else(|_| Err(self.too_late()))
        };
        tokio::select! {
            ready = ready => ready,
            evidence = self.gone(&mut container.events, trouble) => Err(evidence),
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
    async fn gone(&self, events: &mut mpsc::Receiver<ContainerEvent>, trouble: &mut Option<String>) -> Evidence {
        loop {
            match events.recv().await {
                Some(ContainerEvent::Lost(evidence)) => return evidence,
                Some(ContainerEvent::Draining(why)) => self.report(Report::Draining(why)),
                Some(ContainerEvent::Trouble(now)) => *trouble = now,
                None => pending().await,
            }
        }
    }

    async fn watch(&self, mut container: Container, ready: Ready, claims: Vec<Claim>, mut trouble: Option<String>) {
        let Ready { connected: Connected { link, attached, held, mut events }, quarantined } = ready;
        let is_exact = !attached.is_old;
        let confirmed = claims.into_iter().zip(held).filter_map(|(claim, held)| match held {
            Ok(held) => Some(Confirmed { claim, held, is_exact }),
            Err(cause) => {
                claim.refuse(&because(cause));
                None
            }
        });
        let confirmed = confirmed.collect();
        let is_old = attached.is_old;
        self.report(Report::Ready { link: link.clone(), location: location(&container), attached, confirmed });
        if is_old {
            self.report(Report::Draining("its agent is of an earlier version than the executor".to_owned()));
        }
        quarantined.into_iter().for_each(|report| self.report(report));
        let end = tokio::select! {
            evidence = self.gone(&mut container.events, &mut trouble) => End::Gone(evidence),
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
                self.give_up(&link, troubled(located(because(cause), &container), trouble));
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

/// A container whose agent answers, and whose slots are empty but for those that are held, or could not be emptied.
struct Ready {
    connected: Connected,
    quarantined: Vec<Report>,
}

/// What an earlier executor has left in the slots, and nobody claims, is wiped before any of them is given away.
async fn empty(mut connected: Connected) -> Result<Ready, Evidence> {
    let held: BTreeSet<u32> = connected.held.iter().flatten().map(|held| held.slot.index()).collect();
    let mut used: BTreeSet<u32> = connected.attached.used.iter().map(|used| used.slot).collect();
    used.retain(|slot| !held.contains(slot));
    let mut quarantined = Vec::new();
    for slot in &used {
        connected.link.release(*slot, false);
    }
    while !used.is_empty() {
        match connected.events.recv().await {
            Some(LinkEvent::SlotReady { slot, kept: false }) => drop(used.remove(&slot)),
            Some(LinkEvent::SlotReady { .. }) => {}
            Some(LinkEvent::SlotQuarantined { slot, cause }) => {
                used.remove(&slot);
                quarantined.push(Report::SlotQuarantined { slot, cause });
            }
            Some(LinkEvent::Lost { cause }) => return Err(because(cause)),
            Some(LinkEvent::Stale) | None => return Err(because("another executor has taken it over")),
        }
    }
    Ok(Ready { connected, quarantined })
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
