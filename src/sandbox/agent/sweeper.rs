//! Deletes old workspaces behind everybody's back: one thread, for all slots of the agent, that has less of a processor
//! and of a disk than what calls do. So that they do not fill the disk, only so many may wait for it: see
//! [`Sweeper::room`].

use std::{error::Error, path::PathBuf, sync::Arc};

use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot, watch},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    sandbox::slot::{SlotError, delete_one, old_workspaces, prepare_trash},
    tool::chain,
};

/// Of the thread, which is also a low one in the line for the disk. Not the lowest: it may hold a lock of the file
/// system that others wait for.
const NICENESS: i32 = 10;

/// How many old workspaces there may be for each slot: with a source, one leaves two directories.
const FOR_EACH_SLOT: usize = 2;
/// There may be so many however few slots there are.
const AT_LEAST: usize = 8;

/// The way to the thread. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Sweeper {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    trash: PathBuf,
    /// Old workspaces that there may be before slots wait.
    most: usize,
    wanted: Notify,
    /// What the last attempt met with; sent after each.
    failure: watch::Sender<Option<String>>,
    /// The agent ends.
    end: CancellationToken,
}

impl Sweeper {
    pub(super) fn new(trash: PathBuf, slots: u32, end: CancellationToken) -> Self {
        let most = (slots as usize).saturating_mul(FOR_EACH_SLOT).max(AT_LEAST);
        let (failure, _) = watch::channel(None);
        Self { shared: Arc::new(Shared { trash, most, wanted: Notify::new(), failure, end }) }
    }

    /// There is something to delete.
    pub(super) fn sweep(&self) {
        self.shared.wanted.notify_one();
    }

    /// Waits until there are few enough old workspaces for one more.
    ///
    /// # Errors
    /// If they cannot be deleted, or the agent ends.
    pub(super) async fn room(&self) -> Result<(), SlotError> {
        self.until_at_most(self.shared.most).await
    }

    /// Waits until all are deleted.
    ///
    /// # Errors
    /// If they cannot be, or the agent ends.
    pub(super) async fn emptied(&self) -> Result<(), SlotError> {
        self.until_at_most(0).await
    }

    async fn until_at_most(&self, most: usize) -> Result<(), SlotError> {
        let Shared { trash, failure, end, .. } = &*self.shared;
        let mut attempts = failure.subscribe();
        loop {
            let old = old_workspaces(trash).map_err(|error| SlotError::Undeletable(error.to_string()))?;
            if old <= most {
                return Ok(());
            }
            self.sweep();
            if end.run_until_cancelled(attempts.changed()).await.is_none() {
                return Err(SlotError::Undeletable("the agent ends".to_owned()));
            }
            if let Some(failure) = attempts.borrow_and_update().clone() {
                return Err(SlotError::Undeletable(failure));
            }
        }
    }

    /// Sweeps whenever it is asked for, until the agent ends. What is not deleted then is left.
    pub(super) async fn run(self) {
        let (ended, end) = oneshot::channel();
        let runtime = Handle::current();
        let sweeper = self.clone();
        let thread = std::thread::Builder::new().name("sweeper".to_owned()).spawn(move || {
            sweeper.work(&runtime);
            // Nobody waits for it where the runtime is gone.
            let _ = ended.send(());
        });
        match thread {
            // An error means that it has panicked, which has been said.
            Ok(_) => drop(end.await),
            Err(error) => {
                warn!(error = &error as &dyn Error, "there is nobody to delete old workspaces");
            }
        }
        self.shared.failure.send_replace(Some("nobody is there to do it".to_owned()));
    }

    fn work(&self, runtime: &Handle) {
        let Shared { trash, wanted, failure, end, .. } = &*self.shared;
        if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
            warn!(error = &error as &dyn Error, "old workspaces are deleted at the priority of calls");
        }
        if let Err(error) = prepare_trash(trash) {
            warn!(error = &error as &dyn Error, "could not make a place for old workspaces");
        }
        while runtime.block_on(end.run_until_cancelled(wanted.notified())).is_some() {
            while !end.is_cancelled() {
                match delete_one(trash) {
                    Ok(true) => failure.send_replace(None),
                    Ok(false) => break,
                    Err(error) => {
                        warn!(error = &error as &dyn Error, "could not delete old workspaces");
                        failure.send_replace(Some(chain(&error)));
                        break;
                    }
                };
            }
        }
    }
}
