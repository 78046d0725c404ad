//! Levels of isolation, from the setting to the result: what is too little is refused at start, and what is accepted is
//! said wherever somebody may look.

use std::{
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::json;
use tempfile::TempDir;
use tool_executor::{
    pb::toolexecutor::{CallResult, ExecuteRequest},
    sandbox::slot::Isolation,
};

use crate::{
    slot::conditions::{self, ARGUMENTS, BECOMES, Refused},
    support::{
        agent::user_ids,
        client::{Stream, bash, tool},
        server::Server,
    },
};

const ORDINARY_USER: u32 = 65_533;

/// This program under the conditions of a level, and its state. None where they cannot be made.
fn program_at(level: Isolation, arguments: &[&str], settings: &[(&str, &str)]) -> Option<(Command, TempDir)> {
    let through = conditions::through(level)?;
    let home = TempDir::new().expect("a directory");
    let copy = |from: &Path, name: &str| {
        let to = home.path().join(name);
        std::fs::copy(from, &to).expect("it is copied");
        to
    };
    let program = copy(Path::new(env!("CARGO_BIN_EXE_tool-executor")), "program");
    let tests = copy(&std::env::current_exe().expect("it is known"), "tests");
    let state = home.path().join("state");
    std::fs::create_dir(&state).expect("a directory");
    if level == Isolation::L2Minus {
        chown(&state, Some(ORDINARY_USER), Some(ORDINARY_USER)).expect("root may give it away");
    }
    std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
    std::fs::set_permissions(&state, PermissionsExt::from_mode(0o700)).expect("it is ours");

    // The test that makes the conditions says on standard output that it is one.
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" 3>&1 > /dev/null", "sh"]).args(through).arg(tests);
    let state = state.to_str().expect("it is text").to_owned();
    let fixed = ["--listen", "127.0.0.1:0", "--state-dir", &state];
    command.env_clear();
    conditions::confine(&mut command, Refused::at(level));
    command.envs(settings.iter().map(|(name, value)| (format!("TOOL_EXECUTOR_{name}"), value)));
    command
        .env(BECOMES, program)
        .env(ARGUMENTS, [arguments, &fixed].concat().join("\n"))
        .env("PATH", "/usr/bin:/bin")
        .env("TOOL_EXECUTOR_SLOTS", "2")
        .env("TOOL_EXECUTOR_UID_BASE", user_ids(1_000).to_string())
        .current_dir("/");
    Some((command, home))
}

fn text<'a>(result: &'a CallResult, name: &str) -> Option<&'a prost_types::value::Kind> {
    result.metadata.as_ref()?.fields.get(name)?.kind.as_ref()
}

#[tokio::test]
async fn a_level_that_is_accepted_is_said_in_every_result() {
    for level in [Isolation::L1B, Isolation::L2, Isolation::L2Minus] {
        let Some((command, home)) = program_at(level, &["serve"], &[("ISOLATION_MINIMUM", level.name())]) else {
            return;
        };
        let server = Server::run(command, home);
        let mut stream = Stream::open(&server, "one").await;
        let mut stranger = Stream::open(&server, "another").await;
        let said = |result: CallResult| {
            use prost_types::value::Kind;
            assert!(result.success, "{level}: {result:?}");
            assert_eq!(text(&result, "sandboxed"), Some(&Kind::BoolValue(true)), "{level}");
            assert_eq!(text(&result, "isolation"), Some(&Kind::StringValue(level.to_string())), "{level}");
            result.output
        };
        stream
            .batch(vec![tool("1", "write_file", json!({ "path": "/workspace/a/f", "content": "by its name" }))])
            .await;
        said(stream.result().await);
        assert_eq!(said(stream.bash("2", "cat a/f $HOME/a/f; echo more > g").await), "by its nameby its name");
        stream.batch(vec![tool("3", "read_file", json!({ "path": "/workspace/g" }))]).await;
        assert_eq!(said(stream.result().await), "more\n");
        let home = said(stream.bash("4", "echo $HOME").await);
        stream.batch(vec![tool("5", "read_file", json!({ "path": format!("{home}/g") }))]).await;
        assert_eq!(said(stream.result().await), "more\n");
        let written = said(stream.bash("6", "echo seen > /dev/stdout; echo too | tee $HOME/h").await);
        assert_eq!(written, "seen\ntoo");
        // What else there is of the executor's is nobody's to see.
        let look = format!("cat {home}/g; ls {home}/../.. {home}/../../..; cat {home}/../../../agent.json; true");
        let seen = stranger.bash("1", &look).await;
        let found = if level.has_namespaces() { "more" } else { "token" };
        assert!(!seen.output.contains(found), "{level}: {}", seen.output);
        let status = server.status().await;
        let containers: Vec<_> = status.pools.iter().flat_map(|pool| &pool.containers).collect();
        assert!(!containers.is_empty() && containers.iter().all(|container| container.isolation == level.name()));
    }
}

