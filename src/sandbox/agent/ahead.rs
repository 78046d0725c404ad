//! The maker of a slot's next generation, started while the slot is in use, so that a reset need not wait for it.

use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::debug;

use crate::sandbox::slot::{Maker, SlotConfig};

/// After a slot has been made its first call is likely to come; this gets out of its way.
const REST: Duration = Duration::from_millis(50);

/// Of one slot. Dropped, the maker is ended.
#[derive(Default)]
pub(super) struct Ahead(Option<JoinHandle<Option<Maker>>>);

impl Ahead {
    /// Begins to start one.
    pub(super) fn begin(&mut self, config: SlotConfig) {
        self.0 = Some(tokio::spawn(async move {
            tokio::time::sleep(REST).await;
            // Whatever fails here is tried again when the slot is made, and then told.
            Maker::ahead(&config).await.unwrap_or_else(|error| {
                debug!(error = &error as &dyn std::error::Error, "no maker could be started ahead");
                None
            })
        }));
    }

    /// The maker, if it has been started by now.
    pub(super) async fn take(&mut self) -> Option<Maker> {
        let starting = self.0.take()?;
        starting.abort();
        starting.await.ok().flatten()
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if let Some(starting) = &self.0 {
            starting.abort();
        }
    }
}
