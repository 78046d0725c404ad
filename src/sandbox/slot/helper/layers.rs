//! Overlays: what the slot writes goes to a directory of its own, over something that stays as it is.
//!
//! They are mounted in the slot's user namespace, whose user 0 must own what is to be changed: the workspace's source is
//! a copy that it owns, and the image comes from the agent with its owners mapped. Where they cannot be mapped, it owns a
//! copy of the image's directories: files can be made, removed and replaced then, but not be written to in place. A
//! directory that a lower layer has can be renamed by copying it only (EXDEV), as in every container.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::{PermissionsExt, chown},
        },
    },
    path::Path,
};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags};

use super::{
    super::{
        error::{At as _, SlotError, Step},
        image,
    },
    mounts::attach,
};

/// What writable directories of the image are layered over.
pub(super) enum Image {
    /// The whole image: the slot's user owns what root does outside.
    Mapped(OwnedFd),
    /// Directories that are the slot's user's, to lie over those of the same names, and all of /etc.
    Layer(OwnedFd),
}

/// The directories that layers are made of, each attached in the slot's /tmp for as long as that takes.
pub(super) struct Layers<'a> {
    /// The slot's own, of this generation.
    pub(super) changes: BorrowedFd<'a>,
    pub(super) workspace: Option<BorrowedFd<'a>>,
    pub(super) image: Option<&'a Image>,
    /// The slot's user, where that is not the one who mounts.
    pub(super) owner: Option<u32>,
}

const CHANGES_PLACE: &str = "tmp/changes";
const WORKSPACE_PLACE: &str = "tmp/workspace";
const IMAGE_PLACE: &str = "tmp/image";

impl Layers<'_> {
    /// Attaches them below the working directory, which is to be the slot's root.
    pub(super) fn attach(&self) -> io::Result<()> {
        let image = self.image.map(|(Image::Mapped(layer) | Image::Layer(layer))| layer.as_fd());
        let layers = [(Some(self.changes), CHANGES_PLACE), (self.workspace, WORKSPACE_PLACE), (image, IMAGE_PLACE)];
        layers.into_iter().try_for_each(|(layer, place)| {
            fs::create_dir(place)?;
            layer.map_or(Ok(()), |layer| attach(layer, place))
        })
    }

    /// The overlays keep what they are made of.
    pub(super) fn detach(&self) -> io::Result<()> {
        let layers =
            [(true, CHANGES_PLACE), (self.workspace.is_some(), WORKSPACE_PLACE), (self.image.is_some(), IMAGE_PLACE)];
        layers.into_iter().try_for_each(|(attached, place)| {
            if attached {
                rustix::mount::unmount(place, UnmountFlags::DETACH)?;
            }
            fs::remove_dir(place)
        })
    }

    pub(super) fn over_workspace(&self) -> Result<OwnedFd, SlotError> {
        self.over(&[Path::new(WORKSPACE_PLACE)], "workspace").at(Step::LayerWorkspace)
    }

    /// A writable directory of the image.
    pub(super) fn over_image(&self, name: &Path) -> Result<OwnedFd, SlotError> {
        let (above, hosts) = (Path::new(IMAGE_PLACE).join(name), Path::new("/").join(name));
        let whole = !matches!(self.image, Some(Image::Layer(_))) || name == Path::new(image::COPIED);
        let layers: &[&Path] = if whole { &[&above] } else { &[&above, &hosts] };
        self.over(layers, &format!("root-{}", name.display())).at_the(Step::WritableRoot, hosts.display())
    }

    /// An overlay over these directories, the first uppermost, that is not attached anywhere yet; `name` is that of its
    /// changes.
    fn over(&self, layers: &[&Path], name: &str) -> io::Result<OwnedFd> {
        let changes = Path::new(CHANGES_PLACE).join(name);
        let (upper, work) = (changes.join("upper"), changes.join("work"));
        for directory in [&changes, &upper, &work] {
            fs::create_dir(directory)?;
            self.owner.map_or(Ok(()), |owner| chown(directory, Some(owner), Some(owner)))?;
        }
        // The root of an overlay is like that of its upper layer.
        let mode =
            layers.first().map_or(Ok(0o755), |layer| Ok::<_, io::Error>(fs::metadata(layer)?.permissions().mode()))?;
        fs::set_permissions(&upper, fs::Permissions::from_mode(mode & 0o7777))?;

        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let layers: Vec<OsString> = layers.iter().map(|layer| escaped(layer)).collect();
        rustix::mount::fsconfig_set_string(&context, "lowerdir", layers.join(OsStr::new(":")))?;
        rustix::mount::fsconfig_set_string(&context, "upperdir", &upper)?;
        rustix::mount::fsconfig_set_string(&context, "workdir", &work)?;
        // Its own marks, in a namespace that may not use the others.
        rustix::mount::fsconfig_set_flag(&context, "userxattr")?;
        rustix::mount::fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
    }
}

/// A colon would stand between two layers.
fn escaped(path: &Path) -> OsString {
    let escape = |byte: &u8| if b":\\".contains(byte) { vec![b'\\', *byte] } else { vec![*byte] };
    OsString::from_vec(path.as_os_str().as_bytes().iter().flat_map(escape).collect())
}
