//! What maker, keeper, warden and runner have in common: how each is started, and how it talks on its standard input.
//!
//! Every helper is this program again, started by `std::process::Command`, which is posix_spawn as long as neither
//! user, group, `pre_exec` nor a bare program name is asked for: no memory is copied and no fork is made. Helpers are
//! single-threaded, keep nothing open that they inherited, and carry no path of the host in their arguments, which a
//! slot can read.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use prost::Message;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use super::{
    error::{At as _, SlotError, Step},
    sys,
    wire::{self, MAX_DATAGRAM, Reply, ReplyKind},
};

mod call;
mod clean;
mod confine;
mod domain;
mod enter;
pub(super) mod inspect;
mod keeper;
mod layers;
mod limits;
mod loopback;
mod maker;
mod mounts;
mod policy;
mod root;
mod runner;
mod scope;
mod view;
mod warden;

/// The part of a slot that `name` stands for, if it is one.
pub(super) fn stage(name: &str) -> Option<fn() -> ExitCode> {
    match name {
        "maker" => Some(|| run(maker::main)),
        "keeper" => Some(|| run(keeper::main)),
        "warden" => Some(|| run(warden::main)),
        "runner" => Some(|| run(runner::main)),
        ENTER => Some(enter::run),
        INSPECT => Some(inspect::run),
        _ => None,
    }
}

/// The probe's witness, which is run as a call.
pub(super) const INSPECT: &str = "inspect";

/// What each call without namespaces is before it becomes the call.
const ENTER: &str = "enter";

/// The executable of the running process.
pub(super) const THIS_PROGRAM: &str = "/proc/self/exe";

/// The most descriptors that go with one message: stdin, stdout, stderr and a memory file.
pub(super) const MAX_DESCRIPTORS: usize = 4;

/// `program` again as `stage`, with `socket` as its standard input.
pub(super) fn command(program: &Path, stage: &str, socket: OwnedFd) -> Command {
    let mut command = Command::new(program);
    command.arg0("slot").arg(stage).env_clear().stdin(socket).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Runs a helper's part to its end. A failure is reported to the agent, which alone can tell anybody.
fn run(part: fn(&Socket) -> Result<(), SlotError>) -> ExitCode {
    let socket = Socket(rustix::stdio::stdin());
    let result = sys::close_inherited_on_exec().at(Step::PrepareHelper).and_then(|()| part(&socket));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = socket.send(&Reply::from(ReplyKind::Failed(error.to_wire())), &[]);
            ExitCode::FAILURE
        }
    }
}

/// A helper's end of a SEQPACKET socket; blocking.
pub(super) struct Socket(pub(super) BorrowedFd<'static>);

impl Socket {
    /// Sends one message; the other side may be gone.
    pub(super) fn send(&self, message: &impl Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(self.0, &wire::encode(message), descriptors)
    }

    /// The next message and its descriptors; `None` once the other side is gone.
    pub(super) fn receive<M: Message + Default>(&self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        receive(self.0, MAX_DATAGRAM)
    }

    /// Where there must be a next message.
    pub(super) fn expect<M: Message + Default>(&self) -> io::Result<(M, Vec<OwnedFd>)> {
        self.receive()?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// Receives one datagram of at most `size` bytes, and its descriptors; `None` once the other side is gone.
pub(super) fn receive<M: Message + Default>(socket: impl AsFd, size: usize) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let mut data = vec![0; size];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut data)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let descriptors: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if received.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((wire::decode(&data[..received.bytes])?, descriptors)))
}

/// Sends one datagram.
pub(super) fn send(socket: impl AsFd, data: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(&socket, &[IoSlice::new(data)], &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}
