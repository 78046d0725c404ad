//! Starting and ending: mistakes told at once, the network rule, the lock, a clean end.

use std::{
    os::unix::process::CommandExt,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;
use tonic::Code;
use tool_executor::pb::toolexecutor::{Outcome, Reason, ReleaseCause, trajectory_response};

use crate::support::{
    client::{Stream, bash, execute},
    process,
    server::Server,
};

fn refused(settings: &[(&str, &str)], arguments: &[&str]) -> String {
    let state = TempDir::new().expect("a directory");
    let mut command = Server::command(&state);
    command.args(arguments).envs(settings.iter().copied()).stdin(Stdio::null());
    let Output { status, stderr, stdout } = command.output().expect("it runs");
    assert!(!status.success(), "it should not start");
    assert!(stdout.is_empty(), "it must not say that it listens");
    String::from_utf8(stderr).expect("it says so in text")
}

#[test]
fn every_mistake_is_listed_at_once() {
    let said = refused(
        &[
            ("TOOL_EXECUTOR_SLOTS", "many"),
            ("TOOL_EXECUTOR_MIN_CONTAINERS", "5"),
            ("TOOL_EXECUTOR_MAX_CONTAINERS", "2"),
            ("TOOL_EXECUTOR_ACQUIRE_TIMEOUT_S", "-1"),
        ],
        &[],
    );
    for name in ["TOOL_EXECUTOR_SLOTS", "TOOL_EXECUTOR_MIN_CONTAINERS", "TOOL_EXECUTOR_ACQUIRE_TIMEOUT_S"] {
        assert!(said.contains(name), "{name} is missing in: {said}");
    }
}

#[test]
fn a_model_must_not_drive_the_executor() {
    let said = refused(&[("TOOL_EXECUTOR_ALLOW_NETWORK", "true")], &[]);
    assert!(said.contains("token"), "{said}");
    let said = refused(&[("TOOL_EXECUTOR_LISTEN", "0.0.0.0:0")], &["--listen", "0.0.0.0:0"]);
    assert!(said.contains("insecure"), "{said}");
}

#[tokio::test]
async fn a_token_is_asked_for() {
    let server = Server::with(&[("TOKEN", "s3cret"), ("ALLOW_NETWORK", "true")]);
    let mut client = server.client().await;
    let status = |token: Option<&'static str>| {
        let mut request = tonic::Request::new(tool_executor::pb::toolexecutor::GetStatusRequest {});
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", token.parse().expect("it is ASCII"));
        }
        request
    };
    assert_eq!(client.get_status(status(None)).await.expect_err("no token").code(), Code::Unauthenticated);
    let wrong = client.get_status(status(Some("Bearer wrong"))).await.expect_err("a wrong token");
    assert_eq!(wrong.code(), Code::Unauthenticated);
    assert!(client.get_status(status(Some("Bearer s3cret"))).await.is_ok());
}

#[tokio::test]
async fn two_executors_do_not_share_a_state_directory() {
    let server = Server::start();
    let mut second = Server::command(&server.state);
    let output = second.output().expect("it runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("another executor"), "{said}");
    assert!(execute(&server, "first", bash("a", "true")).await.success);
}

#[tokio::test]
async fn a_signal_drains_and_leaves_nothing() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::with(&[("DRAIN_TIMEOUT", "500ms")]);
        let mut quick = Stream::open(&server, "quick").await;
        let mut slow = Stream::open(&server, "slow").await;
        slow.batch(vec![bash("a", "echo partial; sleep 60")]).await;
        quick.batch(vec![bash("a", "sleep 0.3; echo done")]).await;
        server.pool_until("both to run", |pool| pool.acquired_slots == 2).await;
        while server.status().await.running_calls < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let tree = process::tree(u32::try_from(server.pid().as_raw_nonzero().get()).expect("it is a pid"));
        server.signal(signal);
        assert_eq!(quick.result().await.output, "done", "what was accepted may finish");
        let cut = slow.result().await;
        assert_eq!((cut.outcome(), cut.reason(), &*cut.output), (Outcome::Cancelled, Reason::Drained, "partial"));
        for stream in [&mut quick, &mut slow] {
            let released = stream
                .until(|message| match message {
                    trajectory_response::Message::Released(released) => Some(released.cause()),
                    _ => None,
                })
                .await;
            assert_eq!(released, ReleaseCause::Drained);
            stream.end().await.expect("the stream ends well");
        }
        assert!(server.wait().success());
        assert_eq!(tree.iter().filter(|pid| process::is_alive(**pid)).count(), 0);
        let containers = std::fs::read_dir(server.state.path().join("containers")).map_or(0, Iterator::count);
        assert_eq!(containers, 0, "no directory of a container is left");
    }
}

