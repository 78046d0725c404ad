//! Domains that confine signals: what is in one can signal nothing outside, so that a `kill(-1)` ends just what this
//! process has started, however that was done, and nobody is missed.

use std::io;

use landlock::{
    AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, Scope,
};
use rustix::io::Errno;

use super::{
    super::{
        error::{At as _, SlotError, Step},
        sys,
    },
    runner::kill_all,
};

/// Irreversible. From here on this process is the reaper of what its children leave.
pub(super) fn enter() -> Result<(), SlotError> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).at(Step::PrepareHelper)?;
    rustix::thread::set_no_new_privs(true).at(Step::DropCapabilities)?;
    enter_own().at(Step::ScopeSignals)?;
    prove().at(Step::ProveIsolation)
}

/// A domain forbids all moves and links from one directory to another unless it says otherwise, and so would those that
/// calls enter in this one.
fn enter_own() -> io::Result<()> {
    let everywhere = PathFd::new("/").map_err(io::Error::other)?;
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .scope(Scope::Signal)
        .and_then(|domain| domain.handle_access(AccessFs::Refer)?.create())
        .and_then(|domain| domain.add_rule(PathBeneath::new(everywhere, AccessFs::Refer))?.restrict_self())
        .map(drop)
        .map_err(io::Error::other)
}

pub(super) fn confine_signals(level: CompatLevel) -> io::Result<()> {
    enter_domain(Scope::Signal, level)
}

/// Abstract sockets belong to the network namespace; where that is shared, Landlock can still fence them off. (Since
/// Linux 6.12, where it is enabled; without it [`CompatLevel::BestEffort`] does nothing.)
pub(super) fn enter_domain(scope: Scope, level: CompatLevel) -> io::Result<()> {
    let domain = Ruleset::default().set_compatibility(level).scope(scope).and_then(Ruleset::create);
    domain.and_then(|domain| domain.restrict_self()).map(drop).map_err(io::Error::other)
}

/// `kill(-1)` from outside would end the machine's processes. The parent is one that this process may signal, by its
/// user: only the domain keeps it from that.
fn prove() -> io::Result<()> {
    let parent = rustix::process::getppid().map(rustix::process::test_kill_process);
    match parent {
        Some(Err(Errno::PERM)) => Ok(()),
        _ => Err(io::Error::other("this process can signal its parent")),
    }
}

/// Ends and reaps everything that this process has started. It must have [entered](enter) its domain.
pub(super) fn end_all() {
    kill_all();
    while sys::reap(true).is_some() {}
}
