//! The agent's side of a slot: making it, and ending it.

use std::{
    fs, io, iter,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use rustix::fs::{Mode, OFlags};

use super::{
    Isolation, Runner, SlotConfig, Storage, View, Workspace,
    error::{At as _, SlotError, Step},
    generation::{self, Generation, Means, Root},
    ids::{own_uid, root_is_the_hosts},
    keeper::Keeper,
    maker::Maker,
    socket::Socket,
    trash,
    wire::{KeeperSpec, Nothing, Proc, RunnerSpec, Shown, Size, SlotSpec, WardenSpec},
};

/// An isolated workspace and process tree, with its keeper running. Dropping it ends its processes, but leaves the
/// workspace where it is.
#[derive(Debug)]
pub struct Slot {
    // Before `control`: the keeper is ended, not left to see its socket close.
    keeper: Keeper,
    control: Arc<Socket>,
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
        Self::create_by(None, config).await
    }

    /// By a maker that was started [ahead](Maker::ahead) for this configuration, if there is one and it lives.
    ///
    /// # Errors
    /// As [`Slot::create`].
    pub async fn create_by(maker: Option<Maker>, config: &SlotConfig) -> Result<Self, SlotError> {
        let making = tokio::spawn(make(config.clone(), maker));
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
        self.control.tell("keeper", &Nothing {}, &[theirs.as_fd()])?;
        drop(theirs);
        let runner = Runner::new(ours, self.control.clone());
        runner.ready().await?;
        Ok(runner)
    }

    /// Resolves once the keeper, and with it every process of the slot, has died.
    pub async fn lost(&self) {
        self.keeper.died().await;
    }

    /// Ends every process of the slot, then moves its workspace to the trash. After `Ok` no process and no mount of
    /// it is left, and its user id may be used again. Takes no longer than a few times [`super::DEATH`], and a rename.
    pub async fn destroy(self) -> Result<(), SlotError> {
        let Self { keeper, control, workspace, directory, .. } = self;
        drop((control, workspace));
        keeper.end().await?;
        trash::retire(&directory).at(Step::RetireWorkspace)
    }
}

async fn make(config: SlotConfig, mut maker: Option<Maker>) -> Result<Slot, SlotError> {
    if config.host_id.unwrap_or_else(own_uid) == 0 && root_is_the_hosts() {
        return Err(SlotError::HostRoot);
    }
    prepare_process().at(Step::PrepareProcess)?;
    if !config.isolation.has_namespaces() {
        return make_without_namespaces(&config).await;
    }
    if config.writable_root && config.view == View::Host {
        // Root's files would be the slot's user's, and secrets of the host are among them.
        return Err(io::Error::other("a host's cannot be")).at(Step::WritableRoot);
    }
    let mut means = Means::known();
    loop {
        let generation = generation::prepare(&config, &means).await?;
        match make_of(&generation, &config, maker.take()).await {
            Err(SlotError::Step { step, .. }) if means.do_without(step) => {}
            other => return other,
        }
    }
}

async fn make_of(generation: &Generation, config: &SlotConfig, maker: Option<Maker>) -> Result<Slot, SlotError> {
    let mut maker = match maker.filter(Maker::waits) {
        Some(maker) => maker,
        None => Maker::start(config).await?,
    };
    let workspace = open_directory(&generation.workspace)?;
    let image = match generation.root {
        Root::Image => Some(maker.image_of_its_user().at(Step::MapOwners)?),
        Root::Nothing | Root::Layer(_) => None,
    };
    let spec = slot_spec(config, generation).at_the(Step::PrepareDirectory, config.directory.display())?;
    let control = maker.control();
    let descriptors: Vec<BorrowedFd<'_>> = iter::once(&workspace).chain(&image).map(AsFd::as_fd).collect();
    control.tell("maker", &spec, &descriptors)?;
    let Ok([keeper, workspace]) = <[OwnedFd; 2]>::try_from(maker.ready().await?) else {
        return Err(SlotError::Senseless("maker"));
    };
    // With the maker's end the keeper becomes this process's child.
    maker.end().await.at(Step::StartKeeper)?;
    let keeper = Keeper::adopt(keeper).at(Step::StartKeeper)?;
    let proc = match config.isolation {
        Isolation::L0 => Proc::Own,
        Isolation::L1 => Proc::Agents,
        Isolation::L1B | Isolation::L2 | Isolation::L2Minus => Proc::OwnIfPossible,
    } as i32;
    let workspace_entries = generation.workspace_entries;
    control.tell("keeper", &KeeperSpec { proc, workspace_entries, writable_root: config.writable_root }, &[])?;
    control.ready("keeper").await?;
    let user = config.host_id.filter(|_| config.isolation == Isolation::L1B);
    let runners = RunnerSpec { scope_sockets: config.network, proc, user, ..limits(config) };
    let workspace = Workspace::new(workspace, config.host_id, config.workspace_source.as_deref());
    Ok(Slot { keeper, control, workspace, directory: config.directory.clone(), runners })
}

