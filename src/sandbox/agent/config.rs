//! What an agent is told at its start, as a file in its container's directory: a secret is among it, so never as
//! arguments.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    sandbox::slot::{Limits, View},
    tool::Isolation,
};

/// As many as a pool's settings may ask for.
const MAX_SLOTS: u32 = 10_000;

/// The settings of one agent.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The first of `slots + 1` user ids that are this container's alone. Of no use where the agent is not root, or has
    /// not all of them.
    pub uid_base: Option<u32>,
    /// Whoever wants to be obeyed must know it.
    pub token: String,
    /// The channel is encrypted, with keys made from the token: for an agent that listens on a network.
    pub tls: bool,
    /// The pool that the container is of.
    #[serde(default)]
    pub pool: String,
    pub profile: Profile,
}

/// What every agent of a pool is told alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub slots: u32,
    /// With less the agent does not start.
    pub isolation_minimum: Isolation,
    /// Slots share the agent's network.
    pub network: bool,
    /// With no executor for so long, the agent ends itself.
    #[serde(with = "humantime_serde")]
    pub orphan_timeout: Duration,
    /// What slots see.
    pub view: View,
    /// Shown to slots beside that.
    pub read_only: Vec<PathBuf>,
    /// Never shown to slots, wherever it lies.
    pub hidden: Vec<PathBuf>,
    /// What each workspace begins with a copy of.
    pub workspace_source: Option<PathBuf>,
    /// Slots can write to what they see.
    pub writable_root: bool,
    /// Of a slot's /tmp and /dev/shm together.
    pub tmp_bytes: u64,
    pub max_open_files: u64,
    pub max_processes: Option<u64>,
    pub limits: Limits,
}

/// Why the file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("could not {step} {path}")]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not an agent's configuration")]
    Malformed {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{path} asks for {slots} slots, and there can be 1 to {MAX_SLOTS}")]
    Slots { path: PathBuf, slots: u32 },
}

/// In the container's directory.
pub const CONFIG_FILE: &str = "agent.json";

impl Config {
    /// Reads the configuration of the container that has this directory.
    ///
    /// # Errors
    /// If it is not there, or not whole.
    pub fn load(directory: &Path) -> Result<Self, ConfigError> {
        let path = directory.join(CONFIG_FILE);
        let text = fs::read(&path).map_err(|source| ConfigError::Io { step: "read", path: path.clone(), source })?;
        let config: Self = match serde_json::from_slice(&text) {
            Ok(config) => config,
            Err(source) => return Err(ConfigError::Malformed { path, source }),
        };
        if !(1..=MAX_SLOTS).contains(&config.profile.slots) {
            return Err(ConfigError::Slots { path, slots: config.profile.slots });
        }
        Ok(config)
    }

    /// Writes it for the agent to be, readable to nobody else.
    ///
    /// # Errors
    /// If it is there already, or cannot be written.
    pub fn store(&self, directory: &Path) -> Result<(), ConfigError> {
        let path = directory.join(CONFIG_FILE);
        let file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path);
        let mut file = file.map_err(|source| ConfigError::Io { step: "create", path: path.clone(), source })?;
        let text =
            serde_json::to_vec_pretty(self).map_err(|source| ConfigError::Malformed { path: path.clone(), source })?;
        io::Write::write_all(&mut file, &text).map_err(|source| ConfigError::Io { step: "write", path, source })
    }
}
