//! Artifacts of a task: fetched over HTTP, checked, and put into the task's directory.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{ask::ask, task::interpolate};

pub(super) struct Artifact {
    source: String,
    checksum: Option<String>,
    destination: PathBuf,
}

impl Artifact {
    pub(super) fn new(artifact: &Value, env: &BTreeMap<String, String>, directory: &Path) -> Self {
        let text = |value: &Value| interpolate(value.as_str().unwrap_or_default(), env);
        let source = text(&artifact["GetterSource"]);
        let relative = Some(text(&artifact["RelativeDest"])).filter(|path| !path.is_empty());
        let relative = relative.unwrap_or_else(|| "local/".to_owned());
        // An interpolated destination is absolute already, and inside.
        let mut destination = directory.join(relative.trim_start_matches("./"));
        if artifact["GetterMode"] != "file" {
            let name = source.rsplit('/').next().unwrap_or_default();
            destination = destination.join(name.split('?').next().unwrap_or_default());
        }
        let checksum = artifact["GetterOptions"].get("checksum").map(text).filter(|text| !text.is_empty());
        Self { source, checksum, destination }
    }

    /// The error is the text of the task's event.
    pub(super) async fn fetch(&self) -> Result<(), String> {
        self.try_fetch().await.map_err(|cause| {
            let source = &self.source;
            format!(
                "failed to download artifact {source:?}: getter subprocess failed: exit status 1: failed to download \
                 artifact: {cause}"
            )
        })
    }

    async fn try_fetch(&self) -> Result<(), String> {
        let source = &self.source;
        let rest = source.strip_prefix("http://").ok_or_else(|| format!("download not supported for {source}"))?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let answer = ask(authority, "GET", if path.is_empty() { "/" } else { path }, &[], b"").await;
        let answer = answer.map_err(|error| {
            let cause = if error.kind() == std::io::ErrorKind::ConnectionRefused {
                "connect: connection refused".to_owned()
            } else {
                error.to_string()
            };
            format!("Get {source:?}: dial tcp {authority}: {cause}")
        })?;
        if answer.status != 200 {
            return Err(format!("bad response code: {}", answer.status));
        }
        if let Some(checksum) = &self.checksum {
            let expected = checksum.strip_prefix("sha256:").ok_or("unsupported checksum type")?;
            let got: String = Sha256::digest(&answer.body).iter().map(|byte| format!("{byte:02x}")).collect();
            if !expected.eq_ignore_ascii_case(&got) {
                let file = self.destination.display();
                return Err(format!(
                    "Checksums did not match for {file}.\nExpected: {expected}\nGot: {got}\n*sha256.Digest"
                ));
            }
        }
        let failed = |error: std::io::Error| error.to_string();
        fs::create_dir_all(self.destination.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
        fs::write(&self.destination, &answer.body).map_err(failed)?;
        fs::set_permissions(&self.destination, fs::Permissions::from_mode(0o755)).map_err(failed)
    }
}
