//! What a slot is to be like.

use std::path::PathBuf;

use super::helper;

/// Where the workspace is, as the slot sees it.
pub(super) const WORKSPACE: &str = "/workspace";

/// Plain data; nothing is checked before [`super::Slot::create`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotConfig {
    /// The slot's own directory; made if it is missing. Holds the workspace. Old workspaces go to
    /// [`super::trash_beside`] it, on the same file system.
    pub directory: PathBuf,
    /// The kernel's user and group id of the slot, to which its user 0 is mapped: set exactly where the agent is
    /// root, to ids that no other slot of the machine and nobody else uses. `None`: the agent's own.
    pub host_id: Option<u32>,
    /// Share the agent's network; else the slot has a loopback interface and nothing more.
    pub network: bool,
    /// Absolute paths of the host that are shown read-only, beside the system's directories.
    pub read_only: Vec<PathBuf>,
    /// Of /tmp and /dev/shm together.
    pub tmp_bytes: u64,
    /// Of each process (RLIMIT_NOFILE).
    pub max_open_files: u64,
    /// Of the slot's user (RLIMIT_NPROC). Not applied without `host_id`: the agent's own processes would count.
    pub max_processes: Option<u64>,
    /// This program: its `main` must begin with [`super::stage`].
    pub program: PathBuf,
}

impl SlotConfig {
    /// A slot without network, with moderate limits.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            host_id: None,
            network: false,
            read_only: Vec::new(),
            tmp_bytes: 512 << 20,
            max_open_files: 4096,
            max_processes: None,
            program: helper::THIS_PROGRAM.into(),
        }
    }
}
