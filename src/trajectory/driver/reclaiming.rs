//! A slot that the trajectory had under an executor before this one.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::{scheduler::Reclaimed, tool::Evidence, trajectory::state::Effect};

/// Until it is known whether a slot is still there.
pub(super) struct Reclaiming {
    pub(super) answer: oneshot::Receiver<Result<Reclaimed, Arc<Evidence>>>,
    /// What its calls are to be told then.
    deferred: Vec<Effect>,
    input_bytes: usize,
}

impl Reclaiming {
    /// Of input for calls that cannot be told yet, in bytes.
    const MAX_INPUT: usize = 4 << 20;

    pub(super) fn new(answer: oneshot::Receiver<Result<Reclaimed, Arc<Evidence>>>) -> Self {
        Self { answer, deferred: Vec::new(), input_bytes: 0 }
    }

    pub(super) fn into_deferred(self) -> Vec<Effect> {
        self.deferred
    }

    pub(super) fn defer(&mut self, effect: Effect) {
        if let Effect::Input { call, data, .. } = &effect {
            self.input_bytes += data.len();
            if self.input_bytes > Self::MAX_INPUT {
                // Some of its input is missing: it must not go on as if it were not.
                return self.deferred.push(Effect::CancelRun(*call));
            }
        }
        self.deferred.push(effect);
    }
}
