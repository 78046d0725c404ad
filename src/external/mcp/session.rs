//! One session: its requests, each a POST, and their answers.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::{
    Client, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use rmcp::model::ProtocolVersion;
use serde_json::{Value, json};
use tokio::{sync::Notify, time::timeout};

use super::{
    answer::{self, Answer, Heard},
    events::Events,
};
use crate::{
    external::http::{self, Unanswered, sent},
    tool::Failure,
};

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// So long a server is told that a call was given up, or a session.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(5);
/// The request that begins a session: the others count on from it.
const FIRST: u64 = 0;

/// Where messages go.
pub(super) struct Post {
    pub(super) http: Client,
    pub(super) url: Url,
    pub(super) max_answer_bytes: usize,
    /// Told once its tools may be others.
    pub(super) changed: Notify,
}

/// What the server knows its caller by. Dropped, it is told that the session is of no use any more: it goes with the
/// last call that is asked in it.
pub(super) struct Session {
    post: Arc<Post>,
    headers: HeaderMap,
    next: AtomicU64,
    has_ended: AtomicBool,
}

/// Asks for a session: the answer, and the session's id where the server gives one.
pub(super) async fn begin(post: &Post, params: Value) -> Result<(Answer, Option<HeaderValue>), Unanswered> {
    let response = post.send(&HeaderMap::new(), &request(FIRST, "initialize", params)).await?;
    let id = response.headers().get(SESSION_ID).cloned();
    Ok((post.answer(response, FIRST).await?, id))
}

impl Session {
    /// As the server has begun it.
    pub(super) fn new(post: Arc<Post>, id: Option<HeaderValue>, version: &ProtocolVersion) -> Result<Self, Unanswered> {
        let version = HeaderValue::from_str(version.as_str())
            .map_err(|error| Unanswered::protocol(format!("its version cannot be sent: {error}")))?;
        let mut headers = HeaderMap::from_iter([(PROTOCOL_VERSION, version)]);
        if let Some(id) = id {
            headers.insert(SESSION_ID, id);
        }
        Ok(Self { post, headers, next: AtomicU64::new(FIRST + 1), has_ended: AtomicBool::new(false) })
    }

    /// What each request in it has.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Whether the server keeps anything of it.
    pub(super) fn is_kept(&self) -> bool {
        self.headers.contains_key(SESSION_ID)
    }

    /// Dropped, the server is told that nobody waits for the answer.
    pub(super) async fn ask(self: &Arc<Self>, method: &str, params: Value) -> Result<Answer, Unanswered> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut waiting = Waiting { session: self.clone(), id, over: false };
        let answer = async {
            let response = self.post.send(&self.headers, &request(id, method, params)).await?;
            if response.status() == StatusCode::NOT_FOUND && self.is_kept() {
                let cause = "it has forgotten the session".to_owned();
                return Err(Unanswered { failure: Failure::Protocol, unsent: true, cause });
            }
            self.post.answer(response, id).await
        };
        let answer = answer.await;
        waiting.over = true;
        answer
    }

    pub(super) async fn notify(&self, method: &str, params: Value) -> Result<(), Unanswered> {
        let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        let response = self.post.send(&self.headers, &message).await?;
        http::read(response, self.post.max_answer_bytes).await.map(|_| ())
    }

    /// Tells the server at once that it is over.
    pub(super) async fn end(&self) {
        if self.is_kept() && !self.has_ended.swap(true, Ordering::Relaxed) {
            end(&self.post, self.headers.clone()).await;
        }
    }
}

/// A server may refuse it: then it ends sessions as it sees fit.
async fn end(post: &Post, headers: HeaderMap) {
    let request = post.http.delete(post.url.clone()).headers(headers);
    let _ = timeout(NOTICE_TIMEOUT, request.send()).await;
}

impl Drop for Session {
    fn drop(&mut self) {
        // At the executor's own end sessions have been told of before, and there is nobody left to do it.
        let is_known = self.is_kept() && !*self.has_ended.get_mut();
        let (true, Ok(runtime)) = (is_known, tokio::runtime::Handle::try_current()) else { return };
        let (post, headers) = (self.post.clone(), mem::take(&mut self.headers));
        runtime.spawn(async move { end(&post, headers).await });
    }
}

fn request(id: u64, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// A request whose answer is waited for.
struct Waiting {
    session: Arc<Session>,
    id: u64,
    over: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // At the executor's own end there is nobody left to tell it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.over {
            return;
        }
        let (session, id) = (self.session.clone(), self.id);
        // Nobody waits for it, and its time bounds it: whether it was heard changes nothing.
        runtime.spawn(async move {
            let params = json!({"requestId": id, "reason": "its caller gave it up"});
            let _ = timeout(NOTICE_TIMEOUT, session.notify("notifications/cancelled", params)).await;
        });
    }
}

impl Post {
    /// Heard by whoever keeps the list.
    pub(super) fn tell_changed(&self) {
        self.changed.notify_one();
    }

    async fn send(&self, headers: &HeaderMap, message: &Value) -> Result<Response, Unanswered> {
        let request = self
            .http
            .post(self.url.clone())
            .headers(headers.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream")
            .body(message.to_string());
        sent(request.send().await)
    }

    /// The answer to the request of that id, within its bound.
    async fn answer(&self, response: Response, id: u64) -> Result<Answer, Unanswered> {
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if response.status().is_success() && kind.starts_with("text/event-stream") {
            return self.streamed(response, id).await;
        }
        let body = http::read(response, self.max_answer_bytes).await?;
        match answer::heard(&body, Some(id))? {
            Heard::Answer(answer) => Ok(answer),
            Heard::ToolsChanged | Heard::Other => Err(Unanswered::protocol("its answer is no answer".to_owned())),
        }
    }

    /// Between its beginning and its end there may be other messages, on how it goes.
    async fn streamed(&self, response: Response, id: u64) -> Result<Answer, Unanswered> {
        let mut events = Events::of(response, self.max_answer_bytes);
        while let Some(message) = events.next().await? {
            match answer::heard(message.as_bytes(), Some(id))? {
                Heard::Answer(answer) => return Ok(answer),
                Heard::ToolsChanged => self.tell_changed(),
                Heard::Other => {}
            }
        }
        Err(Unanswered::protocol("the answer ends before it is there".to_owned()))
    }
}
