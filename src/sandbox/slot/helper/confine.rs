//! What a runner gives up before it serves: from here on neither it nor any call of it can have more than a plain
//! user of the slot.

use std::io;

use landlock::{CompatLevel, Scope};
use rustix::{
    process::DumpableBehavior,
    thread::{CapabilitySet, CapabilitySets, Gid, Uid},
};

use super::{
    super::{
        error::{At as _, SlotError, Step},
        wire::{Proc, RunnerSpec},
    },
    limits, policy,
    scope::{confine_signals, enter_domain},
};

/// Irreversible.
pub(super) fn confine(spec: &RunnerSpec) -> Result<(), SlotError> {
    limits::set(spec).at(Step::SetLimits)?;
    drop_privileges(spec.user)?;
    // With another user this process may be traced again.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Step::PrepareHelper)?;
    if spec.scope_sockets {
        enter_domain(Scope::AbstractUnixSocket, CompatLevel::BestEffort).at(Step::Landlock)?;
    }
    // Where /proc may show the processes of other runners, which are of the same user, a domain of its own keeps a
    // runner's calls from looking into them, whatever it is a domain for.
    if spec.proc() != Proc::Own {
        confine_signals(CompatLevel::BestEffort).at(Step::Landlock)?;
    }
    let filter = policy::filter(spec.shown.as_ref()).map_err(io::Error::other).at(Step::Seccomp)?;
    seccompiler::apply_filter(&filter).map_err(io::Error::other).at(Step::Seccomp)
}

/// No capabilities, no way to gain any, and no other user than this one.
pub(super) fn drop_privileges(user: Option<u32>) -> Result<(), SlotError> {
    empty_bounding_set().at(Step::DropCapabilities)?;
    if let Some(user) = user {
        become_user(user).at(Step::BecomeUser)?;
    }
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .at(Step::DropCapabilities)?;
    rustix::thread::set_no_new_privs(true).at(Step::DropCapabilities)
}

/// With its group, and no others.
fn become_user(user: u32) -> io::Result<()> {
    if user == 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    Ok(rustix::thread::set_thread_res_uid(uid, uid, uid)?)
}

/// Whoever has no right to do that has none to gain by it either: see no_new_privs.
fn empty_bounding_set() -> rustix::io::Result<()> {
    for number in 0..64 {
        // Beyond the kernel's last one it is EINVAL.
        if rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)).is_err() {
            break;
        }
    }
    rustix::thread::clear_ambient_capability_set()
}
