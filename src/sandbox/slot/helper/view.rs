//! What a slot is to see of the host, opened before the maker becomes the slot's user, who may not be let in
//! everywhere; and which places of that it is not to see.

use std::{
    ffi::OsStr,
    fs, io,
    os::{fd::AsFd, fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::mount::{MountAttrFlags, MountPropagationFlags};

use super::{
    super::{
        config::WORKSPACE,
        error::{At as _, SlotError, Step},
        generation::CHANGES,
        image::{self, OWN},
        sys,
        wire::SlotSpec,
    },
    layers::{Image, Layers},
    mounts::{clone_tree, open_read_only, relative},
};

/// Shown where the host has them.
const SYSTEM: [&str; 4] = ["usr", "etc", "opt", "nix"];

/// Shown as the host has them: a directory, or a link into /usr.
const MERGED: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// A link to /tmp, or the same directory.
pub(super) const VAR_TMP: &str = "var/tmp";

/// Everything that the slot's root is made of.
pub(super) struct Sources {
    pub(super) trees: Vec<Tree>,
    /// Names in the root, and their targets.
    pub(super) links: Vec<(PathBuf, PathBuf)>,
    /// What the slot is not to see, as its own paths.
    pub(super) hidden: Vec<PathBuf>,
    pub(super) workspace: OwnedFd,
    /// Where it is shown beside /workspace.
    pub(super) workspace_place: Option<PathBuf>,
    /// What is layered over something goes there.
    pub(super) changes: Option<OwnedFd>,
    /// What the workspace is layered over.
    pub(super) workspace_layer: Option<OwnedFd>,
    /// What the writable trees are layered over, or what comes between them and the host's.
    pub(super) image: Option<Image>,
}

/// A file or directory of the host, and where it goes.
pub(super) struct Tree {
    pub(super) place: PathBuf,
    /// Read-only. `None`: a directory of the image that can be written to.
    pub(super) mount: Option<OwnedFd>,
}

impl Sources {
    pub(super) fn layers(&self) -> Option<Layers<'_>> {
        let changes = self.changes.as_ref()?.as_fd();
        let workspace = self.workspace_layer.as_ref().map(AsFd::as_fd);
        Some(Layers { changes, workspace, image: self.image.as_ref() })
    }
}

/// Detaches copies of all that the slot is to see from this (new) mount namespace. The image is the agent's, with its
/// owners mapped, if it is to be writable.
pub(super) fn open_sources(spec: &SlotSpec, image: Option<OwnedFd>) -> Result<Sources, SlotError> {
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .at_the(Step::OpenSource, "mount propagation")?;
    let workspace = open_workspace().at_the(Step::OpenSource, WORKSPACE)?;
    let workspace_place = match &spec.workspace_place {
        Some(path) => extra_workspace(as_path(path)).at_the(Step::OpenSource, as_path(path).display())?,
        None => None,
    };
    let layer = |name: &str| clone_tree(&Path::new("..").join(name)).at_the(Step::OpenSource, name);
    let image = match (image, spec.image_layer.as_deref()) {
        (Some(image), _) => Some(Image::Mapped(image)),
        (None, Some(name)) => Some(Image::Layer(layer(name)?)),
        (None, None) => None,
    };
    let layered = spec.workspace_layer.is_some() || image.is_some();
    let sources = Sources {
        trees: Vec::new(),
        links: Vec::new(),
        hidden: Vec::new(),
        workspace,
        workspace_place,
        changes: layered.then(|| layer(CHANGES)).transpose()?,
        workspace_layer: spec.workspace_layer.as_deref().map(layer).transpose()?,
        image,
    };
    let mut opening = Opening { hidden: real_paths(&spec.hidden)?, sources };

    if spec.image {
        opening.show_image()?;
    } else {
        opening.show_system()?;
    }
    for path in &spec.read_only {
        let path = as_path(path);
        opening.show(&inside(path).at_the(Step::OpenSource, path.display())?)?;
    }
    if spec.network {
        opening.show_resolver()?;
    }
    Ok(opening.sources)
}

/// The working directory is the workspace.
fn open_workspace() -> io::Result<OwnedFd> {
    let workspace = clone_tree(Path::new("."))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    sys::add_mount_attributes(workspace.as_fd(), attributes, true)?;
    Ok(workspace)
}

fn extra_workspace(path: &Path) -> io::Result<Option<PathBuf>> {
    if path == Path::new(WORKSPACE) { Ok(None) } else { inside(path).map(Some) }
}

struct Opening {
    sources: Sources,
    /// Paths of the host, with no link in them.
    hidden: Vec<PathBuf>,
}

impl Opening {
    fn show_system(&mut self) -> Result<(), SlotError> {
        for name in SYSTEM {
            if Path::new("/").join(name).is_dir() {
                self.show_part(Path::new(name))?;
            }
        }
        MERGED.iter().try_for_each(|name| self.show_as_it_is(Path::new(name)))
    }

    fn show_image(&mut self) -> Result<(), SlotError> {
        let names = image::names().at_the(Step::OpenSource, "/")?;
        names.iter().try_for_each(|name| self.show_as_it_is(Path::new(name)))
    }

    /// A directory, or a link; nothing else.
    fn show_as_it_is(&mut self, name: &Path) -> Result<(), SlotError> {
        let path = Path::new("/").join(name);
        match fs::symlink_metadata(&path) {
            Ok(entry) if entry.is_symlink() => {
                let target = fs::read_link(&path).at_the(Step::OpenSource, path.display())?;
                self.sources.links.push((name.to_owned(), target));
                Ok(())
            }
            Ok(entry) if entry.is_dir() => self.show_part(name),
            _ => Ok(()),
        }
    }

    /// A directory in the root, which can be written to if it is the image's.
    fn show_part(&mut self, name: &Path) -> Result<(), SlotError> {
        let path = Path::new("/").join(name);
        if self.sources.image.is_none() {
            return self.show(name);
        }
        if image::is_volume(&path).at_the(Step::WritableRoot, path.display())? {
            return self.show(name);
        }
        if self.hide_in(name, &path) {
            return Ok(());
        }
        self.sources.trees.push(Tree { place: name.to_owned(), mount: None });
        if let Some(Image::Layer(_)) = self.sources.image {
            return Ok(());
        }
        let below = image::mounts_below(&path).at_the(Step::OpenSource, "mounts")?;
        below.iter().try_for_each(|below| self.show(below))
    }

    fn show(&mut self, place: &Path) -> Result<(), SlotError> {
        let path = Path::new("/").join(place);
        let real = fs::canonicalize(&path).at_the(Step::OpenSource, path.display())?;
        if self.hide_in(place, &real) {
            return Ok(());
        }
        let mount = open_read_only(&path).at_the(Step::OpenSource, path.display())?;
        self.sources.trees.push(Tree { place: place.to_owned(), mount: Some(mount) });
        Ok(())
    }

    /// Notes what is to be hidden of a tree; whether that is all of it.
    fn hide_in(&mut self, place: &Path, real: &Path) -> bool {
        for hidden in &self.hidden {
            if real.starts_with(hidden) {
                return true;
            }
            if let Ok(below) = hidden.strip_prefix(real) {
                self.sources.hidden.push(place.join(below));
            }
        }
        false
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

/// Where the paths lead that exist.
fn real_paths(paths: &[Vec<u8>]) -> Result<Vec<PathBuf>, SlotError> {
    let real = |path: &Vec<u8>| {
        let path = as_path(path);
        relative(path).and_then(|_| real_path(path)).at_the(Step::Hide, path.display()).transpose()
    };
    paths.iter().filter_map(real).collect()
}

/// What is in a directory that not even the agent can enter is hidden by hiding that directory: calls could not enter
/// it either.
fn real_path(path: &Path) -> io::Result<Option<PathBuf>> {
    match (fs::canonicalize(path), path.parent()) {
        (Ok(real), _) => Ok(Some(real)),
        (Err(error), _) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::PermissionDenied => real_path(parent),
        (Err(error), _) => Err(error),
    }
}

/// A configured path, relative to the slot's root.
fn inside(path: &Path) -> io::Result<PathBuf> {
    let invalid = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    let relative = relative(path)?;
    match relative.components().next() {
        None => invalid("the whole file system cannot be shown"),
        Some(_) if relative.starts_with(VAR_TMP) => invalid("slots have their own"),
        Some(first) if OWN.iter().any(|own| first.as_os_str() == *own) => invalid("slots have their own"),
        Some(_) => Ok(relative.to_owned()),
    }
}

fn as_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}
