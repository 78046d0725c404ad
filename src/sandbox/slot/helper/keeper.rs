//! The keeper: process 1 of the slot. It holds the slot's namespaces and mounts, and makes runners. Its death, by the
//! agent's hand or because the agent is gone, is the death of every process of the slot: the kernel sees to that.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags},
    mount::{MountAttrFlags, MountFlags, UnmountFlags},
    process::DumpableBehavior,
    thread::{LinkNameSpaceType, UnshareFlags},
};

use super::{
    super::{
        error::{At as _, SlotError, Step},
        sys,
        wire::{self, KeeperSpec, Nothing, Proc, Reply, ReplyKind},
    },
    Socket, THIS_PROGRAM, clean, command, mounts, send,
};

pub(super) fn main(agent: &Socket) -> Result<(), SlotError> {
    // Until the maker has ended, it has the first word on this socket.
    let (spec, _) = agent.expect::<KeeperSpec>().at(Step::Talk)?;
    // Calls have the same user: they must not trace this process or look into it.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Step::PrepareHelper)?;
    let own_proc = show_proc(spec.proc()).at(Step::MountProc)?;
    enter_root().at(Step::EnterRoot)?;
    clean::verify(&spec, own_proc)?;
    let own =
        rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at(Step::StartRunner)?;
    agent.send(&Reply::from(ReplyKind::Ready(Nothing {})), &[]).at(Step::Talk)?;

    // The agent's end closes this socket, and so ends the slot.
    while let Some((Nothing {}, descriptors)) = agent.receive().at(Step::Talk)? {
        for socket in descriptors {
            answer(socket, |socket| start_runner(socket, &own));
        }
        while sys::reap(false).is_some() {}
    }
    Ok(())
}

/// Whoever asked for the runner hears of a failure on the runner's socket; the slot goes on.
pub(super) fn answer(socket: OwnedFd, start: impl FnOnce(OwnedFd) -> Result<(), SlotError>) {
    let reply = socket.try_clone();
    if let (Err(error), Ok(reply)) = (start(socket), reply) {
        let failed = Reply::from(ReplyKind::Failed(error.to_wire()));
        let _ = send(&reply, &wire::encode(&failed), &[]);
    }
}

/// Whether it is that of this pid namespace.
fn show_proc(proc: Proc) -> io::Result<bool> {
    let own = || mount_proc("proc", MountFlags::empty()).map_err(io::Error::from);
    match proc {
        Proc::Own => own().map(|()| true),
        Proc::Agents => bind_proc().map(|()| false),
        Proc::OwnIfPossible => own().map(|()| true).or_else(|_| bind_proc().map(|()| false)),
    }
}

/// Mounts the /proc of this process's pid namespace.
pub(super) fn mount_proc(place: &str, more: MountFlags) -> rustix::io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | more;
    rustix::mount::mount("proc", place, "proc", flags, None)
}

/// Shows the agent's /proc, with all that is mounted over parts of it, and the kernel's settings read-only.
fn bind_proc() -> io::Result<()> {
    let proc = mounts::clone_tree(Path::new("/proc"))?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    sys::add_mount_attributes(proc.as_fd(), attributes, true)?;
    mounts::attach(proc.as_fd(), "proc")?;
    mounts::attach(mounts::open_read_only(Path::new("proc/sys"))?.as_fd(), "proc/sys")
}

/// Makes the working directory the root, and lets go of the host's file system.
fn enter_root() -> rustix::io::Result<()> {
    if rustix::process::pivot_root(".", ".").is_ok() {
        // The old root now lies over the new one.
        rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    } else {
        // Some container runtimes' filters refuse pivot_root, and it is impossible from an initial ramdisk.
        rustix::mount::mount_move(".", "/")?;
        rustix::process::chroot(".")?;
    }
    rustix::process::chdir("/")
}

/// A runner is born as process 1 of a new pid namespace; the next one must not be born into that same namespace.
fn start_runner(socket: OwnedFd, own: &OwnedFd) -> Result<(), SlotError> {
    sys::unshare(UnshareFlags::NEWPID).at(Step::StartRunner)?;
    let started = command(Path::new(THIS_PROGRAM), "runner", socket).spawn();
    rustix::thread::move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID)).at(Step::StartRunner)?;
    started.at(Step::StartRunner).map(drop)
}
