//! Watches over one container, from its start until it is gone.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::core::ContainerKey;
use crate::{
    backend::{Backend, Container, ContainerEvent},
    id::{ContainerId, PoolName},
    sandbox::client::{self, Attached, Connected, Link, LinkEvent, LinkOptions},
    tool::{Evidence, Location},
};

/// What is needed to start a container.
pub(super) struct Supervisor {
    pub(super) pool_index: usize,
    pub(super) pool: PoolName,
    pub(super) key: ContainerKey,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) options: LinkOptions,
    pub(super) start_timeout: Duration,
    /// The container is not wanted any more.
    pub(super) stop: CancellationToken,
    /// Bounded by what is asked of the slots.
    pub(super) news: mpsc::UnboundedSender<News>,
}

/// What has become of a container.
pub(super) struct News {
    pub(super) pool: usize,
    pub(super) container: ContainerKey,
    pub(super) event: ContainerNews,
}

pub(super) enum ContainerNews {
    Ready {
        id: ContainerId,
        node: String,
        link: Link,
        attached: Attached,
    },
    /// It could not be started, and nothing is left of it.
    Failed(Arc<Evidence>),
    Draining,
    SlotReady {
        slot: u32,
    },
    SlotQuarantined {
        slot: u32,
        cause: String,
    },
    /// It is lost; `Gone` follows once nothing is left of it.
    Lost,
    Gone,
}

impl Supervisor {
    pub(super) async fn run(self) {
        let started = timeout(self.start_timeout, self.backend.start(&self.pool)).await;
        let container = match started {
            Ok(Ok(container)) => container,
            Ok(Err(error)) => return self.tell(ContainerNews::Failed(Arc::new(error.evidence))),
            Err(_) => {
                let cause = format!("it did not start in {:?}", self.start_timeout);
                return self.tell(ContainerNews::Failed(Arc::new(Evidence { cause, ..Evidence::default() })));
            }
        };
        let Container { id, node, endpoint, mut events } = container;
        let connecting = timeout(self.start_timeout, client::connect(id.clone(), endpoint, self.options.clone()));
        let connected = tokio::select! {
            connected = connecting => match connected {
                Ok(Ok(connected)) => Ok(connected),
                Ok(Err(error)) => Err(evidence(error.to_string())),
                Err(_) => Err(evidence(format!("its agent did not answer in {:?}", self.start_timeout))),
            },
            lost = lost(&mut events) => Err(lost),
            () = self.stop.cancelled() => {
                self.backend.stop(&id).await;
                return self.tell(ContainerNews::Gone);
            }
        };
        match connected {
            Ok(connected) => {
                self.watch(&id, &node, connected, events).await;
                self.tell(ContainerNews::Gone);
            }
            Err(evidence) => {
                self.backend.stop(&id).await;
                self.tell(ContainerNews::Failed(at(evidence, &id, &node)));
            }
        }
    }

    /// Until the container is gone.
    async fn watch(
        &self,
        id: &ContainerId,
        node: &str,
        connected: Connected,
        mut events: mpsc::Receiver<ContainerEvent>,
    ) {
        let Connected { link, attached, events: mut link_events } = connected;
        info!(container = %id, isolation = attached.isolation, slots = attached.slots, "a container is ready");
        self.tell(ContainerNews::Ready { id: id.clone(), node: node.to_owned(), link: link.clone(), attached });
        let lost = loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(ContainerEvent::Draining) => self.tell(ContainerNews::Draining),
                    Some(ContainerEvent::Lost(evidence)) => break evidence,
                    None => break evidence("nobody watches over it any more".to_owned()),
                },
                event = link_events.recv() => match event {
                    // One that was kept is its owner's, and nothing has happened to it.
                    Some(LinkEvent::SlotReady { kept: true, .. }) => {}
                    Some(LinkEvent::SlotReady { slot, kept: false }) => self.tell(ContainerNews::SlotReady { slot }),
                    Some(LinkEvent::SlotQuarantined { slot, cause }) => {
                        self.tell(ContainerNews::SlotQuarantined { slot, cause });
                    }
                    Some(LinkEvent::Lost { cause }) => break self.cause_of(cause, &mut events).await,
                    Some(LinkEvent::Stale) => break evidence("its agent obeys a later executor".to_owned()),
                    None => break evidence("its link ended".to_owned()),
                },
                () = self.stop.cancelled() => {
                    link.lose(&at(evidence("it was stopped".to_owned()), id, node));
                    return self.backend.stop(id).await;
                }
            }
        };
        let lost = at(lost, id, node);
        warn!(container = %id, cause = lost.cause, stderr = lost.stderr_tail, "a container is lost");
        link.lose(&lost);
        self.tell(ContainerNews::Lost);
        self.backend.stop(id).await;
    }

    /// A link that broke says less than a process that died, if that is why.
    async fn cause_of(&self, cause: String, events: &mut mpsc::Receiver<ContainerEvent>) -> Evidence {
        const MOMENT: Duration = Duration::from_millis(100);
        match timeout(MOMENT, lost(events)).await {
            Ok(evidence) => evidence,
            Err(_) => evidence(cause),
        }
    }

    fn tell(&self, event: ContainerNews) {
        // After the scheduler's end there is nobody to tell.
        let _ = self.news.send(News { pool: self.pool_index, container: self.key, event });
    }
}

async fn lost(events: &mut mpsc::Receiver<ContainerEvent>) -> Evidence {
    loop {
        match events.recv().await {
            Some(ContainerEvent::Draining) => {}
            Some(ContainerEvent::Lost(evidence)) => return evidence,
            None => std::future::pending().await,
        }
    }
}

fn evidence(cause: String) -> Evidence {
    Evidence { cause, ..Evidence::default() }
}

fn at(evidence: Evidence, id: &ContainerId, node: &str) -> Arc<Evidence> {
    let location = Location { container: id.clone(), node: node.to_owned(), slot: 0 };
    Arc::new(Evidence { location: Some(location), ..evidence })
}
