//! The calls, one by one.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    call::{Call, Effect, Request},
    client::Client,
    error::ApiError,
    model::{
        AgentSelf, Allocation, Dispatch, Dispatched, Evaluation, Job, JobStub, Listed, NodeStub, Registered, SelfToken,
        Stopped, Validation,
    },
    transport::Bound,
};

/// Of a list of jobs, some hundred bytes each.
const PAGE: &str = "1000";
/// A cluster with more pages is not believed.
const MAX_PAGES: usize = 1000;
/// Who somebody is where Nomad does not ask.
const NO_ACCESS_CONTROL: &str = "acls-disabled";
/// Nomad waits no longer.
const MAX_WAIT: Duration = Duration::from_secs(300);

const fn read(name: &'static str, capability: &'static str) -> Call {
    Call { name, capability: Some(capability), effect: Effect::Read }
}

const fn write(name: &'static str, capability: &'static str, effect: Effect) -> Call {
    Call { name, capability: Some(capability), effect }
}

const VALIDATE: Call = read("POST /v1/validate/job", "read-job");
const JOB: Call = read("GET /v1/job/:id", "read-job");
const JOBS: Call = read("GET /v1/jobs", "list-jobs");
const ALLOCATIONS: Call = read("GET /v1/allocations", "read-job");
const ALLOCATION: Call = read("GET /v1/allocation/:id", "read-job");
const EVALUATION: Call = read("GET /v1/evaluation/:id", "read-job");
const LOGS: Call = read("GET /v1/client/fs/logs/:allocation", "read-logs");
const AGENT_SELF: Call = read("GET /v1/agent/self", "agent { policy = \"read\" }");
const NODES: Call = read("GET /v1/nodes", "node { policy = \"read\" }");
const LEADER: Call = Call { name: "GET /v1/status/leader", capability: None, effect: Effect::Read };
const HEALTH: Call = Call { name: "GET /v1/agent/health", capability: None, effect: Effect::Read };
const SELF_TOKEN: Call = Call { name: "GET /v1/acl/token/self", capability: None, effect: Effect::Read };
const STOP: Call = write("DELETE /v1/job/:id", "submit-job", Effect::Repeatable);
const DISPATCH: Call = write("POST /v1/job/:id/dispatch", "dispatch-job", Effect::Once);
const REGISTER: Call = write("POST /v1/jobs", "submit-job", Effect::Repeatable);

/// Every one fails with what [`ApiError`] says.
#[allow(clippy::missing_errors_doc)]
impl Client {
    pub async fn validate(&self, job: &Value) -> Result<Validation, ApiError> {
        self.fetch(Request::post(VALIDATE, &["validate", "job"], &json!({ "Job": job }))).await
    }

    /// Registers the job; `only_if` it has this `JobModifyIndex`, or with 0, is not there.
    pub async fn register(&self, job: &Value, only_if: Option<u64>) -> Result<Registered, ApiError> {
        let (effect, body) = match only_if {
            // The same spec again changes nothing.
            None => (Effect::Repeatable, json!({ "Job": job })),
            Some(index) => (Effect::Compared, json!({ "Job": job, "EnforceIndex": true, "JobModifyIndex": index })),
        };
        self.fetch(Request::post(Call { effect, ..REGISTER }, &["jobs"], &body)).await
    }

    pub async fn job(&self, id: &str) -> Result<Option<Job>, ApiError> {
        found(self.fetch(Request::get(JOB, &["job", id])).await)
    }

    /// Stops the job; with `purge` it is forgotten at once, its allocations too, while they may still run. Stopping
    /// what is not there succeeds.
    pub async fn stop_job(&self, id: &str, purge: bool) -> Result<Stopped, ApiError> {
        let path = ["job", id];
        let request = Request { method: Method::DELETE, ..Request::get(STOP, &path) };
        self.fetch(request.with("purge", purge.to_string())).await
    }

