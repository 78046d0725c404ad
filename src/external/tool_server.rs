//! A ToolServer over HTTP: `GET /tools` lists its tools, `POST /execute` runs one.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Url, header::CONTENT_TYPE};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    config::{SourceConfig, SourceError},
    handle::Request,
    http::{self, GRACE, LIST_TIMEOUT, Tries, Unanswered, parse, sent},
};
use crate::tool::{ExternalEnd, ExternalEnding, Failure, job::Phases};

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

impl ToolServer {
    /// Connects nowhere yet.
    pub(super) fn new(config: &SourceConfig) -> Result<Self, SourceError> {
        let address = || SourceError::Address { name: config.name.clone(), url: config.url.clone() };
        let url =
            |path: &str| Url::parse(&format!("{}/{path}", config.url.trim_end_matches('/'))).map_err(|_| address());
        let http = http::client(config)?;
        Ok(Self { http, tools: url("tools")?, execute: url("execute")?, max_answer_bytes: config.max_answer_bytes })
    }

    /// The schemas of its tools; or why they are not known, for people.
    pub(super) async fn list(&self) -> Result<Vec<Value>, String> {
        let asked = async {
            let body = http::read(sent(self.http.get(self.tools.clone()).send().await)?, self.max_answer_bytes).await?;
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
        let mut tries = Tries::new(request.timeout);
        loop {
            let (answer, phases) = self.once(body.clone(), request.timeout).await;
            if let Some(ending) = tries.after(answer.map(|answer| end(answer, request)), phases).await {
                return ending;
            }
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
            Ok(response) => timeout_at(deadline, async { parse(&http::read(response, self.max_answer_bytes).await?) })
                .await
                .unwrap_or_else(|_| {
                    Err(Unanswered { cause: format!("the answer was not whole within {time:?}"), ..late() })
                }),
            Err(unanswered) => Err(unanswered),
        };
        let collection = began.elapsed() - execution;
        (answer, Phases { execution, collection, ..Phases::default() })
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
