//! What a slot's next generation begins with, on the disk: all of it in the slot's directory, and nothing that an
//! earlier one wrote.
//!
//! ```text
//! workspace      what the slot sees as /workspace, unless that is layered
//! changes        what is written to layers
//! tmp            temporary files, where there can be no /tmp
//! source-...     a copy of the workspace's source ┐ which generations share: it is below what
//! image-...      directories of the image         ┘ they write, and never changes
//! ```

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use super::{
    SlotConfig,
    copy::{Rules, copy_tree},
    error::{At as _, SlotError, Step},
    image, trash,
};

pub(super) const WORKSPACE: &str = "workspace";
pub(super) const CHANGES: &str = "changes";
pub(super) const TMP: &str = "tmp";
/// What a generation writes is in these of the slot's directory.
pub const GENERATION: [&str; 3] = [WORKSPACE, CHANGES, TMP];

/// See the module.
pub(super) struct Generation {
    /// Exists, even if it is not what the slot sees.
    pub(super) workspace: PathBuf,
    /// The name of what the workspace is layered over.
    pub(super) workspace_layer: Option<String>,
    /// How many names the slot finds in its workspace; none where this process cannot count them.
    pub(super) workspace_entries: Option<u64>,
    pub(super) root: Root,
}

/// What is to be written to in the slot's root.
pub(super) enum Root {
    Nothing,
    /// The image, with its owners mapped.
    Image,
    /// The image's directories that are below this name.
    Layer(String),
}

/// What this machine's kernel, and the file systems that slots and the image lie in, can do: all of it, until something
/// has failed. Then what comes instead costs more or gives less.
pub(super) struct Means {
    layers: bool,
    mapped_owners: bool,
}

static NO_LAYERS: AtomicBool = AtomicBool::new(false);
static NO_MAPPED_OWNERS: AtomicBool = AtomicBool::new(false);

impl Means {
    pub(super) fn known() -> Self {
        let not = |lacking: &AtomicBool| !lacking.load(Ordering::Relaxed);
        Self { layers: not(&NO_LAYERS), mapped_owners: not(&NO_MAPPED_OWNERS) }
    }

    /// Whether to try again after this step has failed.
    pub(super) fn do_without(&mut self, failed: Step) -> bool {
        let (means, lacking) = match failed {
            Step::LayerWorkspace => (&mut self.layers, &NO_LAYERS),
            Step::MapOwners => (&mut self.mapped_owners, &NO_MAPPED_OWNERS),
            _ => return false,
        };
        lacking.store(true, Ordering::Relaxed);
        std::mem::replace(means, false)
    }
}

/// Clears the slot's directory, and fills it.
pub(super) async fn prepare(config: &SlotConfig, means: &Means) -> Result<Generation, SlotError> {
    let source = config.workspace_source.as_deref();
    let has_changes = config.writable_root || (means.layers && source.is_some());
    let workspace = clear(config, has_changes).at_the(Step::PrepareDirectory, config.directory.display())?;
    let (begins_with, workspace_layer) = match source {
        Some(source) if means.layers => {
            let layer = workspace_layer(source, config).await?;
            (Some(config.directory.join(&layer)), Some(layer))
        }
        Some(source) => {
            let unused = config.directory.join(layer_name("source", source, config));
            trash::discard(&config.directory, &unused).at(Step::RetireWorkspace)?;
            let rules = Rules { owner: config.host_id, ..Rules::default() };
            copy(vec![(source.to_owned(), workspace.clone(), rules)]).await?;
            (Some(workspace.clone()), None)
        }
        None => (None, None),
    };
    let entries = |directory| fs::read_dir(directory).ok().map(|names| names.count() as u64);
    let workspace_entries = begins_with.map_or(Some(0), entries);
    let root = match config.writable_root {
        false => Root::Nothing,
        true if means.mapped_owners => Root::Image,
        true => Root::Layer(image_layer(config).await?),
    };
    Ok(Generation { workspace, workspace_layer, workspace_entries, root })
}

/// What a slot without namespaces begins with. Both paths are absolute, and have no link in them.
pub(super) struct Plain {
    pub(super) workspace: PathBuf,
    pub(super) tmp: PathBuf,
}

/// Clears the slot's directory, and makes these in it. The slot's user must be able to come to them by their paths.
pub(super) fn prepare_plain(config: &SlotConfig) -> Result<Plain, SlotError> {
    let make = || {
        clear(config, false)?;
        let directory = fs::canonicalize(&config.directory)?;
        make_directory(&directory.join(TMP), config.host_id)?;
        Ok::<_, io::Error>(directory)
    };
    let directory = make().at_the(Step::PrepareDirectory, config.directory.display())?;
    if let Some(id) = config.host_id {
        open_to(&directory, id).at_the(Step::OpenWay, directory.display())?;
        open_way(&directory, &config.hidden)?;
    }
    Ok(Plain { workspace: directory.join(WORKSPACE), tmp: directory.join(TMP) })
}

