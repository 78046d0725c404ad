//! The files of a slot, from outside: read and written by the agent itself, without a word to the slot's processes.
//!
//! The slot's processes may change anything meanwhile, and are taken to do so with malice. So every path is resolved
//! by openat2 beneath the workspace's descriptor, in one step that no rename can trick, with the slot's own user as
//! this thread's effective one; and what was opened is looked at before it is used.

mod bring;
mod fetch;
mod guard;
mod list;
mod pack;
mod transfer;
mod unpack;

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read, Seek, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
    thread::{Gid, Uid},
};

pub use self::{fetch::Sink, list::Listing, transfer::Allowance};
use super::config::WORKSPACE;
use crate::tool::job::FileFailure;

/// How often a resolution is tried again that renames elsewhere have disturbed.
const MAX_DISTURBED: u32 = 32;

/// As many links as the kernel follows in one path.
const MAX_LINKS: u32 = 40;

/// Bounds the work that links of long targets can make: no path has more components.
const MAX_COMPONENTS: u32 = 4096;

/// Access to the files of one slot. All methods block as file systems do; none waits for a FIFO or a device.
#[derive(Debug, Clone)]
pub struct Workspace {
    directory: Arc<OwnedFd>,
    host_id: Option<u32>,
    /// Where the slot sees it.
    places: Arc<[PathBuf]>,
}

impl Workspace {
    /// `directory`: the slot's /workspace, as an O_PATH descriptor. The slot may see it at a second place.
    pub(super) fn new(directory: OwnedFd, host_id: Option<u32>, second_place: Option<&Path>) -> Self {
        let places = [Path::new(WORKSPACE)].into_iter().chain(second_place).map(Path::to_owned).collect();
        Self { directory: Arc::new(directory), host_id, places }
    }

    /// The whole file at `path`: relative to /workspace, or absolute inside it. Links are followed inside it.
    ///
    /// # Errors
    /// `TooLarge` above `max_bytes`, also if it grows to that while it is read.
    pub fn read(&self, path: &str, max_bytes: u64) -> Result<Bytes, FileFailure> {
        let path = self.relative(path)?;
        let _user = AsUser::user(self.host_id)?;
        let (file, size) = self.open_regular(&path, OFlags::RDONLY)?;
        let too_large = |size| Err(FileFailure::TooLarge { size });
        if size > max_bytes {
            return too_large(size);
        }
        let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        let read = (&file).take(max_bytes.saturating_add(1)).read_to_end(&mut content).map_err(failure)?;
        if read as u64 > max_bytes {
            return too_large(file.metadata().map_err(failure)?.len().max(read as u64));
        }
        Ok(content.into())
    }

    /// Makes `content` the content of the file at `path`, which is made if it is missing, with its directories; the
    /// number of bytes written. A file that is there keeps its mode and its other names.
    pub fn write(&self, path: &str, content: &[u8]) -> Result<u64, FileFailure> {
        let path = self.relative(path)?;
        let mut _user = AsUser::user(self.host_id)?;
        let (mut file, size) = match self.open_regular(&path, OFlags::WRONLY) {
            Err(FileFailure::NotFound) => {
                drop(_user);
                _user = AsUser::user_and_group(self.host_id)?;
                self.make_directories(&path)?;
                self.open_regular(&path, OFlags::WRONLY | OFlags::CREATE)?
            }
            other => other?,
        };
        let written = file.write_all(content);
        // Cut last: ext4 takes a file that was cut to nothing for one that is being replaced, and writes it to the disk
        // when it is closed (340 µs instead of 10). A write that fails leaves what was written, too, and no more.
        let end = file.stream_position().map_err(failure)?;
        if size > end {
            file.set_len(end).map_err(failure)?;
        }
        written.map_err(failure)?;
        Ok(content.len() as u64)
    }

    /// What the file system that the workspace is in has left, in bytes and files.
    pub fn room(&self) -> io::Result<(u64, u64)> {
        let room = rustix::fs::fstatvfs(&self.directory)?;
        Ok((room.f_bavail * room.f_frsize, room.f_favail))
    }

