//! The agent's side of a slot: making it, and ending it.

use std::{
    fs,
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    process::Child,
    sync::OnceLock,
    time::Duration,
};

use rustix::{
    fs::Mode,
    mount::OpenTreeFlags,
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions},
};
use tokio::{io::unix::AsyncFd, time::timeout};

use super::{
    Isolation, Runner, SlotConfig, Storage, View, Workspace,
    error::{At as _, SlotError, Step},
    generation::{self, Generation, Means, Root},
    helper,
    ids::root_is_the_hosts,
    socket::{Socket, watch},
    sys, trash,
    wire::{KeeperSpec, Nothing, RunnerSpec, Size, SlotSpec},
};

/// How long a killed process may take to end. A thousand take hundredths of a second; one that the kernel holds, in a
/// device or in a file system that does not answer, may take for ever.
pub const DEATH: Duration = Duration::from_secs(5);

/// An isolated workspace and process tree, with its keeper running. Dropping it ends its processes, but leaves the
/// workspace where it is.
#[derive(Debug)]
pub struct Slot {
    // Before `control`: the keeper is killed, not left to see its socket close.
    keeper: Keeper,
    control: Socket,
    workspace: Workspace,
    directory: PathBuf,
    runners: RunnerSpec,
}

impl Slot {
    /// Makes a slot with a new workspace; what an earlier one left in its place is moved to the trash.
    ///
    /// Makes this process a child subreaper with umask 022. Once begun, it runs to its end even if the future is
    /// dropped; the slot is then ended again.
    ///
    /// # Errors
    /// The step that failed: [`super::probe`] turns that into advice.
    pub async fn create(config: &SlotConfig) -> Result<Self, SlotError> {
        let making = tokio::spawn(make(config.clone()));
        making.await.unwrap_or_else(|end| match end.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down.
            Err(_) => Err(SlotError::Gone("maker")),
        })
    }

    /// Access to the slot's files from outside, as the slot's user.
    pub fn workspace(&self) -> Workspace {
        self.workspace.clone()
    }

    /// One more runner. Several may be made at a time; dropping the future leaves nothing behind.
    pub async fn runner(&self) -> Result<Runner, SlotError> {
        let (ours, theirs) = Socket::pair().at(Step::StartRunner)?;
        ours.send(&self.runners, &[]).at(Step::Talk)?;
        match self.control.send(&Nothing {}, &[theirs.as_fd()]) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Err(SlotError::Gone("keeper")),
            other => other.at(Step::Talk)?,
        }
        drop(theirs);
        ours.ready("runner").await?;
        Ok(Runner::new(ours))
    }

    /// Resolves once the keeper, and with it every process of the slot, has died.
    pub async fn lost(&self) {
        self.keeper.died().await;
    }

    /// Ends every process of the slot, then moves its workspace to the trash. After `Ok` no process and no mount of
    /// it is left, and its user id may be used again. Takes no longer than [`DEATH`], and a rename.
    pub async fn destroy(self) -> Result<(), SlotError> {
        let Self { keeper, control, workspace, directory, .. } = self;
        drop((control, workspace));
        keeper.end().await?;
        trash::retire(&directory).at(Step::RetireWorkspace)
    }
}

async fn make(config: SlotConfig) -> Result<Slot, SlotError> {
    if config.host_id.unwrap_or_else(own_uid) == 0 && root_is_the_hosts() {
        return Err(SlotError::HostRoot);
    }
    prepare_process().at(Step::PrepareProcess)?;
    if config.writable_root && config.view == View::Host {
        // Root's files would be the slot's user's, and secrets of the host are among them.
        return Err(io::Error::other("a host's cannot be")).at(Step::WritableRoot);
    }
    let mut means = Means::known();
    loop {
        let generation = generation::prepare(&config, &means).await?;
        match make_of(&generation, &config).await {
            Err(SlotError::Step { step, .. }) if means.do_without(step) => {}
            other => return other,
        }
    }
}