/// Lets the slot's user, and no other slot's, pass through the slot's directory: of what is in it, its user may have
/// opened all to everybody, and Landlock does not govern who connects to a socket, or watches or looks at a file.
fn open_to(directory: &Path, user: u32) -> io::Result<()> {
    chown(directory, None, Some(user))?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o710))
}

/// Lets everybody pass through the directories above the slot's, as far as they are this program's own: those that no
/// slot may see. Nobody is let look into them. The others must be so already.
fn open_way(directory: &Path, own: &[PathBuf]) -> Result<(), SlotError> {
    let own: Vec<PathBuf> = own.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
    let holder = directory.parent();
    let is_own = |path: &Path| Some(path) == holder || own.iter().any(|own| path.starts_with(own));
    let open = |path: &Path| {
        let mode = fs::metadata(path)?.permissions().mode();
        match mode & 0o001 != 0 {
            true => Ok(()),
            false if is_own(path) => fs::set_permissions(path, fs::Permissions::from_mode((mode & 0o7777) | 0o011)),
            false => Err(rustix::io::Errno::ACCESS.into()),
        }
    };
    directory.ancestors().skip(1).try_for_each(|path| open(path).at_the(Step::OpenWay, path.display()))
}

/// Makes directories that nobody but the slot's user (and root) can enter.
fn clear(config: &SlotConfig, has_changes: bool) -> io::Result<PathBuf> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.directory)?;
    trash::retire(&config.directory)?;
    let workspace = config.directory.join(WORKSPACE);
    make_directory(&workspace, config.host_id)?;
    if has_changes {
        make_directory(&config.directory.join(CHANGES), config.host_id)?;
    }
    Ok(workspace)
}

fn make_directory(path: &Path, owner: Option<u32>) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)?;
    owner.map_or(Ok(()), |id| chown(path, Some(id), Some(id)))
}

/// The name of a layer that the slot's user owns.
fn layer_name(kind: &str, of: &Path, config: &SlotConfig) -> String {
    let mut hash = DefaultHasher::new();
    (of, config.host_id).hash(&mut hash);
    format!("{kind}-{:016x}", hash.finish())
}

/// A copy, since the slot's user must own it.
async fn workspace_layer(source: &Path, config: &SlotConfig) -> Result<String, SlotError> {
    let rules = Rules { owner: config.host_id, ..Rules::default() };
    let name = layer_name("source", source, config);
    layer(&name, config, |new| Ok(vec![(source.to_owned(), new.to_owned(), rules)])).await?;
    Ok(name)
}

/// The image's directories as the slot's user's, with no files in them but for those of /etc.
async fn image_layer(config: &SlotConfig) -> Result<String, SlotError> {
    let name = layer_name("image", Path::new("/"), config);
    layer(&name, config, |new| {
        let mut copies = Vec::new();
        for directory in image::directories().at_the(Step::WritableRoot, "/")? {
            let (name, whole) = (directory.file_name().unwrap_or_default(), directory.ends_with(image::COPIED));
            if !whole && let Some(mount) = image::mounts_below(&directory).at(Step::WritableRoot)?.first() {
                let error = Err(io::Error::other("something is mounted there, which cannot be layered"));
                return error.at_the(Step::WritableRoot, Path::new("/").join(mount).display());
            }
            // Else this would copy what it is making.
            let except = config.directory.parent().map(Path::to_owned);
            let rules = Rules { owner: config.host_id, only_directories: !whole, only_readable: true, except };
            let target = new.join(name);
            make_directory(&target, config.host_id).at_the(Step::WritableRoot, target.display())?;
            copies.push((directory, target, rules));
        }
        Ok(copies)
    })
    .await?;
    Ok(name)
}

/// Made by the first generation, under its name only once it is whole.
async fn layer(
    name: &str,
    config: &SlotConfig,
    copies: impl FnOnce(&Path) -> Result<Vec<Copy>, SlotError>,
) -> Result<(), SlotError> {
    let path = config.directory.join(name);
    if path.exists() {
        return Ok(());
    }
    let new = config.directory.join(format!("new-{}", uuid::Uuid::now_v7()));
    make_directory(&new, config.host_id).at_the(Step::PrepareDirectory, new.display())?;
    let copied = match copies(&new) {
        Ok(copies) => copy(copies).await,
        Err(error) => Err(error),
    };
    if copied.is_err() || fs::rename(&new, &path).is_err() {
        // Either way it is of no use: where it could not be renamed, another making of the slot was faster.
        trash::discard(&config.directory, &new).at(Step::RetireWorkspace)?;
    }
    copied
}

/// From where, to where, and how.
type Copy = (PathBuf, PathBuf, Rules);

/// On a thread of its own: it takes as long as the sources are large.
async fn copy(copies: Vec<Copy>) -> Result<(), SlotError> {
    let copying = tokio::task::spawn_blocking(move || {
        copies.iter().try_for_each(|(source, target, rules)| copy_tree(source, target, rules))
    });
    match copying.await.at(Step::CopySource)? {
        Err((path, error)) => Err(error).at_the(Step::CopySource, path.display()),
        Ok(()) => Ok(()),
    }
}
