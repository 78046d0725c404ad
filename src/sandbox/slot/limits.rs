//! What a slot may use at most, and what holds it there on this machine.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Slot, SlotConfig,
    cgroup::{Cgroups, Controller},
    probe::run,
};
use crate::tool::{
    job::Program,
    limit::{SlotLimit, bytes},
};

/// Limits of every slot and of each call in one, beside those that [`SlotConfig`] has itself. Plain data; `None` is no
/// limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Of a slot, what lies in its /tmp and in a workspace in memory included. Without control groups: of each process
    /// (RLIMIT_DATA).
    pub memory_bytes: Option<u64>,
    /// Of all slots of an agent together, where 100 is an ordinary process's.
    pub cpu_weight: u32,
    /// Of all processes of a call.
    #[serde(with = "humantime_serde")]
    pub cpu_time: Option<Duration>,
    /// Of a file that a call writes (RLIMIT_FSIZE).
    pub file_bytes: Option<u64>,
    pub workspace: Storage,
    /// Of a workspace, and of what else its slot can write to but /tmp.
    pub workspace_bytes: Option<u64>,
    pub workspace_inodes: Option<u64>,
    /// Use control groups where they can be had.
    pub cgroups: bool,
    #[serde(default)]
    pub transfers: TransferLimits,
    /// How long the shell that keeps its state may take until it runs scripts.
    #[serde(default = "shell_start", with = "humantime_serde")]
    pub shell_start: Duration,
}

/// The settings'.
fn shell_start() -> Duration {
    Duration::from_secs(30)
}

impl Default for Limits {
    /// None.
    fn default() -> Self {
        Self {
            memory_bytes: None,
            cpu_weight: 100,
            cpu_time: None,
            file_bytes: None,
            workspace: Storage::Disk,
            workspace_bytes: None,
            workspace_inodes: None,
            cgroups: true,
            transfers: TransferLimits::default(),
            shell_start: shell_start(),
        }
    }
}

/// Of transfers of files, which the agent makes and not the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferLimits {
    /// In one slot: each is a thread of the agent's.
    pub at_once: usize,
    /// Files, directories and links of one archive, either way.
    pub archive_entries: u64,
    /// What the files of one archive may come to when they are unpacked.
    pub archive_bytes: u64,
}

impl Default for TransferLimits {
    /// The settings'.
    fn default() -> Self {
        Self { at_once: 4, archive_entries: 500_000, archive_bytes: 64 << 30 }
    }
}

/// Where workspaces are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// In the slot's directory.
    Disk,
    /// In memory, where their limits are exact; gone with the slot's processes.
    Tmpfs,
}

/// What an agent holds its slots to their limits with, as trials have shown.
#[derive(Debug)]
pub struct Enforcement {
    cgroups: Option<Cgroups>,
    /// RLIMIT_NPROC counts the slot's processes, and nobody else's.
    counts_processes: bool,
}

impl Enforcement {
    /// Tries what there is. `slot` is as every slot of the agent is to be; a throw-away one may be made of it.
    pub async fn try_out(name: &str, slot: &SlotConfig) -> Self {
        let cgroups = slot.limits.cgroups.then(|| Cgroups::claim(name, &slot.limits, slot.max_processes));
        let grouped = cgroups.as_ref().is_some_and(|groups| groups.version(Controller::Processes).is_some());
        let counts_processes = !grouped && (slot.host_id.is_some() || counts_by_namespace(slot).await);
        Self { cgroups, counts_processes }
    }

    pub fn cgroups(&self) -> Option<&Cgroups> {
        self.cgroups.as_ref()
    }

    /// Leaves to the resource limits of its processes what control groups do not hold a slot to.
    pub fn apply(&self, slot: &mut SlotConfig) {
        slot.max_processes = slot.max_processes.filter(|_| self.counts_processes);
        slot.process_memory_bytes = slot.limits.memory_bytes.filter(|_| !self.has(Controller::Memory));
    }

    fn has(&self, controller: Controller) -> bool {
        self.cgroups.as_ref().is_some_and(|groups| groups.version(controller).is_some())
    }

