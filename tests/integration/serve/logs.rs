//! What the log says of trajectories and calls, and what it never says.

use std::{fs::File, path::PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    client::{Stream, bash, tool},
    server::Server,
};

/// In what a model sends and in what its processes print, and nowhere else.
const SECRET: &str = "xyzzy-7401";

/// A server whose log is a file, and the file.
fn logged(settings: &[(&str, &str)]) -> (Server, PathBuf) {
    let state = TempDir::new().expect("a directory for the state");
    let log = state.path().join("log");
    let mut command = Server::command(&state);
    command.envs(settings.iter().map(|(name, value)| (format!("TOOL_EXECUTOR_{name}"), value)));
    command.stderr(File::create(&log).expect("the log can be written"));
    (Server::run(command, state), log)
}

/// Calls that end well, badly, and not at all, each with the secret in it.
async fn calls(server: &Server) {
    let mut stream = Stream::open(server, "logged").await;
    let calls = vec![
        bash("printed", &format!("echo {SECRET}; echo {SECRET} >&2; exit 3")),
        tool("written", "write_file", json!({"path": SECRET, "content": SECRET})),
        tool("read", "read_file", json!({"path": format!("{SECRET}/none")})),
        tool("wrong", "bash", json!({"command": {SECRET: SECRET}})),
        tool("unknown", SECRET, json!({})),
    ];
    let count = calls.len();
    stream.batch(calls).await;
    let results = stream.results(count).await;
    let printed = results.iter().find(|result| result.call_id == "printed").expect("its result");
    assert!(printed.output.contains(SECRET), "{printed:?}");
}

#[tokio::test]
async fn the_log_has_no_arguments_and_no_output() {
    for level in [None, Some(("LOG", "tool_executor=debug"))] {
        let (server, log) = logged(level.as_slice());
        calls(&server).await;
        let text = std::fs::read_to_string(log).expect("there is a log");
        assert!(text.contains("serving"), "{text}");
        assert_eq!(text.contains("answered"), level.is_some(), "{text}");
        assert!(!text.contains(SECRET), "{text}");
    }
}

#[tokio::test]
async fn spans_name_trajectory_and_call() {
    let (server, log) = logged(&[("LOG", "tool_executor=debug"), ("LOG_FORMAT", "json")]);
    calls(&server).await;
    let text = std::fs::read_to_string(&log).expect("there is a log");
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect();
    let of = |call: &str| {
        lines.iter().find(|line| line["span"]["call"] == call).unwrap_or_else(|| panic!("{call} is not in {text}"))
    };
    let printed = of("printed");
    assert_eq!(printed["fields"]["message"], "answered");
    assert_eq!(printed["span"]["tool"], "bash");
    assert_eq!(printed["span"]["outcome"], "failed");
    assert_eq!(printed["span"]["reason"], "exit_status");
    assert_eq!(printed["spans"][0]["trajectory"], "logged");
    assert!(printed["fields"]["execution"].is_string(), "{printed}");
    assert_eq!(of("unknown")["fields"]["message"], "refused");
    assert_eq!(of("unknown")["span"]["tool"], "unknown");
}
