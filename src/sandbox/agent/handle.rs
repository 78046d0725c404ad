//! The way to a slot's task, and the slot as others see it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::admission::Asking;
use crate::{
    pb::sandbox::{Event, SlotSnapshot, SlotState, request::Request},
    sandbox::{outgoing::Outgoing, session::pasts},
};

/// How long a new executor waits for slots that are busy with what the one before has asked; of those that take longer it
/// is told only whose they were.
const SETTLING: Duration = Duration::from_secs(3);

/// The way to a slot's task.
#[derive(Clone)]
pub(super) struct SlotHandle {
    /// Bounded by the calls in flight and what a process may leave unread of its input.
    requests: mpsc::UnboundedSender<Asked>,
    snapshot: Arc<Mutex<SlotSnapshot>>,
}

pub(super) enum Asked {
    Request(Request),
    /// Another executor has come: the answer follows when everything that was asked before has been carried out or has
    /// begun, and can be seen.
    Settle(oneshot::Sender<()>),
    Transfer(Asking),
}

impl SlotHandle {
    /// With what the slot's task has of it.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Asked>, Arc<Mutex<SlotSnapshot>>) {
        let (requests, asked) = mpsc::unbounded_channel();
        let snapshot = Arc::<Mutex<SlotSnapshot>>::default();
        (Self { requests, snapshot: snapshot.clone() }, asked, snapshot)
    }

    pub(super) fn ask(&self, request: Request) {
        // Its task ends with the agent, and then nobody waits for an answer.
        let _ = self.requests.send(Asked::Request(request));
    }

    /// Answered once the slot is its holder's.
    pub(super) fn transfer(&self, asking: Asking) {
        // With the task gone, so is whoever would answer, and that is an answer.
        let _ = self.requests.send(Asked::Transfer(asking));
    }

    /// Another executor has come. Answered once all that was asked before can be seen in the [`snapshots`]; an error means
    /// that the agent ends.
    pub(super) fn settle(&self) -> oneshot::Receiver<()> {
        let (done, settled) = oneshot::channel();
        // See above.
        let _ = self.requests.send(Asked::Settle(done));
        settled
    }

    /// As its task has left it last.
    fn snapshot(&self) -> SlotSnapshot {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Waits for slots that settle, in the order of the slots. Those that have not in time.
pub(super) async fn settle(settling: Vec<oneshot::Receiver<()>>) -> Vec<usize> {
    let deadline = Instant::now() + SETTLING;
    let mut unsettled = Vec::new();
    for (slot, settled) in settling.into_iter().enumerate() {
        if timeout_at(deadline, settled).await.is_err() {
            unsettled.push(slot);
        }
    }
    unsettled
}

/// What an executor is told of the slots, but for those that have not settled. `events` are the agent's.
pub(super) fn snapshots(slots: &[SlotHandle], events: &Outgoing<Event>, unsettled: &[usize]) -> Vec<SlotSnapshot> {
    let pasts = events.look(|events| pasts(slots.len(), events));
    let all = slots.iter().zip(pasts).enumerate();
    all.map(|(index, (slot, past))| match unsettled.contains(&index) {
        true => {
            let SlotSnapshot { owner, generation, .. } = slot.snapshot();
            SlotSnapshot { state: SlotState::Resetting.into(), owner, generation, ..SlotSnapshot::default() }
        }
        false => SlotSnapshot {
            ended_calls: past.ended.into_iter().collect(),
            events_of_others: past.of_others,
            ..slot.snapshot()
        },
    })
    .collect()
}
