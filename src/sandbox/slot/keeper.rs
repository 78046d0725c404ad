//! The agent's side of the process that holds a slot together: its keeper, or its warden.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    net::Shutdown,
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions},
};
use tokio::{io::unix::AsyncFd, time::timeout};

use super::{
    error::{At as _, SlotError, Step},
    helper,
    leftovers::end_leftovers,
    socket::watch,
};

/// How long a killed process may take to end. A thousand take hundredths of a second; one that the kernel holds, in a
/// device or in a file system that does not answer, may take for ever.
pub const DEATH: Duration = Duration::from_secs(5);

/// Ended and reaped when dropped, and the slot's other processes with it.
#[derive(Debug)]
pub(super) struct Keeper {
    pidfd: AsyncFd<OwnedFd>,
    reaped: bool,
    end: End,
}

/// How it is brought to its end.
#[derive(Debug)]
enum End {
    /// It is process 1 of a pid namespace, and takes all of that along, however it ends.
    Kill,
    /// It ends the slot's other processes itself, once nobody holds this socket any more.
    Leave { control: OwnedFd, user: Option<u32> },
}

impl Keeper {
    /// One with a pid namespace. It is this process's child.
    pub(super) fn adopt(pidfd: OwnedFd) -> io::Result<Self> {
        Ok(Self { pidfd: watch(pidfd)?, reaped: false, end: End::Kill })
    }

    /// One without; `control` is this process's end of its socket, and `entrances` those of the slot's control groups.
    pub(super) fn start_warden(
        program: &Path,
        workspace: &Path,
        user: Option<u32>,
        entrances: &[PathBuf],
        control: OwnedFd,
        socket: OwnedFd,
    ) -> io::Result<Self> {
        let mut process = helper::command(program, "warden", socket).current_dir(workspace).spawn()?;
        let pid = process.id().to_string();
        // It waits for a word, and has started nothing yet.
        let entered = entrances.iter().try_for_each(|entrance| fs::write(entrance, &pid));
        let pidfd =
            entered.and_then(|()| Ok(rustix::process::pidfd_open(Pid::from_child(&process), PidfdFlags::empty())?));
        match pidfd.and_then(watch) {
            Ok(pidfd) => Ok(Self { pidfd, reaped: false, end: End::Leave { control, user } }),
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                Err(error)
            }
        }
    }

    pub(super) async fn died(&self) {
        // It stays readable: nothing ever clears it. An error means that the runtime is gone.
        let _ = self.pidfd.readable().await;
    }

    pub(super) async fn end(mut self) -> Result<(), SlotError> {
        self.begin_end();
        let mut died = timeout(DEATH, self.died()).await.is_ok();
        if !died && matches!(self.end, End::Leave { .. }) {
            self.kill();
            died = timeout(DEATH, self.died()).await.is_ok();
        }
        if !died {
            // It is left to whoever reaps this process's children after it: a wait would hold up all other slots.
            self.reaped = true;
            return Err(SlotError::Undying("slot"));
        }
        match (self.reap().at(Step::EndProcesses)?, &self.end) {
            (false, End::Leave { user, .. }) => {
                let user = *user;
                let ended = tokio::task::spawn_blocking(move || end_leftovers(user, DEATH));
                ended
                    .await
                    .at(Step::EndProcesses)?
                    .at(Step::EndProcesses)?
                    .then_some(())
                    .ok_or(SlotError::Undying("slot"))
            }
            _ => Ok(()),
        }
    }

    fn begin_end(&self) {
        match &self.end {
            End::Kill => self.kill(),
            // Fails only if it has ended.
            End::Leave { control, .. } => drop(rustix::net::shutdown(control, Shutdown::Both)),
        }
    }

    fn kill(&self) {
        // Fails only if it has ended.
        let _ = rustix::process::pidfd_send_signal(self.pidfd(), Signal::KILL);
    }

    /// Blocks until it has ended, which one with a pid namespace does only after the last process of that. Whether it
    /// has ended in good order.
    fn reap(&mut self) -> io::Result<bool> {
        self.reaped = true;
        match rustix::process::waitid(WaitId::PidFd(self.pidfd()), WaitIdOptions::EXITED) {
            Ok(status) => Ok(status.is_some_and(|status| status.exit_status() == Some(0))),
            // Somebody who waits for all children has been faster.
            Err(rustix::io::Errno::CHILD) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.get_ref().as_fd()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        self.begin_end();
        if let End::Leave { user, .. } = self.end {
            let patience = Timespec { tv_sec: DEATH.as_secs().cast_signed(), tv_nsec: 0 };
            let mut ended = [PollFd::from_borrowed_fd(self.pidfd(), PollFlags::IN)];
            let _ = rustix::io::retry_on_intr(|| rustix::event::poll(&mut ended, Some(&patience)));
            self.kill();
            if !matches!(self.reap(), Ok(true)) {
                let _ = end_leftovers(user, DEATH);
            }
        } else {
            let _ = self.reap();
        }
    }
}
