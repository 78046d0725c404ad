//! Overlays: what the slot writes goes to a directory of its own, over something that stays as it is.
//!
//! They are mounted in the slot's user namespace, whose user 0 must own what is to be changed: the workspace's source is
//! a copy that does, and the image comes from the agent with its owners mapped. A directory that a lower layer has can
//! be renamed by copying it only (EXDEV), as in every container.

use std::{
    fs, io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags};

use super::{
    super::error::{At as _, SlotError, Step},
    mounts::attach,
};

/// The directories that layers are made of, each attached in the slot's /tmp for as long as that takes.
pub(super) struct Layers<'a> {
    /// The slot's own, of this generation.
    pub(super) changes: BorrowedFd<'a>,
    pub(super) workspace: Option<BorrowedFd<'a>>,
    pub(super) image: Option<BorrowedFd<'a>>,
}

const CHANGES: &str = "tmp/changes";
const WORKSPACE: &str = "tmp/workspace";
const IMAGE: &str = "tmp/image";

impl Layers<'_> {
    /// Attaches them below the working directory, which is to be the slot's root.
    pub(super) fn attach(&self) -> io::Result<()> {
        let attach = |layer: BorrowedFd<'_>, place| fs::create_dir(place).and_then(|()| attach(layer, place));
        attach(self.changes, CHANGES)?;
        self.workspace.map_or(Ok(()), |layer| attach(layer, WORKSPACE))?;
        self.image.map_or(Ok(()), |layer| attach(layer, IMAGE))
    }

    /// The overlays keep what they are made of.
    pub(super) fn detach(&self) -> io::Result<()> {
        let places = [Some(CHANGES), self.workspace.map(|_| WORKSPACE), self.image.map(|_| IMAGE)];
        for place in places.into_iter().flatten() {
            rustix::mount::unmount(place, UnmountFlags::DETACH)?;
            fs::remove_dir(place)?;
        }
        Ok(())
    }

    pub(super) fn over_workspace(&self) -> Result<OwnedFd, SlotError> {
        over(Path::new(WORKSPACE), "workspace").at(Step::LayerWorkspace)
    }

    /// A writable directory of the image.
    pub(super) fn over_image(&self, name: &Path) -> Result<OwnedFd, SlotError> {
        let changes = format!("root-{}", name.display());
        over(&Path::new(IMAGE).join(name), &changes).at_the(Step::WritableRoot, name.display())
    }
}

/// An overlay that is not attached anywhere yet; `name` is that of its changes.
fn over(lower: &Path, name: &str) -> io::Result<OwnedFd> {
    let changes = Path::new(CHANGES).join(name);
    let (upper, work) = (changes.join("upper"), changes.join("work"));
    for directory in [&changes, &upper, &work] {
        fs::create_dir(directory)?;
    }
    // The root of an overlay is like that of its upper layer.
    let mode = fs::metadata(lower)?.permissions().mode() & 0o7777;
    fs::set_permissions(&upper, fs::Permissions::from_mode(mode))?;

    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "lowerdir", escaped(lower))?;
    rustix::mount::fsconfig_set_string(&context, "upperdir", &upper)?;
    rustix::mount::fsconfig_set_string(&context, "workdir", &work)?;
    // Its own marks, in a namespace that may not use the others.
    rustix::mount::fsconfig_set_flag(&context, "userxattr")?;
    rustix::mount::fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A colon would stand between two layers.
fn escaped(path: &Path) -> PathBuf {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let escape = |byte: &u8| if b":\\".contains(byte) { vec![b'\\', *byte] } else { vec![*byte] };
    std::ffi::OsString::from_vec(path.as_os_str().as_bytes().iter().flat_map(escape).collect()).into()
}
