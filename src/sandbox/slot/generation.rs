//! What a slot's next generation begins with, on the disk: all of it in the slot's directory, and nothing that an
//! earlier one wrote.
//!
//! ```text
//! workspace   what the slot sees as /workspace, unless that is layered
//! changes     what is written to layers
//! source-...  the copy of the workspace's source that generations share; it is below each and never changes
//! ```

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::{DirBuilderExt, chown},
    path::{Path, PathBuf},
};

use super::{
    SlotConfig,
    copy::copy_tree,
    error::{At as _, SlotError, Step},
    trash,
};

pub(super) const WORKSPACE: &str = "workspace";
pub(super) const CHANGES: &str = "changes";

/// See the module.
pub(super) struct Generation {
    /// Exists, even if it is not what the slot sees.
    pub(super) workspace: PathBuf,
    /// The name of what the workspace is layered over.
    pub(super) workspace_layer: Option<String>,
}

/// Clears the slot's directory, and fills it. With `layered`, a source is copied but once; otherwise each workspace is a
/// copy.
pub(super) async fn prepare(config: &SlotConfig, layered: bool) -> Result<Generation, SlotError> {
    let source = config.workspace_source.as_deref();
    let has_changes = config.writable_root || (layered && source.is_some());
    let workspace = clear(config, has_changes).at_the(Step::PrepareDirectory, config.directory.display())?;
    let workspace_layer = match source {
        Some(source) if layered => Some(layer(source, config).await?),
        Some(source) => {
            trash::discard(&config.directory, &config.directory.join(layer_name(source, config)))
                .at(Step::RetireWorkspace)?;
            copy(source.to_owned(), workspace.clone(), config.host_id).await?;
            None
        }
        None => None,
    };
    Ok(Generation { workspace, workspace_layer })
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

fn layer_name(source: &Path, config: &SlotConfig) -> String {
    let mut hash = DefaultHasher::new();
    (source, config.host_id).hash(&mut hash);
    format!("source-{:016x}", hash.finish())
}

/// The copy that all generations share, which the first one makes: it must belong to the slot's user, and the source
/// does not.
async fn layer(source: &Path, config: &SlotConfig) -> Result<String, SlotError> {
    let name = layer_name(source, config);
    let path = config.directory.join(&name);
    if path.exists() {
        return Ok(name);
    }
    // Under its name only once it is whole.
    let new = config.directory.join(format!("new-{}", uuid::Uuid::now_v7()));
    make_directory(&new, config.host_id).at_the(Step::CopySource, new.display())?;
    let copied = copy(source.to_owned(), new.clone(), config.host_id).await;
    if copied.is_err() || fs::rename(&new, &path).is_err() {
        // Either way it is of no use: where it could not be renamed, another making of the slot was faster.
        trash::discard(&config.directory, &new).at(Step::RetireWorkspace)?;
    }
    copied.map(|()| name)
}

/// On a thread of its own: it takes as long as the source is large.
async fn copy(source: PathBuf, target: PathBuf, owner: Option<u32>) -> Result<(), SlotError> {
    let copying = tokio::task::spawn_blocking(move || copy_tree(&source, &target, owner));
    match copying.await.at(Step::CopySource)? {
        Err((path, error)) => Err(error).at_the(Step::CopySource, path.display()),
        Ok(()) => Ok(()),
    }
}
