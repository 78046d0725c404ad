//! The containers: their supervisors, and what these say.

use std::{sync::Arc, time::SystemTime};

use tokio::task::{self, JoinError};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

use super::{
    super::{
        claim::Claim,
        core::{ContainerKey, Event, SlotKey},
        lease::Agent,
        supervisor::{Ready, Report, Supervisor},
    },
    Driver, Pool, Watched,
};
use crate::{id::ContainerId, sandbox::client::Attached, tool::Evidence};

impl Driver {
    pub(super) fn on_report(&mut self, container: ContainerKey, report: Report) {
        let watched = self.containers.get_mut(&container);
        match report {
            Report::Launched { id, node } => {
                if let Some(watched) = watched {
                    (watched.id, watched.node) = (Some(id), node);
                }
            }
            Report::Ready(ready) => self.on_ready(container, *ready),
            Report::Failed(evidence) => {
                let Evidence { cause, events, stderr_tail, .. } = &evidence;
                warn!(cause, ?events, stderr_tail, "a container could not be started");
                let claims = watched.map(|watched| {
                    watched.former_owners = None;
                    std::mem::take(&mut watched.claims)
                });
                claims.into_iter().flatten().for_each(|claim| claim.refuse(&evidence));
                if let Some(pool) = self.pools.get_mut(usize::from(container.pool().0)) {
                    pool.last_start_failure = Some(Arc::new(evidence));
                }
                self.tell(Event::StartFailed { container, jitter: fastrand::u32(..) });
            }
            Report::Draining(why) => self.drain(container, &why),
            Report::SlotReady { slot, kept } => {
                self.tell(Event::SlotReady { slot: SlotKey { container, index: slot }, kept });
            }
            Report::SlotQuarantined { slot, cause } => {
                warn!(container = %self.name(container), slot, cause, "a slot is never used again");
                self.tell(Event::SlotQuarantined { slot: SlotKey { container, index: slot } });
            }
            Report::Lost(evidence) => {
                let Evidence { cause, events, stderr_tail, .. } = &*evidence;
                warn!(container = %self.name(container), cause, ?events, stderr_tail, "a container is lost");
                self.changed(container);
                self.tell(Event::Lost { container, jitter: fastrand::u32(..) });
            }
            Report::Stopped => {
                debug!(container = %self.name(container), "a container is stopped");
                self.tell(Event::Stopped { container });
            }
        }
    }

    fn on_ready(&mut self, container: ContainerKey, ready: Ready) {
        let Some(watched) = self.containers.get_mut(&container) else { return };
        let Ready { link, location, attached, taken_over, draining, held } = ready;
        let Attached { isolation, network_isolated, slots, limits, .. } = &attached;
        info!(container = %location.container, slots, isolation, network_isolated, "a container is ready");
        let agent = Agent {
            link,
            location,
            isolation: isolation.as_str().into(),
            network_isolated: *network_isolated,
            limits: limits.clone(),
        };
        watched.agent = Some(Arc::new(agent));
        watched.since = SystemTime::now();
        if let Some(pool) = self.pools.get_mut(usize::from(container.pool().0)) {
            pool.last_start_failure = None;
        }
        if taken_over {
            self.take_over(container, &attached, draining, held);
        } else {
            self.tell(Event::ContainerReady { container, slots: *slots });
        }
    }

    /// It gets nothing new, and whoever has a slot of it hears why.
    pub(super) fn drain(&mut self, container: ContainerKey, why: &str) {
        let watched = self.containers.get(&container);
        if let Some(agent) = watched.and_then(|watched| watched.agent.as_ref()) {
            agent.link.tell_draining(why);
        }
        info!(container = %self.name(container), why, "a container will be taken away");
        self.changed(container);
        self.tell(Event::Draining { container });
    }

    fn name(&self, container: ContainerKey) -> String {
        self.containers
            .get(&container)
            .and_then(|watched| watched.id.as_ref())
            .map_or_else(String::new, ContainerId::to_string)
    }

    /// It came into another state.
    pub(super) fn changed(&mut self, container: ContainerKey) {
        if let Some(watched) = self.containers.get_mut(&container) {
            watched.since = SystemTime::now();
        }
    }

    pub(super) fn on_supervisor_ended(&mut self, ended: Result<(task::Id, ()), JoinError>) {
        // What it said last comes before its end.
        while let Ok((container, report)) = self.reports.try_recv() {
            self.on_report(container, report);
        }
        let (id, failed) = match ended {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error)),
        };
        let Some(container) = self.supervised.remove(&id) else { return };
        let mut watched = self.containers.remove(&container);
        for claim in watched.iter_mut().flat_map(|watched| watched.claims.drain(..)) {
            claim.refuse_because("its container was stopped before its agent had answered");
        }
        if let Some(failed) = failed {
            error!(
                error = &failed as &dyn std::error::Error,
                "a container's supervisor failed: it is watched no longer"
            );
            let cause = "the executor failed to watch over it".to_owned();
            if let Some(agent) = watched.and_then(|watched| watched.agent) {
                agent.link.lose(&Arc::new(Evidence { cause, ..Evidence::default() }));
            }
            // Whatever state it was in.
            self.tell(Event::Stopped { container });
        }
    }

    pub(super) fn start(&mut self, container: ContainerKey) {
        let adopted = self.adopted.pop();
        let former_owners = self.former_owners.clone().filter(|_| adopted.is_some());
        let claims = adopted.as_ref().and_then(|adopted| self.claims.remove(&adopted.id)).unwrap_or_default();
        let wanted = claims.iter().map(Claim::wanted).collect();
        let Some(Pool { config, .. }) = self.pool(container.pool()) else { return };
        let stop = CancellationToken::new();
        let supervisor = Supervisor {
            key: container,
            pool: config.name.clone(),
            start_timeout: config.start_timeout,
            adopted,
            wanted,
            backend: self.backend.clone(),
            link: self.link.clone(),
            stop: stop.clone(),
            leave: self.leave.clone(),
            reports: self.to_reports.clone(),
        };
        let span = info_span!("container", pool = %config.name);
        let task = self.supervisors.spawn(supervisor.run().instrument(span));
        self.supervised.insert(task.id(), container);
        let (node, since) = (String::new(), SystemTime::now());
        let watched = Watched { stop, id: None, node, agent: None, claims, former_owners, since };
        self.containers.insert(container, watched);
    }
}
