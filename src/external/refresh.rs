//! What tools there are: asked of every source at the start, and again and again. Calls under way are not touched by it.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinSet, time::timeout};
use tracing::{info, warn};

use super::{
    config::{Config, SourceConfig, SourceError},
    handle::Handle,
};
use crate::tool::{Listing, Registry, UnknownToolset};

/// How long a start waits for sources to say what they have.
const FIRST: Duration = Duration::from_secs(3);
/// A source that has not answered is asked sooner than one that has.
const SOON: Duration = Duration::from_secs(2);

/// What each source says of its tools: how many it has, or why that is not known. For people, before a start.
///
/// # Errors
/// If a source cannot be used as it is set.
pub async fn inspect(config: &Config) -> Result<Vec<(Arc<str>, Result<usize, String>)>, SourceError> {
    let handle = Handle::new(config)?;
    let mut said = Vec::new();
    for SourceConfig { name, .. } in &config.sources {
        if let Some(source) = handle.source(name) {
            said.push((name.clone(), source.server.list().await.map(|tools| tools.len())));
        }
    }
    Ok(said)
}

/// Toolsets, and what of them there is: see [`Registry::with_external`].
pub(super) struct Catalogue {
    enabled: Vec<String>,
    disabled: Vec<String>,
    listings: Vec<Listing>,
    faults: Vec<String>,
    registry: watch::Sender<Arc<Registry>>,
}

/// Asks the sources what they have; one that does not say it at once is asked until it does. The tools that there are,
/// then and from then on, and the way to those that are elsewhere. `tasks` owns what goes on.
///
/// # Errors
/// If a source cannot be used as it is set, or a toolset is not known.
pub async fn open(
    config: Config,
    enabled: Vec<String>,
    disabled: Vec<String>,
    tasks: &mut JoinSet<()>,
) -> Result<(Handle, watch::Receiver<Arc<Registry>>), Box<dyn std::error::Error>> {
    let handle = Handle::new(&config)?;
    let mut catalogue = Catalogue::new(&config, enabled, disabled)?;
    let receiver = catalogue.registry.subscribe();
    if !config.sources.is_empty() {
        // Those that say it at once are there when the service begins.
        let _ = timeout(FIRST, catalogue.refresh(&config, &handle)).await;
        tasks.spawn(catalogue.keep(config, handle.clone()));
    }
    Ok((handle, receiver))
}

impl Catalogue {
    fn new(config: &Config, enabled: Vec<String>, disabled: Vec<String>) -> Result<Self, UnknownToolset> {
        let unheard = |name: &Arc<str>| Listing { source: name.clone(), tools: Err("it has not answered yet".into()) };
        let listings: Vec<Listing> = config.sources.iter().map(|source| unheard(&source.name)).collect();
        let (registry, _) = Registry::with_external(&enabled, &disabled, &listings)?;
        Ok(Self { enabled, disabled, listings, faults: Vec::new(), registry: watch::Sender::new(Arc::new(registry)) })
    }

    /// Never returns.
    async fn keep(mut self, config: Config, handle: Handle) {
        loop {
            let heard = self.listings.iter().all(|listing| listing.tools.is_ok());
            tokio::time::sleep(if heard { config.refresh } else { SOON.min(config.refresh) }).await;
            self.refresh(&config, &handle).await;
        }
    }

    /// Asks all of them, one beside the other, and makes known what each says as it comes.
    async fn refresh(&mut self, config: &Config, handle: &Handle) {
        let mut asked = JoinSet::new();
        for (index, source) in config.sources.iter().enumerate() {
            if let Some(source) = handle.source(&source.name) {
                let server = source.server.clone();
                asked.spawn(async move { (index, server.list().await) });
            }
        }
        while let Some(answer) = asked.join_next().await {
            if let Ok((index, tools)) = answer {
                self.heard(index, tools);
            }
        }
    }

    pub(super) fn heard(&mut self, index: usize, tools: Result<Vec<serde_json::Value>, String>) {
        let Some(Listing { source, tools: known }) = self.listings.get_mut(index) else { return };
        if *known == tools {
            return;
        }
        match (&tools, &*known) {
            (Ok(tools), _) => info!(%source, tools = tools.len(), "tools elsewhere"),
            // What it had is still offered: its calls say best whether it is there.
            (Err(cause), Ok(_)) => return warn!(%source, cause, "did not say what tools it has; those known stay"),
            (Err(cause), Err(_)) => warn!(%source, cause, "has not said what tools it has: calls of them are refused"),
        }
        *known = tools;
        // The toolsets were known when it was made.
        let Ok((registry, faults)) = Registry::with_external(&self.enabled, &self.disabled, &self.listings) else {
            return;
        };
        for fault in faults.iter().filter(|fault| !self.faults.contains(fault)) {
            warn!("a tool is left out: {fault}");
        }
        self.faults = faults;
        self.registry.send_replace(Arc::new(registry));
    }
}
