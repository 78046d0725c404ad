//! The scheduler as trajectories see it: a line to stand in, and a lease at its end. What is dropped is given back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use super::{core::SlotKey, status::PoolStatus};
use crate::{
    id::{Generation, PoolName, TrajectoryKey},
    sandbox::client::{Link, SlotHandle},
    tool::{Evidence, Location},
};

/// The way to the scheduler. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    /// Bounded: a trajectory has at most one place in the line and one lease under way.
    pub(super) messages: mpsc::UnboundedSender<Message>,
    pub(super) waiters: Arc<AtomicU64>,
}

pub(super) enum Message {
    Acquire { waiter: u64, pool: PoolName, owner: TrajectoryKey, positions: mpsc::Sender<Position>, outcome: Outcome },
    Leave { waiter: u64 },
    Release { pool: usize, slot: SlotKey, keep_for: Option<TrajectoryKey> },
    Status(oneshot::Sender<Vec<PoolStatus>>),
    ShutDown(oneshot::Sender<()>),
}

pub(super) type Outcome = oneshot::Sender<Result<Grant, WaitFailure>>;

/// A place in the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) position: u32,
    pub(super) reason: Option<String>,
}

impl Handle {
    /// Stands in line for a slot of the pool.
    pub fn acquire(&self, pool: &PoolName, owner: &TrajectoryKey) -> Waiting {
        let waiter = self.waiters.fetch_add(1, Ordering::Relaxed);
        let (positions, receiver) = mpsc::channel(1);
        let (outcome, granted) = oneshot::channel();
        let (pool, owner) = (pool.clone(), owner.clone());
        self.tell(Message::Acquire { waiter, pool, owner, positions, outcome });
        Waiting { scheduler: self.clone(), waiter, positions: receiver, outcome: granted, over: false }
    }

    pub async fn status(&self) -> Vec<PoolStatus> {
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Status(reply));
        answer.await.unwrap_or_default()
    }

    /// Ends every container; returns when all are gone.
    pub async fn shut_down(&self) {
        let (reply, answer) = oneshot::channel();
        self.tell(Message::ShutDown(reply));
        // An error means that the scheduler has ended already.
        let _ = answer.await;
    }

    pub(super) fn tell(&self, message: Message) {
        // After the scheduler's end there is nothing left to tell it.
        let _ = self.messages.send(message);
    }
}

/// A place in the line; dropped, it is left.
pub struct Waiting {
    scheduler: Handle,
    waiter: u64,
    positions: mpsc::Receiver<Position>,
    outcome: oneshot::Receiver<Result<Grant, WaitFailure>>,
    over: bool,
}

/// What comes of waiting. Nothing follows a grant or a failure.
#[derive(Debug)]
pub enum WaitEvent {
    /// 1 is next; why no slot is free, where it is known.
    Position {
        position: u32,
        reason: Option<String>,
    },
    Granted(Grant),
    Failed(WaitFailure),
}

/// Why no slot was had.
#[derive(Debug, Clone)]
pub enum WaitFailure {
    TimedOut {
        waited: Duration,
    },
    /// In all that time no container could be started.
    StartFailed {
        evidence: Arc<Evidence>,
        retry_after: Duration,
    },
    LineFull {
        retry_after: Duration,
    },
    ShuttingDown,
}

impl Waiting {
    /// The next event. Cancel-safe.
    pub async fn next(&mut self) -> WaitEvent {
        if self.over {
            return std::future::pending().await;
        }
        tokio::select! {
            outcome = &mut self.outcome => {
                self.over = true;
                match outcome {
                    Ok(Ok(grant)) => WaitEvent::Granted(grant),
                    Ok(Err(failure)) => WaitEvent::Failed(failure),
                    Err(_) => WaitEvent::Failed(WaitFailure::ShuttingDown),
                }
            }
            Some(Position { position, reason }) = self.positions.recv() => WaitEvent::Position { position, reason },
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.over {
            // A grant that is on its way gives itself back.
            self.scheduler.tell(Message::Leave { waiter: self.waiter });
        }
    }
}

/// A slot that is its owner's, not yet opened. Dropped, it is given back.
pub struct Grant {
    slot: Slot,
    owner: TrajectoryKey,
    index: u32,
    location: Location,
    isolation: Arc<str>,
    network_isolated: bool,
    kept: bool,
    link: Link,
}

/// What the driver knows of a slot that it grants.
pub(super) struct Granted {
    pub(super) pool: usize,
    pub(super) slot: SlotKey,
    pub(super) owner: TrajectoryKey,
    pub(super) location: Location,
    pub(super) isolation: Arc<str>,
    pub(super) network_isolated: bool,
    pub(super) kept: bool,
    pub(super) link: Link,
}

impl Grant {
    pub(super) fn new(scheduler: Handle, granted: Granted) -> Self {
        let Granted { pool, slot, owner, location, isolation, network_isolated, kept, link } = granted;
        let index = slot.index;
        let slot = Slot { scheduler, pool, slot, keep_for: None };
        Self { slot, owner, index, location, isolation, network_isolated, kept, link }
    }

    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The name of the level of isolation that it has.
    pub fn isolation(&self) -> &Arc<str> {
        &self.isolation
    }

    pub fn network_isolated(&self) -> bool {
        self.network_isolated
    }

    /// It still has the files that its owner left there.
    pub fn kept(&self) -> bool {
        self.kept
    }

    /// Tells the agent whose it is, as the workspace of this generation.
    pub fn open(self, generation: Generation) -> Lease {
        let handle = self.link.assign(self.index, &self.owner, generation);
        Lease { handle, owner: self.owner, slot: self.slot }
    }
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant").field("owner", &self.owner).field("location", &self.location).finish_non_exhaustive()
    }
}

/// A slot in use. Dropped, it is given back.
pub struct Lease {
    handle: SlotHandle,
    owner: TrajectoryKey,
    slot: Slot,
}

impl Lease {
    pub fn slot(&mut self) -> &mut SlotHandle {
        &mut self.handle
    }

    /// Gives it back; with `keep` the files stay for the same owner, should it come back while the slot is still free.
    pub fn release(mut self, keep: bool) {
        self.slot.keep_for = keep.then(|| self.owner.clone());
    }
}

/// Gives the slot back when it goes.
struct Slot {
    scheduler: Handle,
    pool: usize,
    slot: SlotKey,
    keep_for: Option<TrajectoryKey>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.scheduler.tell(Message::Release { pool: self.pool, slot: self.slot, keep_for: self.keep_for.take() });
    }
}
