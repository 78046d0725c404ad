//! The agent's side of the process that makes a slot's namespaces.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::Child,
    time::Duration,
};

use rustix::{
    mount::OpenTreeFlags,
    process::{Pid, PidfdFlags},
};
use tokio::{io::unix::AsyncFd, time::timeout};

use super::{
    error::SlotError,
    helper,
    ids::own_uid,
    socket::{Socket, watch},
    sys,
};

/// How long what a process has said may take to arrive after its end: it is there already.
const LAST_WORD: Duration = Duration::from_millis(100);

/// Killed and reaped when dropped, if it has not ended.
pub(super) struct Maker {
    process: Child,
    pidfd: AsyncFd<OwnedFd>,
}

impl Maker {
    pub(super) fn start(program: &Path, workspace: &Path, socket: OwnedFd) -> io::Result<Self> {
        let mut process = helper::command(program, "maker", socket).current_dir(workspace).spawn()?;
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&process), PidfdFlags::empty());
        match pidfd.map_err(io::Error::from).and_then(watch) {
            Ok(pidfd) => Ok(Self { process, pidfd }),
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                Err(error)
            }
        }
    }

    /// Its answer, unless it ends without one. Its end alone would not close the socket: the keeper has that, too, and
    /// waits for a word on it.
    pub(super) async fn ready(&self, control: &Socket) -> Result<Vec<OwnedFd>, SlotError> {
        tokio::select! {
            biased;
            ready = control.ready("maker") => return ready,
            _ = self.pidfd.readable() => {}
        }
        timeout(LAST_WORD, control.ready("maker")).await.unwrap_or(Err(SlotError::Gone("maker")))
    }

    /// 0 inside is `host_id`, or else this process's own user; the maker waits for this in its new namespace.
    pub(super) fn map_user(&self, host_id: Option<u32>) -> io::Result<()> {
        let of_maker = |file: &str| format!("/proc/{}/{file}", self.process.id());
        let (uid, gid) = match host_id {
            Some(id) => (id, id),
            None => (own_uid(), rustix::process::getegid().as_raw()),
        };
        fs::write(of_maker("setgroups"), "deny")?;
        fs::write(of_maker("uid_map"), format!("0 {uid} 1"))?;
        fs::write(of_maker("gid_map"), format!("0 {gid} 1"))
    }

    /// This process's root file system, with its user and group 0 as the maker's. The kernel lets root do this, unless
    /// something keeps it from changing mounts, and many file systems, but not one that is an overlay itself.
    pub(super) fn image_of_its_user(&self) -> io::Result<OwnedFd> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let image = rustix::mount::open_tree(rustix::fs::CWD, "/", flags)?;
        let user_namespace = fs::File::open(format!("/proc/{}/ns/user", self.process.id()))?;
        sys::map_owners(image.as_fd(), user_namespace.as_fd())?;
        Ok(image)
    }

    /// Brings it into the slot's control groups, and with it all that it starts. The kernel may take some
    /// hundredths of a second: it waits until no process anywhere is just being made.
    pub(super) async fn enter(&self, entrances: &[PathBuf]) -> io::Result<()> {
        if entrances.is_empty() {
            return Ok(());
        }
        let (entrances, pid) = (entrances.to_vec(), self.process.id().to_string());
        let entering = move || entrances.iter().try_for_each(|entrance| fs::write(entrance, &pid));
        tokio::task::spawn_blocking(entering).await?
    }

    pub(super) async fn end(&mut self) -> io::Result<()> {
        let _ = self.pidfd.readable().await?;
        self.process.wait().map(drop)
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        // Both do nothing to a process that has been reaped; else the wait is for a process that is being killed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