async fn make_of(generation: &Generation, config: &SlotConfig) -> Result<Slot, SlotError> {
    let (control, theirs) = Socket::pair().at(Step::StartMaker)?;
    let mut maker = Maker::start(&config.program, &generation.workspace, theirs).at(Step::StartMaker)?;
    maker.enter(&config.entrances).await.at(Step::EnterCgroups)?;
    let spec = slot_spec(config, generation).at_the(Step::PrepareDirectory, config.directory.display())?;
    control.send(&spec, &[]).at(Step::Talk)?;
    control.ready("maker").await?;
    maker.map_user(config.host_id).at(Step::MapUser)?;
    let image = match generation.root {
        Root::Image => Some(maker.image_of_its_user().at(Step::MapOwners)?),
        Root::Nothing | Root::Layer(_) => None,
    };
    let image: Vec<BorrowedFd<'_>> = image.iter().map(AsFd::as_fd).collect();
    control.send(&Nothing {}, &image).at(Step::Talk)?;
    let Ok([keeper, workspace]) = <[OwnedFd; 2]>::try_from(control.ready("maker").await?) else {
        return Err(SlotError::Senseless("maker"));
    };
    // With the maker's end the keeper becomes this process's child.
    maker.end().await.at(Step::StartKeeper)?;
    let keeper = Keeper::adopt(keeper).at(Step::StartKeeper)?;
    let bound_proc = config.isolation == Isolation::L1;
    control.send(&KeeperSpec { bound_proc }, &[]).at(Step::Talk)?;
    control.ready("keeper").await?;
    let runners = RunnerSpec {
        max_open_files: config.max_open_files,
        max_processes: config.max_processes,
        scope_sockets: config.network,
        bound_proc,
        cpu_time_us: config.limits.cpu_time.map(|time| time.as_micros() as u64),
        file_bytes: config.limits.file_bytes,
        memory_bytes: config.process_memory_bytes,
    };
    let workspace = Workspace::new(workspace, config.host_id, config.workspace_source.as_deref());
    Ok(Slot { keeper, control, workspace, directory: config.directory.clone(), runners })
}

fn slot_spec(config: &SlotConfig, generation: &Generation) -> io::Result<SlotSpec> {
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_owned();
    let directory = fs::canonicalize(&config.directory)?;
    // What holds the other slots and their trash, unless that is the root.
    let holder = directory.parent().filter(|holder| holder.parent().is_some()).unwrap_or(&directory);
    Ok(SlotSpec {
        network: config.network,
        read_only: config.read_only.iter().map(|path| bytes(path)).collect(),
        tmp_bytes: config.tmp_bytes,
        drop_groups: config.host_id.is_some(),
        image: config.view == View::Image,
        hidden: config.hidden.iter().map(|path| bytes(path)).chain([bytes(holder)]).collect(),
        workspace_place: config.workspace_source.as_deref().map(bytes),
        workspace_layer: generation.workspace_layer.clone(),
        image_layer: match &generation.root {
            Root::Layer(name) => Some(name.clone()),
            Root::Nothing | Root::Image => None,
        },
        workspace_in_memory: (config.limits.workspace == Storage::Tmpfs).then(|| Size {
            bytes: config.limits.workspace_bytes.unwrap_or_default(),
            inodes: config.limits.workspace_inodes.unwrap_or_default(),
        }),
    })
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Once per process: keepers, whose parents end, are to become its children; and what it writes into workspaces is to
/// have the usual modes.
fn prepare_process() -> io::Result<()> {
    static DONE: OnceLock<()> = OnceLock::new();
    if DONE.get().is_none() {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        let _ = DONE.set(());
    }
    Ok(())
}

/// Killed and reaped when dropped, if it has not ended.
struct Maker {
    process: Child,
    pidfd: AsyncFd<OwnedFd>,
}

impl Maker {
    fn start(program: &Path, workspace: &Path, socket: OwnedFd) -> io::Result<Self> {
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

    /// 0 inside is `host_id`, or else this process's own user; the maker waits for this in its new namespace.
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
    fn image_of_its_user(&self) -> io::Result<OwnedFd> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let image = rustix::mount::open_tree(rustix::fs::CWD, "/", flags)?;
        let user_namespace = fs::File::open(format!("/proc/{}/ns/user", self.process.id()))?;
        sys::map_owners(image.as_fd(), user_namespace.as_fd())?;
        Ok(image)
    }

    async fn end(&mut self) -> io::Result<()> {
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

/// Process 1 of the slot. Killed and reaped when dropped.
#[derive(Debug)]
struct Keeper {
    pidfd: AsyncFd<OwnedFd>,
    reaped: bool,
}

impl Keeper {
    fn adopt(pidfd: OwnedFd) -> io::Result<Self> {
        Ok(Self { pidfd: watch(pidfd)?, reaped: false })
    }

    async fn died(&self) {
        // It stays readable: nothing ever clears it. An error means that the runtime is gone.
        let _ = self.pidfd.readable().await;
    }

    async fn end(mut self) -> Result<(), SlotError> {
        self.kill();
        if timeout(DEATH, self.died()).await.is_err() {
            // It is left to whoever reaps this process's children after it: a wait would hold up all other slots.
            self.reaped = true;
            return Err(SlotError::Undying("slot"));
        }
        self.reap().at(Step::EndProcesses)
    }

    fn kill(&self) {
        // Fails only if it has ended.
        let _ = rustix::process::pidfd_send_signal(self.pidfd(), Signal::KILL);
    }

    /// Blocks until it has ended, which it does only after the last process of its pid namespace.
    fn reap(&mut self) -> io::Result<()> {
        self.reaped = true;
        match rustix::process::waitid(WaitId::PidFd(self.pidfd()), WaitIdOptions::EXITED) {
            // Somebody who waits for all children has been faster.
            Ok(_) | Err(rustix::io::Errno::CHILD) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.get_ref().as_fd()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            let _ = self.reap();
        }
    }
}
