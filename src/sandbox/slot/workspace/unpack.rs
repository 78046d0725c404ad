//! Unpacks an archive into a directory of a workspace.
//!
//! Whoever made the archive may mean harm. All of it is unpacked into a directory beside, in which no link is followed,
//! and only what is whole and allowed is then moved to its place; what is not leaves nothing behind. Bounds: entries,
//! depth, what an entry's header may have, what comes out for what went in, and the slot's own limits.

use std::{
    cell::Cell,
    ffi::OsStr,
    io::{self, BufReader, Read},
    os::fd::{AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
    rc::Rc,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps},
    io::Errno,
};
use tar::{Archive, Entry, EntryType};

use super::{
    AsUser, Workspace,
    bring::{create, pour},
    fetch::CHUNK,
    guard::{Counted, Guard, Guarded, MAX_HEADER, invalid},
    pack::as_path,
    transfer::{
        Allowance, MAX_DEPTH, broken, enter, file_failed, kind, look, names, refused, shown, too_deep, unfinished,
    },
};
use crate::{
    sandbox::slot::{ARCHIVE_ENTRIES, TransferLimits},
    tool::artifact::{Failure, FailureKind, Packing},
};

/// The memory that reading a zstd stream may ask for: 2 to this power.
const ZSTD_WINDOW: u32 = 27;

impl Workspace {
    /// Unpacks what `content` gives into the directory at `path`, which is made if it is missing: how many entries. Files
    /// that are there already are replaced, others stay.
    pub fn unpack(
        &self,
        path: &str,
        packing: Packing,
        allowance: Allowance,
        limits: &TransferLimits,
        content: &mut dyn Read,
    ) -> Result<u64, Failure> {
        let allowance = Allowance { archive: Some(limits.archive_bytes), ..allowance };
        let place = self.directory_path(path)?;
        let _user = AsUser::user_and_group(self.host_id).map_err(|failure| file_failed(path, failure))?;
        let place = self.without_links(&place).map_err(|error| refused(path, error))?;
        // Said before anything is sent in vain.
        match self.open_directory(&place) {
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(refused(path, error)),
        }
        let root = self.open_directory(Path::new(".")).map_err(|error| refused(path, error))?;
        let beside = unfinished();
        rustix::fs::mkdirat(&root, &beside, Mode::from_raw_mode(0o700)).map_err(|error| refused(path, error))?;
        let unpacked = enter(&root, beside.as_bytes()).map_err(|error| refused(path, error)).and_then(|staging| {
            let mut unpacker = Unpacker {
                staging,
                below: depth_of(&place),
                allowance,
                entries: 0,
                max_entries: limits.archive_entries,
                places: &self.places,
            };
            unpacker.all(packing, content)?;
            self.make_directories(&place.join("x")).map_err(|failure| file_failed(path, failure))?;
            let target = self.open_directory(&place).map_err(|error| refused(path, error))?;
            // First looked at as a whole: either all of it fits, or nothing is moved.
            for act in [false, true] {
                merge(&unpacker.staging, &target, act, 0)?;
            }
            Ok(unpacker.entries)
        });
        // Every name in it is opened from its own directory, and no link followed. What the slot's user does to it
        // meanwhile happens to files of its own.
        let _ = std::fs::remove_dir_all(Path::new("/proc/self/fd").join(root.as_raw_fd().to_string()).join(&beside));
        unpacked
    }
}

fn depth_of(path: &Path) -> usize {
    path.components().filter(|component| matches!(component, Component::Normal(_))).count()
}

struct Unpacker<'a> {
    staging: OwnedFd,
    /// How many directories below the workspace it is to lie.
    below: usize,
    allowance: Allowance,
    entries: u64,
    max_entries: u64,
    /// Where the slot sees its workspace.
    places: &'a [PathBuf],
}

