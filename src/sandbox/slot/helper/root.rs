//! The file system that a slot sees: a read-only root of its own, with what it is to see of the host shown read-only,
//! and /workspace, /tmp and /dev/shm to write to.
//!
//! /tmp and /dev/shm are two directories of one file system of bounded size, which lives as long as the slot's
//! processes: a call finds there what an earlier or a concurrent one left.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::symlink,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::Mode,
    io::Errno,
    mount::{MountAttrFlags, MountFlags, UnmountFlags},
};

use super::{
    super::{
        error::{At as _, SlotError, Step},
        image::OWN,
        sys,
        wire::{Size, SlotSpec},
    },
    layers::Layers,
    mounts::{attach, attach_at, clone_tree, find, make_place, tmpfs},
    view::{Sources, Tree, VAR_TMP},
};

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

const DEVICE_LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// One inode of /tmp for so many of its bytes: small files cost memory too.
const BYTES_PER_INODE: u64 = 4096;

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
        match symlink(target, name) {
            // /run and /var are always directories.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.at_the(Step::MountRoot, name.display())?,
        }
    }
    let layers = sources.layers();
    layers.as_ref().map_or(Ok(()), Layers::attach).at(Step::MountRoot)?;
    for Tree { place, mount } in &sources.trees {
        let layered = match (mount, &layers) {
            (None, Some(layers)) => Some(layers.over_image(place)?),
            _ => None,
        };
        let Some(mount) = mount.as_ref().or(layered.as_ref()) else { continue };
        make_place(mount.as_fd(), place)
            .and_then(|()| attach(mount.as_fd(), place))
            .at_the(Step::MountSource, place.display())?;
    }
    hide(&sources.hidden)?;
    let layered = match &layers {
        Some(layers) if layers.workspace.is_some() => Some(layers.over_workspace()?),
        _ => None,
    };
    let in_memory = spec.workspace_in_memory.as_ref().map(workspace_in_memory).transpose().at(Step::MountWorkspace)?;
    let workspace = in_memory.as_ref().or(layered.as_ref()).unwrap_or(&sources.workspace);
    show_workspace(workspace.as_fd(), sources.workspace_place.as_deref()).at(Step::MountWorkspace)?;
    layers.as_ref().map_or(Ok(()), Layers::detach).at(Step::MountRoot)?;
    let devices = build_dev()?;
    build_tmp(spec.tmp_bytes).at(Step::MountTmp)?;
    for mount in [devices, root] {
        sys::add_mount_attributes(mount.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, false).at(Step::MountRoot)?;
    }
    Ok(())
}

/// Covers each of these places with something empty. Calls cannot take a cover away: they can change no mount.
fn hide(places: &[PathBuf]) -> Result<(), SlotError> {
    if places.is_empty() {
        return Ok(());
    }
    let attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let covers = tmpfs(&[("mode", "755"), ("size", "64k")], attributes).at(Step::Hide)?;
    // Only what is attached can be cloned from, so it passes through /tmp.
    attach(covers.as_fd(), "tmp").at(Step::Hide)?;
    let (directory, file) = (Path::new("tmp/directory"), Path::new("tmp/file"));
    fs::create_dir(directory).at(Step::Hide)?;
    fs::File::create(file).at(Step::Hide)?;
    for path in places {
        cover(path, directory, file).at_the(Step::Hide, path.display())?;
    }
    rustix::mount::unmount("tmp", UnmountFlags::DETACH).at(Step::Hide)
}

fn cover(path: &Path, directory: &Path, file: &Path) -> io::Result<()> {
    let place = match (find(path), path.parent()) {
        (Ok(place), _) => place,
        // It has gone meanwhile, or lies in what has been covered.
        (Err(Errno::NOENT | Errno::NOTDIR), _) => return Ok(()),
        // With all of the slot's rights it cannot be reached: what bars the way is covered, lest the way be opened.
        (Err(Errno::ACCESS), Some(parent)) => return cover(parent, directory, file),
        (Err(error), _) => return Err(error.into()),
    };
    let is_directory = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode).is_dir();
    let cover = clone_tree(if is_directory { directory } else { file })?;
    sys::add_mount_attributes(cover.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, false)?;
    attach_at(cover.as_fd(), place.as_fd())
}

fn workspace_in_memory(size: &Size) -> io::Result<OwnedFd> {
    let (bytes, inodes) = (size.bytes.to_string(), size.inodes.to_string());
    let options = [("mode", "700"), ("size", bytes.as_str()), ("nr_inodes", inodes.as_str())];
    tmpfs(&options, MountAttrFlags::MOUNT_ATTR_NODEV)
}

fn show_workspace(workspace: BorrowedFd<'_>, second_place: Option<&Path>) -> io::Result<()> {
    attach(workspace, "workspace")?;
    let Some(place) = second_place else { return Ok(()) };
    let again = clone_tree(Path::new("workspace"))?;
    make_place(again.as_fd(), place)?;
    attach_at(again.as_fd(), find(place)?.as_fd())
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
    directories.iter().try_for_each(|(place, directory)| attach(directory.as_fd(), place))?;
    // Where /var is an image's, the link to /tmp is not there.
    match fs::symlink_metadata(VAR_TMP) {
        Ok(entry) if entry.is_dir() => attach(clone_tree(Path::new("tmp"))?.as_fd(), VAR_TMP),
        _ => Ok(()),
    }
}