    /// Each limit of these slots, and what holds it. `slot` is as it is configured, before [`Self::apply`].
    pub fn describe(&self, slot: &SlotConfig) -> Vec<SlotLimit> {
        let limits = &slot.limits;
        let by_group = |controller, otherwise: &str| {
            let version = self.cgroups.as_ref().and_then(|groups| groups.version(controller));
            version.map_or_else(|| otherwise.to_owned(), |version| version.to_string())
        };
        let processes = if self.counts_processes { "RLIMIT_NPROC" } else { NOTHING };
        let workspace = match limits.workspace {
            Storage::Disk => "measured while calls run",
            Storage::Tmpfs => "tmpfs",
        };
        let size = |name, limit: Option<u64>, mechanism: String| limited(name, limit.map(bytes), mechanism);
        let count = |name, limit: Option<u64>, mechanism: String| {
            limited(name, limit.map(|limit| limit.to_string()), mechanism)
        };
        let cpu_time = limits.cpu_time.map(|time| humantime_serde::re::humantime::format_duration(time).to_string());
        vec![
            size(MEMORY, limits.memory_bytes, by_group(Controller::Memory, "RLIMIT_DATA, of each process alone")),
            count(PROCESSES, slot.max_processes, by_group(Controller::Processes, processes)),
            count("sandbox.cpu_weight", Some(limits.cpu_weight.into()), by_group(Controller::Cpu, NOTHING)),
            limited(CPU_TIME, cpu_time, "counted by the slot; RLIMIT_CPU of each process".to_owned()),
            size(FILE_SIZE, limits.file_bytes, "RLIMIT_FSIZE".to_owned()),
            count("sandbox.max_open_files", Some(slot.max_open_files), "RLIMIT_NOFILE, of each process".to_owned()),
            size("sandbox.tmp_size", Some(slot.tmp_bytes), "tmpfs".to_owned()),
            size(WORKSPACE_SIZE, limits.workspace_bytes, workspace.to_owned()),
            count(WORKSPACE_INODES, limits.workspace_inodes, workspace.to_owned()),
        ]
    }
}

/// The settings' names, by which calls that exceed a limit are told of it.
pub const MEMORY: &str = "sandbox.memory";
pub const PROCESSES: &str = "sandbox.max_processes";
pub const CPU_TIME: &str = "sandbox.cpu_time";
pub const FILE_SIZE: &str = "sandbox.max_file_size";
pub const WORKSPACE_SIZE: &str = "sandbox.workspace_size";
pub const WORKSPACE_INODES: &str = "sandbox.workspace_inodes";
pub const ARCHIVE_ENTRIES: &str = "sandbox.max_archive_entries";
pub const ARCHIVE_SIZE: &str = "sandbox.max_archive_size";

const NOTHING: &str = "nothing holds it here: there is no control group to be had";

fn limited(name: &str, value: Option<String>, mechanism: String) -> SlotLimit {
    match value {
        Some(value) => SlotLimit::new(name, value, mechanism),
        None => SlotLimit::new(name, "no limit", "not set"),
    }
}

/// Whether RLIMIT_NPROC counts the processes of a slot by themselves though they are of the agent's user: so it is
/// since Linux 5.14, in a user namespace. Else the limit would be of all slots and the user's own processes together.
async fn counts_by_namespace(slot: &SlotConfig) -> bool {
    const LIMIT: u64 = 12;
    /// Keeper, runner, and the shell.
    const BEGUN: usize = 3;
    let config = SlotConfig { max_processes: Some(LIMIT), workspace_source: None, ..slot.clone() };
    let trial = async {
        let slot = Slot::create(&config).await.ok()?;
        let mut runner = slot.runner().await.ok()?;
        // Ends with the first process that cannot be made.
        let script = "exec 2> /dev/null; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do sleep 9 & echo; done".to_owned();
        let started = run(&mut runner, Program::Shell(script)).await.ok()??.1.matches('\n').count();
        slot.destroy().await.ok()?;
        Some(started)
    };
    let started = trial.await;
    super::probe::clear(&config.directory);
    started.is_some_and(|started| started + BEGUN == LIMIT as usize)
}
