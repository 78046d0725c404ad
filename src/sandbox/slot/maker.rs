//! The agent's side of the process that makes a slot's namespaces.
//!
//! It is started ahead of the slot where there is time to: it then waits, still a process of the agent's user, in the
//! slot's control groups and in namespaces of its own, with nothing mounted yet. To enter a control group may take the
//! kernel longer than all else together.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::Child,
    sync::Arc,
    time::Duration,
};

use rustix::{
    mount::OpenTreeFlags,
    process::{Pid, PidfdFlags},
};
use tokio::{io::unix::AsyncFd, time::timeout};

use super::{
    Isolation, SlotConfig,
    error::{At as _, SlotError, Step},
    helper,
    ids::own_uid,
    socket::{Socket, watch},
    sys,
    wire::MakerSpec,
};

/// How long what a process has said may take to arrive after its end: it is there already.
const LAST_WORD: Duration = Duration::from_millis(100);

/// Killed and reaped when dropped, if it has not ended.
#[derive(Debug)]
pub struct Maker {
    control: Arc<Socket>,
    process: Child,
    pidfd: AsyncFd<OwnedFd>,
}

impl Maker {
    /// One that waits for a slot of this configuration to make; none where slots are made without.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn ahead(config: &SlotConfig) -> Result<Option<Self>, SlotError> {
        if config.isolation.has_namespaces() { Self::start(config).await.map(Some) } else { Ok(None) }
    }

    pub(super) async fn start(config: &SlotConfig) -> Result<Self, SlotError> {
        let (control, theirs) = Socket::pair().at(Step::StartMaker)?;
        let maker = Self::spawn(&config.program, control, theirs).at(Step::StartMaker)?;
        maker.enter(&config.entrances).await.at(Step::EnterCgroups)?;
        let spec = MakerSpec {
            network: config.network,
            drop_groups: config.host_id.is_some(),
            no_user_namespace: config.isolation == Isolation::L1B,
        };
        maker.control.tell("maker", &spec, &[])?;
        maker.ready().await?;
        if !spec.no_user_namespace {
            maker.map_user(config.host_id).at(Step::MapUser)?;
        }
        Ok(maker)
    }

    fn spawn(program: &Path, control: Socket, socket: OwnedFd) -> io::Result<Self> {
        let mut process = helper::command(program, "maker", socket).spawn()?;
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&process), PidfdFlags::empty());
        match pidfd.map_err(io::Error::from).and_then(watch) {
            Ok(pidfd) => Ok(Self { control: Arc::new(control), process, pidfd }),
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                Err(error)
            }
        }
    }

    /// Whether it still can make a slot.
    pub(super) fn waits(&self) -> bool {
        !self.control.is_closed()
    }

    /// To the maker, and, once it has ended, to the keeper.
    pub(super) fn control(&self) -> Arc<Socket> {
        self.control.clone()
    }

    /// Its answer, unless it ends without one. Its end alone would not close the socket: the keeper has that, too, and
    /// waits for a word on it.
    pub(super) async fn ready(&self) -> Result<Vec<OwnedFd>, SlotError> {
        tokio::select! {
            biased;
            ready = self.control.ready("maker") => return ready,
            _ = self.pidfd.readable() => {}
        }
        timeout(LAST_WORD, self.control.ready("maker")).await.unwrap_or(Err(SlotError::Gone("maker")))
    }

    /// 0 inside is `host_id`, or else this process's own user; it waits for this in its new namespace.
    fn map_user(&self, host_id: Option<u32>) -> io::Result<()> {
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
    async fn enter(&self, entrances: &[PathBuf]) -> io::Result<()> {
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
