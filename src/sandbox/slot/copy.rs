//! A copy of a directory tree that belongs to a slot's user: what a workspace begins with.
//!
//! Links are copied as links, and none is followed. Files that have several names keep them. Blocks of files are shared
//! with the source where the file system can do that. Sockets, FIFOs and devices are left out: nobody serves them.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid},
    io::Errno,
};

/// What of a tree is copied, and how.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    /// Of everything in the copy; none: this process's user.
    pub(super) owner: Option<u32>,
    pub(super) only_directories: bool,
    /// What this process cannot read, or what is gone when it comes to it, is left out; else it is a failure.
    pub(super) only_readable: bool,
    /// A directory that is left out.
    pub(super) except: Option<PathBuf>,
}

/// Copies what is in `source` into `target`, an empty directory, which gets the source's mode too. Blocks for as long
/// as that takes.
///
/// # Errors
/// The first failure, with the path that it happened to.
pub(super) fn copy_tree(source: &Path, target: &Path, rules: &Rules) -> Result<(), (PathBuf, io::Error)> {
    // A link that is the source itself is followed: it is what the configuration names.
    let open = |path: &Path| open_directory(CWD, path, ResolveFlags::empty()).map_err(|error| failed(path, error));
    let stat = |path: &Path| rustix::fs::stat(path).map_err(|error| failed(path, error));
    let except = rules.except.as_deref().map(stat).transpose()?.as_ref().map(identity);
    let mut copying = Copying { source: open(source)?, target: open(target)?, rules, except, names: HashMap::new() };
    let (mut directories, mut next) = (vec![(PathBuf::from("."), stat(source)?)], 0);
    while next < directories.len() {
        let directory = directories[next].0.clone();
        let found =
            copying.fill(&directory).map_err(|(name, error)| failed(&source.join(&directory).join(name), error))?;
        directories.extend(found);
        next += 1;
    }
    // Last, and from below: a directory may be one that its owner cannot write to, and its time is that of its last
    // change.
    for (directory, original) in directories.iter().rev() {
        copying.finish(directory, original).map_err(|error| failed(&source.join(directory), error))?;
    }
    Ok(())
}

fn failed(path: &Path, error: impl Into<io::Error>) -> (PathBuf, io::Error) {
    (path.to_owned(), error.into())
}

struct Copying<'a> {
    source: OwnedFd,
    target: OwnedFd,
    rules: &'a Rules,
    except: Option<(u64, u64)>,
    /// Where the first name of a file with several ones is in the target, by the file's device and number.
    names: HashMap<(u64, u64), PathBuf>,
}

