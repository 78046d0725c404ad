//! A slot: an isolated workspace and process tree, which runs many calls, one process spawn each.
//!
//! ```text
//! agent ─ maker      waits; unshares, is mapped by the agent, mounts the slot's root, ends
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
//! That is L0; see [`Isolation`] for what there is where the machine refuses some of it. Without namespaces (L2, L2-) the
//! agent makes a *warden* in the keeper's place. Warden and runners are each the outermost of a Landlock domain that
//! confines signals; a call is this program once more, which enters a domain of its own and becomes the call:
//!
//! ```text
//! agent ─ warden       the slot's user; its end, or the agent's, ends the slot
//!           ├ runner     a domain in the warden's: its kill(-1) reaches its own call and nobody else
//!           │   └ sh ...   a domain in the runner's: sees some of the machine's files, and can signal itself alone
//!           └ runner
//! ```
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
mod keeper;
mod leftovers;
mod limits;
mod maker;
mod probe;
mod remedies;
mod runner;
#[allow(clippy::module_inception)]
mod slot;
mod socket;
mod sys;
mod trash;
mod wire;
mod workspace;

pub use crate::tool::Isolation;
pub use cgroup::{Cgroups, Controller, Counters, SlotCgroup, Version, sweep_cgroups};
pub use config::{SlotConfig, View};
pub use error::{SlotError, Step};
pub use generation::GENERATION;
pub use ids::{can_assign_ids, have_processes, until_alone};
pub use keeper::DEATH;
pub use limits::{
    ARCHIVE_ENTRIES, ARCHIVE_SIZE, CPU_TIME, Enforcement, FILE_SIZE, Limits, MEMORY, PROCESSES, Storage,
    TransferLimits, WORKSPACE_INODES, WORKSPACE_SIZE,
};
pub use maker::Maker;
pub use probe::{Unavailable, probe};
pub use runner::{LimitHit, Runner, RunnerEnd, Stdio, Terminal};
pub use slot::Slot;
pub use trash::{delete_one, empty_trash, old_workspaces, prepare_trash, trash_beside};
pub use workspace::{Allowance, Listing, Sink, Workspace};

/// The part that this process plays in a slot, if `name`, its first argument, is one.
pub fn stage(name: &str) -> Option<fn() -> ExitCode> {
    helper::stage(name)
}
