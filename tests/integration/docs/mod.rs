//! The documents that are made from something else are as that is, and what documents point to is there.

mod links;
mod protocol;

use std::path::{Path, PathBuf};

/// A file of the project.
fn place(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
