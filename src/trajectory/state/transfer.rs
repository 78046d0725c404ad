//! Transfers of files: whether there is a workspace for one, and that they keep the trajectory alive.

use super::{Moment, Slot, State};
use crate::{id::Generation, journal::Workspace, trajectory::transfer::NoWorkspace};

impl State {
    /// A transfer is to begin: the workspace that it is of. It counts until [`State::on_transfer_ended`].
    pub(in crate::trajectory) fn on_transfer(&mut self, at: Moment) -> Result<Generation, NoWorkspace> {
        if !self.is_open() || self.untouched {
            return Err(NoWorkspace::NotFound);
        }
        if self.releasing.is_some() || self.resetting.is_some() || matches!(self.slot, Slot::Reclaimed) {
            return Err(NoWorkspace::Changing);
        }
        match (&self.slot, self.ledger.workspace) {
            (Slot::Held { lost: false, .. }, Workspace::Present(generation)) => {
                self.transfers += 1;
                self.settle(at);
                Ok(generation)
            }
            (_, Workspace::Gone(_)) | (Slot::Held { lost: true, .. }, _) => Err(NoWorkspace::Gone),
            _ => Err(NoWorkspace::NoSlot),
        }
    }

    pub(in crate::trajectory) fn on_transfer_ended(&mut self, at: Moment) {
        self.transfers -= 1;
        self.settle(at);
    }
}
