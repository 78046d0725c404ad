//! The file system that a slot sees: a read-only root of its own, with the host's system directories shown read-only,
//! and /workspace, /tmp and /dev/shm to write to.
//!
//! Sources are opened as the agent's user, before the maker becomes the slot's, and are mounted afterwards. /tmp and
//! /dev/shm are two directories of one file system of bounded size, which lives as long as the slot's processes: a
//! call finds there what an earlier or a concurrent one left.

use std::{
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::symlink},
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
        UnmountFlags,
    },
};

use super::super::{
    error::{At as _, SlotError, Step},
    sys,
    wire::SlotSpec,
};

/// Shown where the host has them.
const SYSTEM: [&str; 4] = ["usr", "etc", "opt", "nix"];

/// Shown as the host has them: a directory, or a link into /usr.
const MERGED: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

const DEVICE_LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// What is the slot's own there, and can show nothing of the host.
const OWN: [&str; 4] = ["proc", "dev", "tmp", "workspace"];

/// A link to /tmp.
const VAR_TMP: &str = "var/tmp";

/// One inode of /tmp for so many of its bytes: small files cost memory too.
const BYTES_PER_INODE: u64 = 4096;

/// Files and directories of the host, opened and made read-only, and where they go.
pub(super) struct Sources {
    trees: Vec<(PathBuf, OwnedFd)>,
    links: Vec<(&'static str, PathBuf)>,
    workspace: OwnedFd,
}

/// Detaches copies of all that the slot is to see from this (new) mount namespace.
pub(super) fn open_sources(spec: &SlotSpec) -> Result<Sources, SlotError> {
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .at_the(Step::OpenSource, "mount propagation")?;
    let workspace = clone_tree(Path::new(".")).at_the(Step::OpenSource, "/workspace")?;
    sys::add_mount_attributes(
        workspace.as_fd(),
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
        true,
    )
    .at_the(Step::OpenSource, "/workspace")?;
    let mut sources = Sources { trees: Vec::new(), links: Vec::new(), workspace };

    for name in SYSTEM {
        if Path::new("/").join(name).is_dir() {
            sources.show(Path::new(name))?;
        }
    }
    for name in MERGED {
        let path = Path::new("/").join(name);
        match fs::symlink_metadata(&path) {
            Ok(entry) if entry.is_symlink() => {
                sources.links.push((name, fs::read_link(&path).at_the(Step::OpenSource, path.display())?));
            }
            Ok(entry) if entry.is_dir() => sources.show(Path::new(name))?,
            _ => {}
        }
    }
    for path in &spec.read_only {
        let path = Path::new(OsStr::from_bytes(path));
        sources.show(&inside(path).at_the(Step::OpenSource, path.display())?)?;
    }
    if spec.network {
        sources.show_resolver()?;
    }
    Ok(sources)
}

impl Sources {
    fn show(&mut self, relative: &Path) -> Result<(), SlotError> {
        let path = Path::new("/").join(relative);
        let tree = open_read_only(&path).at_the(Step::OpenSource, path.display())?;
        self.trees.push((relative.to_owned(), tree));
        Ok(())
    }

    /// Where /etc/resolv.conf is a link into /run, which slots do not see, names could not be resolved.
    fn show_resolver(&mut self) -> Result<(), SlotError> {
        match fs::canonicalize("/etc/resolv.conf") {
            Ok(target) => match target.strip_prefix("/") {
                Ok(relative) if relative.starts_with("run") => self.show(relative),
                _ => Ok(()),
            },
            Err(_) => Ok(()),
        }
    }
}

/// A configured path, relative to the slot's root.
fn inside(path: &Path) -> io::Result<PathBuf> {
    let invalid = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    let mut components = path.components();
    if components.next() != Some(Component::RootDir) {
        return invalid("the path is not absolute");
    }
    let relative = components.as_path().to_owned();
    if relative.components().any(|component| !matches!(component, Component::Normal(_))) {
        return invalid("the path has a .. in it");
    }
    match relative.components().next() {
        None => invalid("the whole file system cannot be shown"),
        Some(_) if relative.starts_with(VAR_TMP) => invalid("slots have their own"),
        Some(first) if OWN.iter().any(|own| first.as_os_str() == *own) => invalid("slots have their own"),
        Some(_) => Ok(relative),
    }
}

/// Mounts everything, and leaves this process in the finished root. It is mounted over the workspace's place in the
/// host's tree, which exists and which nothing else in this mount namespace uses.
pub(super) fn build(sources: Sources, spec: &SlotSpec) -> Result<(), SlotError> {
    let root = tmpfs(&[("mode", "755"), ("size", "4m")], MountAttrFlags::MOUNT_ATTR_NODEV).at(Step::MountRoot)?;
    attach(root.as_fd(), ".").at(Step::MountRoot)?;
    rustix::process::fchdir(&root).at(Step::MountRoot)?;
    for directory in OWN.iter().chain(&["run", "var"]) {
        fs::create_dir(directory).at_the(Step::MountRoot, directory)?;
    }
    symlink("../tmp", VAR_TMP).at_the(Step::MountRoot, "/var/tmp")?;
    for (name, target) in &sources.links {
        symlink(target, name).at_the(Step::MountRoot, name)?;
    }
    for (relative, tree) in &sources.trees {
        show(relative, tree.as_fd()).at_the(Step::MountSource, relative.display())?;
    }
    attach(sources.workspace.as_fd(), "workspace").at(Step::MountWorkspace)?;
    let devices = build_dev()?;
    build_tmp(spec.tmp_bytes).at(Step::MountTmp)?;
    for mount in [devices, root] {
        sys::add_mount_attributes(mount.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, false).at(Step::MountRoot)?;
    }
    Ok(())
}

/// Attaches a source, after making the place for it where an earlier source does not show one.
fn show(relative: &Path, tree: BorrowedFd<'_>) -> io::Result<()> {
    if fs::symlink_metadata(relative).is_err() {
        if let Some(parent) = relative.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(tree)?.st_mode);
        if file.is_dir() { fs::create_dir(relative)? } else { fs::File::create(relative).map(drop)? }
    }
    attach(tree, relative)
}

