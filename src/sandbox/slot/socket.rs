//! The agent's end of a socket to a helper.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use prost::Message;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use tokio_seqpacket::{
    UnixSeqpacket,
    ancillary::{AncillaryMessageWriter, OwnedAncillaryMessage},
};

use super::{
    error::{At as _, SlotError, Step},
    helper::MAX_DESCRIPTORS,
    wire::{self, MAX_REPLY, Reply, ReplyKind},
};

/// Room for the control message of so many descriptors.
const ANCILLARY: usize = 32 + 4 * MAX_DESCRIPTORS;

#[derive(Debug)]
pub(super) struct Socket(UnixSeqpacket);

impl Socket {
    /// Ours, and the blocking one for a helper.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        Ok((Self(UnixSeqpacket::try_from(ours)?), theirs))
    }

    pub(super) async fn send(&self, message: &impl Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [0; ANCILLARY];
        let mut ancillary = AncillaryMessageWriter::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.add_fds(descriptors).map_err(|_| io::ErrorKind::InvalidInput)?;
        }
        self.0.send_with_ancillary(&wire::encode(message), &mut ancillary).await.map(drop)
    }

    /// Sends now or not at all.
    pub(super) fn send_now(&self, message: &impl Message) -> io::Result<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::net::send(self.0.as_fd(), &wire::encode(message), flags)?;
        Ok(())
    }

    /// The helper's next answer, with what came with it. Cancel-safe.
    pub(super) async fn receive(&self, helper: &'static str) -> Result<(ReplyKind, Vec<OwnedFd>), SlotError> {
        let mut data = [0; MAX_REPLY];
        let mut space = [0; ANCILLARY];
        let (received, ancillary) = match self.0.recv_with_ancillary(&mut data, &mut space).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(SlotError::Gone(helper)),
            other => other.at(Step::Talk)?,
        };
        let descriptors = ancillary.into_messages().filter_map(|message| match message {
            OwnedAncillaryMessage::FileDescriptors(descriptors) => Some(descriptors),
            _ => None,
        });
        let descriptors: Vec<OwnedFd> = descriptors.flatten().collect();
        if received.bytes_read() == 0 {
            return Err(SlotError::Gone(helper));
        }
        let reply: Reply = wire::decode(&data[..received.bytes_read()]).at(Step::Talk)?;
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
