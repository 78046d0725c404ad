//! Real clients: grpcurl, and Python with a client generated from the protocol.
//!
//! They are used where they are on the machine. `TOOL_EXECUTOR_REQUIRE_CLIENTS` turns their absence into a failure.

use std::{env, path::Path, process::Command};

use crate::support::{server::Server, skip};

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
