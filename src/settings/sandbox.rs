//! The settings of slots: what they see, and what they may use.

use std::{path::PathBuf, time::Duration};

use super::{
    convert::{self, Written},
    model::{HOUR, MIB, SECOND, WEEK, ZERO, duration, number, size},
    reader::Reader,
};
use crate::tool::{Isolation, UnknownLevel};

/// Of every slot.
#[derive(Debug, Clone)]
pub struct SandboxSettings {
    /// Slots share the machine's network: `allow_network`, held to the rule that it needs a token.
    pub network: bool,
    /// The first kernel user id of slots, where the executor is root.
    pub uid_base: u32,
    /// The least that is accepted: with less, nothing starts.
    pub isolation_minimum: Isolation,
    /// Shown read-only beside the system's directories.
    pub read_only: Vec<PathBuf>,
    /// Of /tmp.
    pub tmp_bytes: u64,
    pub max_open_files: u64,
    pub max_processes: u64,
    /// `None` is no limit, as of the others.
    pub memory_bytes: Option<u64>,
    /// Of all slots of a container together, where 100 is an ordinary process's.
    pub cpu_weight: u32,
    /// Of a call.
    pub cpu_time: Option<Duration>,
    /// Of a file.
    pub file_bytes: Option<u64>,
    /// Workspaces are in memory.
    pub workspace_in_memory: bool,
    pub workspace_bytes: Option<u64>,
    pub workspace_inodes: Option<u64>,
    /// Use control groups where they can be had.
    pub cgroups: bool,
    /// How long the shell of terminal_stateful may take until it runs scripts.
    pub shell_start_timeout: Duration,
    /// Transfers of files that run at once in a slot.
    pub max_transfers: usize,
    /// Of one archive, either way.
    pub max_archive_entries: u64,
    /// What the files of one archive come to, unpacked.
    pub max_archive_bytes: u64,
}

/// Reads them.
pub(super) fn build(r: &mut Reader<'_>) -> SandboxSettings {
    let settings = SandboxSettings {
        network: r.optional("allow_network", convert::boolean).unwrap_or_default(),
        uid_base: number(r, "uid_base", 1_000..=u64::from(u32::MAX) - 1),
        isolation_minimum: r.value("isolation_minimum", isolation),
        read_only: r.value("sandbox.read_only", convert::absolute_paths),
        tmp_bytes: size(r, "sandbox.tmp_size", MIB..=1 << 40),
        max_open_files: number(r, "sandbox.max_open_files", 64..=1 << 20),
        max_processes: number(r, "sandbox.max_processes", 16..=1 << 22),
        memory_bytes: size_or_none(r, "sandbox.memory", 16 * MIB),
        cpu_weight: number(r, "sandbox.cpu_weight", 1..=10_000),
        cpu_time: Some(duration(r, "sandbox.cpu_time", ZERO..=WEEK)).filter(|time| !time.is_zero()),
        file_bytes: r.optional("sandbox.max_file_size", convert::size),
        workspace_in_memory: r.value("sandbox.workspace", in_memory),
        workspace_bytes: size_or_none(r, "sandbox.workspace_size", MIB),
        workspace_inodes: Some(number(r, "sandbox.workspace_inodes", 0..=1 << 40)).filter(|inodes| *inodes > 0),
        cgroups: r.value("sandbox.cgroups", convert::boolean),
        shell_start_timeout: duration(r, "sandbox.shell_start_timeout", SECOND..=HOUR),
        max_transfers: number(r, "sandbox.max_transfers", 1..=256),
        max_archive_entries: number(r, "sandbox.max_archive_entries", 1..=100_000_000),
        max_archive_bytes: size(r, "sandbox.max_archive_size", MIB..=1 << 50),
    };
    SandboxSettings { file_bytes: settings.file_bytes.or(settings.workspace_bytes), ..settings }
}

/// 0 is none.
fn size_or_none(r: &mut Reader<'_>, path: &'static str, least: u64) -> Option<u64> {
    let bytes: u64 = size(r, path, 0..=1 << 50);
    if (1..least).contains(&bytes) {
        r.tell(&[path], format_args!("must be 0 for no limit, or {least} bytes at least, and is {bytes}"));
    }
    Some(bytes).filter(|bytes| *bytes > 0)
}

fn isolation(written: Written<'_>) -> Result<Isolation, String> {
    convert::string(written)?.parse().map_err(|unknown: UnknownLevel| unknown.to_string())
}

fn in_memory(written: Written<'_>) -> Result<bool, String> {
    match convert::string(written)?.as_str() {
        "disk" => Ok(false),
        "tmpfs" => Ok(true),
        other => Err(format!("must be disk or tmpfs, and is {other:?}")),
    }
}

/// Whether these go together, and with those of the pools.
pub(super) fn check(settings: &super::Settings, r: &mut Reader<'_>) {
    let sandbox = &settings.sandbox;
    if sandbox.cpu_time.is_some_and(|time| time < SECOND) {
        r.tell(&["sandbox.cpu_time"], "must be 0 for no limit, or 1s at least");
    }
    if sandbox.workspace_in_memory {
        if sandbox.workspace_bytes.is_none() && r.sound(&["sandbox.workspace_size"]) {
            let names = ["sandbox.workspace", "sandbox.workspace_size"];
            r.tell(&names, "a workspace in memory needs a size, or it could be all of the memory");
        }
        if settings.pools.iter().any(|pool| pool.workspace_source.is_some() || pool.writable_root) {
            let names = ["sandbox.workspace", "workspace_source", "root"];
            r.tell(&names, "a workspace in memory begins empty, and is the one thing that a slot may change");
        }
    }
    // What lies in memory counts for the slot's, and stays when a call is killed: nothing could run beside it.
    let in_memory = if sandbox.workspace_in_memory { sandbox.workspace_bytes.unwrap_or_default() } else { 0 };
    let names = ["sandbox.memory", "sandbox.tmp_size", "sandbox.workspace_size"];
    if let Some(memory) = sandbox.memory_bytes
        && sandbox.tmp_bytes.saturating_add(in_memory) >= memory
        && r.sound(&names)
    {
        r.tell(&names, "sandbox.memory must be more than what may lie in /tmp and in a workspace in memory together");
    }
}
