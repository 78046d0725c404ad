//! The standard streams of one process, seen from the agent: its pipes, what is kept of them, and what may be passed on
//! while it runs. No more memory than the limits of the call, however much is written and whoever reads nothing.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use rustix::{
    pipe::{PipeFlags, fcntl_setpipe_size, pipe_with},
    process::{Gid, Uid},
};
use tokio::net::unix::pipe;

use super::capture::Capture;
use crate::tool::job::{Captured, OutputLimits};

/// Of one read, before and after a process has shown that it has much to say.
const SMALL_READ: usize = 4 << 10;
const LARGE_READ: usize = 64 << 10;
/// The pipe of a process that has much to say.
const LARGE_PIPE: usize = 256 << 10;

/// One stream that a process writes.
pub(super) struct Output {
    /// None after its end.
    pipe: Option<pipe::Receiver>,
    /// The process's end, held open for as long as it runs: else its last breath would wake the agent once for each
    /// stream, and then again for the end that the runner tells.
    writer: Option<OwnedFd>,
    capture: Capture,
    has_large_pipe: bool,
}

/// A pipe that the slot's user may open again by its name: /dev/stdout leads to it.
pub(super) fn pipe_of(user: Option<u32>) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    if let Some(id) = user {
        rustix::fs::fchown(&reader, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))?;
    }
    Ok((reader, writer))
}

impl Output {
    /// With the end of the pipe that is the process's. `user`: the slot's, where that is not the agent's own.
    pub(super) fn new(limits: OutputLimits, user: Option<u32>) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = pipe_of(user)?;
        let pipe = Some(pipe::Receiver::from_owned_fd(ours)?);
        let writer = Some(theirs.try_clone()?);
        Ok((Self { pipe, writer, capture: Capture::new(limits), has_large_pipe: false }, theirs))
    }

    /// How much was read so far, in bytes.
    pub(super) fn total(&self) -> u64 {
        self.capture.total()
    }

    /// More may come.
    pub(super) fn is_open(&self) -> bool {
        self.pipe.is_some()
    }

    /// Everything of the call has ended: from now on the stream ends where nothing more is in it.
    pub(super) fn let_end(&mut self) {
        self.writer = None;
    }

    /// Ready when there is something to read, or nothing more to come; never after that.
    pub(super) async fn readable(&self) {
        match &self.pipe {
            // An error is found again by the read.
            Some(pipe) => drop(pipe.readable().await),
            None => std::future::pending().await,
        }
    }

    /// Reads once after [`Self::readable`], at most `max` bytes; what was read, and where in the stream it stands.
    pub(super) fn read<'a>(&mut self, buffer: &'a mut Vec<u8>, max: usize) -> Option<(u64, &'a [u8])> {
        self.read_by(buffer, max, |pipe, buffer| pipe.try_read(buffer))
    }

    /// Reads once, whether or not the runtime knows that there is something to read.
    pub(super) fn read_now<'a>(&mut self, buffer: &'a mut Vec<u8>, max: usize) -> Option<(u64, &'a [u8])> {
        self.read_by(buffer, max, |pipe, buffer| Ok(rustix::io::read(pipe, buffer)?))
    }

    fn read_by<'a>(
        &mut self,
        buffer: &'a mut Vec<u8>,
        max: usize,
        read: impl FnOnce(&pipe::Receiver, &mut [u8]) -> io::Result<usize>,
    ) -> Option<(u64, &'a [u8])> {
        let pipe = self.pipe.as_ref()?;
        let offset = self.capture.total();
        let much = offset >= LARGE_READ as u64;
        if much && !self.has_large_pipe {
            self.has_large_pipe = true;
            // It matters for speed alone: where the kernel refuses, the smaller pipe stays.
            let _ = fcntl_setpipe_size(pipe, LARGE_PIPE);
        }
        let size = if much { LARGE_READ } else { SMALL_READ }.min(max);
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        match read(pipe, &mut buffer[..size]) {
            Ok(count) if count > 0 => {
                self.capture.push(&buffer[..count]);
                return Some((offset, &buffer[..count]));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => self.pipe = None,
        }
        None
    }

    pub(super) fn finish(self) -> Captured {
        self.capture.finish()
    }
}

/// What a process reads. It may close it at any time, and then wants no more of it.
pub(super) struct Input {
    /// None after its end.
    pipe: Option<pipe::Sender>,
    pending: BytesMut,
    max_pending: usize,
    /// Close it once nothing is pending.
    ends: bool,
}

/// More than the process may leave unread.
pub(super) struct TooMuch;

impl Input {
    /// With the end of the pipe that is the process's; without one it reads /dev/null. What it is given at its start is
    /// not counted against it.
    pub(super) fn new(
        initial: Bytes,
        interactive: bool,
        max_pending: usize,
        user: Option<u32>,
    ) -> io::Result<(Self, Option<OwnedFd>)> {
        let max_pending = max_pending.max(initial.len());
        let (pipe, theirs) = if initial.is_empty() && !interactive {
            (None, None)
        } else {
            let (theirs, ours) = pipe_of(user)?;
            (Some(pipe::Sender::from_owned_fd(ours)?), Some(theirs))
        };
        Ok((Self { pipe, pending: initial.into(), max_pending, ends: !interactive }, theirs))
    }

    pub(super) fn push(&mut self, data: &[u8], end_of_file: bool) -> Result<(), TooMuch> {
        if self.pipe.is_none() || self.ends {
            return Ok(());
        }
        if self.pending.len() + data.len() > self.max_pending {
            return Err(TooMuch);
        }
        self.pending.extend_from_slice(data);
        self.ends = end_of_file;
        self.write();
        Ok(())
    }