async fn make_without_namespaces(config: &SlotConfig) -> Result<Slot, SlotError> {
    let needs_mounts = [
        ("workspace_source", config.workspace_source.is_some()),
        ("a writable root", config.writable_root),
        ("a workspace in memory", config.limits.workspace == Storage::Tmpfs),
    ];
    if let Some((what, _)) = needs_mounts.iter().find(|(_, wanted)| *wanted) {
        return Err(SlotError::NeedsMounts(what));
    }
    let generation::Plain { workspace, tmp } = generation::prepare_plain(config)?;
    let directory = open_directory(&workspace)?;
    let (control, theirs) = Socket::pair().at(Step::StartKeeper)?;
    let ours = control.try_clone().at(Step::StartKeeper)?;
    let keeper = Keeper::start_warden(&config.program, &workspace, config.host_id, &config.entrances, ours, theirs)
        .at(Step::StartKeeper)?;
    control.tell("warden", &WardenSpec { user: config.host_id, tmp: bytes(&tmp) }, &[])?;
    control.ready("warden").await?;
    let shown = Shown {
        workspace: bytes(&workspace),
        tmp: bytes(&tmp),
        image: config.view == View::Image,
        read_only: config.read_only.iter().map(|path| bytes(path)).collect(),
        hidden: hidden(config, &config.directory),
        network: config.network,
    };
    let runners = RunnerSpec { shown: Some(shown), ..limits(config) };
    let workspace = Workspace::new(directory, config.host_id, Some(&workspace));
    Ok(Slot { keeper, control: Arc::new(control), workspace, directory: config.directory.clone(), runners })
}

fn open_directory(path: &Path) -> Result<OwnedFd, SlotError> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .at_the(Step::PrepareDirectory, path.display())
}

fn limits(config: &SlotConfig) -> RunnerSpec {
    RunnerSpec {
        max_open_files: config.max_open_files,
        max_processes: config.max_processes,
        cpu_time_us: config.limits.cpu_time.map(|time| time.as_micros() as u64),
        file_bytes: config.limits.file_bytes,
        memory_bytes: config.process_memory_bytes,
        ..RunnerSpec::default()
    }
}

fn slot_spec(config: &SlotConfig, generation: &Generation) -> io::Result<SlotSpec> {
    let directory = fs::canonicalize(&config.directory)?;
    Ok(SlotSpec {
        network: config.network,
        read_only: config.read_only.iter().map(|path| bytes(path)).collect(),
        tmp_bytes: config.tmp_bytes,
        image: config.view == View::Image,
        hidden: hidden(config, &directory),
        workspace_place: config.workspace_source.as_deref().map(bytes),
        workspace_layer: generation.workspace_layer.clone(),
        image_layer: match &generation.root {
            Root::Layer(name) => Some(name.clone()),
            Root::Nothing | Root::Image => None,
        },
        owner: config.host_id.filter(|_| config.isolation == Isolation::L1B),
        workspace_in_memory: (config.limits.workspace == Storage::Tmpfs).then(|| Size {
            bytes: config.limits.workspace_bytes.unwrap_or_default(),
            inodes: config.limits.workspace_inodes.unwrap_or_default(),
        }),
    })
}

/// Besides what is configured: what holds the other slots and their trash, unless that is the root.
fn hidden(config: &SlotConfig, directory: &Path) -> Vec<Vec<u8>> {
    let holder = directory.parent().filter(|holder| holder.parent().is_some()).unwrap_or(directory);
    config.hidden.iter().map(|path| bytes(path)).chain([bytes(holder)]).collect()
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_owned()
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