#[tokio::test]
async fn agents_of_a_killed_executor_end_by_themselves() {
    let mut server = Server::with(&[("ORPHAN_TIMEOUT", "1s")]);
    assert!(execute(&server, "orphan", bash("a", "true")).await.success);
    let agents = server.agents();
    let tree: Vec<u32> = agents.iter().flat_map(|agent| process::tree(*agent)).collect();
    server.signal(Signal::KILL);
    server.wait();
    assert!(agents.iter().all(|agent| process::is_alive(*agent)), "an agent is tied to no parent");
    let asked = Instant::now();
    while tree.iter().any(|pid| process::is_alive(*pid)) {
        assert!(asked.elapsed() < Duration::from_secs(20), "the agents should have ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A command for somebody who is not root and has no more than a home, where the binary is.
fn as_ordinary_user(program: &str, home: &TempDir) -> Command {
    let binary = home.path().join("tool-executor");
    std::fs::copy(env!("CARGO_BIN_EXE_tool-executor"), &binary).expect("the binary is copied");
    let mut command = Command::new(program);
    command.env_clear().env("HOME", home.path()).env("PATH", "/usr/bin:/bin").current_dir(home.path());
    if rustix::process::getuid().is_root() {
        const NOBODY: u32 = 65534;
        std::os::unix::fs::chown(home.path(), Some(NOBODY), Some(NOBODY)).expect("root may give it away");
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// `cargo run` as somebody who is not root, and has no more than a home.
#[tokio::test]
async fn an_ordinary_user_needs_a_home_and_nothing_else() {
    let home = TempDir::new().expect("a directory");
    let mut command = as_ordinary_user("./tool-executor", &home);
    command.args(["serve", "--listen", "127.0.0.1:0"]).env_remove("PATH");
    let server = Server::run(command, home);
    let result = execute(&server, "ordinary", bash("a", "id -u; echo x > f; cat f; ls -ln f | cut -d' ' -f3")).await;
    assert_eq!(result.output, "0\nx\n0", "{}", result.error);
    let state = server.state.path().join(".local/state/tool-executor");
    assert!(state.is_dir(), "the state is below the home");
}

/// A user namespace that allows none below it is a machine without them.
#[test]
fn where_slots_cannot_be_made_it_does_not_start() {
    let home = TempDir::new().expect("a directory");
    let mut command = as_ordinary_user("unshare", &home);
    command
        .args(["--user", "--map-root-user", "sh", "-c"])
        .arg("echo 0 > /proc/sys/user/max_user_namespaces && exec ./tool-executor serve --listen 127.0.0.1:0 --state-dir state")
        .stdin(Stdio::null());
    let Output { status, stderr, stdout } = command.output().expect("unshare runs");
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert!(!status.success(), "it should not start: {said}");
    assert!(stdout.is_empty(), "it must not say that it listens");
    assert!(said.contains("user.max_user_namespaces"), "it says what to do: {said}");
}

#[test]
fn check_says_what_serve_would_do() {
    let state = TempDir::new().expect("a directory");
    let check = |settings: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tool-executor"));
        command.args(["check", "--listen", "127.0.0.1:0", "--state-dir"]).arg(state.path()).env_clear();
        let output = command.envs(settings.iter().copied()).current_dir(state.path()).output().expect("it runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (fine, said) = check(&[("TOOL_EXECUTOR_TOKEN", "s3cret"), ("TOOL_EXECUTOR_SLOTS", "7")]);
    assert!(fine, "{said}");
    assert!(said.contains("isolation: ok: L0"), "{said}");
    assert!(said.contains("TOOL_EXECUTOR_SLOTS"), "it names the source of a value: {said}");
    assert!(!said.contains("s3cret"), "secrets are masked: {said}");
    let server = Server::start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tool-executor"));
    command.args(["check", "--listen", &server.address, "--state-dir"]).arg(server.state.path());
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success(), "serve would not start either");
    assert!(said.contains("another executor") && said.contains("listen: FAILED"), "each reason is told: {said}");
}
