//! How a trajectory hears that the journal wants it to state itself anew.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// That a trajectory is to state itself anew.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    now: AtomicBool,
    wake: Notify,
}

impl Wanted {
    pub(super) fn ask(&self) {
        self.now.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    pub(super) fn is_met(&self) {
        self.now.store(false, Ordering::Relaxed);
    }

    pub(super) async fn asked(&self) {
        while !self.now.load(Ordering::Acquire) {
            self.wake.notified().await;
        }
    }
}
