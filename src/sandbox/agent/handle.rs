//! The way to a slot's task, and the slot as others see it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{mpsc, oneshot};

use crate::pb::sandbox::{SlotSnapshot, request::Request};

/// The way to a slot's task.
#[derive(Clone)]
pub(super) struct SlotHandle {
    /// Bounded by the calls in flight and what a process may leave unread of its input.
    requests: mpsc::UnboundedSender<Asked>,
    seen: Arc<Mutex<Seen>>,
}

pub(super) enum Asked {
    Request(Request),
    /// Another executor has come: the answer follows when everything that was asked before has been carried out or has
    /// begun.
    Settle(oneshot::Sender<()>),
}

/// A slot from outside.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) snapshot: SlotSnapshot,
    /// Received, and their ends not acknowledged.
    calls: BTreeSet<u64>,
}

impl SlotHandle {
    /// With what the slot's task has of it.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Asked>, Arc<Mutex<Seen>>) {
        let (requests, asked) = mpsc::unbounded_channel();
        let seen = Arc::<Mutex<Seen>>::default();
        (Self { requests, seen: seen.clone() }, asked, seen)
    }

    pub(super) fn ask(&self, request: Request) {
        if let Request::Run(run) = &request {
            self.seen().calls.insert(run.call);
        }
        // Its task ends with the agent, and then nobody waits for an answer.
        let _ = self.requests.send(Asked::Request(request));
    }

    /// An executor has been told the end of this call, and needs it no more.
    pub(super) fn forget(&self, call: u64) {
        self.seen().calls.remove(&call);
    }

    /// Another executor has come. Returns once everything that earlier ones have asked has been carried out or has begun:
    /// from then on [`Self::snapshot`] shows it.
    pub(super) fn settle(&self) -> impl Future<Output = ()> + use<> {
        let (done, settled) = oneshot::channel();
        let _ = self.requests.send(Asked::Settle(done));
        async {
            // A task that has ended leaves the slot as it was seen last.
            let _ = settled.await;
        }
    }

    pub(super) fn snapshot(&self) -> SlotSnapshot {
        let seen = self.seen();
        SlotSnapshot { calls: seen.calls.iter().copied().collect(), ..seen.snapshot.clone() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Each change is whole before the lock is given back.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
