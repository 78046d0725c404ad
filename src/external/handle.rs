//! The way to every source. Room there is bounded, in all and at each, and given in the order in which it was asked for.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};

use super::{
    config::{Config, Protocol, SourceConfig, SourceError},
    health::{Health, SourceStatus},
    source::Client,
};
use crate::{
    id::CallId,
    tool::{ExternalCall, ExternalEnd, ExternalEnding, Failure, job::Phases},
};

/// Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    /// A few, in the order of the settings.
    sources: Arc<[Arc<Source>]>,
    room: Arc<Semaphore>,
}

pub(super) struct Source {
    pub(super) name: Arc<str>,
    protocol: Protocol,
    pub(super) server: Client,
    room: Arc<Semaphore>,
    health: Mutex<Health>,
}

/// One call, on its way.
#[derive(Debug, Clone)]
pub struct Request {
    /// As servers are told it: `ID`, or `TENANT#ID`, because two tenants may use the same one.
    pub trajectory_id: String,
    pub call_id: CallId,
    pub call: ExternalCall,
    /// Of the execution.
    pub timeout: Duration,
}

/// A place at a source; dropped, it is given back.
pub struct Room {
    /// None if there is no such source any more.
    source: Option<Arc<Source>>,
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Handle {
    pub(super) fn new(config: &Config) -> Result<Self, SourceError> {
        let sources =
            config.sources.iter().map(|source| Source::new(source).map(Arc::new)).collect::<Result<_, _>>()?;
        Ok(Self { sources, room: Arc::new(Semaphore::new(config.max_calls)) })
    }

    pub(super) fn sources(&self) -> &[Arc<Source>] {
        &self.sources
    }

    /// How each does, in the order of the settings.
    pub fn status(&self) -> Vec<SourceStatus> {
        self.sources.iter().map(|source| source.status()).collect()
    }

    /// Waits for a place at the source.
    pub async fn room(&self, source: &str) -> Room {
        let Some(source) = self.sources.iter().find(|known| &*known.name == source) else {
            return Room { source: None, _permits: Vec::new() };
        };
        // Its own first: whoever waits at one that is busy holds nothing that others want.
        let mut permits = Vec::new();
        for room in [&source.room, &self.room] {
            permits.extend(room.clone().acquire_owned().await);
        }
        Room { source: Some(source.clone()), _permits: permits }
    }

    /// Takes leave of all sources, at most so long; nothing may be asked of them after it.
    pub async fn close(&self, patience: Duration) {
        let mut closing = JoinSet::new();
        for source in self.sources.iter().cloned() {
            closing.spawn(async move { source.server.close().await });
        }
        // One that does not listen ends what it keeps for us in its own time.
        let _ = timeout(patience, closing.join_all()).await;
    }
}

impl Source {
    fn new(config: &SourceConfig) -> Result<Self, SourceError> {
        let &SourceConfig { protocol, ref name, max_calls, .. } = config;
        let (server, room) = (Client::new(config)?, Arc::new(Semaphore::new(max_calls)));
        Ok(Self { name: name.clone(), protocol, server, room, health: Mutex::default() })
    }

    fn status(&self) -> SourceStatus {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
        SourceStatus { name: self.name.clone(), protocol: self.protocol, health }
    }

    pub(super) fn note(&self, note: impl FnOnce(&mut Health, SystemTime)) {
        note(&mut self.health.lock().unwrap_or_else(PoisonError::into_inner), SystemTime::now());
    }
}

impl Room {
    /// Has the call's tool run. Dropped, the call is given up: what becomes of it there is not known.
    pub async fn run(self, request: Request) -> ExternalEnding {
        match &self.source {
            Some(source) => {
                let ending = source.server.execute(&request).await;
                source.note(|health, at| health.called(&ending.end, at));
                ending
            }
            None => {
                let cause = format!("there is no source {} any more", request.call.source);
                let end = ExternalEnd::Unavailable { failure: Failure::Unreachable, unsent: true, cause };
                ExternalEnding { end, phases: Phases::default() }
            }
        }
    }
}
