//! Files of a trajectory's workspace, for as long as somebody transfers some.

use tokio::sync::oneshot;

pub(super) use crate::sandbox::client::Files;
use crate::{
    sandbox::client::Transfer,
    tool::artifact::{Failure, Request},
};

/// The way to the files of the present workspace. While there is one, the trajectory's lease does not end.
pub struct Workspace {
    pub(super) files: Files,
    /// Closed, it tells the trajectory.
    pub(super) _attended: oneshot::Sender<()>,
}

impl Workspace {
    /// Begins a transfer.
    ///
    /// # Errors
    /// If the agent refuses it or cannot be reached.
    pub async fn begin(&self, request: Request) -> Result<Transfer, Failure> {
        self.files.begin(request).await
    }
}

/// Why a trajectory has no workspace to look into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoWorkspace {
    #[error("the trajectory is not open")]
    NotFound,
    #[error("No active slot for trajectory (run a sandbox tool first)")]
    NoSlot,
    #[error("the trajectory's workspace is gone: reset it to have an empty one")]
    Gone,
    #[error("the trajectory's workspace is being emptied, given back or found again")]
    Changing,
}
