//! The agent's end of a socket to a helper.

use std::{
    io::{self, ErrorKind},
    os::fd::{BorrowedFd, OwnedFd},
};

use prost::Message;
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    net::{AddressFamily, SocketFlags, SocketType},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    error::{At as _, SlotError, Step},
    helper,
    wire::{self, MAX_REPLY, Reply, ReplyKind},
};

/// Wakes for what comes, and not for room to send: there is always some, since few messages are ever under way, and each
/// wake-up costs a call.
#[derive(Debug)]
pub(super) struct Socket(AsyncFd<OwnedFd>);

impl Socket {
    /// Ours, and the blocking one for a helper.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        Ok((Self(watch(ours)?), theirs))
    }

    /// Another descriptor of it.
    pub(super) fn try_clone(&self) -> io::Result<OwnedFd> {
        self.0.get_ref().try_clone()
    }

    /// Whether the other side has closed it, which the kernel does when its process dies.
    pub(super) fn is_closed(&self) -> bool {
        let mut ready = [PollFd::new(&self.0, PollFlags::empty())];
        let polled = rustix::event::poll(&mut ready, Some(&Timespec::default()));
        polled.is_ok() && ready[0].revents().contains(PollFlags::HUP)
    }

    /// Sends now or not at all.
    pub(super) fn send(&self, message: &impl Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        helper::send(&self.0, &wire::encode(message), descriptors)
    }

    /// Sends now, to a helper that is there to hear it.
    pub(super) fn tell(
        &self,
        helper: &'static str,
        message: &impl Message,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), SlotError> {
        match self.send(message, descriptors) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(SlotError::Gone(helper)),
            other => other.at(Step::Talk),
        }
    }

    /// The helper's next answer, with what came with it. Cancel-safe.
    pub(super) async fn receive(&self, helper: &'static str) -> Result<(ReplyKind, Vec<OwnedFd>), SlotError> {
        let received = self.0.async_io(Interest::READABLE, |socket| helper::receive::<Reply>(socket, MAX_REPLY)).await;
        let (reply, descriptors) = match received {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(SlotError::Gone(helper)),
            other => other.at(Step::Talk)?.ok_or(SlotError::Gone(helper))?,
        };
        match reply.kind.ok_or(SlotError::Senseless(helper))? {
            ReplyKind::Failed(failed) => Err(SlotError::from_wire(failed)),
            kind => Ok((kind, descriptors)),
        }
    }

    /// Waits for the helper to say that it is ready.
    pub(super) async fn ready(&self, helper: &'static str) -> Result<Vec<OwnedFd>, SlotError> {
        match self.receive(helper).await? {
            (ReplyKind::Ready(_), descriptors) => Ok(descriptors),
            _ => Err(SlotError::Senseless(helper)),
        }
    }
}

/// Wakes when something can be read; of a pidfd, once its process has ended.
#[expect(deprecated, reason = "the replacement is unsafe; an OwnedFd keeps what it asks for: one descriptor, open")]
pub(super) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}
