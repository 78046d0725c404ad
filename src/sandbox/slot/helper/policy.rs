//! The system calls that a slot is refused: all that make namespaces or mounts, and those that are of no use to a
//! tool call but have a history of kernel bugs.
//!
//! seccompiler cannot say "number at least x" nor give one call another error, so four instructions stand in front of
//! what it compiles.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, sock_filter,
};

use super::super::wire::Shown;

/// Refused with EPERM.
const REFUSED: &[i64] = &[
    // Namespaces and mounts: every isolation of the slot rests on them.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // Files by handle pass by all path checks.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    // Large and often attacked parts of the kernel. io_uring would also pass by this filter.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_vmsplice,
    // Keyrings are not divided by these namespaces.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // The machine itself.
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
];

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[i64] = &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_kexec_file_load];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[i64] = &[];

/// Refused where the ipc namespace is the machine's: what these make is everybody's to find, and outlives the slot. What
/// others have made needs no key, a number is soon guessed.
const OURS: &[i64] = &[
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
];

/// CLONE_NEWTIME is not among them: its bit is part of the exit signal in clone, and only clone3 and unshare obey it.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// TIOCSTI and TIOCLINUX, which put input into a terminal as if it had been typed. In numbers, since the C libraries
/// disagree about the type.
const TERMINAL_INJECTIONS: [u64; 2] = [0x5412, 0x541c];

/// The address families that calls may use; the first without a network, too. Others reach past the network namespace (AF_VSOCK: the host of a virtual
/// machine) or into seldom used parts of the kernel.
const ADDRESS_FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// `shown`: of a slot without namespaces, which needs more to be refused.
pub(super) fn filter(shown: Option<&Shown>) -> Result<BpfProgram, BackendError> {
    let ours = if shown.is_some() { OURS } else { &[] };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.iter().chain(REFUSED_HERE).chain(ours).map(|number| (*number, Vec::new())).collect();
    let any_namespace = NAMESPACES.iter().map(|flag| {
        let flag = *flag as u64;
        rule(&[condition(0, SeccompCmpOp::MaskedEq(flag), flag)?])
    });
    rules.insert(libc::SYS_clone, any_namespace.collect::<Result<_, _>>()?);
    let injections = TERMINAL_INJECTIONS.iter().map(|request| rule(&[condition(1, SeccompCmpOp::Eq, *request)?]));
    rules.insert(libc::SYS_ioctl, injections.collect::<Result<_, _>>()?);
    let families = if shown.is_some_and(|shown| !shown.network) { &ADDRESS_FAMILIES[..1] } else { &ADDRESS_FAMILIES };
    let families = families.iter().map(|family| condition(0, SeccompCmpOp::Ne, *family as u64));
    rules.insert(libc::SYS_socket, vec![rule(&families.collect::<Result<Vec<_>, _>>()?)?]);
    // The kernel lets a user set the limits of any process of its own, and so a call those of its runner.
    let another = condition(0, SeccompCmpOp::Ne, 0)?;
    let new_limit = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![rule(&[another, new_limit])?]);

    rules.extend(others_of_the_user(shown.is_none())?);

    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let architecture = std::env::consts::ARCH.try_into()?;
    let mut program = front();
    program.extend(BpfProgram::try_from(SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)?)?);
    Ok(program)
}

/// A user may slow down and stop using processors all processes of its own: runners are among them, and at L2- the
/// agent, and Landlock does not stand in the way. So without namespaces calls may do that to the calling thread alone;
/// with them, to all that they see but the runner, which is process 1.
fn others_of_the_user(namespaces: bool) -> Result<Vec<(i64, Vec<SeccompRule>)>, BackendError> {
    let (operator, process) = if namespaces { (SeccompCmpOp::Eq, 1) } else { (SeccompCmpOp::Ne, 0) };
    let another = |argument| rule(&[condition(argument, operator.clone(), process)?]);
    // Kinds of targets: of the two calls that have one, each counts its own. Groups, and all of a user, have the runner
    // in them.
    let (one_thread, one_process) = (1, libc::PRIO_PROCESS as u64);
    let not = |kind| rule(&[condition(0, SeccompCmpOp::Ne, kind)?]);
    let mut rules = vec![
        (libc::SYS_setpriority, vec![not(one_process)?, another(1)?]),
        (libc::SYS_ioprio_set, vec![not(one_thread)?, another(1)?]),
    ];
    for number in
        [libc::SYS_sched_setaffinity, libc::SYS_sched_setparam, libc::SYS_sched_setscheduler, libc::SYS_sched_setattr]
    {
        rules.push((number, vec![another(0)?]));
    }
    Ok(rules)
}

/// ENOSYS for clone3, whose flags a filter cannot see (libraries fall back to clone), and for the x32 calls, which
/// are the same ones under other numbers.
fn front() -> BpfProgram {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const NUMBER_OFFSET: u32 = 0;
    const X32_BIT: u32 = 0x4000_0000;
    const RETURN_ERRNO: u32 = 0x0005_0000;
    let instruction = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        instruction(LOAD_WORD, 0, 0, NUMBER_OFFSET),
        instruction(JUMP_IF_AT_LEAST, 1, 0, X32_BIT),
        instruction(JUMP_IF_EQUAL, 0, 1, libc::SYS_clone3 as u32),
        instruction(RETURN, 0, 0, RETURN_ERRNO | libc::ENOSYS as u32),
    ]
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

fn rule(conditions: &[SeccompCondition]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_compiles_and_starts_with_the_front() {
        for shown in [None, Some(Shown::default())] {
            let program = filter(shown.as_ref()).expect("the table is well-formed");
            assert_eq!(program[..4], front()[..]);
            assert!(program.len() < 4096, "the kernel's limit");
        }
    }
}
