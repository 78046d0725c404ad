//! The settings of a start: plain data, loaded from every source and checked whole.
//!
//! Defaults, then the file (`tool-executor.toml` or `--config`), then `.env`, then the environment, then flags: the
//! later wins. `keys.rs` lists every setting with its names and default, `about.rs` says what each
//! is; [`Settings`] is what the rooms of the program
//! get. Loading is pure ([`load`]): every mistake of a start is found at once, with the place where it was made.

mod about;
mod access;
mod connections;
mod convert;
mod example;
mod flags;
mod keys;
mod layers;
mod mcp;
mod model;
mod nomad;
mod pools;
mod reader;
mod render;
mod rules;
mod sandbox;
mod sources;
mod tenants;
mod traces;

pub use access::{AccessSettings, OpenEndpoints};
pub use connections::{ClientAuth, ConnectionSettings, KeepAlive, TlsSettings};
pub use example::{example, overview};
pub use flags::ServeFlags;
pub use mcp::{McpServerSettings, TOOL_SERVER};
pub use model::{
    CallSettings, LimitSettings, LinkSettings, LogFormat, LogSettings, OnShutdown, Secret, Settings,
    ToolServerSettings, ToolSettings,
};
pub use nomad::NomadSettings;
pub use pools::PoolSettings;
pub use render::render;
pub use sandbox::SandboxSettings;
pub use sources::{FileSource, Machine, Sources, read};
pub use tenants::{TenantSettings, warning as tenants_warning};
pub use traces::TraceSettings;

/// Settings that a service can start with.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub settings: Settings,
    /// What is odd and harmless: to be logged once logging is up.
    pub warnings: Vec<String>,
    /// Every setting's value in effect and where it comes from, in the order of the list of settings.
    effective: Vec<render::Effective>,
}

/// Something wrong with a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// File and key, variable, or flag; of a contradiction, of each side.
    pub source: String,
    pub message: String,
}

/// Everything that is wrong with a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl std::fmt::Display for Mistakes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.len() {
            1 => write!(f, "there is a mistake in the settings:")?,
            count => write!(f, "there are {count} mistakes in the settings:")?,
        }
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {}: {}", mistake.source, mistake.message))
    }
}

impl std::error::Error for Mistakes {}

/// The settings that these sources make together.
pub fn load(sources: &Sources) -> Result<Loaded, Mistakes> {
    let mut mistakes = Vec::new();
    let mut warnings = Vec::new();
    let merged = layers::merge(sources, &mut mistakes, &mut warnings);
    let pools = layers::pools(sources, &mut mistakes);
    let mut reader = reader::Reader::new(&merged, mistakes);
    let mut settings = model::build(&mut reader, &sources.machine);
    for (name, own) in &pools {
        let all = layers::over(&merged, own);
        let mut of_pool = reader::Reader::new(&all, Vec::new());
        settings.pools.push(pools::build(&mut of_pool, name));
        reader.take_mistakes(of_pool);
    }
    let effective = render::effective(&merged);
    let (settings, mistakes) = rules::check(settings, reader, &mut warnings);
    if mistakes.is_empty() { Ok(Loaded { settings, warnings, effective }) } else { Err(Mistakes(mistakes)) }
}

#[cfg(test)]
mod tests;
