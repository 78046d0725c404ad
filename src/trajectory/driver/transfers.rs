//! Transfers of files, which go past this task and are counted by it.

use tokio::sync::oneshot;

use super::Driver;
use crate::trajectory::{
    state::Moment,
    transfer::{NoWorkspace, Workspace},
};

impl Driver {
    pub(super) fn on_files(&mut self, reply: oneshot::Sender<Result<Workspace, NoWorkspace>>, at: Moment) {
        let generation = match self.state.on_transfer(at) {
            Ok(generation) => generation,
            // A caller that has gone away needs no answer, here and below.
            Err(error) => return drop(reply.send(Err(error))),
        };
        let (attended, ended) = oneshot::channel::<()>();
        self.transfers.spawn(async move {
            // Nothing is ever sent: it ends when it is closed.
            let _ = ended.await;
        });
        let Some(lease) = &mut self.lease else { return drop(reply.send(Err(NoWorkspace::NoSlot))) };
        let files = lease.slot().files(&self.key, generation);
        drop(reply.send(Ok(Workspace { files, _attended: attended })));
    }
}
