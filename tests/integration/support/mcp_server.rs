//! An MCP server of a test's own, in which every way of answering badly is a tool.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::{delete, post},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Notify};

/// What reached it.
#[derive(Default)]
pub(crate) struct Seen {
    /// Of every message.
    pub(crate) messages: Mutex<Vec<Value>>,
    pub(crate) authorization: Mutex<Option<String>>,
    sessions: AtomicUsize,
    /// The next message of this method is of a session that it has forgotten.
    pub(crate) forgetful: Mutex<Option<&'static str>>,
    /// Sessions that it was told are over, in their order.
    pub(crate) ended: Mutex<Vec<String>>,
    /// Beside those of [`TOOLS`], on the last page.
    pub(crate) more: Mutex<Vec<&'static str>>,
    /// Told, whoever listens hears that the tools have changed.
    pub(crate) changed: Notify,
}

/// Ends with all its connections once dropped.
pub(crate) struct McpServer {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    runtime: Option<tokio::runtime::Runtime>,
}

/// The names of its tools: each on a page of its own.
pub(crate) const TOOLS: [&str; 12] = [
    "echo",
    "slow",
    "crash",
    "garbage",
    "huge",
    "huge_stream",
    "breaks_off",
    "no_answer",
    "other_id",
    "unknown",
    "internal",
    "rich",
];

impl McpServer {
    pub(crate) fn start() -> Self {
        let seen = Arc::new(Seen::default());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let router =
            Router::new().route("/mcp", post(message).merge(delete(ended)).get(listened)).with_state(seen.clone());
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("it can listen");
        let address = listener.local_addr().expect("it has an address");
        listener.set_nonblocking(true).expect("it can be set");
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            axum::serve(listener, router).await.expect("it serves");
        });
        Self { address, seen, runtime: Some(runtime) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// The messages of that method.
    pub(crate) fn asked(&self, method: &str) -> Vec<Value> {
        let messages = self.seen.messages.lock().expect("whole");
        messages.iter().filter(|message| message["method"] == method).cloned().collect()
    }
}

impl Drop for McpServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn session(seen: &Seen) -> String {
    format!("session-{}", seen.sessions.load(Ordering::SeqCst))
}

async fn message(State(seen): State<Arc<Seen>>, headers: HeaderMap, Json(message): Json<Value>) -> Response {
    let header = |name: &str| headers.get(name).map(|value| value.to_str().expect("text").to_owned());
    *seen.authorization.lock().expect("whole") = header("authorization");
    let (method, id) = (message["method"].as_str().unwrap_or_default(), &message["id"]);
    let good = |result: Value| Json(json!({"jsonrpc": "2.0", "id": id, "result": result}));
    if method == "initialize" {
        seen.messages.lock().expect("whole").push(message.clone());
        seen.sessions.fetch_add(1, Ordering::SeqCst);
        let result = json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
            "serverInfo": {"name": "stand-in", "version": "1"}});
        return ([("mcp-session-id", session(&seen))], good(result)).into_response();
    }
    let forgotten = seen.forgetful.lock().expect("whole").take_if(|forgotten| *forgotten == method);
    if forgotten.is_some() || header("mcp-session-id") != Some(session(&seen)) {
        return (StatusCode::NOT_FOUND, "Session not found").into_response();
    }
    assert_eq!(header("mcp-protocol-version").as_deref(), Some("2025-06-18"));
    seen.messages.lock().expect("whole").push(message.clone());
    match method {
        "tools/list" => {
            let page = message["params"]["cursor"].as_str().map_or(0, |cursor| cursor.parse().expect("a page"));
            let next = (page + 1 < TOOLS.len()).then(|| (page + 1).to_string());
            let schema = json!({"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]});
            let mut names = vec![TOOLS[page]];
            if next.is_none() {
                names.extend(seen.more.lock().expect("whole").iter());
            }
            let tools: Vec<_> = names.iter().map(|name| json!({"name": name, "inputSchema": schema})).collect();
            good(json!({"tools": tools, "nextCursor": next})).into_response()
        }
        "tools/call" => call(&message).await,
        _ => StatusCode::ACCEPTED.into_response(),
    }
}

async fn ended(State(seen): State<Arc<Seen>>, headers: HeaderMap) -> StatusCode {
    let session = headers["mcp-session-id"].to_str().expect("text").to_owned();
    seen.ended.lock().expect("whole").push(session);
    StatusCode::NO_CONTENT
}

async fn listened(State(seen): State<Arc<Seen>>, headers: HeaderMap) -> Response {
    assert!(headers["accept"] == "text/event-stream" && headers["mcp-protocol-version"] == "2025-06-18");
    if headers["mcp-session-id"] != *session(&seen) {
        return StatusCode::NOT_FOUND.into_response();
    }
    events(Body::from_stream(changes(seen)))
}

/// A message each time that the tools have changed.
fn changes(seen: Arc<Seen>) -> impl tokio_stream::Stream<Item = Result<String, std::io::Error>> {
    let (parts, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let message = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
        loop {
            seen.changed.notified().await;
            if parts.send(Ok(format!("data: {message}\n\n"))).await.is_err() {
                return;
            }
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

fn events(body: impl Into<Body>) -> Response {
    ([("content-type", "text/event-stream")], body.into()).into_response()
}

async fn call(message: &Value) -> Response {
    let (id, text) = (&message["id"], message["params"]["arguments"]["text"].as_str().unwrap_or_default());
    let answer = |id: &Value, text: &str| json!({"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": text}]}});
    let error = |code: i32| Json(json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": "no"}}));
    match message["params"]["name"].as_str().unwrap_or_default() {
        "echo" => {
            let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}});
            events(format!("id: 1\ndata:\n\n: a word\n\ndata: {progress}\n\ndata: {}\n\n", answer(id, text)))
        }
        "slow" => {
            tokio::time::sleep(Duration::from_millis(text.parse().expect("milliseconds"))).await;
            Json(answer(id, "slept")).into_response()
        }
        "crash" => (StatusCode::INTERNAL_SERVER_ERROR, "it fell over").into_response(),
        "garbage" => "<html>".into_response(),
        "huge" => Json(answer(id, &"x".repeat(6 << 20))).into_response(),
        "huge_stream" => events(format!("data: {}\n\n", answer(id, &"x".repeat(6 << 20)))),
        "breaks_off" => {
            // The start of it reaches the caller first.
            let (parts, receiver) = tokio::sync::mpsc::channel(1);
            tokio::spawn(async move {
                // A caller that is gone needs no answer.
                let _ = parts.send(Ok("data: {\"jsonrpc\"")).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
                let _ = parts.send(Err(std::io::Error::other("gone"))).await;
            });
            events(Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver)))
        }
        "no_answer" => events(": nothing\n\n"),
        "other_id" => Json(answer(&json!("another"), "x")).into_response(),
        "unknown" => error(-32602).into_response(),
        "internal" => error(-32603).into_response(),
        "rich" => {
            let content = json!([
                {"type": "text", "text": "see"},
                {"type": "image", "data": "AAAA", "mimeType": "image/png"},
                {"type": "resource", "resource": {"uri": "file:///a", "text": "inside"}},
                {"type": "resource_link", "uri": "file:///b", "name": "b"},
            ]);
            let result = json!({"content": content, "structuredContent": {"n": 1}, "isError": text == "bad"});
            Json(json!({"jsonrpc": "2.0", "id": id, "result": result})).into_response()
        }
        "away" => (StatusCode::TEMPORARY_REDIRECT, [("location", text.to_owned())]).into_response(),
        name => (StatusCode::NOT_FOUND, name.to_owned()).into_response(),
    }
}
