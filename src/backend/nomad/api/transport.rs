//! Sends requests: bounded in number, size and time, and again where that is harmless.

use std::{error::Error as _, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{Response, Url, header::CONTENT_TYPE};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout_at},
};
use tracing::debug;

use super::{
    call::{Call, Request},
    classify::classify,
    error::ApiError,
    retry,
    tally::Tally,
};
use crate::sandbox::client::Token;

/// Of an answer: some ten thousand allocations.
const MAX_BODY_BYTES: usize = 64 << 20;
/// Of a text that says what went wrong.
const MAX_ERROR_BYTES: usize = 8 << 10;

pub(super) struct Answer {
    pub(super) index: u64,
    /// Of the next page, if there is one.
    pub(super) next_token: Option<String>,
    pub(super) body: Bytes,
}

/// How much of an answer is taken.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bound {
    /// More makes no sense.
    Refuse,
    /// More is left away.
    Cut(usize),
}

pub(super) struct Transport {
    pub(super) http: reqwest::Client,
    pub(super) base: Url,
    /// Goes with every request.
    pub(super) scope: Vec<(&'static str, String)>,
    /// Not to be printed, whoever sends them back.
    pub(super) secrets: Vec<Token>,
    pub(super) permits: Arc<Semaphore>,
    pub(super) timeout: Duration,
    pub(super) tally: Tally,
}

impl Transport {
    /// Asks, within the time of a call, and again where that is harmless.
    pub(super) async fn ask(&self, request: &Request<'_>) -> Result<Answer, ApiError> {
        self.ask_within(request, self.timeout, Bound::Refuse).await
    }

    pub(super) async fn ask_within(
        &self,
        request: &Request<'_>,
        time: Duration,
        bound: Bound,
    ) -> Result<Answer, ApiError> {
        let deadline = Instant::now() + time;
        let mut delays = retry::delays();
        let mut before: Option<ApiError> = None;
        loop {
            let error = match self.once(request, time, deadline, bound).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let doubt = error.may_have_applied() || before.as_ref().is_some_and(ApiError::may_have_applied);
            let error = match (error, before) {
                // A try that was cut off says less than the one before it.
                (ApiError::TimedOut { .. }, Some(before)) => return Err(doubted(before, doubt)),
                (error, _) => doubted(error, doubt && request.call.writes()),
            };
            let delay = delays.next().filter(|delay| Instant::now() + *delay < deadline);
            match delay {
                Some(delay) if retry::again(request.call.effect, &error) => {
                    debug!(error = &error as &dyn std::error::Error, "Nomad is asked again");
                    sleep(delay).await;
                    before = Some(error);
                }
                _ => return Err(error),
            }
        }
    }

    async fn once(
        &self,
        request: &Request<'_>,
        time: Duration,
        deadline: Instant,
        bound: Bound,
    ) -> Result<Answer, ApiError> {
        let call = request.call;
        let mut sent = false;
        let exchange = async {
            let _permit = self.permit().await;
            sent = true;
            let response = self.send(request).await?;
            let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
            let index = header("x-nomad-index").and_then(|index| index.parse().ok()).unwrap_or_default();
            let next_token = header("x-nomad-nexttoken").filter(|token| !token.is_empty()).map(str::to_owned);
            let body = read(response, &call, bound).await?;
            Ok(Answer { index, next_token, body })
        };
        let answered = timeout_at(deadline, exchange).await;
        let answered = answered.unwrap_or_else(|_| {
            Err(ApiError::TimedOut { call: call.name, after: time, may_have_applied: sent && call.writes() })
        });
        self.tally.add(call.name, &answered);
        answered
    }

    /// Of one request, for as long as it takes its connection.
    pub(super) async fn permit(&self) -> OwnedSemaphorePermit {
        self.permits.clone().acquire_owned().await.expect("never closed")
    }

    /// Sends, and returns an answer that is a success, its body unread.
    pub(super) async fn send(&self, request: &Request<'_>) -> Result<Response, ApiError> {
        let call = &request.call;
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(request.path);
        }
        let mut builder = self.http.request(request.method.clone(), url).query(&self.scope).query(&request.query);
        if let Some(body) = &request.body {
            builder = builder.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        let response = builder.send().await.map_err(|error| {
            let text = self.scrub(&chain(&error));
            if error.is_connect() {
                ApiError::Unreachable { call: call.name, text }
            } else {
                ApiError::Retryable { call: call.name, text, may_have_applied: call.writes() }
            }
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        // A text that is cut, or breaks off, still says something.
        let text = read(response, call, Bound::Cut(MAX_ERROR_BYTES)).await.unwrap_or_default();
        Err(self.failure(call, status.as_u16(), &text))
    }

    pub(super) fn failure(&self, call: &Call, status: u16, text: &[u8]) -> ApiError {
        classify(call, status, &self.scrub(&String::from_utf8_lossy(text)))
    }

    fn scrub(&self, text: &str) -> String {
        let secrets = self.secrets.iter().map(Token::reveal).filter(|secret| !secret.is_empty());
        secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }
}

/// An earlier try may have applied, whatever this one says.
fn doubted(error: ApiError, doubt: bool) -> ApiError {
    match error {
        ApiError::Retryable { call, text, .. } | ApiError::Unreachable { call, text } if doubt => {
            ApiError::Retryable { call, text, may_have_applied: true }
        }
        ApiError::TimedOut { call, after, .. } if doubt => ApiError::TimedOut { call, after, may_have_applied: true },
        error => error,
    }
}

async fn read(mut response: Response, call: &Call, bound: Bound) -> Result<Bytes, ApiError> {
    let mut body = BytesMut::new();
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Ok(body.freeze()),
            Err(error) => return Err(call.malformed(format!("it is cut: {}", chain(&error)))),
        };
        match bound {
            Bound::Refuse if body.len() + chunk.len() > MAX_BODY_BYTES => {
                return Err(call.malformed(format!("it is larger than {MAX_BODY_BYTES} bytes")));
            }
            Bound::Cut(most) if body.len() + chunk.len() >= most => {
                body.extend_from_slice(&chunk[..most - body.len()]);
                return Ok(body.freeze());
            }
            Bound::Refuse | Bound::Cut(_) => body.extend_from_slice(&chunk),
        }
    }
}

/// The causes. The URL is left away: it holds a filter, which says no more than the call.
fn chain(error: &reqwest::Error) -> String {
    let mut texts = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        cause = error.source();
    }
    if texts.is_empty() { "the connection broke".to_owned() } else { texts.join(": ") }
}
