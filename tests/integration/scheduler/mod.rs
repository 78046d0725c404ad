//! The scheduler as a whole, over real links to agents that run nothing, in containers that are nothing.

mod adoption;
mod agent;
mod backend;
mod containers;
mod leases;
mod waits;

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tool_executor::{
    backend::Backend as _,
    id::{PoolName, Tenant, TrajectoryId, TrajectoryKey},
    sandbox::client::{LinkOptions, SlotEvent},
    scheduler::{
        self, Claim, FormerOwners, Grant, Handle, Lease, PoolConfig, PoolStatus, WaitEvent, WaitFailure, Waiting,
    },
};

use self::backend::FakeBackend;
use crate::support::client::PATIENCE;

/// One pool: one container at most, of one slot.
fn rules() -> PoolConfig {
    PoolConfig {
        name: PoolName::new(""),
        slots_per_container: 1,
        min_containers: 0,
        max_containers: 1,
        acquire_timeout: PATIENCE,
        scale_down_after: PATIENCE,
        max_starting: 2,
        start_timeout: PATIENCE,
        spread: false,
        max_waiting: 100,
    }
}

struct Bed {
    scheduler: Handle,
    task: JoinHandle<()>,
    backend: Arc<FakeBackend>,
}

impl Bed {
    fn new(rules: PoolConfig) -> Self {
        Self::over(FakeBackend::new(rules.slots_per_container), rules)
    }

    fn over(backend: FakeBackend, rules: PoolConfig) -> Self {
        Self::after_another(backend, rules, Vec::new())
    }

    /// With claims of slots in what was left.
    fn after_another(backend: FakeBackend, rules: PoolConfig, claims: Vec<Claim>) -> Self {
        Self::telling(backend, rules, claims, None)
    }

    /// So that somebody hears whose slots they were.
    fn telling(
        backend: FakeBackend,
        rules: PoolConfig,
        claims: Vec<Claim>,
        former_owners: Option<mpsc::UnboundedSender<FormerOwners>>,
    ) -> Self {
        let backend = Arc::new(backend);
        assert_eq!(backend.name(), "fake");
        let link = LinkOptions {
            executor_id: "test".to_owned(),
            epoch: 1,
            max_batch_size: 100,
            agent_grace: Duration::from_millis(100),
            superseded: CancellationToken::new(),
        };
        let left = backend.left();
        let (scheduler, task) = scheduler::spawn(vec![rules], backend.clone(), link, left, claims, former_owners);
        Self { scheduler, task, backend }
    }

    fn acquire(&self, name: &str) -> Waiting {
        self.scheduler.acquire(&PoolName::new(""), &key(name))
    }

    async fn granted(&self, name: &str) -> Grant {
        granted(&mut self.acquire(name)).await
    }

    /// The first status that is as wanted.
    async fn status_when(&self, what: &str, wanted: impl Fn(&PoolStatus) -> bool) -> PoolStatus {
        let look = async {
            loop {
                let status = self.scheduler.status().await.remove(0);
                if wanted(&status) {
                    return status;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("{what}"))
    }
}

fn key(name: &str) -> TrajectoryKey {
    TrajectoryKey { tenant: Tenant::anonymous(), id: TrajectoryId::parse(name).expect("a name") }
}

async fn next(waiting: &mut Waiting) -> WaitEvent {
    timeout(PATIENCE, waiting.next()).await.expect("an event in time")
}

async fn granted(waiting: &mut Waiting) -> Grant {
    loop {
        match next(waiting).await {
            WaitEvent::Granted(grant) => return grant,
            WaitEvent::Position { .. } => {}
            WaitEvent::Failed(failure) => panic!("{failure:?}"),
        }
    }
}

async fn failed(waiting: &mut Waiting) -> WaitFailure {
    loop {
        match next(waiting).await {
            WaitEvent::Failed(failure) => return failure,
            WaitEvent::Position { .. } => {}
            WaitEvent::Granted(grant) => panic!("{grant:?}"),
        }
    }
}

async fn slot_event(lease: &mut Lease) -> SlotEvent {
    timeout(PATIENCE, lease.slot().next()).await.expect("an event in time")
}

/// Nothing is answered to it yet, once the scheduler has dealt with all that it was told before.
async fn assert_waits(bed: &Bed, waiting: &mut Waiting) {
    bed.scheduler.status().await;
    loop {
        tokio::select! {
            biased;
            event = waiting.next() => assert!(matches!(event, WaitEvent::Position { .. }), "{event:?}"),
            () = std::future::ready(()) => return,
        }
    }
}
