//! Starting one container: one dispatch, until its agent has an address. One that is given up on the way leaves
//! nothing running.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, warn};

use super::{
    Shared,
    api::{ApiError, Dispatch, Dispatched},
    cause, credentials,
    registry::Expected,
    sight::Sight,
    spec::{AgentDelivery, NomadPool},
    template,
};
use crate::{
    backend::{Container, StartError, ids::IdRange},
    id::ContainerId,
    sandbox::agent,
    tool::Evidence,
};

/// How long after a dispatch without an answer it is looked for what came of it.
const DOUBT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_secs(1);
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// A node is found within milliseconds, or there is none.
const SOON: Duration = Duration::from_millis(300);

impl Shared {
    /// Starts a container of the pool.
    pub(super) async fn launch(self: &Arc<Self>, pool: &NomadPool) -> Result<Container, StartError> {
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        let mut attempt = Attempt {
            shared: self.clone(),
            nonce: nonce.clone(),
            child: None,
            in_doubt: false,
            _expected: self.registry.expect(&nonce),
        };
        let ids = self.ids.take();
        let config = agent::Config {
            uid_base: Some(ids.start()),
            token: credentials::token(&self.config.secret, &nonce).reveal().to_owned(),
            tls: self.config.agent_tls,
            pool: pool.name.to_string(),
            profile: pool.profile.clone(),
        };
        let payload = serde_json::to_vec(&config)
            .map_err(|error| StartError::because(format!("could not write the agent's configuration: {error}")))?;
        let meta = self.meta(pool, &nonce, &ids);
        let dispatch = Dispatch { payload: &payload, meta: &meta, idempotency_token: &nonce };
        let dispatched = self.dispatch_in_time(pool, &dispatch, &mut attempt).await.map_err(refused)?;
        let sight = self.registry.claim(&dispatched.job_id, ids);
        attempt.child = Some(dispatched.job_id.clone());
        self.until_placed(&dispatched, sight.clone()).await?;
        let container = self.container(&nonce, &dispatched.job_id, sight)?;
        attempt.child = None;
        Ok(container)
    }

    /// What tells the child from others, and by which it is found again.
    fn meta(&self, pool: &NomadPool, nonce: &str, ids: &IdRange) -> BTreeMap<String, String> {
        let mut meta = BTreeMap::from([
            (template::EXECUTOR.to_owned(), self.config.executor_id.clone()),
            (template::NONCE.to_owned(), nonce.to_owned()),
            (template::USER_IDS.to_owned(), ids.to_string()),
        ]);
        if let (AgentDelivery::Artifact, Some(program)) = (pool.container.agent, &self.config.program) {
            meta.insert(template::PROGRAM_URL.to_owned(), program.url.clone());
            meta.insert(template::PROGRAM_SHA256.to_owned(), program.sha256.clone());
        }
        meta
    }

    /// A Nomad that is away for a moment, without a leader say, is waited for as long as for a node.
    async fn dispatch_in_time(
        &self,
        pool: &NomadPool,
        dispatch: &Dispatch<'_>,
        attempt: &mut Attempt,
    ) -> Result<Dispatched, ApiError> {
        let deadline = Instant::now() + self.config.placement_timeout;
        let mut delay = FIRST_DELAY;
        loop {
            match self.dispatch(pool, dispatch, attempt).await {
                Err(error) if error.is_transient() && !attempt.in_doubt && Instant::now() + delay < deadline => {
                    debug!(error = &error as &dyn std::error::Error, "could not dispatch: tries again");
                    sleep(delay).await;
                    delay = (delay * 2).min(LOOK);
                }
                other => return other,
            }
        }
    }

    async fn dispatch(
        &self,
        pool: &NomadPool,
        dispatch: &Dispatch<'_>,
        attempt: &mut Attempt,
    ) -> Result<Dispatched, ApiError> {
        let parent = self.ensure_template(pool).await?;
        attempt.in_doubt = true;
        let mut dispatched = self.client.dispatch(&parent, dispatch).await;
        if matches!(dispatched, Err(ApiError::NotFound { .. })) {
            // Somebody has removed the template.
            self.forget_template(&parent).await;
            self.ensure_template(pool).await?;
            dispatched = self.client.dispatch(&parent, dispatch).await;
        }
        match dispatched {
            Err(error) if error.may_have_applied() => {
                warn!(error = &error as &dyn std::error::Error, "a dispatch without an answer: looks what came of it");
                self.find(dispatch.idempotency_token).await.ok_or(error)
            }
            other => {
                // Answered: with a child, or surely without one.
                attempt.in_doubt = false;
                other
            }
        }
    }