impl Copying<'_> {
    /// Copies what is in one directory; the directories in it, which are made, but empty.
    fn fill(&mut self, directory: &Path) -> Result<Vec<(PathBuf, Stat)>, (PathBuf, io::Error)> {
        let whole = |error: Errno| (PathBuf::new(), io::Error::from(error));
        let source = match open_directory(&self.source, directory, SAFELY) {
            Err(Errno::ACCESS | Errno::NOENT) if self.rules.only_readable => return Ok(Vec::new()),
            other => other.map_err(whole)?,
        };
        let target = open_directory(&self.target, directory, SAFELY).map_err(whole)?;
        let mut directories = Vec::new();
        for entry in Dir::read_from(&source).map_err(whole)? {
            let entry = entry.map_err(whole)?;
            let name = Path::new(OsStr::from_bytes(entry.file_name().to_bytes()));
            if [Path::new("."), Path::new("..")].contains(&name) {
                continue;
            }
            let copied = self.copy(source.as_fd(), target.as_fd(), directory, name);
            if let Some(original) = copied.map_err(|error| (name.to_owned(), error))? {
                directories.push((directory.join(name), original));
            }
        }
        Ok(directories)
    }

    /// If it is a directory, what it is like.
    fn copy(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        directory: &Path,
        name: &Path,
    ) -> io::Result<Option<Stat>> {
        let found = match rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) if self.rules.only_readable => return Ok(None),
            other => other?,
        };
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory if self.except == Some(identity(&found)) => {}
            FileType::Directory => {
                rustix::fs::mkdirat(target, name, Mode::RWXU)?;
                return Ok(Some(found));
            }
            _ if self.rules.only_directories => {}
            FileType::Symlink => {
                rustix::fs::symlinkat(rustix::fs::readlinkat(source, name, Vec::new())?, target, name)?;
                self.give_link(target, name, &found)?;
            }
            FileType::RegularFile => match self.names.get(&identity(&found)) {
                Some(first) => rustix::fs::linkat(&self.target, first, target, name, AtFlags::empty())?,
                None => {
                    self.copy_file(source, target, name)?;
                    if found.st_nlink > 1 && !self.rules.only_readable {
                        self.names.insert(identity(&found), directory.join(name));
                    }
                }
            },
            _ => {}
        }
        Ok(None)
    }

    fn copy_file(&self, source: BorrowedFd<'_>, target: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let source = match rustix::fs::openat(source, name, flags | OFlags::RDONLY, Mode::empty()) {
            Err(Errno::ACCESS | Errno::NOENT) if self.rules.only_readable => return Ok(()),
            other => other?,
        };
        let found = rustix::fs::fstat(&source)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = rustix::fs::openat(target, name, flags, Mode::RUSR | Mode::WUSR)?;
        if found.st_size > 0 && rustix::fs::ioctl_ficlone(&target, &source).is_err() {
            io::copy(&mut File::from(source), &mut File::from(target.try_clone()?))?;
        }
        self.give(target.as_fd(), &found)
    }

    /// A directory that nothing is put into any more.
    fn finish(&self, directory: &Path, original: &Stat) -> io::Result<()> {
        self.give(open_directory(&self.target, directory, SAFELY)?.as_fd(), original)
    }

    /// To the owner, with the mode and the time of the original: compiled Python files are of use only as long as their
    /// sources have the time that they had. The owner first, since a change of it takes bits off the mode.
    fn give(&self, target: BorrowedFd<'_>, original: &Stat) -> io::Result<()> {
        let id = self.rules.owner;
        rustix::fs::fchown(target, id.map(Uid::from_raw), id.map(Gid::from_raw))?;
        rustix::fs::fchmod(target, Mode::from_raw_mode(original.st_mode))?;
        Ok(rustix::fs::futimens(target, &times(original))?)
    }

    fn give_link(&self, target: BorrowedFd<'_>, name: &Path, original: &Stat) -> io::Result<()> {
        let id = self.rules.owner;
        let (owner, group) = (id.map(Uid::from_raw), id.map(Gid::from_raw));
        rustix::fs::chownat(target, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(rustix::fs::utimensat(target, name, &times(original), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// Below the directories that this began with, whatever has been put in the place of one in them.
const SAFELY: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

fn open_directory(parent: impl AsFd, path: &Path, resolve: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(parent, path, flags, Mode::empty(), resolve)
}

fn identity(file: &Stat) -> (u64, u64) {
    (file.st_dev, file.st_ino)
}

fn times(original: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps {
        last_access: time(original.st_atime, original.st_atime_nsec as _),
        last_modification: time(original.st_mtime, original.st_mtime_nsec as _),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    use super::*;

    #[test]
    fn a_copy_is_like_its_source() {
        let home = tempfile::tempdir().unwrap();
        let (source, target) = (home.path().join("source"), home.path().join("target"));
        fs::create_dir_all(source.join("a/b")).unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(source.join("a/b/script"), "content").unwrap();
        fs::write(source.join("empty"), "").unwrap();
        fs::hard_link(source.join("a/b/script"), source.join("another")).unwrap();
        symlink("/etc", source.join("link")).unwrap();
        symlink("nowhere", source.join("a/dangling")).unwrap();
        std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(&source.join("a/b/script"), 0o751);
        mode(&source.join("a/b"), 0o555);
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        File::open(source.join("a/b/script")).unwrap().set_modified(time).unwrap();
        File::open(source.join("a/b")).unwrap().set_modified(time).unwrap();

        copy_tree(&source, &target, &Rules::default()).unwrap();
        let copied = |path: &str| fs::symlink_metadata(target.join(path)).unwrap();
        assert_eq!(fs::read_to_string(target.join("a/b/script")).unwrap(), "content");
        assert_eq!((copied("a/b/script").mode() & 0o7777, copied("a/b").mode() & 0o7777), (0o751, 0o555));
        assert_eq!((copied("a/b/script").mtime(), copied("a/b").mtime()), (1_000_000_000, 1_000_000_000));
        assert_eq!(copied("another").ino(), copied("a/b/script").ino());
        assert_ne!(copied("another").ino(), fs::metadata(source.join("another")).unwrap().ino());
        assert_eq!(fs::read_link(target.join("link")).unwrap(), Path::new("/etc"));
        assert_eq!(fs::read_link(target.join("a/dangling")).unwrap(), Path::new("nowhere"));
        assert_eq!(copied("empty").len(), 0);
        assert!(!target.join("socket").exists());
        for writable in [source.join("a/b"), target.join("a/b")] {
            mode(&writable, 0o755);
        }
    }

    #[test]
    fn a_copy_may_be_of_directories_alone_and_lie_in_its_source() {
        let home = tempfile::tempdir().unwrap();
        let (inner, target) = (home.path().join("a/b"), home.path().join("state/copy"));
        fs::create_dir_all(&inner).unwrap();
        fs::create_dir_all(&target).unwrap();
        fs::write(inner.join("file"), "").unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o711)).unwrap();
        let rules = Rules { only_directories: true, except: Some(home.path().join("state")), ..Rules::default() };
        copy_tree(home.path(), &target, &rules).unwrap();
        assert_eq!(fs::metadata(target.join("a/b")).unwrap().mode() & 0o7777, 0o711);
        assert_eq!(fs::read_dir(target.join("a/b")).unwrap().count(), 0);
        assert!(!target.join("state").exists());
    }

    #[test]
    fn a_failure_names_its_path() {
        let home = tempfile::tempdir().unwrap();
        let (path, _) = copy_tree(&home.path().join("none"), home.path(), &Rules::default()).unwrap_err();
        assert_eq!(path, home.path().join("none"));
    }
}
