//! The maker: makes a slot's namespaces and root file system, starts the keeper in them, and ends.
//!
//! It exists because a process cannot map its own user as the agent can, and because the keeper must be *born* into
//! the slot's pid namespace, which its own user namespace then owns. Its working directory becomes the workspace: that
//! is the one directory of the host which the slot's user can surely enter, whatever the modes of the directories above.

use std::{io, os::fd::AsFd, path::Path};

use rustix::{
    fs::Mode,
    process::{Pid, PidfdFlags},
    thread::{Gid, Uid, UnshareFlags},
};

use super::{
    super::{
        error::{At as _, SlotError, Step},
        sys,
        wire::{MakerSpec, Nothing, Reply, ReplyKind, SlotSpec},
    },
    Socket, THIS_PROGRAM, command, loopback, mounts, root, view,
};

pub(super) fn main(agent: &Socket) -> Result<(), SlotError> {
    let (spec, _) = agent.expect::<MakerSpec>().at(Step::Talk)?;
    separate(&spec)?;
    agent.send(&Reply::from(ReplyKind::Ready(Nothing {})), &[]).at(Step::Talk)?;
    // Now the agent maps the slot's user. What is mounted on the machine is looked at only when there is to be a slot.
    let Some((spec, descriptors)) = agent.receive::<SlotSpec>().at(Step::Talk)? else { return Ok(()) };
    let mut descriptors = descriptors.into_iter();
    let workspace = descriptors.next().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData)).at(Step::Talk)?;
    rustix::process::fchdir(workspace).at(Step::PrepareDirectory)?;
    let image = descriptors.next();
    sys::unshare(UnshareFlags::NEWNS).at(Step::Unshare)?;

    // Still the agent's user, who may be let in where the slot's is not.
    let sources = view::open_sources(&spec, image)?;
    if spec.owner.is_none() {
        rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).at(Step::BecomeUser)?;
        rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).at(Step::BecomeUser)?;
    }
    root::build(sources, &spec)?;
    let workspace = mounts::find(Path::new("workspace")).at(Step::MountWorkspace)?;

    let socket = agent.0.try_clone_to_owned().at(Step::StartKeeper)?;
    let keeper = command(Path::new(THIS_PROGRAM), "keeper", socket).spawn().at(Step::StartKeeper)?;
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&keeper), PidfdFlags::empty()).at(Step::StartKeeper)?;
    agent.send(&Reply::from(ReplyKind::Ready(Nothing {})), &[pidfd.as_fd(), workspace.as_fd()]).at(Step::Talk)
}

/// Enters namespaces of its own, which are the slot's but for what is mounted.
fn separate(spec: &MakerSpec) -> Result<(), SlotError> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // A terminal that the agent was started from must not be any call's /dev/tty.
    rustix::process::setsid().at(Step::PrepareHelper)?;
    if spec.drop_groups {
        rustix::thread::set_thread_groups(&[]).at(Step::PrepareHelper)?;
    }
    let mut namespaces = UnshareFlags::NEWPID | UnshareFlags::NEWUTS | UnshareFlags::NEWIPC;
    namespaces.set(UnshareFlags::NEWUSER, !spec.no_user_namespace);
    namespaces.set(UnshareFlags::NEWNET, !spec.network);
    sys::unshare(namespaces).at(Step::Unshare)?;
    rustix::system::sethostname(b"slot").at(Step::NameHost)?;
    if !spec.network {
        match loopback::raise() {
            // Without a user namespace it takes a right that the agent may lack. There is not even loopback then.
            Err(error) if spec.no_user_namespace && error.kind() == io::ErrorKind::PermissionDenied => {}
            other => other.at(Step::RaiseLoopback)?,
        }
    }
    Ok(())
}
