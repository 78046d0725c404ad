//! What tools there are: asked of every source at the start, again and again, and when it says that they have changed.
//! Each is asked by a task of its own: none waits for another. Calls under way are not touched by it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{
    config::{Config, SourceError},
    handle::{Handle, Source},
};
use crate::tool::{Listing, Registry, UnknownToolset};

/// How long a start waits for sources to say what they have.
const FIRST: Duration = Duration::from_secs(3);
/// A source that has not answered is asked sooner than one that has.
const SOON: Duration = Duration::from_secs(2);
/// Between two questions to one source, however often it says that its tools have changed.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// So long a source is taken leave of that was asked once.
const CLOSING: Duration = Duration::from_secs(1);

/// The index of a source, and what it has said.
type Said = (usize, Result<Vec<Value>, String>);

/// What each source says of its tools: how many it has, or why that is not known. For people, before a start.
///
/// # Errors
/// If a source cannot be used as it is set.
pub async fn inspect(config: &Config) -> Result<Vec<(Arc<str>, Result<usize, String>)>, SourceError> {
    let handle = Handle::new(config)?;
    let mut said = Vec::new();
    for source in handle.sources() {
        said.push((source.name.clone(), source.server.list().await.map(|tools| tools.len())));
    }
    handle.close(CLOSING).await;
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
    let (said, mut hearing) = mpsc::channel(1);
    for (index, source) in handle.sources().iter().enumerate() {
        tasks.spawn(ask(index, source.clone(), config.refresh, said.clone()));
    }
    drop(said);
    let mut silent: BTreeSet<usize> = (0..config.sources.len()).collect();
    // Those that say it at once are there when the service begins.
    let first = async {
        while !silent.is_empty() {
            let Some((index, tools)) = hearing.recv().await else { return };
            silent.remove(&index);
            catalogue.heard(index, tools);
        }
    };
    let _ = timeout(FIRST, first).await;
    tasks.spawn(async move {
        while let Some((index, tools)) = hearing.recv().await {
            catalogue.heard(index, tools);
        }
    });
    Ok((handle, receiver))
}

/// Ends with whoever hears it.
async fn ask(index: usize, source: Arc<Source>, interval: Duration, said: mpsc::Sender<Said>) {
    let mut has_answered = false;
    loop {
        let tools = source.server.list().await;
        source.note(|health, at| health.listed(&tools, at));
        has_answered |= tools.is_ok();
        if said.send((index, tools)).await.is_err() {
            return;
        }
        let pause = if has_answered { interval } else { SOON.min(interval) };
        sleep(MIN_PAUSE.min(pause)).await;
        let _ = timeout(pause.saturating_sub(MIN_PAUSE), source.server.changed()).await;
    }
}

impl Catalogue {
    fn new(config: &Config, enabled: Vec<String>, disabled: Vec<String>) -> Result<Self, UnknownToolset> {
        let unheard = |name: &Arc<str>| Listing { source: name.clone(), tools: Err("it has not answered yet".into()) };
        let listings: Vec<Listing> = config.sources.iter().map(|source| unheard(&source.name)).collect();
        let (registry, _) = Registry::with_external(&enabled, &disabled, &listings)?;
        Ok(Self { enabled, disabled, listings, faults: Vec::new(), registry: watch::Sender::new(Arc::new(registry)) })
    }

    pub(super) fn heard(&mut self, index: usize, tools: Result<Vec<Value>, String>) {
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
