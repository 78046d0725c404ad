//! The way to every source. Room there is bounded, in all and at each, and given in the order in which it was asked for.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    config::{Config, SourceError},
    source::Client,
};
use crate::{
    id::CallId,
    tool::{ExternalCall, ExternalEnd, ExternalEnding, Failure, job::Phases},
};

/// Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    sources: Arc<HashMap<Arc<str>, Source>>,
    room: Arc<Semaphore>,
}

pub(super) struct Source {
    pub(super) server: Arc<Client>,
    room: Arc<Semaphore>,
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
    server: Option<Arc<Client>>,
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Handle {
    pub(super) fn new(config: &Config) -> Result<Self, SourceError> {
        let source = |source: &super::SourceConfig| {
            let server = Arc::new(Client::new(source)?);
            Ok((source.name.clone(), Source { server, room: Arc::new(Semaphore::new(source.max_calls)) }))
        };
        let sources = config.sources.iter().map(source).collect::<Result<_, _>>()?;
        Ok(Self { sources: Arc::new(sources), room: Arc::new(Semaphore::new(config.max_calls)) })
    }

    pub(super) fn source(&self, name: &str) -> Option<&Source> {
        self.sources.get(name)
    }

    /// Waits for a place at the source.
    pub async fn room(&self, source: &str) -> Room {
        let Some(source) = self.sources.get(source) else { return Room { server: None, _permits: Vec::new() } };
        // Its own first: whoever waits at one that is busy holds nothing that others want.
        let mut permits = Vec::new();
        for room in [&source.room, &self.room] {
            permits.extend(room.clone().acquire_owned().await);
        }
        Room { server: Some(source.server.clone()), _permits: permits }
    }
}

impl Room {
    /// Has the call's tool run. Dropped, the call is given up: what becomes of it there is not known.
    pub async fn run(self, request: Request) -> ExternalEnding {
        match &self.server {
            Some(server) => server.execute(&request).await,
            None => {
                let cause = format!("there is no source {} any more", request.call.source);
                let end = ExternalEnd::Unavailable { failure: Failure::Unreachable, unsent: true, cause };
                ExternalEnding { end, phases: Phases::default() }
            }
        }
    }
}
