//! A ToolServer of a test's own: a tool's name says what it does.

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
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What reached it.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) bodies: Mutex<Vec<Value>>,
    pub(crate) authorization: Mutex<Option<String>>,
    /// Running now, and the most that ever were.
    running: AtomicUsize,
    pub(crate) most: AtomicUsize,
    pub(crate) tools: Mutex<Vec<Value>>,
}

/// Ends with all its connections once dropped.
pub(crate) struct ToolServer {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    runtime: Option<tokio::runtime::Runtime>,
}

/// The names of its tools.
pub(crate) const TOOLS: [&str; 8] = ["echo", "fail", "slow", "crash", "garbage", "huge", "breaks_off", "other_id"];

pub(crate) fn schema(name: &str) -> Value {
    let text = json!({ "type": "string" });
    json!({"type": "function", "function": {"name": name, "description": name,
        "parameters": {"type": "object", "properties": {"text": text}, "required": ["text"]}}})
}

impl ToolServer {
    pub(crate) fn start() -> Self {
        Self::at(([127, 0, 0, 1], 0).into())
    }

    pub(crate) fn at(address: SocketAddr) -> Self {
        let seen = Arc::new(Seen::default());
        *seen.tools.lock().expect("whole") = TOOLS.map(schema).into();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let router = Router::new()
            .route(
                "/tools",
                get(async |State(seen): State<Arc<Seen>>| Json(json!({ "tools": *seen.tools.lock().expect("whole") }))),
            )
            .route("/execute", post(execute))
            .with_state(seen.clone());
        let listener = std::net::TcpListener::bind(address).expect("it can listen");
        let address = listener.local_addr().expect("it has an address");
        listener.set_nonblocking(true).expect("it can be set");
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            axum::serve(listener, router).await.expect("it serves");
        });
        Self { address, seen, runtime: Some(runtime) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How often the call has been asked for.
    pub(crate) fn runs(&self, call: &str) -> usize {
        let bodies = self.seen.bodies.lock().expect("whole");
        bodies.iter().filter(|body| body["tool"]["uniq_id"] == call).count()
    }
}

impl Drop for ToolServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn execute(State(seen): State<Arc<Seen>>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let authorization = headers.get("authorization").map(|value| value.to_str().expect("text").to_owned());
    *seen.authorization.lock().expect("whole") = authorization;
    seen.bodies.lock().expect("whole").push(body.clone());
    let running = seen.running.fetch_add(1, Ordering::SeqCst) + 1;
    seen.most.fetch_max(running, Ordering::SeqCst);
    let answer = answer(&body).await;
    seen.running.fetch_sub(1, Ordering::SeqCst);
    answer
}

async fn answer(body: &Value) -> Response {
    let text = body["tool"]["arguments"]["text"].as_str().unwrap_or_default();
    let id = &body["tool"]["uniq_id"];
    let good = |output: &str| {
        Json(json!({"success": true, "output": output, "error": "", "metadata": {"n": 1}, "uniq_id": id}))
    };
    match body["tool"]["name"].as_str().unwrap_or_default() {
        "echo" => good(text).into_response(),
        "fail" => Json(json!({"success": false, "output": "half", "error": text, "metadata": {}, "uniq_id": id}))
            .into_response(),
        "slow" => {
            tokio::time::sleep(Duration::from_millis(text.parse().expect("milliseconds"))).await;
            good("slept").into_response()
        }
        "crash" => (StatusCode::INTERNAL_SERVER_ERROR, "it fell over").into_response(),
        "garbage" => "<html>".into_response(),
        "huge" => good(&"x".repeat(6 << 20)).into_response(),
        "breaks_off" => {
            // The start of it reaches the caller first.
            let (parts, receiver) = tokio::sync::mpsc::channel(1);
            tokio::spawn(async move {
                // A caller that is gone needs no answer.
                let _ = parts.send(Ok("{\"success\": tr")).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
                let _ = parts.send(Err(std::io::Error::other("gone"))).await;
            });
            let parts = tokio_stream::wrappers::ReceiverStream::new(receiver);
            Body::from_stream(parts).into_response()
        }
        "redirect" => (StatusCode::TEMPORARY_REDIRECT, [("location", text.to_owned())]).into_response(),
        "other_id" => Json(json!({"success": true, "output": "", "uniq_id": "another"})).into_response(),
        name => (StatusCode::NOT_FOUND, name.to_owned()).into_response(),
    }
}
