//! The containers: their supervisors, and what these say.

use std::{sync::Arc, time::SystemTime};

use tokio::task::{self, JoinError};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

use super::{
    super::{
        core::{ContainerKey, Event, PoolKey, SlotKey},
        lease::Agent,
        supervisor::{Report, Supervisor},
    },
    Driver, Pool, Watched,
};
use crate::{
    backend::Container,
    id::{ContainerId, PoolName},
    sandbox::client::Attached,
    tool::Evidence,
};

impl Driver {
    pub(super) fn on_report(&mut self, container: ContainerKey, report: Report) {
        let watched = self.containers.get_mut(&container);
        match report {
            Report::Launched { id, node } => {
                if let Some(watched) = watched {
                    (watched.id, watched.node) = (Some(id), node);
                }
            }
            Report::Ready { link, location, attached } => {
                let Some(watched) = watched else { return };
                let Attached { isolation, network_isolated, slots, limits, .. } = attached;
                info!(container = %location.container, slots, isolation, network_isolated, "a container is ready");
                let isolation = isolation.into();
                watched.agent = Some(Arc::new(Agent { link, location, isolation, network_isolated, limits }));
                watched.since = SystemTime::now();
                if let Some(pool) = self.pools.get_mut(usize::from(container.pool().0)) {
                    pool.last_start_failure = None;
                }
                self.tell(Event::ContainerReady { container, slots });
            }
            Report::Failed(evidence) => {
                let Evidence { cause, events, stderr_tail, .. } = &evidence;
                warn!(cause, ?events, stderr_tail, "a container could not be started");
                if let Some(pool) = self.pools.get_mut(usize::from(container.pool().0)) {
                    pool.last_start_failure = Some(Arc::new(evidence));
                }
                self.tell(Event::StartFailed { container, jitter: fastrand::u32(..) });
            }
            Report::Draining(why) => {
                if let Some(agent) = watched.and_then(|watched| watched.agent.as_ref()) {
                    agent.link.tell_draining(&why);
                }
                info!(container = %self.name(container), why, "a container will be taken away");
                self.changed(container);
                self.tell(Event::Draining { container });
            }
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
        let watched = self.containers.remove(&container);
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

    /// Takes over what runs already.
    pub(super) fn adopt(&mut self, mut adopted: Vec<(PoolName, Container)>) {
        let pools: Vec<_> = (0..).map(PoolKey).zip(self.pools.iter().map(|pool| pool.config.name.clone())).collect();
        for (pool, name) in pools {
            let of_pool = adopted.extract_if(.., |(of, _)| *of == name).map(|(_, container)| container);
            self.adopted = of_pool.collect();
            if let Some(containers) = u32::try_from(self.adopted.len()).ok().filter(|count| *count > 0) {
                info!(containers, pool = %name, "containers of an earlier executor are taken over");
                self.tell(Event::Adopt { pool, containers });
            }
            adopted.extend(self.adopted.drain(..).map(|container| (name.clone(), container)));
        }
        for (pool, container) in adopted {
            info!(container = %container.id, %pool, "a container of an earlier executor is not wanted any more");
            let backend = self.backend.clone();
            self.supervisors.spawn(async move { backend.stop(&container.id).await });
        }
    }

    pub(super) fn start(&mut self, container: ContainerKey) {
        let adopted = self.adopted.pop();
        let Some(Pool { config, .. }) = self.pool(container.pool()) else { return };
        let stop = CancellationToken::new();
        let supervisor = Supervisor {
            key: container,
            pool: config.name.clone(),
            start_timeout: config.start_timeout,
            adopted,
            backend: self.backend.clone(),
            link: self.link.clone(),
            stop: stop.clone(),
            reports: self.to_reports.clone(),
        };
        let span = info_span!("container", pool = %config.name);
        let task = self.supervisors.spawn(supervisor.run().instrument(span));
        self.supervised.insert(task.id(), container);
        let (node, since) = (String::new(), SystemTime::now());
        self.containers.insert(container, Watched { stop, id: None, node, agent: None, since });
    }
}
