//! What a runner gives up before it serves: from here on neither it nor any call of it can have more than a plain
//! user of the slot.

use std::io;

use landlock::{CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{
    super::{
        error::{At as _, SlotError, Step},
        wire::RunnerSpec,
    },
    limits, policy,
};

/// Irreversible.
pub(super) fn confine(spec: &RunnerSpec) -> Result<(), SlotError> {
    limits::set(spec).at(Step::SetLimits)?;
    drop_capabilities().at(Step::DropCapabilities)?;
    rustix::thread::set_no_new_privs(true).at(Step::DropCapabilities)?;
    if spec.scope_sockets {
        enter_domain(Scope::AbstractUnixSocket).map_err(io::Error::other).at(Step::Landlock)?;
    }
    if spec.bound_proc {
        enter_domain(Scope::Signal).map_err(io::Error::other).at(Step::Landlock)?;
    }
    let filter = policy::filter().map_err(io::Error::other).at(Step::Seccomp)?;
    seccompiler::apply_filter(&filter).map_err(io::Error::other).at(Step::Seccomp)
}

fn drop_capabilities() -> rustix::io::Result<()> {
    for number in 0..64 {
        // Beyond the kernel's last one it is EINVAL.
        if rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)).is_err() {
            break;
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

/// Abstract sockets belong to the network namespace; where that is shared, Landlock can still fence them off. And where
/// /proc shows the processes of other runners, which are of the same user, a domain of its own keeps a runner's calls
/// from looking into them, whatever it is a domain for. (Since Linux 6.12, where it is enabled; without it this does
/// nothing.)
fn enter_domain(scope: Scope) -> Result<(), landlock::RulesetError> {
    Ruleset::default().set_compatibility(CompatLevel::BestEffort).scope(scope)?.create()?.restrict_self()?;
    Ok(())
}
