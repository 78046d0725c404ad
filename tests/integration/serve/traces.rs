//! A caller's own trace: what names it in the log, and the spans that a collector is sent.

#[cfg(feature = "otlp")]
mod collector;

use std::fs::File;

use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Request as Call, metadata::AsciiMetadataKey};
use tool_executor::pb::toolexecutor::ExecuteRequest;

use crate::support::{client::bash, http, server::Server};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const OTHER: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "b7ad6b7169203331";

/// A call by itself, whose sender says that it is a part of this.
fn part_of(parent: &str, trajectory: &str, call: &str, command: &str) -> Call<ExecuteRequest> {
    let mut request = Call::new(ExecuteRequest {
        trajectory_id: trajectory.to_owned(),
        call: Some(bash(call, command)),
        ..ExecuteRequest::default()
    });
    let name = AsciiMetadataKey::from_static("traceparent");
    request.metadata_mut().insert(name, parent.parse().expect("a value"));
    request
}

fn parent(trace: &str, flags: &str) -> String {
    format!("00-{trace}-{SPAN}-{flags}")
}

#[tokio::test]
async fn lines_of_the_log_name_the_callers_trace() {
    let state = TempDir::new().expect("a directory for the state");
    let log = state.path().join("log");
    let mut command = Server::command(&state);
    command.env("TOOL_EXECUTOR_LOG", "tool_executor=debug").env("TOOL_EXECUTOR_LOG_FORMAT", "json");
    command.stderr(File::create(&log).expect("the log can be written"));
    let server = Server::run(command, state);
    let mut client = server.client().await;
    for request in [
        part_of(&parent(TRACE, "01"), "traced", "one", "true"),
        part_of(&parent(OTHER, "00"), "traced", "two", "true"),
        part_of("00-nonsense", "traced", "malformed", "true"),
        part_of(&format!("{}-", parent(TRACE, "01")), "other", "untraced", "true"),
    ] {
        let answer = client.execute(request).await.expect("no traceparent is a reason to refuse").into_inner();
        assert!(answer.result.expect("a result").success);
    }
    let body =
        json!({"trajectory_id": "http", "tool": {"name": "bash", "arguments": {"command": "true"}, "uniq_id": "u"}});
    let request = http::Request::post(&server.address, "/execute", &body).header("traceparent", &parent(TRACE, "01"));
    let answer = request.send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = std::fs::read_to_string(&log).expect("there is a log");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let answered = |trajectory: &str, call: &str| {
        let of = |line: &&Value| {
            line["spans"][0]["trajectory"] == trajectory
                && line["span"]["call"].as_str().is_some_and(|name| name.starts_with(call))
                && line["fields"]["message"] == "answered"
        };
        let line = lines.iter().find(of).unwrap_or_else(|| panic!("{call} is not in {text}"));
        (line["spans"][0]["trace_id"].clone(), line["span"]["trace_id"].clone())
    };
    assert_eq!(answered("traced", "one"), (json!(TRACE), json!(TRACE)));
    assert_eq!(answered("traced", "two"), (json!(TRACE), json!(OTHER)), "it came by itself, from elsewhere");
    assert_eq!(answered("traced", "malformed"), (json!(TRACE), Value::Null));
    assert_eq!(answered("other", "untraced"), (Value::Null, Value::Null));
    assert_eq!(answered("http", "u"), (json!(TRACE), json!(TRACE)));
}

#[cfg(not(feature = "otlp"))]
#[test]
fn a_collector_is_refused_by_a_program_that_cannot_reach_it() {
    for name in ["TOOL_EXECUTOR_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"] {
        let state = TempDir::new().expect("a directory for the state");
        let output = Server::command(&state).env(name, "http://127.0.0.1:4317").output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{said}");
        assert!(said.contains(name) && said.contains("the feature otlp"), "{said}");
    }
}

#[tokio::test]
async fn arguments_and_output_are_logged_where_that_is_asked_for_and_only_there() {
    for (asked, expected) in [(None, false), (Some("40"), true)] {
        let state = TempDir::new().expect("a directory for the state");
        let log = state.path().join("log");
        let mut command = Server::command(&state);
        command.stderr(File::create(&log).expect("the log can be written"));
        if let Some(bytes) = asked {
            command.env("TOOL_EXECUTOR_LOG_PAYLOADS", bytes);
        }
        let server = Server::run(command, state);
        let script = "echo an-argument | tr a-z A-Z; printf '%100s' zyxwv";
        let result = crate::support::client::execute(&server, "logged", bash("logged", script)).await;
        assert!(result.success, "{result:?}");
        let text = std::fs::read_to_string(&log).expect("there is a log");
        assert_eq!(text.contains("echo an-arg"), expected, "{text}");
        assert_eq!(text.contains("AN-ARGUMENT"), expected, "{text}");
        assert!(!text.contains("zyxwv"), "no more than was asked for: {text}");
    }
}
