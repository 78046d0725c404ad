//! What transfers of files share: how they fail, what they may add, and the names in a directory.

use std::{
    collections::BTreeSet,
    error::Error,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::Workspace;
use crate::{
    sandbox::slot::{ARCHIVE_SIZE, FILE_SIZE, WORKSPACE_INODES, WORKSPACE_SIZE},
    tool::{
        artifact::{Failure, FailureKind},
        job::FileFailure,
    },
};

/// Directories within one another that a transfer goes into: it holds each of them open.
pub(super) const MAX_DEPTH: usize = 100;

/// What begins the name of everything that is not whole yet.
const UNFINISHED: &str = ".tool-executor-";

/// A name that nobody has.
pub(super) fn unfinished() -> String {
    format!("{UNFINISHED}{}", uuid::Uuid::now_v7())
}

/// Whether it is one, of this or another transfer.
pub(super) fn is_unfinished(name: &[u8]) -> bool {
    name.starts_with(UNFINISHED.as_bytes())
}

/// What a transfer may add to a workspace; `None` is no limit but the disk's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowance {
    /// Of one file, in bytes.
    pub file: Option<u64>,
    /// Of all together, in bytes.
    pub bytes: Option<u64>,
    /// Files and directories.
    pub inodes: Option<u64>,
    /// Of the archive that is unpacked, in bytes.
    pub archive: Option<u64>,
}

impl Allowance {
    /// Takes one file or directory.
    pub(super) fn take_entry(&mut self) -> Result<(), Failure> {
        take(&mut self.inodes, 1, WORKSPACE_INODES)
    }

    /// Takes bytes of a file that then has `size`.
    pub(super) fn take_bytes(&mut self, bytes: u64, size: u64) -> Result<(), Failure> {
        if self.file.is_some_and(|most| size > most) {
            return Err(over(FILE_SIZE));
        }
        take(&mut self.archive, bytes, ARCHIVE_SIZE)?;
        take(&mut self.bytes, bytes, WORKSPACE_SIZE)
    }
}

fn take(left: &mut Option<u64>, amount: u64, limit: &str) -> Result<(), Failure> {
    if let Some(left) = left {
        *left = left.checked_sub(amount).ok_or_else(|| over(limit))?;
    }
    Ok(())
}

fn over(limit: &str) -> Failure {
    Failure::new(FailureKind::Exhausted, format!("it is more than the slot's limit {limit} leaves room for"))
}

pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Of a system call that was about `path`.
pub(super) fn refused(path: &str, error: Errno) -> Failure {
    let (kind, message) = match error {
        Errno::NOENT => (FailureKind::NotFound, format!("File not found: {path}")),
        Errno::XDEV => (FailureKind::OutsideWorkspace, "Access denied: path outside workspace".to_owned()),
        Errno::NXIO | Errno::ISDIR => (FailureKind::WrongKind, format!("Not a file: {path}")),
        Errno::NOTDIR => (FailureKind::WrongKind, format!("Not a directory: {path}")),
        Errno::ACCESS | Errno::PERM => (FailureKind::Denied, format!("{path}: {error}")),
        Errno::NOSPC | Errno::DQUOT => {
            (FailureKind::Exhausted, format!("{path}: the workspace's disk, or its limit {WORKSPACE_SIZE}, is full"))
        }
        Errno::FBIG => (FailureKind::Exhausted, format!("{path}: more than a file may have")),
        Errno::NAMETOOLONG | Errno::LOOP | Errno::INVAL => (FailureKind::Invalid, format!("{path}: {error}")),
        other => (FailureKind::Other, format!("{path}: {other}")),
    };
    Failure::new(kind, message)
}

/// Of an operation on a stream, which may carry a [`Failure`].
pub(super) fn broken(path: &str, error: &io::Error) -> Failure {
    if let Some(failure) = error.get_ref().and_then(|inner| inner.downcast_ref::<Failure>()) {
        return failure.clone();
    }
    match Errno::from_io_error(error) {
        Some(errno) => refused(path, errno),
        None => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            Failure::new(FailureKind::Invalid, format!("{path}: {error}{cause}"))
        }
    }
}

/// Of what the workspace itself says.
pub(super) fn file_failed(path: &str, failure: FileFailure) -> Failure {
    match failure {
        FileFailure::NotFound => refused(path, Errno::NOENT),
        FileFailure::NotAFile => refused(path, Errno::ISDIR),
        FileFailure::OutsideWorkspace => refused(path, Errno::XDEV),
        FileFailure::TooLarge { size } => Failure::new(FailureKind::Exhausted, format!("File too large: {size} bytes")),
        FileFailure::Other(message) => Failure::new(FailureKind::Denied, format!("{path}: {message}")),
    }
}

/// The names in a directory in the order of their bytes, the first `most` of those that are wanted.
pub(super) fn names(
    directory: impl AsFd,
    most: usize,
    wanted: impl Fn(&[u8]) -> bool,
) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = BTreeSet::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") || is_unfinished(name) || !wanted(name) {
            continue;
        }
        if names.len() < most {
            names.insert(name.to_owned());
        } else if names.last().is_some_and(|last: &Vec<u8>| name < &**last) {
            names.pop_last();
            names.insert(name.to_owned());
        }
    }
    Ok(names.into_iter().collect())
}

/// What is there, be it a link.
pub(super) fn look(directory: impl AsFd, name: &[u8]) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A directory in a directory; never through a link.
pub(super) fn enter(directory: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

pub(super) fn kind(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}

pub(super) fn too_deep(path: &[u8]) -> Failure {
    Failure::new(FailureKind::Exhausted, format!("{}: more than {MAX_DEPTH} directories deep", shown(path)))
}

pub(super) fn join(above: &[u8], name: &[u8]) -> Vec<u8> {
    if above.is_empty() { name.to_owned() } else { [above, b"/", name].concat() }
}

impl Workspace {
    /// Of a directory, which may be the workspace itself.
    pub(super) fn directory_path(&self, path: &str) -> Result<PathBuf, Failure> {
        if path.contains('\0') {
            return Err(refused(path, Errno::XDEV));
        }
        let asked = Path::new(path);
        let inside =
            if asked.is_absolute() { self.inside(asked).ok_or_else(|| refused(path, Errno::XDEV))? } else { asked };
        Ok(if inside.as_os_str().is_empty() { ".".into() } else { inside.to_owned() })
    }

    /// Opens a directory to look into it.
    pub(super) fn open_directory(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }
}
