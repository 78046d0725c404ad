//! Bounds what an archive makes its readers read: headers, and what comes out for what went in.

use std::{
    cell::{Cell, RefCell},
    io::{self, Read},
    rc::Rc,
};

use super::transfer::broken;
use crate::tool::artifact::{Failure, FailureKind};

/// Of an entry's header with its extensions, in bytes: long names and the like are read into memory.
pub(super) const MAX_HEADER: u64 = 64 << 10;
/// Above this many bytes, what comes out may be at most so many times what went in.
const SUSPICIOUS: u64 = 256 << 20;
const MAX_RATIO: u64 = 1000;

/// Counts what is read.
pub(super) struct Counted<R> {
    pub(super) inner: R,
    pub(super) count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}

#[derive(Default)]
pub(super) struct Guard {
    /// While a header is read.
    pub(super) header_left: Cell<Option<u64>>,
    pub(super) read: Cell<u64>,
    /// What the archive's reader was told, in its own words.
    pub(super) fault: RefCell<Option<Failure>>,
}

/// What comes out of the packing.
pub(super) struct Guarded<R> {
    pub(super) inner: R,
    pub(super) guard: Rc<Guard>,
    pub(super) came_out: u64,
    pub(super) went_in: Option<Rc<Cell<u64>>>,
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let fault = |failure: Failure| {
            self.guard.fault.replace(Some(failure.clone()));
            Err(io::Error::other(failure))
        };
        let read = match self.inner.read(buffer) {
            Ok(read) => read,
            Err(error) => return fault(broken("the archive", &error)),
        };
        self.came_out += read as u64;
        self.guard.read.set(self.came_out);
        if let Some(left) = self.guard.header_left.get() {
            match left.checked_sub(read as u64) {
                Some(left) => self.guard.header_left.set(Some(left)),
                None => return fault(invalid(format!("a header of more than {MAX_HEADER} bytes"))),
            }
        }
        if let Some(went_in) = &self.went_in
            && self.came_out > SUSPICIOUS
            && self.came_out / MAX_RATIO > went_in.get()
        {
            return fault(invalid(format!("the archive is a bomb: it becomes over {MAX_RATIO} times as large")));
        }
        Ok(read)
    }
}

/// What is wrong with an archive.
pub(super) fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Invalid, message)
}