    /// The file, and how large it is.
    fn open_regular(&self, path: &Path, flags: OFlags) -> Result<(File, u64), FileFailure> {
        // Not waiting for the other end of a FIFO, not taking a terminal.
        let file = self.resolve(path, flags | OFlags::NONBLOCK | OFlags::NOCTTY).map_err(errno_failure)?;
        let found = rustix::fs::fstat(&file).map_err(errno_failure)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => Ok((file.into(), u64::try_from(found.st_size).unwrap_or(0))),
            _ => Err(FileFailure::NotAFile),
        }
    }

    /// Makes what is missing of the directories above `path`.
    fn make_directories(&self, path: &Path) -> Result<(), FileFailure> {
        let Some(directory) = path.parent() else { return Ok(()) };
        let look = |path: &Path| self.resolve(path, OFlags::PATH | OFlags::DIRECTORY);
        // Mostly it is there.
        match look(directory) {
            Err(Errno::NOENT) => {}
            other => return other.map(drop).map_err(errno_failure),
        }
        let mut above = PathBuf::from(".");
        for component in directory.components() {
            if let Component::Normal(name) = component {
                let parent = look(&above).map_err(errno_failure)?;
                match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(errno_failure(error)),
                }
            }
            above.push(component);
        }
        Ok(())
    }

    /// Opens `path` beneath the workspace. The kernel refuses every absolute link (XDEV), though one may lead back into
    /// the workspace, as the slot sees it; then the links are followed here, one by one, and what they lead to
    /// is opened in the same safe way.
    fn resolve(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        match self.open_beneath(path, flags) {
            Err(Errno::XDEV) => self.open_beneath(&self.without_links(path)?, flags),
            other => other,
        }
    }

    fn open_beneath(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o644) } else { Mode::empty() };
        let mut disturbed = 0;
        loop {
            match rustix::fs::openat2(&self.directory, path, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN) if disturbed < MAX_DISTURBED => disturbed += 1,
                Err(Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// The path that `path` means once its links are followed, as the slot would follow them.
    fn without_links(&self, path: &Path) -> rustix::io::Result<PathBuf> {
        let (mut links, mut components) = (0, 0);
        let mut resolved = PathBuf::new();
        let mut ahead: Vec<PathBuf> = components_reversed(path);
        while let Some(component) = ahead.pop() {
            components += 1;
            if links > MAX_LINKS || components > MAX_COMPONENTS {
                return Err(Errno::LOOP);
            }
            if component == Path::new("..") {
                // Beyond the workspace the slot would be outside too.
                if !resolved.pop() {
                    return Err(Errno::XDEV);
                }
                continue;
            }
            let next = resolved.join(&component);
            let Some(target) = self.link_at(&next)? else {
                resolved = next;
                continue;
            };
            links += 1;
            if target.is_absolute() {
                resolved = PathBuf::new();
                ahead.extend(components_reversed(self.inside(&target).ok_or(Errno::XDEV)?));
            } else {
                ahead.extend(components_reversed(&target));
            }
        }
        Ok(if resolved.as_os_str().is_empty() { ".".into() } else { resolved })
    }

    /// The target of the link at `path`, or `None` if something else is there, or nothing.
    fn link_at(&self, path: &Path) -> rustix::io::Result<Option<PathBuf>> {
        let entry = match self.open_beneath(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        match rustix::fs::readlinkat(entry.as_fd(), "", Vec::new()) {
            Ok(target) => Ok(Some(bytes_path(target))),
            // As the kernel says of what is no link.
            Err(Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What of an absolute path lies below the workspace; `None` for other places.
    fn inside<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        self.places.iter().find_map(|place| path.strip_prefix(place).ok())
    }

    /// The path as it is opened below the workspace.
    fn relative(&self, path: &str) -> Result<PathBuf, FileFailure> {
        if path.is_empty() {
            return Err(FileFailure::NotAFile);
        }
        if path.contains('\0') {
            return Err(FileFailure::OutsideWorkspace);
        }
        let names_directory = path.ends_with('/');
        let path = Path::new(path);
        let relative = if path.is_absolute() { self.inside(path).ok_or(FileFailure::OutsideWorkspace)? } else { path };
        if relative.as_os_str().is_empty() || names_directory {
            return Err(FileFailure::NotAFile);
        }
        Ok(relative.to_owned())
    }
}

fn bytes_path(path: CString) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(path.into_bytes()).into()
}

fn components_reversed(path: &Path) -> Vec<PathBuf> {
    let significant = |c: &Component<'_>| matches!(c, Component::Normal(_) | Component::ParentDir);
    path.components().filter(significant).rev().map(|c| PathBuf::from(c.as_os_str())).collect()
}

fn errno_failure(error: Errno) -> FileFailure {
    match error {
        Errno::NOENT => FileFailure::NotFound,
        Errno::XDEV => FileFailure::OutsideWorkspace,
        // A socket, or a FIFO without a reader.
        Errno::NXIO => FileFailure::NotAFile,
        other => failure(other.into()),
    }
}

fn failure(error: io::Error) -> FileFailure {
    FileFailure::Other(error.to_string())
}

/// This thread's effective user is the slot's while it lives, and its effective group where files are made. Everything in
/// a workspace is its user's, whose group decides about nothing that is there already. Real and saved ids stay, so that
/// the slot's processes cannot signal or trace the agent meanwhile; and effective capabilities are off as long.
struct AsUser {
    user: bool,
    group: bool,
}

impl AsUser {
    fn user(host_id: Option<u32>) -> Result<Self, FileFailure> {
        let mut this = Self { user: false, group: false };
        this.become_user(host_id)?;
        Ok(this)
    }

    fn user_and_group(host_id: Option<u32>) -> Result<Self, FileFailure> {
        let mut this = Self { user: false, group: false };
        if let Some(id) = host_id {
            rustix::thread::set_thread_res_gid(None, Gid::from_raw(id), None).map_err(errno_failure)?;
            this.group = true;
        }
        this.become_user(host_id)?;
        Ok(this)
    }

    fn become_user(&mut self, host_id: Option<u32>) -> Result<(), FileFailure> {
        if let Some(id) = host_id {
            rustix::thread::set_thread_res_uid(None, Uid::from_raw(id), None).map_err(errno_failure)?;
            self.user = true;
        }
        Ok(())
    }
}

impl Drop for AsUser {
    fn drop(&mut self) {
        // The user first: it has what it takes to set the group back.
        let user = if self.user { rustix::thread::set_thread_res_uid(None, Uid::ROOT, None) } else { Ok(()) };
        let group = if self.group { rustix::thread::set_thread_res_gid(None, Gid::ROOT, None) } else { Ok(()) };
        if user.and(group).is_err() {
            // The kernel does not refuse this. If it did, whatever this thread did next would be done as somebody else.
            std::process::abort();
        }
    }
}
