//! Real clients: grpcurl, and Python with a client generated from the protocol; and a ToolServer in FastAPI.
//!
//! They are used where they are on the machine. `TOOL_EXECUTOR_REQUIRE_CLIENTS` turns their absence into a failure.

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;
use tool_executor::pb::toolexecutor::{Call, Outcome, Reason};

use crate::support::{
    client::{PATIENCE, execute, seconds, tool},
    server::Server,
    skip,
};

/// Runs the command; `None` where it is not on this machine and need not be.
pub(super) fn run(command: &mut Command) -> Option<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name} failed: {said}{errors}");
            Some(said)
        }
        Err(error) => skip(&format!("{name}: {error}")),
    }
}

#[test]
fn grpcurl_lists_describes_and_executes() {
    let server = Server::start();
    let program = env::var("TOOL_EXECUTOR_GRPCURL").unwrap_or_else(|_| "grpcurl".to_owned());
    let ask = |before: &[&str], after: &[&str]| {
        run(Command::new(&program).arg("-plaintext").args(before).arg(&server.address).args(after))
    };
    let Some(services) = ask(&[], &["list"]) else { return };
    for service in ["toolexecutor.v1.ToolExecutor", "grpc.health.v1.Health"] {
        assert!(services.contains(service), "{services}");
    }
    let described = ask(&[], &["describe", "toolexecutor.v1.ToolExecutor"]).expect("it is here");
    assert!(described.contains("rpc Trajectory ( stream .toolexecutor.v1.TrajectoryRequest )"), "{described}");
    let request = r#"{"trajectory_id": "grpcurl", "call": {"tool": {"name": "bash", "arguments_struct": {"command": "echo hi"}}}}"#;
    let answer = ask(&["-d", request], &["toolexecutor.v1.ToolExecutor/Execute"]).expect("it is here");
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("it answers in JSON");
    assert_eq!(answer["result"]["output"], "hi");
    assert_eq!(answer["result"]["outcome"], "OUTCOME_SUCCEEDED");
}

pub(super) fn python_program() -> String {
    env::var("TOOL_EXECUTOR_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// Runs the script, whose text may name the default address, with a client generated from the protocol.
fn python(script: &str, server: &Server) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = python_program();
    if let Ok(check) = Command::new(&python).args(["-c", "import grpc, grpc_tools"]).output()
        && !check.status.success()
    {
        return skip("grpcio-tools for Python");
    }
    let generated = tempfile::tempdir().expect("a directory");
    run(Command::new(&python)
        .args(["-m", "grpc_tools.protoc", "-I", "proto", "--python_out"])
        .arg(generated.path())
        .arg("--grpc_python_out")
        .arg(generated.path())
        .arg("toolexecutor/v1/tool_executor.proto")
        .current_dir(root))?;
    let text = read(script).replace("127.0.0.1:9001", &server.address);
    let here = generated.path().join("script.py");
    std::fs::write(&here, text).expect("it can be written");
    run(Command::new(&python).arg(here).arg(&server.address).env("PYTHONPATH", generated.path()))
}

/// A file of the project.
fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_python_example_of_the_readme_works() {
    let example = read("clients/python/example.py");
    assert!(read("README.md").contains(&format!("```python\n{example}```")), "the README has the example as it is");
    let server = Server::start();
    let Some(said) = python("clients/python/example.py", &server) else { return };
    assert_eq!(said, "0 hello 0 True\n1 hello 1 True\n2 hello 2 True\n");
}

#[test]
fn a_python_trajectory_survives_a_cut_stream() {
    let server = Server::start();
    python("tests/python/trajectory_client.py", &server);
}

/// A child that is ended with the test.
pub(super) struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server in Python that prints its port; `None` where the modules are not on this machine and need not be.
pub(super) fn python_server(script: &str, modules: &str, arguments: &[&str]) -> Option<(Ended, u16)> {
    let python = env::var("TOOL_EXECUTOR_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    match Command::new(&python).args(["-c", &format!("import {modules}")]).output() {
        Ok(check) if check.status.success() => {}
        _ => return skip(&format!("{modules} for Python")),
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let child = Command::new(&python).arg(script).args(arguments).stdout(Stdio::piped()).spawn();
    let mut child = Ended(child.expect("it starts"));
    let mut line = String::new();
    let stdout = child.0.stdout.take().expect("stdout is a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("stdout can be read");
    let port = line.trim().parse().unwrap_or_else(|_| panic!("it said {line:?}"));
    Some((child, port))
}

#[tokio::test]
async fn a_tool_server_in_fastapi_is_called() {
    let Some((_child, port)) = python_server("tests/python/tool_server.py", "fastapi, uvicorn", &["s3cret"]) else {
        return;
    };
    let url = format!("http://127.0.0.1:{port}");
    let settings = [("TOOL_SERVER_URL", url.as_str()), ("TOOL_SERVER_TOKEN", "s3cret"), ("TOOL_SERVER_REFRESH", "1s")];
    let server = Server::with(&settings);
    let asked = Instant::now();
    let sum = loop {
        let result = execute(&server, "fastapi", tool("sum", "add", json!({"a": 1, "b": 2.5}))).await;
        // It has printed its port, and is about to serve.
        if result.reason() != Reason::ToolServerUnreachable || asked.elapsed() > PATIENCE {
            break result;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((sum.outcome(), &*sum.output), (Outcome::Succeeded, "3.5"), "{sum:?}");
    let failed = execute(&server, "fastapi", tool("failed", "divide", json!({"a": 1, "b": 0}))).await;
    assert_eq!((failed.reason(), &*failed.error), (Reason::ExternalToolFailed, "division by zero"), "{failed:?}");
    let unfit = execute(&server, "fastapi", tool("unfit", "add", json!({"a": "1", "b": 2}))).await;
    assert_eq!(unfit.reason(), Reason::InvalidArguments, "{unfit:?}");
    // The server keeps its tool to the time that it was told, and its word counts.
    let late = Call { timeout: seconds(1), ..tool("late", "wait", json!({"seconds": 60})) };
    let late = execute(&server, "fastapi", late).await;
    assert_eq!((late.reason(), &*late.error), (Reason::ExternalToolFailed, "timed out"), "{late:?}");
}

#[tokio::test]
async fn a_tool_server_that_refuses_the_token_is_said_so() {
    let Some((_child, port)) = python_server("tests/python/tool_server.py", "fastapi, uvicorn", &["s3cret"]) else {
        return;
    };
    let url = format!("http://127.0.0.1:{port}");
    let settings = [("TOOL_SERVER_URL", url.as_str()), ("TOOL_SERVER_TOKEN", "wrong"), ("TOOL_SERVER_REFRESH", "1s")];
    let server = Server::with(&settings);
    let asked = Instant::now();
    loop {
        let result = execute(&server, "refused", tool("sum", "add", json!({"a": 1, "b": 2}))).await;
        assert_eq!(result.outcome(), Outcome::ExternalUnavailable, "{result:?}");
        if result.error.contains("403") && result.error.contains("Invalid token") {
            return;
        }
        assert!(asked.elapsed() < PATIENCE, "{result:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
