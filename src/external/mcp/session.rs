//! One session: its requests, each a POST, and their answers.

use std::{
    error::Error as _,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyDataStream;
use reqwest::{
    Body, Client, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use rmcp::model::ProtocolVersion;
use serde_json::{Value, json};
use sse_stream::SseByteStream;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;

use super::answer::{self, Answer};
use crate::{
    external::http::{self, Unanswered, sent},
    tool::Failure,
};

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// So long a server is told that a call was given up.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(5);
/// The request that begins a session: the others count on from it.
const FIRST: u64 = 0;

/// Where messages go.
pub(super) struct Post {
    pub(super) http: Client,
    pub(super) url: Url,
    pub(super) max_answer_bytes: usize,
}

/// What the server knows its caller by.
pub(super) struct Session {
    headers: HeaderMap,
    next: AtomicU64,
}

/// Asks for a session: the answer, and the session's id where the server gives one.
pub(super) async fn begin(post: &Post, params: Value) -> Result<(Answer, Option<HeaderValue>), Unanswered> {
    let response = post.send(&HeaderMap::new(), &request(FIRST, "initialize", params)).await?;
    let id = response.headers().get(SESSION_ID).cloned();
    Ok((post.answer(response, FIRST).await?, id))
}

impl Session {
    /// As the server has begun it.
    pub(super) fn new(id: Option<HeaderValue>, version: &ProtocolVersion) -> Result<Self, Unanswered> {
        let version = HeaderValue::from_str(version.as_str())
            .map_err(|error| Unanswered::protocol(format!("its version cannot be sent: {error}")))?;
        let mut headers = HeaderMap::from_iter([(PROTOCOL_VERSION, version)]);
        if let Some(id) = id {
            headers.insert(SESSION_ID, id);
        }
        Ok(Self { headers, next: AtomicU64::new(FIRST + 1) })
    }

    /// Dropped, the server is told that nobody waits for the answer.
    pub(super) async fn ask(
        self: &Arc<Self>,
        post: &Arc<Post>,
        method: &str,
        params: Value,
    ) -> Result<Answer, Unanswered> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut waiting = Waiting { session: self.clone(), post: post.clone(), id, over: false };
        let answer = async {
            let response = post.send(&self.headers, &request(id, method, params)).await?;
            if response.status() == StatusCode::NOT_FOUND && self.headers.contains_key(SESSION_ID) {
                let cause = "it has forgotten the session".to_owned();
                return Err(Unanswered { failure: Failure::Protocol, unsent: true, cause });
            }
            post.answer(response, id).await
        };
        let answer = answer.await;
        waiting.over = true;
        answer
    }

    pub(super) async fn notify(&self, post: &Post, method: &str, params: Value) -> Result<(), Unanswered> {
        let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        let response = post.send(&self.headers, &message).await?;
        http::read(response, post.max_answer_bytes).await.map(|_| ())
    }
}

fn request(id: u64, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// A request whose answer is waited for.
struct Waiting {
    session: Arc<Session>,
    post: Arc<Post>,
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
        let (session, post, id) = (self.session.clone(), self.post.clone(), self.id);
        // Nobody waits for it, and its time bounds it: whether it was heard changes nothing.
        runtime.spawn(async move {
            let params = json!({"requestId": id, "reason": "its caller gave it up"});
            let _ = timeout(NOTICE_TIMEOUT, session.notify(&post, "notifications/cancelled", params)).await;
        });
    }
}

impl Post {
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
        answer::of(&body, id)?.ok_or_else(|| Unanswered::protocol("its answer is no answer".to_owned()))
    }

    /// Between its beginning and its end there may be other messages, on how it goes.
    async fn streamed(&self, response: Response, id: u64) -> Result<Answer, Unanswered> {
        let max = self.max_answer_bytes;
        let mut left = max;
        let chunks = BodyDataStream::new(Body::from(response)).map(move |chunk| {
            let chunk = chunk.map_err(|error| {
                io::Error::other(format!(
                    "the answer breaks off: {}",
                    error.source().map_or(String::new(), |e| e.to_string())
                ))
            })?;
            match left.checked_sub(chunk.len()) {
                Some(rest) => left = rest,
                None => return Err(io::Error::other(format!("the answer is larger than {max} bytes"))),
            }
            Ok(chunk)
        });
        let mut events = pin!(SseByteStream::new(chunks));
        while let Some(event) = events.next().await {
            let data = event.map_err(|error| Unanswered::protocol(error.to_string()))?.data;
            // An event without data says where to go on from.
            let Some(data) = data.filter(|data| !data.is_empty()) else { continue };
            if let Some(answer) = answer::of(data.as_bytes(), id)? {
                return Ok(answer);
            }
        }
        Err(Unanswered::protocol("the answer ends before it is there".to_owned()))
    }
}
