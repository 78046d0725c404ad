//! A server that answers the next request as a recording says.
//!
//! It listens on a Unix socket, where what is written can be read at once: so time may be paused, and only passes
//! where both sides really wait for it.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, Response, Uri},
};
use tempfile::TempDir;
use tokio::{
    net::UnixListener,
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tool_executor::backend::nomad::api::{Address, Client, ClientConfig};

use super::recording::{self, Exchange};

/// Of a call.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Player {
    pub(super) client: Client,
    script: Arc<Mutex<Script>>,
    _directory: TempDir,
}

#[derive(Default)]
struct Script {
    answers: VecDeque<Answer>,
    seen: Vec<Seen>,
}

/// What was asked.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

#[derive(Debug, Clone)]
pub(super) enum Answer {
    Whole {
        status: u16,
        headers: Vec<(String, String)>,
        body: String,
    },
    /// Lines, each after so long; then the end, or nothing any more.
    Stream {
        status: u16,
        lines: Vec<(Duration, String)>,
        end: Option<Duration>,
    },
    Never,
}

impl Answer {
    pub(super) fn new(status: u16, body: &str) -> Self {
        Self::Whole { status, headers: Vec::new(), body: body.to_owned() }
    }

    /// What was answered. A stream that the recorder closed would have gone on; if an error ended it, it is over.
    pub(super) fn of(exchange: &Exchange) -> Self {
        let Some(response) = &exchange.response else { return Self::Never };
        let since = |at_ms: u64| Duration::from_millis(at_ms.saturating_sub(exchange.at_ms));
        let Some(lines) = &response.lines else {
            let headers = response.headers.iter().filter(|(name, _)| name.starts_with("X-Nomad-"));
            return Self::Whole {
                status: response.status,
                headers: headers.map(|(name, value)| (name.clone(), value.clone())).collect(),
                body: response.body.clone().unwrap_or_default(),
            };
        };
        let closed = exchange.ended.as_deref().is_some_and(|ended| ended.starts_with("server closed"));
        let end = match exchange.ended_at_ms {
            Some(at) if closed => Some(since(at)),
            _ if response.status != 200 => Some(Duration::ZERO),
            _ => None,
        };
        let lines = lines.iter().map(|line| (since(line.at_ms), format!("{}\n", line.data))).collect();
        Self::Stream { status: response.status, lines, end }
    }
}

impl Player {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    /// With another configuration.
    pub(super) fn with(configure: impl FnOnce(&mut ClientConfig)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("nomad.sock");
        let script = Arc::<Mutex<Script>>::default();
        let router = Router::new().fallback(answer).with_state(script.clone());
        let listener = UnixListener::bind(&socket).expect("a socket");
        // Ends with the runtime.
        tokio::spawn(async move { axum::serve(listener, router).await });
        let mut config = ClientConfig::new(Address::Unix(socket), TIMEOUT);
        configure(&mut config);
        let client = Client::new(&config).expect("a client");
        Self { client, script, _directory: directory }
    }

    /// Each answer once; the last one again and again.
    pub(super) fn answer(&self, answers: impl IntoIterator<Item = Answer>) -> &Client {
        let mut script = self.script.lock().expect("not poisoned");
        *script = Script { answers: answers.into_iter().collect(), seen: Vec::new() };
        &self.client
    }

    pub(super) fn play(&self, exchange: &Exchange) -> &Client {
        self.answer([Answer::of(exchange)])
    }

    pub(super) fn recorded(&self, number: &str, name: &str) -> &Client {
        self.play(&recording::exchange(number, name))
    }

    /// What was asked since the answers were set.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.script.lock().expect("not poisoned").seen.clone()
    }
}

async fn answer(State(script): State<Arc<Mutex<Script>>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("a request");
    let answer = {
        let mut script = script.lock().expect("not poisoned");
        script.seen.push(Seen { method: parts.method, uri: parts.uri, headers: parts.headers, body });
        match script.answers.len() {
            0 | 1 => script.answers.front().cloned(),
            _ => script.answers.pop_front(),
        }
    };
    match answer.expect("an answer") {
        Answer::Whole { status, headers, body } => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            response.body(Body::from(body)).expect("a response")
        }
        Answer::Stream { status, lines, end } => {
            let (sender, receiver) = mpsc::channel::<Result<String, Infallible>>(1);
            tokio::spawn(send(sender, lines, end));
            let body = Body::from_stream(ReceiverStream::new(receiver));
            Response::builder().status(status).body(body).expect("a response")
        }
        Answer::Never => std::future::pending().await,
    }
}

async fn send(sender: mpsc::Sender<Result<String, Infallible>>, lines: Vec<(Duration, String)>, end: Option<Duration>) {
    let began = Instant::now();
    for (after, line) in lines {
        sleep_until(began + after).await;
        if sender.send(Ok(line)).await.is_err() {
            return;
        }
    }
    match end {
        Some(end) => sleep_until(began + end).await,
        None => sender.closed().await,
    }
}
