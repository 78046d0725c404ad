//! How the rest of the program asks for slots.

use std::{
    collections::HashMap,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    core::{OwnerId, PoolKey, Return, SlotKey},
    lease::Grant,
    status::{Extent, PoolOverview, PoolStatus},
};
use crate::{
    id::{PoolName, Tenant, TrajectoryKey},
    tool::Evidence,
};

/// What the driver is asked. Bounded by the trajectories there are: each has at most one wait and one lease, and is
/// released as often as somebody waits for it.
pub(super) enum Command {
    Acquire {
        pool: PoolKey,
        owner: TrajectoryKey,
        ticket: u64,
        end: oneshot::Sender<Result<Grant, WaitFailure>>,
        position: watch::Sender<Position>,
    },
    Leave {
        owner: TrajectoryKey,
        ticket: u64,
    },
    Forgo(TrajectoryKey),
    Return {
        slot: SlotKey,
        owner: OwnerId,
        how: Return,
    },
    Status(oneshot::Sender<Vec<PoolStatus>>),
    Overview(Tenant, Extent, oneshot::Sender<Vec<PoolOverview>>),
    HandOver(oneshot::Sender<()>),
    ShutDown(oneshot::Sender<()>),
}

/// A place in the line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// 1 is next.
    pub(super) position: u32,
    pub(super) reason: Option<String>,
}

/// The way to the scheduler. Cheap to clone. When the last one is gone, and the last lease and wait, everything ends
/// as after [`Handle::shut_down`].
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    pools: Arc<HashMap<PoolName, PoolKey>>,
    tickets: Arc<AtomicU64>,
}

impl Handle {
    pub(super) fn new(commands: mpsc::UnboundedSender<Command>, pools: HashMap<PoolName, PoolKey>) -> Self {
        Self { commands, pools: Arc::new(pools), tickets: Arc::default() }
    }

    /// Whether there is such a pool.
    pub fn knows_pool(&self, pool: &PoolName) -> bool {
        self.pools.contains_key(pool)
    }

    /// Asks for a slot. Dropping the answer leaves the line, or gives the slot back. A trajectory has at most one slot:
    /// it must have given back the one before.
    pub fn acquire(&self, pool: &PoolName, owner: &TrajectoryKey) -> Waiting {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let (end, ended) = oneshot::channel();
        let (position, positions) = watch::channel(Position::default());
        match self.pools.get(pool) {
            Some(&pool) => {
                let acquire = Command::Acquire { pool, owner: owner.clone(), ticket, end, position };
                // If the driver is gone, so is `end`, which says so.
                let _ = self.commands.send(acquire);
            }
            None => {
                let evidence = Evidence { cause: format!("there is no pool `{pool}`"), ..Evidence::default() };
                let failure = WaitFailure::StartFailed { evidence: Arc::new(evidence), retry_after: Duration::ZERO };
                // The receiver is here.
                let _ = end.send(Err(failure));
            }
        }
        Waiting { commands: self.commands.clone(), owner: owner.clone(), ticket, ended: Some(ended), positions }
    }

    /// What there is now; empty after the end.
    pub async fn status(&self) -> Vec<PoolStatus> {
        let (reply, status) = oneshot::channel();
        let _ = self.commands.send(Command::Status(reply));
        status.await.unwrap_or_default()
    }

    /// What there is now, in detail, as one tenant may see it; empty after the end.
    pub async fn overview(&self, tenant: &Tenant, extent: Extent) -> Vec<PoolOverview> {
        let (reply, overview) = oneshot::channel();
        let _ = self.commands.send(Command::Overview(tenant.clone(), extent, reply));
        overview.await.unwrap_or_default()
    }

    /// The trajectory does not want the files that were kept for it, if any were: they go.
    pub fn forgo(&self, owner: &TrajectoryKey) {
        // After the end nothing is kept.
        let _ = self.commands.send(Command::Forgo(owner.clone()));
    }

    /// Leaves everything as it is, for an executor to come: no container is stopped, no slot that is given back is wiped,
    /// nobody who waits hears anything any more, and nothing that is asked from then on is answered. Returns when every
    /// link has ended: what an agent says from then on, and what has not been acknowledged, is for the other executor,
    /// whatever becomes of leases and receipts.
    pub async fn hand_over(&self) {
        let (reply, done) = oneshot::channel();
        let _ = self.commands.send(Command::HandOver(reply));
        // An error means that the driver is gone.
        let _ = done.await;
    }

    /// Ends everything: whoever waits is told, every container is stopped. Returns when all are gone.
    pub async fn shut_down(&self) {
        let (reply, done) = oneshot::channel();
        let _ = self.commands.send(Command::ShutDown(reply));
        // An error means that the driver is gone, after all its containers.
        let _ = done.await;
    }
}

/// A place in the line for a slot. Dropped, it is given up.
pub struct Waiting {
    commands: mpsc::UnboundedSender<Command>,
    owner: TrajectoryKey,
    ticket: u64,
    /// None after it has ended.
    ended: Option<oneshot::Receiver<Result<Grant, WaitFailure>>>,
    positions: watch::Receiver<Position>,
}

/// What happens to one who waits. Nothing follows `Granted` or `Failed`.
#[derive(Debug)]
pub enum WaitEvent {
    /// How far it is, when it joins and when that has changed so much that it matters, with the reason why no slot is
    /// free where it is known.
    Position {
        /// 1 is next.
        position: u32,
        reason: Option<String>,
    },
    Granted(Grant),
    Failed(WaitFailure),
}

/// Why there is no slot.
#[derive(Debug, Clone)]
pub enum WaitFailure {
    /// None was free for the pool's `acquire_timeout`.
    TimedOut {
        waited: Duration,
        /// Of the last start of a container that failed, if none has succeeded since.
        evidence: Option<Arc<Evidence>>,
    },
    /// There is no container, and none can be started for now.
    StartFailed {
        evidence: Arc<Evidence>,
        retry_after: Duration,
    },
    /// Too many wait already.
    LineFull {
        retry_after: Duration,
    },
    ShuttingDown,
}

impl Waiting {
    /// The next event; never returns after the last one. Cancel-safe.
    pub async fn next(&mut self) -> WaitEvent {
        let Some(ended) = &mut self.ended else { return pending().await };
        tokio::select! {
            biased;
            end = ended => {
                self.ended = None;
                match end {
                    Ok(Ok(grant)) => WaitEvent::Granted(grant),
                    Ok(Err(failure)) => WaitEvent::Failed(failure),
                    // The driver is gone.
                    Err(_) => WaitEvent::Failed(WaitFailure::ShuttingDown),
                }
            }
            Ok(()) = self.positions.changed() => {
                let Position { position, reason } = self.positions.borrow_and_update().clone();
                WaitEvent::Position { position, reason }
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // A grant that is under way goes with the receiver, and gives the slot back by itself.
        if self.ended.is_some() {
            // With the driver gone there is no line to leave.
            let _ = self.commands.send(Command::Leave { owner: self.owner.clone(), ticket: self.ticket });
        }
    }
}
