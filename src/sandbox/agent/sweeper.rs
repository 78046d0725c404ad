//! Deletes old workspaces behind everybody's back: one thread, for all slots of the agent, that has less of a processor
//! and of a disk than what calls do. So that they do not fill the disk, only so many may wait for it: see
//! [`Sweeper::room`].

use std::{error::Error, path::PathBuf, sync::Arc};

use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot, watch},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

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

    /// Sweeps whenever it is asked for, until the agent ends. What is not deleted then is left. An agent that has nobody
    /// to do this ends: its disk would fill.
    pub(super) async fn run(self) {
        let (ended, end) = oneshot::channel();
        let runtime = Handle::current();
        let sweeper = self.clone();
        let thread = std::thread::Builder::new().name("sweeper".to_owned()).spawn(move || {
            sweeper.work(&runtime);
            // Nobody waits for it where the runtime is gone.
            let _ = ended.send(());
        });
        if let Err(error) = thread {
            error!(error = &error as &dyn Error, "there is nobody to delete old workspaces");
        } else if end.await.is_err() {
            error!("whoever deletes old workspaces has failed");
        }
        self.shared.end.cancel();
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

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use tokio::time::timeout;

    use super::*;

    /// With so many old workspaces, and nobody who deletes any yet.
    fn sweeper(home: &tempfile::TempDir, old: usize) -> Sweeper {
        let trash = home.path().join("trash");
        for index in 0..old {
            fs::create_dir_all(trash.join(format!("{index}/directory"))).unwrap();
        }
        Sweeper::new(trash, 1, CancellationToken::new())
    }

    async fn waits(room: impl Future<Output = Result<(), SlotError>>) -> bool {
        timeout(Duration::from_millis(20), room).await.is_err()
    }

    #[tokio::test]
    async fn a_slot_waits_for_room() {
        let home = tempfile::tempdir().unwrap();
        let sweeper = sweeper(&home, AT_LEAST);
        sweeper.room().await.unwrap();
        fs::create_dir(home.path().join("trash/one-more")).unwrap();
        assert!(waits(sweeper.room()).await);
        assert!(waits(sweeper.emptied()).await);
        let work = tokio::spawn(sweeper.clone().run());
        sweeper.room().await.unwrap();
        sweeper.emptied().await.unwrap();
        assert_eq!(old_workspaces(&home.path().join("trash")).unwrap(), 0);
        sweeper.shared.end.cancel();
        work.await.unwrap();
    }

    #[tokio::test]
    async fn nobody_waits_for_what_cannot_be_deleted() {
        let home = tempfile::tempdir().unwrap();
        let sweeper = sweeper(&home, AT_LEAST + 1);
        // Where it is to be deleted there is a file.
        let apart = home.path().join("deleting");
        fs::write(&apart, "").unwrap();
        let work = tokio::spawn(sweeper.clone().run());
        assert!(matches!(sweeper.room().await, Err(SlotError::Undeletable(_))));
        fs::remove_file(&apart).unwrap();
        fs::create_dir(&apart).unwrap();
        sweeper.room().await.unwrap();
        sweeper.shared.end.cancel();
        work.await.unwrap();
    }

    #[tokio::test]
    async fn a_slot_that_waits_hears_of_a_failure() {
        let home = tempfile::tempdir().unwrap();
        let sweeper = sweeper(&home, 1);
        let fail = async {
            tokio::task::yield_now().await;
            sweeper.shared.failure.send_replace(Some("the disk is broken".to_owned()));
        };
        let (emptied, ()) = tokio::join!(sweeper.emptied(), fail);
        assert!(matches!(emptied, Err(SlotError::Undeletable(why)) if why == "the disk is broken"));
    }

    #[tokio::test]
    async fn an_agent_that_ends_waits_for_nothing() {
        let home = tempfile::tempdir().unwrap();
        let sweeper = sweeper(&home, 1);
        sweeper.shared.end.cancel();
        assert!(matches!(sweeper.emptied().await, Err(SlotError::Undeletable(_))));
    }
}
