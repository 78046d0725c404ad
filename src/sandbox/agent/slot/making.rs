//! How a slot is made, emptied and ended.

use std::{error::Error, time::Duration};

use tracing::warn;

use super::SlotTask;
use crate::sandbox::slot::{Slot, SlotError, until_alone};

/// How long cancelled calls may take before the slot is ended under them.
const PATIENCE: Duration = Duration::from_secs(2);

impl SlotTask {
    /// Ends everything in the slot and makes it anew, with an empty workspace.
    pub(super) async fn wipe(&mut self) -> Result<(), SlotError> {
        self.end_calls().await;
        self.clear().await?;
        self.remake().await
    }

    /// Where too many old workspaces are still to be deleted, it waits for some to be: none may fill the disk.
    pub(super) async fn remake(&mut self) -> Result<(), SlotError> {
        self.agent.sweeper.room().await?;
        match self.make().await {
            // Perhaps with what is being deleted.
            Err(error) if error.is_full_disk() => {
                warn!(slot = self.index, error = &error as &dyn Error, "the disk is full: waits for deletions");
                self.agent.sweeper.emptied().await?;
                self.make().await
            }
            made => made,
        }
    }

    /// The keeper of the new slot, or its warden, verifies from inside that it is clean; what it cannot see is verified here.
    pub(super) async fn make(&mut self) -> Result<(), SlotError> {
        if let Some(id) = self.config.host_id {
            until_alone(id).await?;
        }
        let slot = Slot::create_by(self.ahead.take().await, &self.config).await?;
        self.ahead.begin(self.config.clone());
        self.gauge.renew(&self.config, slot.workspace());
        if let Some(precedence) = &self.precedence {
            precedence.renew();
        }
        self.slot = Some(slot);
        Ok(())
    }

    /// Makes a runner for the next call. Where none can be made, the call asks again, and is told.
    pub(super) async fn warm_up(&mut self) -> Result<(), SlotError> {
        if let Some(slot) = &self.slot {
            self.idle.push(slot.runner().await?);
        }
        Ok(())
    }

    /// Ends the slot, and what still runs in it; its workspace goes out of the way.
    pub(super) async fn clear(&mut self) -> Result<(), SlotError> {
        self.idle.clear();
        let Some(slot) = self.slot.take() else { return Ok(()) };
        self.transfers.end().await;
        let destroyed = slot.destroy().await;
        self.agent.sweeper.sweep();
        self.sessions.end().await;
        destroyed?;
        self.join_calls().await;
        // Those that such calls gave back.
        self.idle.clear();
        Ok(())
    }

    pub(super) async fn end_calls(&mut self) {
        self.calls.cancel();
        self.transfers.end().await;
        if tokio::time::timeout(PATIENCE, self.join_calls()).await.is_err() {
            warn!(slot = self.index, "calls did not end in {PATIENCE:?}: the slot is ended under them");
        }
        self.sessions.end().await;
    }

    pub(super) async fn join_calls(&mut self) {
        while let Some(ended) = self.running.join_next_with_id().await {
            self.on_ended(ended);
        }
    }
}
