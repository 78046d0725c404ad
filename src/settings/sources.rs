//! Where settings come from; and reading them from there.

use std::{
    collections::BTreeMap,
    env, fs, io,
    num::NonZero,
    path::{Path, PathBuf},
};

use super::{
    Loaded, Mistake, Mistakes, ServeFlags,
    keys::{KEYS, PREFIX},
    load, tenants,
};

/// Looked for in the working directory where no `--config` is given.
const FILE: &str = "tool-executor.toml";
const DOTENV: &str = ".env";

/// Everything that settings are made of.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub file: Option<FileSource>,
    /// The text of `.env`.
    pub dotenv: Option<String>,
    pub environment: BTreeMap<String, String>,
    pub flags: ServeFlags,
    pub machine: Machine,
}

/// The settings file.
#[derive(Debug, Clone)]
pub struct FileSource {
    pub path: String,
    pub text: String,
}

/// What some defaults depend on.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// Whether this process is root.
    pub root: bool,
    pub host_name: String,
    pub home: Option<PathBuf>,
    pub xdg_state_home: Option<PathBuf>,
    /// Against which a relative path is meant.
    pub working_directory: PathBuf,
    /// That this process may use.
    pub processors: usize,
}

/// The settings of this process.
pub fn read(flags: ServeFlags) -> Result<Loaded, Mistakes> {
    let mut mistakes = Vec::new();
    let file = match &flags.config {
        Some(path) => must_read(path, &mut mistakes).map(|text| (path.clone(), text)),
        None => may_read(Path::new(FILE), &mut mistakes).map(|text| (FILE.into(), text)),
    };
    let sources = Sources {
        file: file.map(|(path, text)| FileSource { path: path.display().to_string(), text }),
        dotenv: may_read(Path::new(DOTENV), &mut mistakes),
        environment: environment(&mut mistakes),
        machine: Machine::this(),
        flags,
    };
    match load(&sources).and_then(with_tenants) {
        Ok(loaded) if mistakes.is_empty() => Ok(loaded),
        Ok(_) => Err(Mistakes(mistakes)),
        Err(Mistakes(others)) => Err(Mistakes(mistakes.into_iter().chain(others).collect())),
    }
}

/// With what the file of tenants says, if there is one.
fn with_tenants(mut loaded: Loaded) -> Result<Loaded, Mistakes> {
    let settings = &mut loaded.settings;
    if let Some(path) = &settings.access.tokens_file {
        settings.access.tenants = tenants::tenants(path, settings.token.as_ref()).map_err(Mistakes)?;
        loaded.warnings.extend(tenants::warning(path));
    }
    Ok(loaded)
}

fn must_read(path: &Path, mistakes: &mut Vec<Mistake>) -> Option<String> {
    match fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) => {
            mistakes.push(Mistake { source: path.display().to_string(), message: format!("cannot be read: {error}") });
            None
        }
    }
}

/// A file that there need not be.
fn may_read(path: &Path, mistakes: &mut Vec<Mistake>) -> Option<String> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        _ => must_read(path, mistakes),
    }
}

/// The variables that can be meant for us, of those that are text.
fn environment(mistakes: &mut Vec<Mistake>) -> BTreeMap<String, String> {
    let elsewhere = |name: &str| KEYS.iter().any(|key| key.elsewhere == Some(name));
    let ours = |name: &str| name.starts_with(PREFIX) || elsewhere(name);
    let mut environment = BTreeMap::new();
    for (name, value) in env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        if !ours(&name) {
            continue;
        }
        match value.into_string() {
            Ok(value) => _ = environment.insert(name, value),
            Err(_) => mistakes.push(Mistake { source: name, message: "is not text in UTF-8".into() }),
        }
    }
    environment
}

impl Machine {
    fn this() -> Self {
        let path = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            root: rustix::process::geteuid().is_root(),
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            home: path("HOME"),
            xdg_state_home: path("XDG_STATE_HOME").filter(|path| path.is_absolute()),
            working_directory: env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            processors: std::thread::available_parallelism().map_or(1, NonZero::get),
        }
    }
}