    /// What came of a dispatch without an answer. A second one is never sent beside it: the two might both count.
    async fn find(&self, nonce: &str) -> Option<Dispatched> {
        let deadline = Instant::now() + DOUBT / 3;
        while Instant::now() < deadline {
            match self.client.find_dispatched(nonce).await {
                Ok(children) => {
                    // Others of them are surplus, and are ended by the watch.
                    if let Some(first) = children.into_iter().min_by_key(|child| (child.submit_time, child.id.clone()))
                    {
                        return Some(Dispatched { job_id: first.id, ..Dispatched::default() });
                    }
                }
                Err(error) => debug!(error = &error as &dyn std::error::Error, "could not look for it"),
            }
            sleep(LOOK).await;
        }
        None
    }

    /// Until a node has been found and the agent's address is known.
    async fn until_placed(&self, dispatched: &Dispatched, mut sight: watch::Receiver<Sight>) -> Result<(), StartError> {
        let deadline = Instant::now() + self.config.placement_timeout;
        let mut no_room = None;
        let mut patience = SOON;
        loop {
            let placed = sight.wait_for(|sight| sight.address.is_some() || sight.ended.is_some());
            match timeout(patience, placed).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(_)) => return Err(StartError::because("it was ended before a node was found for it")),
                Err(_) => {}
            }
            // The stream may be down; the list tells.
            self.nudge.notify_one();
            patience = LOOK;
            if let Some(evaluation) = &dispatched.eval_id
                && let Ok(Some(evaluation)) = self.client.evaluation(evaluation).await
            {
                no_room = cause::of_no_room(&evaluation).or(no_room);
            }
            if Instant::now() >= deadline && sight.borrow().allocation.is_empty() {
                let waited = self.config.placement_timeout;
                let unknown = || format!("Nomad found no node for it within {waited:?}");
                return Err(StartError::because(no_room.unwrap_or_else(unknown)));
            }
        }
    }

    /// The container that a child has become.
    pub(super) fn container(
        self: &Arc<Self>,
        nonce: &str,
        child: &str,
        sight: watch::Receiver<Sight>,
    ) -> Result<Container, StartError> {
        let seen = sight.borrow().clone();
        let (Some(address), None) = (&seen.address, &seen.ended) else {
            let cause = seen.ended.unwrap_or_else(|| "its agent has no address".to_owned());
            return Err(StartError { evidence: Evidence { cause, events: seen.history, ..Evidence::default() } });
        };
        let endpoint = credentials::endpoint(&self.config, nonce, address)
            .map_err(|error| StartError::because(error.to_string()))?;
        debug!(child, allocation = seen.allocation, address, "placed");
        let events = self.follow(sight);
        Ok(Container { id: ContainerId::new(&seen.allocation), node: seen.node, endpoint, events })
    }
}

fn refused(error: ApiError) -> StartError {
    StartError::because(format!("Nomad did not start it: {error}"))
}

/// A start under way. Dropped before its end, it sees to it that nothing is left of it.
struct Attempt {
    shared: Arc<Shared>,
    nonce: String,
    /// It has come to this; none once it has become a container.
    child: Option<String>,
    /// A dispatch was sent whose answer is not known: children may come of it that nobody has heard of, also where one
    /// was found.
    in_doubt: bool,
    _expected: Expected,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            self.shared.end_soon(child);
        }
        if self.in_doubt {
            let (shared, nonce) = (self.shared.clone(), self.nonce.clone());
            self.shared.tasks.spawn(async move { shared.clear_up(&nonce).await });
        }
    }
}

impl Shared {
    /// Ends whatever comes of a dispatch that nobody waits for any more.
    async fn clear_up(self: &Arc<Self>, nonce: &str) {
        let deadline = Instant::now() + DOUBT;
        while Instant::now() < deadline && !self.closing.is_cancelled() {
            for child in self.client.find_dispatched(nonce).await.unwrap_or_default() {
                if !self.registry.knows(&child.id) {
                    self.end_soon(child.id);
                }
            }
            sleep(LOOK).await;
        }
    }
}
