//! A ToolServer over HTTP: `GET /tools` lists its tools, `POST /execute` runs one.

use std::{error::Error as _, sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::{Bytes, BytesMut};
use reqwest::{
    Response, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
    redirect, retry,
};
use rustls::{ClientConfig as TlsConfig, RootCertStore, crypto::ring};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    config::{SourceConfig, SourceError},
    handle::Request,
};
use crate::tool::{ExternalEnd, ExternalEnding, Failure, job::Phases};

/// Whoever does not connect within this has surely not been asked.
const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Below the 5 s after which the most common Python server closes a connection: one that it is about to close is not
/// used again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// A server keeps its tool to the call's timeout, too, and what it then says is worth more than that it was late.
const GRACE: Duration = Duration::from_secs(1);
/// For a list of tools.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries of a call that was not sent, the first among them.
const MAX_TRIES: usize = 4;
/// Of an answer that makes no sense: so much is told.
const MAX_TOLD_BYTES: usize = 300;

/// See the module. Its connections are shared by all calls.
pub(super) struct ToolServer {
    http: reqwest::Client,
    tools: Url,
    execute: Url,
    max_answer_bytes: usize,
}

#[derive(Serialize)]
struct ExecuteBody<'a> {
    trajectory_id: &'a str,
    tool: ToolBody<'a>,
    timeout_s: f64,
    // An external call has no slot: the names are the protocol's.
    slot_id: Option<&'a str>,
    container_addr: Option<&'a str>,
}

#[derive(Serialize)]
struct ToolBody<'a> {
    name: &'a str,
    arguments: &'a RawValue,
    uniq_id: &'a str,
}

#[derive(Deserialize)]
struct ExecuteAnswer {
    success: bool,
    output: Option<Value>,
    error: Option<String>,
    metadata: Option<serde_json::Map<String, Value>>,
    uniq_id: Option<String>,
}

#[derive(Deserialize)]
struct ToolsAnswer {
    tools: Vec<Value>,
}

/// Why there is no answer.
#[derive(Debug)]
struct Unanswered {
    failure: Failure,
    unsent: bool,
    cause: String,
}

impl Unanswered {
    fn protocol(cause: String) -> Self {
        Self { failure: Failure::Protocol, unsent: false, cause }
    }
}

