//! What a slot's file system is put together from: mounts that are attached nowhere yet, and their places.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags},
};

use super::super::sys;

/// A new file system in memory; set-user-id programs have no effect on it.
pub(super) fn tmpfs(options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(&context, *key, *value)?;
    }
    rustix::mount::fsconfig_create(&context)?;
    let attributes = attributes | MountAttrFlags::MOUNT_ATTR_NOSUID;
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A copy of the mounts at `path`, which must be attached.
pub(super) fn clone_tree(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    Ok(rustix::mount::open_tree(CWD, path, flags)?)
}

/// A recursively read-only copy of the mounts at `path`.
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

/// Attaches a mount at what [`find`] has found.
pub(super) fn attach_at(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, "", place, "", flags)?)
}

/// What the slot finds at `place`, with the working directory as its root: no link leads to the host's files.
pub(super) fn find(place: &Path) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(CWD, place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Makes a place for `mount` where nothing is shown yet.
pub(super) fn make_place(mount: BorrowedFd<'_>, place: &Path) -> io::Result<()> {
    if fs::symlink_metadata(place).is_ok() {
        return Ok(());
    }
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    let file = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(mount)?.st_mode);
    if file.is_dir() { fs::create_dir(place) } else { fs::File::create(place).map(drop) }
}

/// An absolute path of the host, relative to its root.
pub(super) fn relative(path: &Path) -> io::Result<&Path> {
    let invalid = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    let Ok(relative) = path.strip_prefix("/") else { return invalid("the path is not absolute") };
    if relative.components().any(|component| !matches!(component, Component::Normal(_))) {
        return invalid("the path has a .. in it");
    }
    Ok(relative)
}