impl Unpacker<'_> {
    fn all(&mut self, packing: Packing, content: &mut dyn Read) -> Result<(), Failure> {
        let went_in = Rc::new(Cell::new(0));
        let input = Counted { inner: content, count: went_in.clone() };
        match packing {
            // It is as large as what is in it.
            Packing::Tar => self.entries(input, None),
            Packing::TarGz => self
                .entries(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(CHUNK, input)), Some(went_in)),
            Packing::TarZst => {
                let mut unpacked = zstd::stream::Decoder::new(input).map_err(|error| broken("the archive", &error))?;
                unpacked.window_log_max(ZSTD_WINDOW).map_err(|error| broken("the archive", &error))?;
                self.entries(unpacked, Some(went_in))
            }
        }
    }

    fn entries(&mut self, content: impl Read, went_in: Option<Rc<Cell<u64>>>) -> Result<(), Failure> {
        let guard = Rc::new(Guard::default());
        let guarded = Guarded { inner: content, guard: guard.clone(), came_out: 0, went_in };
        let fault = |error: &io::Error| guard.fault.take().unwrap_or_else(|| broken("the archive", error));
        let mut archive = Archive::new(guarded);
        let mut entries = archive.entries().map_err(|error| fault(&error))?;
        loop {
            guard.header_left.set(Some(MAX_HEADER));
            let Some(entry) = entries.next() else { break };
            let mut entry = entry.map_err(|error| fault(&error))?;
            guard.header_left.set(None);
            self.entry(&mut entry).map_err(|failure| guard.fault.take().unwrap_or(failure))?;
            // What is left of it is none of the next one's header.
            io::copy(&mut entry, &mut io::sink()).map_err(|error| fault(&error))?;
        }
        match self.entries {
            // tar reads nothing at all as an archive of nothing.
            0 if guard.read.get() == 0 => Err(invalid("the archive is empty: not even its end is there")),
            _ => Ok(()),
        }
    }

    fn entry(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<(), Failure> {
        let named = entry.path_bytes().into_owned();
        let name = shown(&named);
        let path = inner(&named)?;
        let header = entry.header();
        let mode = header.mode().map_err(|error| broken(&name, &error))? & 0o777;
        let modified = header.mtime().unwrap_or(0);
        let what = header.entry_type();
        let Some((parent, last)) = split(&path) else {
            // The directory itself.
            return if what.is_dir() { Ok(()) } else { Err(invalid(format!("{name}: names no file"))) };
        };
        self.entries += 1;
        if self.entries > self.max_entries {
            let message = format!("the archive has over {} entries ({ARCHIVE_ENTRIES})", self.max_entries);
            return Err(Failure::new(FailureKind::Exhausted, message));
        }
        let directory = self.make(parent, &named)?;
        let fail = |error| refused(&name, error);
        match what {
            EntryType::Directory => {
                let path = parent.join(last);
                let made = self.make(&path, &named)?;
                rustix::fs::fchmod(made, Mode::from_raw_mode(mode | 0o700)).map_err(fail)
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.clear(&directory, last, &name)?;
                let mut file = create(&directory, last.as_encoded_bytes()).map_err(fail)?;
                pour(&name, entry, &mut file, &mut self.allowance, mode)?;
                let at = Timespec { tv_sec: i64::try_from(modified).unwrap_or(0), tv_nsec: 0 };
                rustix::fs::futimens(&file, &Timestamps { last_access: at, last_modification: at }).map_err(fail)
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| invalid(format!("{name}: a link to nothing")))?;
                if target.is_empty() || target.contains(&0) || self.leads_out(&path, as_path(&target)) {
                    return Err(invalid(format!("{name}: a link that leads out: {}", shown(&target))));
                }
                self.clear(&directory, last, &name)?;
                rustix::fs::symlinkat(&*target, &directory, last).map_err(fail)
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().ok_or_else(|| invalid(format!("{name}: a link to nothing")))?;
                let (target, told) = (inner(&target)?, shown(&target));
                let (above, file) = split(&target).ok_or_else(|| invalid(format!("{name}: a link to a directory")))?;
                let missing = |_| invalid(format!("{name}: a link to {told}, which is no earlier file of the archive"));
                let from = self.open(above, OFlags::PATH | OFlags::DIRECTORY).map_err(missing)?;
                let found =
                    look(&from, file.as_encoded_bytes()).map_err(missing)?.ok_or(Errno::NOENT).map_err(missing)?;
                if kind(&found) != FileType::RegularFile {
                    return Err(missing(Errno::INVAL));
                }
                if target != path {
                    self.clear(&directory, last, &name)?;
                    rustix::fs::linkat(&from, file, &directory, last, AtFlags::empty()).map_err(fail)?;
                }
                Ok(())
            }
            EntryType::XGlobalHeader => {
                self.entries -= 1;
                Ok(())
            }
            other => Err(invalid(format!("{name}: a device, a FIFO or something unknown ({other:?}): none is taken"))),
        }
    }

    /// Whether a link at `path` would lead out of the workspace, as far as its words tell.
    fn leads_out(&self, path: &Path, target: &Path) -> bool {
        if target.is_absolute() {
            let inside = self.places.iter().find_map(|place| target.strip_prefix(place).ok());
            return inside.is_none_or(|inside| climbs(inside, 0));
        }
        climbs(target, self.below + depth_of(path) - 1)
    }

    /// Makes room for a later entry of the same name.
    fn clear(&mut self, directory: &OwnedFd, last: &OsStr, name: &str) -> Result<(), Failure> {
        self.allowance.take_entry()?;
        match rustix::fs::unlinkat(directory, last, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => Err(invalid(format!("{name}: a directory, and then something else"))),
            Err(error) => Err(refused(name, error)),
        }
    }

    /// Makes a directory with those above it. `named`: whose they are.
    fn make(&mut self, path: &Path, named: &[u8]) -> Result<OwnedFd, Failure> {
        if depth_of(path) > MAX_DEPTH {
            return Err(too_deep(named));
        }
        let look = OFlags::RDONLY | OFlags::DIRECTORY;
        match self.open(path, look) {
            Err(Errno::NOENT) => {}
            Ok(directory) => return Ok(directory),
            Err(error) => return Err(through(named, error)),
        }
        let mut directory = self.open(Path::new("."), look).map_err(|error| through(named, error))?;
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            match rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => self.allowance.take_entry()?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(refused(&shown(named), error)),
            }
            directory = enter(&directory, name.as_encoded_bytes()).map_err(|error| through(named, error))?;
        }
        Ok(directory)
    }

    /// Beneath what is being unpacked, and through no link.
    fn open(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.staging, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }
}

