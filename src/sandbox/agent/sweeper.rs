//! Deletes old workspaces behind everybody's back: one task, and one thread at a time, for all slots of the agent.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::sandbox::slot::empty_trash;

/// Says that there is something to delete. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Sweeper {
    wanted: Arc<Notify>,
}

impl Sweeper {
    pub(super) fn sweep(&self) {
        self.wanted.notify_one();
    }

    /// Sweeps whenever it is asked for, until the end. What the last sweep leaves is left.
    pub(super) async fn run(self, trash: PathBuf, end: CancellationToken) {
        while end.run_until_cancelled(self.wanted.notified()).await.is_some() {
            let trash = trash.clone();
            match tokio::task::spawn_blocking(move || empty_trash(&trash)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    warn!(error = &error as &dyn std::error::Error, "could not delete old workspaces");
                }
                Err(error) => warn!(error = &error as &dyn std::error::Error, "old workspaces were not deleted"),
            }
        }
    }
}