fn build_dev() -> Result<OwnedFd, SlotError> {
    let dev = tmpfs(&[("mode", "755"), ("size", "64k")], MountAttrFlags::MOUNT_ATTR_NOEXEC).at(Step::MountDev)?;
    attach(dev.as_fd(), "dev").at(Step::MountDev)?;
    for name in DEVICES {
        let place = Path::new("dev").join(name);
        let device = || {
            let device = clone_tree(&Path::new("/").join(&place))?;
            fs::File::create(&place)?;
            let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
            sys::add_mount_attributes(device.as_fd(), attributes, true)?;
            attach(device.as_fd(), &place)
        };
        device().at_the(Step::MountDev, place.display())?;
    }
    for (name, target) in DEVICE_LINKS {
        symlink(target, Path::new("dev").join(name)).at_the(Step::MountDev, name)?;
    }
    for directory in ["dev/pts", "dev/shm"] {
        fs::create_dir(directory).at_the(Step::MountDev, directory)?;
    }
    rustix::mount::mount(
        "devpts",
        "dev/pts",
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        Some(c"newinstance,ptmxmode=0666,mode=620"),
    )
    .at_the(Step::MountDev, "/dev/pts")?;
    Ok(dev)
}

fn build_tmp(bytes: u64) -> io::Result<()> {
    let (size, inodes) = (bytes.to_string(), (bytes / BYTES_PER_INODE).max(1024).to_string());
    let options = [("mode", "755"), ("size", size.as_str()), ("nr_inodes", inodes.as_str())];
    let both = tmpfs(&options, MountAttrFlags::MOUNT_ATTR_NODEV)?;
    // Only what is attached can be cloned from, so it passes through /tmp.
    attach(both.as_fd(), "tmp")?;
    let mut directories = Vec::new();
    for place in ["tmp", "dev/shm"] {
        let directory = Path::new("tmp").join(place.replace('/', "-"));
        fs::create_dir(&directory)?;
        rustix::fs::chmod(&directory, Mode::from_raw_mode(0o1777))?;
        directories.push((place, clone_tree(&directory)?));
    }
    rustix::mount::unmount("tmp", UnmountFlags::DETACH)?;
    directories.iter().try_for_each(|(place, directory)| attach(directory.as_fd(), place))
}

/// A new file system in memory, not attached anywhere yet; set-user-id programs have no effect on it.
fn tmpfs(options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(&context, *key, *value)?;
    }
    rustix::mount::fsconfig_create(&context)?;
    let attributes = attributes | MountAttrFlags::MOUNT_ATTR_NOSUID;
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn clone_tree(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    Ok(rustix::mount::open_tree(CWD, path, flags)?)
}

/// A detached, recursively read-only copy of the mounts at `path`.
pub(super) fn open_read_only(path: &Path) -> io::Result<OwnedFd> {
    let tree = clone_tree(path)?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    sys::add_mount_attributes(tree.as_fd(), attributes, true)?;
    Ok(tree)
}

pub(super) fn attach(mount: BorrowedFd<'_>, place: impl AsRef<Path>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, "", CWD, place.as_ref(), flags)?)
}