/// Moves what is in one directory to another; or, unless it is to `act`, looks whether it can.
fn merge(from: &OwnedFd, to: &OwnedFd, act: bool, depth: usize) -> Result<(), Failure> {
    if depth > MAX_DEPTH {
        return Err(too_deep(&[]));
    }
    for name in names(from, usize::MAX, |_| true).map_err(|error| refused("the archive", error))? {
        let shown = shown(&name);
        let fail = |error| refused(&shown, error);
        let Some(new) = look(from, &name).map_err(fail)? else { continue };
        let is_directory = kind(&new) == FileType::Directory;
        match look(to, &name).map_err(fail)?.as_ref().map(kind) {
            Some(FileType::Directory) if is_directory => {
                merge(&enter(from, &name).map_err(fail)?, &enter(to, &name).map_err(fail)?, act, depth + 1)?;
            }
            Some(FileType::RegularFile | FileType::Symlink) if !is_directory => move_to(from, to, &name, act)?,
            None => move_to(from, to, &name, act)?,
            Some(_) => {
                let message = format!("{shown}: something of another kind is there");
                return Err(Failure::new(FailureKind::WrongKind, message));
            }
        }
    }
    Ok(())
}

fn move_to(from: &OwnedFd, to: &OwnedFd, name: &[u8], act: bool) -> Result<(), Failure> {
    let moved = if act { rustix::fs::renameat(from, name, to, name) } else { Ok(()) };
    moved.map_err(|error| refused(&shown(name), error))
}

/// The path that an entry has inside the archive.
fn inner(named: &[u8]) -> Result<PathBuf, Failure> {
    let bad = |why| Err(invalid(format!("{}: {why}", shown(named))));
    if named.contains(&0) {
        return bad("a name with a NUL in it");
    }
    let mut path = PathBuf::new();
    for component in as_path(named).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => return bad("a path that has `..` in it"),
            Component::RootDir | Component::Prefix(_) => return bad("an absolute path"),
        }
    }
    Ok(path)
}

fn split(path: &Path) -> Option<(&Path, &OsStr)> {
    Some((path.parent()?, path.file_name()?))
}

/// Whether a path leads above a directory so many levels up.
fn climbs(path: &Path, levels: usize) -> bool {
    let mut level = levels;
    path.components().any(|component| match component {
        Component::ParentDir => match level.checked_sub(1) {
            Some(up) => {
                level = up;
                false
            }
            None => true,
        },
        Component::Normal(_) => {
            level += 1;
            false
        }
        _ => false,
    })
}

/// An entry that is to lie in what is no directory.
fn through(named: &[u8], error: Errno) -> Failure {
    match error {
        Errno::NOTDIR | Errno::LOOP | Errno::XDEV => {
            invalid(format!("{}: leads through a file or a link of the archive", shown(named)))
        }
        other => refused(&shown(named), other),
    }
}
