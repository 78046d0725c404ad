//! Joins what the rooms know to what Prometheus is told.

use std::sync::{Arc, LazyLock};

use crate::{
    backend::Backend,
    edge::{ConnectionCounts, Exporter, History, Tls},
    id::TrajectoryKey,
    scheduler::{self, ContainerState, PoolStatus},
    telemetry::{Answer, Metrics, Pool, Snapshot},
    tool::ToolLabel,
    trajectory::{Answered, Directory, Observer},
};

/// Counts answers.
pub(super) struct Counter {
    pub(super) metrics: Arc<Metrics>,
    pub(super) history: Arc<History>,
}

impl Observer for Counter {
    fn answered(&self, trajectory: &TrajectoryKey, answered: &Answered) {
        self.history.record(trajectory, answered);
        static COMMAND: LazyLock<Arc<str>> = LazyLock::new(|| ToolLabel::Command.as_str().into());
        static UNKNOWN: LazyLock<Arc<str>> = LazyLock::new(|| ToolLabel::Unknown.as_str().into());
        let tool = match &answered.tool {
            ToolLabel::Tool(name) => name,
            ToolLabel::Command => &COMMAND,
            ToolLabel::Unknown => &UNKNOWN,
        };
        self.metrics.answered(&Answer {
            tool,
            outcome: answered.outcome.label(),
            reason: answered.reason.map_or("", |reason| reason.label()),
            phases: answered.timings.map(|timings| {
                [timings.queued, timings.slot_wait, timings.dispatch, timings.execution, timings.collection]
            }),
        });
    }
}

/// Looks at the service when it is asked.
pub(super) struct Scraped {
    pub(super) metrics: Arc<Metrics>,
    pub(super) scheduler: scheduler::Handle,
    pub(super) directory: Directory,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) connections: ConnectionCounts,
    pub(super) max_connections: u64,
    pub(super) tls: Option<Tls>,
}

#[async_trait::async_trait]
impl Exporter for Scraped {
    async fn export(&self) -> String {
        let pools = self.scheduler.status().await;
        let counts = self.directory.counts();
        self.metrics.render(&Snapshot {
            draining: self.directory.is_draining(),
            attended_trajectories: counts.open_trajectories - counts.leased_trajectories,
            leased_trajectories: counts.leased_trajectories,
            waiting_calls: counts.waiting_calls,
            running_calls: counts.running_calls,
            call_bytes: counts.call_bytes,
            result_bytes: counts.kept_bytes,
            connections: self.connections.open(),
            max_connections: self.max_connections,
            refused_connections: self.connections.refused(),
            certificate_expires: self.tls.as_ref().and_then(Tls::expires),
            pools: pools.iter().map(pool).collect(),
            requests: self.backend.requests().iter().map(|asked| (asked.call, asked.result, asked.count)).collect(),
        })
    }
}

fn pool(status: &PoolStatus) -> Pool {
    let containers =
        |state: ContainerState| status.containers.iter().filter(|container| container.state == state).count() as u64;
    Pool {
        name: status.name.to_string(),
        slots: vec![
            ("available", status.available_slots.into()),
            ("acquired", status.acquired_slots.into()),
            ("starting", status.starting_slots.into()),
            ("resetting", status.resetting_slots.into()),
            ("quarantined", status.quarantined_slots.into()),
        ],
        containers: vec![
            ("starting", containers(ContainerState::Starting)),
            ("ready", containers(ContainerState::Ready)),
            ("draining", containers(ContainerState::Draining)),
        ],
        max_containers: status.max_containers.into(),
        waiting_trajectories: status.waiting_trajectories.into(),
        start_failing: status.last_start_failure.is_some(),
    }
}