    /// All jobs that the filter takes, with their meta.
    pub async fn jobs(&self, filter: &str) -> Result<Vec<JobStub>, ApiError> {
        let mut jobs = Vec::new();
        let mut next: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let mut request =
                Request::get(JOBS, &["jobs"]).with("meta", "true").with("filter", filter).with("per_page", PAGE);
            if let Some(token) = &next {
                request = request.with("next_token", token);
            }
            let answer = self.transport.ask(&request).await?;
            jobs.append(&mut list(&JOBS, &answer.body)?);
            if answer.next_token.is_none() {
                return Ok(jobs);
            }
            next = answer.next_token;
        }
        Err(JOBS.malformed(format!("there are more than {MAX_PAGES} pages")))
    }

    /// Starts one child. Tries once: whoever is left in doubt looks with [`Client::find_dispatched`] before the next.
    pub async fn dispatch(&self, parent: &str, dispatch: &Dispatch<'_>) -> Result<Dispatched, ApiError> {
        let body = json!({ "Payload": BASE64_STANDARD.encode(dispatch.payload), "Meta": dispatch.meta });
        let path = ["job", parent, "dispatch"];
        let request = Request::post(DISPATCH, &path, &body).with("idempotency_token", dispatch.idempotency_token);
        let dispatched: Dispatched = self.fetch(request).await?;
        if dispatched.job_id.is_empty() {
            return Err(DISPATCH.malformed("it names no child"));
        }
        Ok(dispatched)
    }

    /// The children of an idempotency token: one, or several if dispatches raced.
    pub async fn find_dispatched(&self, token: &str) -> Result<Vec<JobStub>, ApiError> {
        self.jobs(&format!("DispatchIdempotencyToken == {}", quoted(token))).await
    }

    /// All allocations that the filter takes, with their resources and the states of their tasks.
    pub async fn allocations(&self, filter: &str) -> Result<Listed<Vec<Allocation>>, ApiError> {
        let request = allocations(ALLOCATIONS, filter);
        self.listed(&request, self.transport.timeout).await
    }

    /// The same, once any allocation of the namespace has changed after the index, or the wait is over. It may return
    /// early and unchanged; an index that went down means that Nomad has begun anew.
    pub async fn wait_allocations(
        &self,
        filter: &str,
        after: u64,
        wait: Duration,
    ) -> Result<Listed<Vec<Allocation>>, ApiError> {
        let wait = wait.min(MAX_WAIT);
        let request = allocations(Call { effect: Effect::Blocking, ..ALLOCATIONS }, filter)
            // With 0, it would not wait.
            .with("index", after.max(1).to_string())
            .with("wait", format!("{}ms", wait.as_millis()));
        // Nomad adds up to a sixteenth.
        self.listed(&request, wait + wait / 16 + self.transport.timeout).await
    }

    pub async fn allocation(&self, id: &str) -> Result<Option<Allocation>, ApiError> {
        found(self.fetch(Request::get(ALLOCATION, &["allocation", id])).await)
    }

    pub async fn evaluation(&self, id: &str) -> Result<Option<Evaluation>, ApiError> {
        found(self.fetch(Request::get(EVALUATION, &["evaluation", id])).await)
    }

    /// The end of what a task has written to stderr, at most so many bytes.
    pub async fn task_log_tail(&self, allocation: &str, task: &str, bytes: u64) -> Result<String, ApiError> {
        let path = ["client", "fs", "logs", allocation];
        let request = Request::get(LOGS, &path)
            .with("task", task)
            .with("type", "stderr")
            .with("origin", "end")
            .with("offset", bytes.to_string())
            .with("plain", "true");
        let bound = Bound::Cut(usize::try_from(bytes).unwrap_or(usize::MAX));
        let answer = self.transport.ask_within(&request, self.transport.timeout, bound).await?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// Where the leader is.
    pub async fn leader(&self) -> Result<String, ApiError> {
        let leader: String = self.fetch(Request::get(LEADER, &["status", "leader"])).await?;
        if leader.is_empty() {
            let text = "No cluster leader".to_owned();
            return Err(ApiError::Retryable { call: LEADER.name, text, may_have_applied: false });
        }
        Ok(leader)
    }

    /// Whether the agent thinks that it is well. One that has never reached a server thinks so too.
    pub async fn health(&self) -> Result<(), ApiError> {
        self.transport.ask(&Request::get(HEALTH, &["agent", "health"])).await.map(drop)
    }

    pub async fn agent_self(&self) -> Result<AgentSelf, ApiError> {
        self.fetch(Request::get(AGENT_SELF, &["agent", "self"])).await
    }

    pub async fn nodes(&self) -> Result<Vec<NodeStub>, ApiError> {
        let answer = self.transport.ask(&Request::get(NODES, &["nodes"]).with("resources", "true")).await?;
        list(&NODES, &answer.body)
    }

    /// What Nomad takes this client's token for; `None` where it has no access control. A token that it does not know
    /// is denied. What a token may do is told by trying alone: each denied call names the capability that it needs.
    pub async fn acl_self_token(&self) -> Result<Option<SelfToken>, ApiError> {
        match self.fetch(Request::get(SELF_TOKEN, &["acl", "token", "self"])).await {
            Err(ApiError::Invalid { text, .. }) if text.contains("ACL support disabled") => Ok(None),
            other => other.map(|token: SelfToken| Some(token).filter(|token| token.accessor_id != NO_ACCESS_CONTROL)),
        }
    }

    async fn fetch<T: DeserializeOwned>(&self, request: Request<'_>) -> Result<T, ApiError> {
        let answer = self.transport.ask(&request).await?;
        request.call.decode(&answer.body)
    }

    async fn listed(&self, request: &Request<'_>, time: Duration) -> Result<Listed<Vec<Allocation>>, ApiError> {
        let answer = self.transport.ask_within(request, time, Bound::Refuse).await?;
        Ok(Listed { value: list(&request.call, &answer.body)?, index: answer.index.max(1) })
    }
}

fn allocations(call: Call, filter: &str) -> Request<'_> {
    Request::get(call, &["allocations"]).with("resources", "true").with("task_states", "true").with("filter", filter)
}

/// A list; `null` is an empty one.
fn list<T: DeserializeOwned>(call: &Call, json: &[u8]) -> Result<Vec<T>, ApiError> {
    Ok(call.decode::<Option<Vec<T>>>(json)?.unwrap_or_default())
}

/// Nomad says so of what is not there. An empty 404 is no Nomad's.
fn found<T>(result: Result<T, ApiError>) -> Result<Option<T>, ApiError> {
    match result {
        Err(ApiError::NotFound { text, .. }) if text.contains("not found") => Ok(None),
        other => other.map(Some),
    }
}

/// A string of the filter language.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push('"');
    quoted
}
