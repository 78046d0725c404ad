//! The conditions in which a level of isolation is the best that can be had, made without a container.

use std::{os::unix::process::CommandExt, process::Command};

use landlock::{CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
use tool_executor::sandbox::slot::Isolation;

use super::bed::{has_program, level, own_ids};

/// What a container's system call filter refuses, beside nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// As a machine without user namespaces, and Docker's filter of a container with CAP_SYS_ADMIN.
    UserNamespaces,
    /// As Docker's filter by default.
    Namespaces,
    /// And Landlock.
    All,
}

impl Refused {
    pub(crate) fn at(level: Isolation) -> Self {
        if level == Isolation::L1B { Self::UserNamespaces } else { Self::Namespaces }
    }
}

/// The variable of the environment that says so to [`confined`].
const REFUSED: &str = "TOOL_EXECUTOR_TEST_REFUSED";
const ALL_REFUSED: [(&str, Refused); 3] =
    [("user namespaces", Refused::UserNamespaces), ("namespaces", Refused::Namespaces), ("all", Refused::All)];
/// And the one with what to run then, a line each.
pub(crate) const ARGUMENTS: &str = "TOOL_EXECUTOR_TEST_ARGUMENTS";

/// The program to become, if it is not this one again; its standard output is descriptor 3.
pub(crate) const BECOMES: &str = "TOOL_EXECUTOR_TEST_BECOMES";

/// Makes these conditions and becomes another run of this program.
#[test]
#[ignore = "run by others here, to be confined"]
fn confined() {
    let refused = std::env::var(REFUSED).unwrap();
    let refused = ALL_REFUSED.iter().find(|(name, _)| *name == refused).unwrap().1;
    seccompiler::apply_filter(&filter(refused)).unwrap();
    let arguments = std::env::var(ARGUMENTS).unwrap();
    let mut command = match std::env::var_os(BECOMES) {
        None => Command::new(std::env::current_exe().unwrap()),
        Some(program) => {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "exec \"$@\" >&3 3>&-", "sh"]).arg(program);
            command
        }
    };
    panic!("{}", command.args(arguments.lines()).exec());
}

fn filter(refused: Refused) -> seccompiler::BpfProgram {
    use seccompiler::{
        SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    };
    let flag = |flag: libc::c_int| {
        let flag = flag as u64;
        SeccompRule::new(vec![SeccompCondition::new(0, Dword, SeccompCmpOp::MaskedEq(flag), flag).unwrap()]).unwrap()
    };
    let mut flags = vec![flag(libc::CLONE_NEWUSER)];
    let mut rules = vec![(libc::SYS_pivot_root, vec![])];
    if refused != Refused::UserNamespaces {
        let others =
            [libc::CLONE_NEWNS, libc::CLONE_NEWPID, libc::CLONE_NEWNET, libc::CLONE_NEWIPC, libc::CLONE_NEWUTS];
        flags.extend(others.map(flag));
        let mounts = [libc::SYS_mount, libc::SYS_umount2, libc::SYS_setns, libc::SYS_fsopen, libc::SYS_open_tree];
        rules.extend(mounts.map(|call| (call, vec![])));
    }
    if refused == Refused::All {
        rules.push((libc::SYS_landlock_create_ruleset, vec![]));
    }
    rules.extend([(libc::SYS_unshare, flags.clone()), (libc::SYS_clone, flags)]);
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    SeccompFilter::new(rules.into_iter().collect(), SeccompAction::Allow, refuse, architecture)
        .unwrap()
        .try_into()
        .unwrap()
}

/// What to start a program through, so that it has the user and the capabilities of a level. None where that cannot be
/// done, as in the tests of one that has been done already.
pub(crate) fn through(wanted: Isolation) -> Option<Vec<String>> {
    let root = rustix::process::geteuid().is_root() && own_ids() && level() == Isolation::L0;
    if !root || !has_program("setpriv") || !has_program("unshare") || (!wanted.has_namespaces() && !has_landlock()) {
        eprintln!("skipped: the conditions of {wanted} cannot be made here");
        return None;
    }
    Some(match wanted {
        Isolation::L0 | Isolation::L1 => panic!("others make these"),
        Isolation::L1B => as_root_of_a_container(",+sys_admin"),
        Isolation::L2 => as_root_of_a_container(""),
        Isolation::L2Minus => AS_ORDINARY_USER.map(String::from).to_vec(),
    })
}

fn as_root_of_a_container(more: &str) -> Vec<String> {
    let kept: String = DOCKERS.iter().map(|capability| format!(",+{capability}")).collect();
    vec!["setpriv".into(), format!("--bounding-set=-all{kept}{more}")]
}

const AS_ORDINARY_USER: [&str; 5] = ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", "--inh-caps=-all"];

pub(crate) fn confine(command: &mut Command, refused: Refused) {
    command.args(["--exact", "slot::conditions::confined", "--ignored", "--nocapture"]);
    let name = ALL_REFUSED.iter().find(|(_, known)| *known == refused).unwrap().0;
    command.env(REFUSED, name);
}

/// The capabilities that root has in a container of Docker's.
pub(crate) const DOCKERS: [&str; 14] = [
    "audit_write",
    "chown",
    "dac_override",
    "fowner",
    "fsetid",
    "kill",
    "mknod",
    "net_bind_service",
    "net_raw",
    "setfcap",
    "setgid",
    "setpcap",
    "setuid",
    "sys_chroot",
];

pub(crate) fn has_landlock() -> bool {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement).scope(Scope::Signal);
    ruleset.and_then(|ruleset| ruleset.create()).is_ok()
}