#[tokio::test]
async fn a_shell_stays_at_every_level() {
    for level in [Isolation::L1B, Isolation::L2, Isolation::L2Minus] {
        let Some((command, home)) = program_at(level, &["serve"], &[("ISOLATION_MINIMUM", level.name())]) else {
            return;
        };
        let server = Server::run(command, home);
        let mut stream = Stream::open(&server, "shell").await;
        let mut calls = 0;
        let mut run = async |name: &str, arguments: serde_json::Value| {
            calls += 1;
            stream.batch(vec![tool(&calls.to_string(), name, arguments)]).await;
            stream.result().await
        };
        let result =
            run("terminal_stateful", json!({"command": "X=kept; sleep 600 & test -t 0 && echo terminal"})).await;
        assert!(result.success && result.output.ends_with("terminal"), "{level}: {result:?}");
        let result = run("terminal_stateful", json!({"command": "sleep 600", "timeout": 1})).await;
        assert_eq!(result.error, "Command timed out after 1.0s", "{level}: {result:?}");
        let result = run("terminal_stateful", json!({"command": "echo $X; jobs | grep -c sleep"})).await;
        assert_eq!(result.output, "kept\n1", "{level}: {result:?}");
        let result = run("tmux", json!({"action": "start"})).await;
        assert!(result.success, "{level}: {result:?}");
        let result = run("tmux", json!({"action": "send_keys", "keys": ["echo a''b", "Enter"], "block": true})).await;
        assert!(result.output.contains("\nab\n"), "{level}: {result:?}");
        let result = run("bash", json!({"command": "echo up; sleep 600", "background": true})).await;
        assert!(result.success, "{level}: {result:?}");
        let result = run("process", json!({"action": "kill", "id": 1})).await;
        assert!(result.output.contains("killed by signal 9"), "{level}: {result:?}");
    }
}

const TOKEN: &str = "s3cret-of-the-trainer";

/// Shares the network with its executor, whose token is all that stands between them, and must stay out of reach.
#[tokio::test]
async fn a_model_that_reaches_the_executor_cannot_drive_it() {
    if !Path::new("/usr/bin/curl").exists() {
        eprintln!("skipped: no curl on this machine");
        return;
    }
    let settings = [("TOKEN", TOKEN), ("ALLOW_NETWORK", "true")];
    reaches_in_vain("L0", Server::with(&settings)).await;
    for level in [Isolation::L1B, Isolation::L2, Isolation::L2Minus] {
        let settings = [settings[0], settings[1], ("ISOLATION_MINIMUM", level.name())];
        let Some((command, home)) = program_at(level, &["serve"], &settings) else { return };
        reaches_in_vain(level.name(), Server::run(command, home)).await;
    }
}

async fn reaches_in_vain(level: &str, server: Server) {
    let run = async |id: &str, script: &str| {
        let call = Some(bash(id, script));
        let request = ExecuteRequest { trajectory_id: "model".to_owned(), call, ..ExecuteRequest::default() };
        let mut request = tonic::Request::new(request);
        request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().expect("it is ASCII"));
        let answer = server.client().await.execute(request).await.expect("it answers").into_inner();
        answer.result.expect("every answer has a result").output
    };
    let ask = |token: &str, message: &str| {
        format!(
            "printf '{message}' | curl -sS -m 20 --http2-prior-knowledge -D - -o /dev/null --data-binary @- -H \
             'content-type: application/grpc' -H 'te: trailers' -H 'authorization: Bearer {token}' \
             http://{}/toolexecutor.v1.ToolExecutor/GetStatus",
            server.address
        )
    };
    // It is refused before its message is read, which this curl takes for an error where there is one.
    let refused = run("wrong", &ask("guess", "")).await;
    assert!(refused.contains("grpc-status: 16"), "{level}: {refused}");
    // With the token it would be let in, and so it must not be found.
    let driven = run("right", &ask(TOKEN, "\\0\\0\\0\\0\\0")).await;
    assert!(driven.starts_with("HTTP/2 200") && !driven.contains("grpc-status: 16"), "{level}: {driven}");
    let pid = server.pid().as_raw_nonzero();
    let state = server.state.path().display();
    let look = format!(
        "cd /; for f in /proc/[0-9]*/environ /proc/{pid}/environ /proc/{pid}/cmdline {state}/secret {state}/state/secret \
         {state}/containers/*/agent.json {state}/state/containers/*/agent.json $HOME/../../../agent.json; do \
         grep -a -e trainer -e '\"token\"' $f; done 2> /dev/null; env | grep -a trainer; true"
    );
    // The marks are not to be in the command itself, whose arguments it may see.
    let look = look.replace("trainer", "t[r]ainer").replace("token", "t[o]ken");
    assert_eq!(run("look", &look).await, "", "{level}");
    let outside = Command::new("sh").args(["-c", &look]).output().expect("it runs").stdout;
    let outside = String::from_utf8_lossy(&outside).into_owned();
    assert!(outside.contains(TOKEN) && outside.contains("\"token\""), "{level}: root finds them: {outside}");
}

#[test]
fn a_level_below_the_minimum_is_refused_with_what_would_help() {
    for level in [Isolation::L2, Isolation::L2Minus] {
        for subcommand in ["serve", "check"] {
            let Some((mut command, _home)) = program_at(level, &[subcommand], &[]) else { return };
            let output = command.stdin(Stdio::null()).output().expect("it runs");
            let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
            assert!(!output.status.success(), "{subcommand}: {said}");
            assert!(!said.contains("listening on"), "{said}");
            assert!(said.contains("as isolation_minimum = L1b asks for"), "{subcommand}: {said}");
            assert!(said.contains(&format!("or accept less, with isolation_minimum = \"{level}\"")), "{said}");
        }
        let Some((mut command, _home)) = program_at(level, &["check"], &[("ISOLATION_MINIMUM", "L2-")]) else { return };
        let output = command.stdin(Stdio::null()).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains(&format!("isolation: ok: {level}: ")), "{said}");
    }
}