    /// Takes more, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        self.pipe.is_some() && !self.ends
    }

    /// Ready when something that is pending can be written.
    pub(super) async fn writable(&self) {
        match &self.pipe {
            // An error is found again by the write.
            Some(pipe) if !self.pending.is_empty() || self.ends => drop(pipe.writable().await),
            _ => std::future::pending().await,
        }
    }

    /// Writes what the pipe takes now.
    pub(super) fn write(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        while !self.pending.is_empty() {
            match pipe.try_write(&self.pending) {
                Ok(written) => self.pending.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.close(),
            }
        }
        if self.ends {
            self.close();
        }
    }

    fn close(&mut self) {
        self.pipe = None;
        self.pending = BytesMut::new();
    }
}

/// Live output: how much may be sent, and since when nothing may.
pub(super) struct Live {
    credit: usize,
    starved: Option<Instant>,
}

impl Live {
    /// That a call may send before any of it has been granted again, in bytes.
    const WINDOW: usize = 256 << 10;
    /// How long a process may be held up by whoever should read its live output; then it runs on, with a gap.
    const PATIENCE: Duration = Duration::from_secs(1);

    pub(super) fn new() -> Self {
        Self { credit: Self::WINDOW, starved: None }
    }

    pub(super) fn grant(&mut self, bytes: u32) {
        // What one executor has sent on may be granted by the next, which has begun with a window of its own.
        self.credit = self.credit.saturating_add(bytes as usize).min(Self::WINDOW);
        if self.credit > 0 {
            self.starved = None;
        }
    }

    /// Until when the process is held up.
    pub(super) fn held_up(&self, now: Instant) -> Option<Instant> {
        self.starved.map(|since| since + Self::PATIENCE).filter(|until| *until > now)
    }

    /// How much may be read at a time. With nothing to spend it will not be sent.
    pub(super) fn max_read(&self) -> usize {
        if self.credit == 0 { usize::MAX } else { self.credit }
    }

    /// Whether so much may be sent.
    pub(super) fn spend(&mut self, bytes: usize, now: Instant) -> bool {
        let Some(credit) = self.credit.checked_sub(bytes) else { return false };
        self.credit = credit;
        if credit == 0 {
            self.starved.get_or_insert(now);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_held_up_for_a_while_and_then_runs_on_with_a_gap() {
        let start = Instant::now();
        let after = |time| start + time;
        let mut live = Live::new();
        assert!(live.spend(Live::WINDOW - 1, start));
        assert_eq!((live.held_up(start), live.max_read()), (None, 1));
        assert!(live.spend(1, start));
        assert_eq!(live.held_up(start), Some(after(Live::PATIENCE)));
        let late = after(Live::PATIENCE);
        assert_eq!((live.held_up(late), live.max_read()), (None, usize::MAX));
        assert!(!live.spend(5, late), "a gap");
        live.grant(0);
        assert!(!live.spend(1, late));
        live.grant(10);
        assert!(live.spend(10, late), "the gap is over");
        assert_eq!(live.held_up(late), Some(late + Live::PATIENCE));
        live.grant(u32::MAX);
        assert_eq!(live.held_up(late), None);
    }

    #[tokio::test]
    async fn output_is_read_to_its_end() {
        let (mut output, theirs) = Output::new(OutputLimits { head: 3, tail: 2 }, None).unwrap();
        let mut writer = io::PipeWriter::from(theirs);
        let mut buffer = Vec::new();
        assert_eq!(output.read(&mut buffer, 9), None);
        io::Write::write_all(&mut writer, b"abcdefg").unwrap();
        output.readable().await;
        assert_eq!(output.read(&mut buffer, 4), Some((0, &b"abcd"[..])));
        assert_eq!(output.read(&mut buffer, 9), Some((4, &b"efg"[..])));
        assert!(output.is_open());
        io::Write::write_all(&mut writer, b"h").unwrap();
        drop(writer);
        assert_eq!(output.read_now(&mut buffer, 9), Some((7, &b"h"[..])), "the runtime has not looked");
        assert_eq!(output.read_now(&mut buffer, 9), None);
        assert!(output.is_open(), "its process may be gone, and another one write on");
        output.let_end();
        assert_eq!(output.read_now(&mut buffer, 9), None);
        assert!(!output.is_open());
        assert_eq!(output.finish(), Captured { head: "abc".into(), tail: "gh".into(), total: 8 });
    }

    #[tokio::test]
    async fn input_waits_within_its_bound_and_ends_when_all_of_it_is_written() {
        let (mut input, theirs) = Input::new(Bytes::from_static(b"ab"), true, 1, None).unwrap();
        assert!(input.push(b"c", false).is_err(), "as much as it began with, and no more");
        input.writable().await;
        input.write();
        assert!(input.push(b"cd", true).is_ok());
        assert!(input.push(b"after the end", false).is_ok());
        let mut read = String::new();
        io::Read::read_to_string(&mut io::PipeReader::from(theirs.unwrap()), &mut read).unwrap();
        assert_eq!(read, "abcd");
    }

    #[tokio::test]
    async fn input_that_is_closed_or_not_wanted_is_dropped() {
        let (mut input, theirs) = Input::new(Bytes::new(), false, 1, None).unwrap();
        assert!(theirs.is_none());
        assert!(input.push(b"more than the bound", false).is_ok());
        let (mut input, theirs) = Input::new(Bytes::new(), true, 1, None).unwrap();
        drop(theirs);
        assert!(input.push(b"a", false).is_ok());
        input.writable().await;
        input.write();
        assert!(input.push(b"more than the bound", false).is_ok());
    }
}
