//! Which transfers of files may use a slot's workspace, and that none outlives it.

use std::time::Duration;

use tokio::{sync::oneshot, time::timeout};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tracing::warn;

use super::state::{Holder, State};
use crate::{
    sandbox::slot::{Allowance, TransferLimits, Workspace},
    tool::artifact::{Failure, FailureKind},
};

/// How long transfers may take to end before the workspace is taken from under them, which harms nobody else: what they
/// have open is what they were given.
const PATIENCE: Duration = Duration::from_secs(2);

/// One transfer that may go on until `end`.
pub(super) struct Admitted {
    pub(super) workspace: Workspace,
    pub(super) allowance: Allowance,
    pub(super) limits: TransferLimits,
    pub(super) end: CancellationToken,
    /// Dropped, it has ended.
    pub(super) _running: TaskTrackerToken,
}

/// Asks for the workspace of this holder.
pub(super) struct Asking {
    pub(super) holder: Holder,
    pub(super) answer: oneshot::Sender<Result<Admitted, Failure>>,
}

/// The transfers of one slot.
pub(super) struct Admission {
    limits: TransferLimits,
    end: CancellationToken,
    running: TaskTracker,
    /// Whose request has come before the slot was assigned to them: the two come by different ways.
    early: Vec<Asking>,
}

impl Admission {
    pub(super) fn new(limits: TransferLimits) -> Self {
        Self { limits, end: CancellationToken::new(), running: TaskTracker::new(), early: Vec::new() }
    }

    pub(super) fn ask(&mut self, asking: Asking) {
        self.early.push(asking);
    }

    /// Answers those who can be, with what the slot is now.
    pub(super) fn admit(&mut self, state: &State, slot: impl Fn() -> Option<(Workspace, Allowance)>) {
        for asking in std::mem::take(&mut self.early) {
            if asking.answer.is_closed() {
                continue;
            }
            let later = match state {
                State::Assigned(holder) if *holder == asking.holder => None,
                State::Assigned(holder) if holder.owner == asking.holder.owner => {
                    Some(holder.generation < asking.holder.generation)
                }
                State::Lost(holder) if *holder == asking.holder => Some(false),
                _ => Some(true),
            };
            match (later, slot()) {
                (Some(true), _) => self.early.push(asking),
                (None, Some((workspace, allowance))) if self.running.len() < self.limits.at_once => {
                    let (end, limits, _running) = (self.end.clone(), self.limits, self.running.token());
                    // Whoever has gone away gives its place back by that.
                    let _ = asking.answer.send(Ok(Admitted { workspace, allowance, limits, end, _running }));
                }
                (None, Some(_)) => {
                    let most = self.limits.at_once;
                    let message = format!("{most} transfers run in the workspace, which is the most at once");
                    let _ = asking.answer.send(Err(Failure::new(FailureKind::Busy, message)));
                }
                (Some(false), _) | (None, None) => drop(asking.answer.send(Err(Failure::workspace_ended()))),
            }
        }
    }

    /// Ends those that run, and waits for them.
    pub(super) async fn end(&mut self) {
        let Self { end, running, .. } = self;
        std::mem::take(end).cancel();
        let running = std::mem::take(running);
        running.close();
        if timeout(PATIENCE, running.wait()).await.is_err() {
            warn!("transfers of files did not end in {PATIENCE:?}");
        }
    }
}
