//! What a slot is to be like.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Isolation, helper, limits::Limits};

/// Where the workspace is, as the slot sees it.
pub(super) const WORKSPACE: &str = "/workspace";

/// Plain data; nothing is checked before [`super::Slot::create`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotConfig {
    /// The slot's own directory; made if it is missing. Holds the workspace. Old workspaces go to
    /// [`super::trash_beside`] it, on the same file system. No slot sees the directory that it is in.
    pub directory: PathBuf,
    /// The kernel's user and group id of the slot, to which its user 0 is mapped: set exactly where the agent is
    /// root, to ids that no other slot of the machine and nobody else uses. `None`: the agent's own.
    pub host_id: Option<u32>,
    /// As [`super::probe`] has found it; it never changes while an agent runs.
    pub isolation: Isolation,
    /// Share the agent's network; else the slot has a loopback interface and nothing more.
    pub network: bool,
    /// What is shown read-only.
    pub view: View,
    /// Absolute paths of the host that are shown read-only beside that.
    pub read_only: Vec<PathBuf>,
    /// Absolute paths of the host that are never shown, though they lie below what is. Such a place looks empty to the
    /// slot; one that does not exist is no mistake.
    pub hidden: Vec<PathBuf>,
    /// An absolute path of the host: each making of the slot begins with a copy of it as its workspace, which is shown
    /// there, too.
    pub workspace_source: Option<PathBuf>,
    /// What the image has can be written to, a container's volumes aside; what is written goes with the workspace. The
    /// slot's user can read what the image's root can. Only with [`View::Image`].
    pub writable_root: bool,
    /// Of /tmp and /dev/shm together. Nothing bounds the temporary directory of a slot without namespaces.
    pub tmp_bytes: u64,
    /// Of each process (RLIMIT_NOFILE).
    pub max_open_files: u64,
    /// Of the slot's user (RLIMIT_NPROC). Without `host_id` the kernel may count the agent's own processes, too: see
    /// [`super::Enforcement`].
    pub max_processes: Option<u64>,
    /// Of each process (RLIMIT_DATA).
    pub process_memory_bytes: Option<u64>,
    pub limits: Limits,
    /// Each is told the number of the slot's first process: that is how a slot comes into its control groups.
    pub entrances: Vec<PathBuf>,
    /// This program: its `main` must begin with [`super::stage`].
    pub program: PathBuf,
}

impl SlotConfig {
    /// A slot on a host, without network, with moderate limits.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            host_id: None,
            isolation: Isolation::L0,
            network: false,
            view: View::Host,
            read_only: Vec::new(),
            hidden: Vec::new(),
            workspace_source: None,
            writable_root: false,
            tmp_bytes: 512 << 20,
            max_open_files: 4096,
            max_processes: None,
            process_memory_bytes: None,
            limits: Limits::default(),
            entrances: Vec::new(),
            program: helper::THIS_PROGRAM.into(),
        }
    }
}

/// What a slot sees of the file system that the agent is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum View {
    /// It is a host's: programs, libraries and settings, and nothing else.
    Host,
    /// It is a container's: everything that the image has.
    Image,
}