impl ToolServer {
    /// Connects nowhere yet.
    pub(super) fn new(config: &SourceConfig) -> Result<Self, SourceError> {
        let name = || config.name.clone();
        let address = || SourceError::Address { name: name(), url: config.url.clone() };
        let url =
            |path: &str| Url::parse(&format!("{}/{path}", config.url.trim_end_matches('/'))).map_err(|_| address());
        let mut headers = HeaderMap::new();
        if let Some(token) = &config.token {
            let value = HeaderValue::from_str(&format!("Bearer {}", token.reveal()));
            let mut value = value.map_err(|_| SourceError::Token { name: name() })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut roots = RootCertStore::empty();
        if config.url.starts_with("https") {
            // A machine's list may hold some that cannot be read: those are not trusted.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let tls = TlsConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|source| SourceError::Tls { name: name(), source })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let http = reqwest::Client::builder()
            .http1_only()
            .no_proxy()
            .referer(false)
            // A redirect would carry the token elsewhere, and might run the call twice.
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .connect_timeout(MAX_CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_nodelay(true)
            .tls_backend_preconfigured(tls)
            .default_headers(headers)
            .build()
            .map_err(|source| SourceError::Client { name: name(), source })?;
        Ok(Self { http, tools: url("tools")?, execute: url("execute")?, max_answer_bytes: config.max_answer_bytes })
    }

    /// The schemas of its tools; or why they are not known, for people.
    pub(super) async fn list(&self) -> Result<Vec<Value>, String> {
        let asked = async {
            let body = self.read(sent(self.http.get(self.tools.clone()).send().await)?).await?;
            let answer: ToolsAnswer = parse(&body)?;
            Ok::<_, Unanswered>(answer.tools)
        };
        match timeout(LIST_TIMEOUT, asked).await {
            Ok(answer) => answer.map_err(|unanswered| unanswered.cause),
            Err(_) => Err(format!("no answer within {LIST_TIMEOUT:?}")),
        }
    }

    /// Has a tool run. It is asked once, but for tries that have not reached it.
    pub(super) async fn execute(&self, request: &Request) -> ExternalEnding {
        let body = match body(request) {
            Ok(body) => body,
            Err(error) => {
                let cause = format!("the arguments cannot be sent: {error}");
                let end = ExternalEnd::Unavailable { failure: Failure::Protocol, unsent: true, cause };
                return ExternalEnding { end, phases: Phases::default() };
            }
        };
        let began = Instant::now();
        // Tries that do not reach it are dispatch; they too come to an end with the call's time.
        let last_try = began + request.timeout;
        let mut delays = delays();
        loop {
            let (answer, mut phases) = self.once(body.clone(), request.timeout).await;
            let unanswered = match answer {
                Ok(answer) => return ExternalEnding { end: end(answer, request), phases },
                Err(unanswered) => unanswered,
            };
            if unanswered.unsent {
                phases = Phases::default();
                if let Some(delay) = delays.next()
                    && Instant::now() + delay < last_try
                {
                    sleep(delay).await;
                    continue;
                }
            }
            let Unanswered { failure, unsent, cause } = unanswered;
            return ExternalEnding { end: ExternalEnd::Unavailable { failure, unsent, cause }, phases };
        }
    }

    /// One try: execution is from its beginning until the answer begins, collection until it is all here.
    async fn once(&self, body: Bytes, time: Duration) -> (Result<ExecuteAnswer, Unanswered>, Phases) {
        let began = Instant::now();
        let deadline = began + time + GRACE;
        let late =
            || Unanswered { failure: Failure::Timeout, unsent: false, cause: format!("no answer within {time:?}") };
        let request = self.http.post(self.execute.clone()).header(CONTENT_TYPE, "application/json").body(body);
        let response = match timeout_at(deadline, request.send()).await {
            Ok(response) => sent(response),
            Err(_) => Err(late()),
        };
        let execution = began.elapsed();
        let answer = match response {
            Ok(response) => {
                timeout_at(deadline, async { parse(&self.read(response).await?) }).await.unwrap_or_else(|_| {
                    Err(Unanswered { cause: format!("the answer was not whole within {time:?}"), ..late() })
                })
            }
            Err(unanswered) => Err(unanswered),
        };
        let collection = began.elapsed() - execution;
        (answer, Phases { execution, collection, ..Phases::default() })
    }

    /// All of a good answer, within its bound.
    async fn read(&self, mut response: Response) -> Result<Bytes, Unanswered> {
        let status = response.status();
        let mut body = BytesMut::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > self.max_answer_bytes => {
                    let cause = format!("the answer is larger than {} bytes", self.max_answer_bytes);
                    return Err(Unanswered::protocol(cause));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(_) if !status.is_success() => break,
                Err(error) => return Err(Unanswered::protocol(format!("the answer breaks off: {}", chain(&error)))),
            }
        }
        // A tool may have run before its server failed: a status does not say.
        if !status.is_success() {
            return Err(Unanswered::protocol(format!("it answered {status}: {}", told(&body))));
        }
        Ok(body.freeze())
    }
}

/// The tool's own words. An answer for another call is none.
fn end(answer: ExecuteAnswer, request: &Request) -> ExternalEnd {
    let ExecuteAnswer { success, output, error, metadata, uniq_id } = answer;
    if let Some(id) = uniq_id.filter(|id| id != request.call_id.as_str()) {
        let id: String = id.chars().take(64).collect();
        let cause = format!("it answered for another call, {id:?}");
        return ExternalEnd::Unavailable { failure: Failure::Protocol, unsent: false, cause };
    }
    let output = match output {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text,
        // Some tools answer with what is no text: a model is shown it as JSON.
        Some(other) => other.to_string(),
    };
    let metadata = metadata.unwrap_or_default().into_iter().collect();
    ExternalEnd::Answered { success, output, error: error.unwrap_or_default(), metadata }
}

fn body(request: &Request) -> Result<Bytes, serde_json::Error> {
    let body = ExecuteBody {
        trajectory_id: &request.trajectory_id,
        tool: ToolBody {
            name: &request.call.tool,
            arguments: serde_json::from_str(&request.call.arguments)?,
            uniq_id: request.call_id.as_str(),
        },
        timeout_s: request.timeout.as_secs_f64(),
        slot_id: None,
        container_addr: None,
    };
    serde_json::to_vec(&body).map(Bytes::from)
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Unanswered> {
    serde_json::from_slice(body)
        .map_err(|error| Unanswered::protocol(format!("the answer makes no sense: {error}: {}", told(body))))
}

/// A try that found nobody was not sent; of any other that failed, nobody knows.
fn sent(response: reqwest::Result<Response>) -> Result<Response, Unanswered> {
    response.map_err(|error| Unanswered {
        failure: Failure::Unreachable,
        unsent: error.is_connect(),
        cause: chain(&error),
    })
}

fn told(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(MAX_TOLD_BYTES)]).into_owned();
    if text.is_empty() { "nothing".to_owned() } else { text }
}

/// The causes; the address is left away, since it may hold a password.
fn chain(error: &reqwest::Error) -> String {
    let mut causes: Vec<String> =
        std::iter::successors(error.source(), |cause| (*cause).source()).map(ToString::to_string).collect();
    causes.dedup();
    if causes.is_empty() { "the connection broke".to_owned() } else { causes.join(": ") }
}

/// Between tries; jittered, so that many callers do not come back at once.
fn delays() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(1))
        .with_max_times(MAX_TRIES - 1)
        .with_jitter()
        .build()
}
