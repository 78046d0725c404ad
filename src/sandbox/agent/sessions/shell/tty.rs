//! The agent's side of a terminal.

use std::{io, os::fd::OwnedFd};

use rustix::termios::{LocalModes, OptionalActions, OutputModes};
use tokio::io::{Interest, unix::AsyncFd};

#[expect(deprecated, reason = "the replacement is unsafe; an OwnedFd keeps what it asks for: one descriptor, open")]
pub(in super::super) fn watched(terminal: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&terminal, true)?;
    AsyncFd::with_interest(terminal, Interest::READABLE | Interest::WRITABLE)
}

/// No echo, and what is printed is left as it is.
pub(super) fn plain(terminal: &OwnedFd) -> io::Result<()> {
    let mut modes = rustix::termios::tcgetattr(terminal)?;
    modes.output_modes.remove(OutputModes::OPOST);
    modes.local_modes.remove(LocalModes::ECHO);
    Ok(rustix::termios::tcsetattr(terminal, OptionalActions::Now, &modes)?)
}
