//! A slot: an isolated workspace and process tree, which runs many calls, one process spawn each.
//!
//! ```text
//! agent ─ maker      unshares, is mapped by the agent, mounts the slot's root, ends
//!           └ keeper     process 1 of the slot; makes runners; its death ends the slot
//!               ├ runner     process 1 of a pid namespace of its own: one for each call that runs at a time
//!               │   └ sh ...     a call; all of it is killed and reaped when its first process has ended
//!               └ runner
//! ```
//!
//! Every process is started by `std::process::Command` (posix_spawn), so the size of none of them matters, and made
//! ahead of the call. A slot has its own user, mount, pid, uts and ipc namespaces, and a network namespace unless it
//! shares the agent's network. Its user 0 is an ordinary user of the host; its calls have no capabilities and cannot
//! gain any, and run under a system call filter. When the agent dies, however it dies, all of its slots die.
//!
//! `main` must begin with [`stage`], before it sets anything up: helper processes stay small.

use std::process::ExitCode;

mod cgroup;
mod config;
mod copy;
mod error;
mod generation;
mod helper;
mod ids;
mod image;
mod limits;
mod probe;
mod runner;
#[allow(clippy::module_inception)]
mod slot;
mod socket;
mod sys;
mod trash;
mod wire;
mod workspace;

pub use cgroup::{Cgroups, Controller, Counters, SlotCgroup, Version, sweep_cgroups};
pub use config::{Isolation, SlotConfig, View};
pub use error::{SlotError, Step};
pub use generation::GENERATION;
pub use ids::can_assign_ids;
pub use limits::{
    CPU_TIME, Enforcement, FILE_SIZE, Limits, MEMORY, PROCESSES, Storage, WORKSPACE_INODES, WORKSPACE_SIZE,
};
pub use probe::{Unavailable, probe};
pub use runner::{LimitHit, Runner, RunnerEnd, Stdio};
pub use slot::{DEATH, Slot};
pub use trash::{empty_trash, trash_beside};
pub use workspace::Workspace;

/// The part that this process plays in a slot, if `name`, its first argument, is one.
pub fn stage(name: &str) -> Option<fn() -> ExitCode> {
    helper::stage(name)
}
