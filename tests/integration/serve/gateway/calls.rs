//! What becomes of calls over HTTP.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{
    client::{PATIENCE, Stream, execute, tool},
    http::{Request, read},
    server::Server,
};

async fn run(server: &Server, trajectory: &str, uniq_id: &str, command: &str) -> Value {
    Request::execute(&server.address, trajectory, uniq_id, command).send().await.done()
}

async fn output(server: &Server, trajectory: &str, uniq_id: &str, command: &str) -> String {
    let result = run(server, trajectory, uniq_id, command).await;
    assert_eq!(result["success"], true, "{result}");
    result["output"].as_str().expect("it has output").to_owned()
}

async fn release(server: &Server, trajectory: &str, reset: bool) {
    let body = json!({"trajectory_id": trajectory, "reset_workspace": reset});
    let answer = Request::post(&server.address, "/release", &body).send().await;
    assert_eq!((answer.status, &*answer.body), (200, r#"{"status":"ok"}"#));
}

#[tokio::test]
async fn a_uniq_id_stands_for_an_action_and_another_action_runs() {
    let server = Server::start();
    for round in 0..2 {
        for action in ["a", "b", "c"] {
            let log = output(&server, "t", "u1", &format!("echo {action} >> log; cat log")).await;
            let all: String = ["a", "b", "c"].into_iter().take_while(|it| *it <= action).collect::<Vec<_>>().join("\n");
            assert_eq!(log, all, "round {round}");
        }
    }
    // What was answered again is counted once, and nothing has failed.
    let status = Request::get(&server.address, "/status").send().await.done();
    assert_eq!((&status["total_requests"], &status["total_errors"]), (&json!(3), &json!(0)), "{status}");
    // The same in another trajectory, under another id, and without one: new calls.
    assert_eq!(output(&server, "other", "u1", "echo a >> log; cat log").await, "a");
    assert_eq!(output(&server, "other", "u2", "echo a >> log; cat log").await, "a\na");
    assert_eq!(output(&server, "other", "", "echo a >> log; cat log").await, "a\na\na");
    assert_eq!(output(&server, "other", "", "echo a >> log; cat log").await, "a\na\na\na");
    // A call without meaning is refused under its own reason, though its id is in use.
    let refused = Request::post(
        &server.address,
        "/execute",
        &json!({"trajectory_id": "t", "tool": {"name": "terminal", "arguments": {}, "uniq_id": "u1"}}),
    );
    let refused = refused.send().await.done();
    assert_eq!(refused["error"], "Invalid arguments for terminal: command: is required");
    assert_eq!((&refused["success"], &refused["uniq_id"]), (&json!(false), &json!("u1")));
}

#[tokio::test]
async fn ids_may_be_any_text() {
    let server = Server::with(&[("SLOTS", "8")]);
    let long = "x".repeat(5_000);
    for trajectory in ["", " ", "a b", "ü", &long] {
        for uniq_id in ["", "é\n\"", &long] {
            let result =
                run(&server, trajectory, uniq_id, &format!("echo {} >> log; wc -l < log", uniq_id.len())).await;
            assert_eq!((&result["success"], &result["uniq_id"]), (&json!(true), &json!(uniq_id)), "{trajectory:?}");
        }
        assert_eq!(output(&server, trajectory, "", "wc -l < log").await, "3", "its own files, under its own id");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_finds_its_answer_when_it_comes_again() {
    let server = Server::start();
    let script = "echo begun >> log; while [ ! -e go ]; do sleep 0.01; done; cat log";
    let gone = Request::execute(&server.address, "t", "u", script).start().await;
    // It runs once somebody else sees so.
    let asked = Instant::now();
    while server.status().await.running_calls == 0 {
        assert!(asked.elapsed() < PATIENCE, "it does not run");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(gone);
    let again = Request::execute(&server.address, "t", "u", script).start().await;
    let stream = Stream::open(&server, "t").await;
    let touch = tool("go", "bash", json!({"command": "touch go"}));
    stream.batch(vec![tool_executor::pb::toolexecutor::Call { concurrent: true, ..touch }]).await;
    let result = read(again).await.done();
    assert_eq!((&result["output"], &result["success"]), (&json!("begun"), &json!(true)), "it ran once");
    assert_eq!(run(&server, "t", "u", script).await, result, "and is answered again");
}

#[tokio::test]
async fn files_are_kept_for_whoever_left_them_and_asked_for_it() {
    let server = Server::with(&[("SLOTS", "1"), ("MAX_CONTAINERS", "1")]);
    assert_eq!(output(&server, "t", "1", "echo mine > f; cat f").await, "mine");
    release(&server, "t", false).await;
    assert_eq!(output(&server, "t", "2", "cat f").await, "mine");
    release(&server, "t", false).await;
    assert_eq!(output(&server, "other", "1", "ls -A | wc -l").await, "0", "nobody else sees them");
    release(&server, "other", true).await;
    assert_eq!(output(&server, "t", "3", "ls -A; echo x > f").await, "", "the slot was given to another");
    release(&server, "t", true).await;
    assert_eq!(output(&server, "t", "4", "ls -A").await, "");
    release(&server, "never", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_at_once_are_all_answered() {
    let server = Server::with(&[("SLOTS", "10"), ("MIN_CONTAINERS", "2")]);
    let mut all = JoinSet::new();
    for n in 0..200 {
        let address = server.address.clone();
        all.spawn(async move {
            let (trajectory, id) = (format!("t{}", n % 20), n.to_string());
            let result =
                Request::execute(&address, &trajectory, &id, &format!("echo {n} >> log; echo {n}")).send().await;
            (n, result.done())
        });
    }
    let mut answered = 0;
    while let Some(done) = all.join_next().await {
        let (n, result) = done.expect("it is answered");
        assert_eq!((&result["output"], &result["uniq_id"]), (&json!(n.to_string()), &json!(n.to_string())), "{result}");
        answered += 1;
    }
    assert_eq!(answered, 200);
    for trajectory in 0..20 {
        let log = output(&server, &format!("t{trajectory}"), "log", "sort -n log").await;
        let own: Vec<String> = (0..10).map(|n| (trajectory + 20 * n).to_string()).collect();
        assert_eq!(log, own.join("\n"));
    }
}

#[tokio::test]
async fn a_timeout_is_clamped_whoever_sets_it() {
    let server = Server::with(&[("MAX_TIMEOUT", "2s"), ("DEFAULT_TIMEOUT", "1500ms")]);
    for (timeout, own, seconds) in [
        (json!(0), None, "1.0"),
        (json!("1.25"), None, "1.25"),
        (json!(1e300), None, "2.0"),
        (json!(1.75), Some(json!(1)), "1.75"),
        (json!(null), Some(json!(1.25)), "1.25"),
        (json!(null), None, "1.5"),
    ] {
        let mut arguments = json!({"command": "echo begun; exec sleep 30"});
        if let Some(own) = own {
            arguments["timeout"] = own;
        }
        let tool = json!({"name": "bash", "arguments": arguments, "uniq_id": seconds});
        let body = json!({"trajectory_id": format!("{timeout}{seconds}"), "tool": tool, "timeout_s": timeout});
        let result = Request::post(&server.address, "/execute", &body).send().await.done();
        assert_eq!(result["error"], format!("Command timed out after {seconds}s"));
        assert_eq!((&result["output"], &result["metadata"]["timeout"]), (&json!("begun"), &json!(true)));
        release(&server, body["trajectory_id"].as_str().expect("text"), true).await;
    }
}

#[tokio::test]
async fn policy_is_the_services() {
    let server = Server::with(&[("ALLOW_NETWORK", "false")]);
    let policy = json!({"allow_network": true, "require_sandbox": false, "require_stateful_sandbox": "x"});
    let mut arguments = policy.clone();
    // Interfaces beside the loopback.
    arguments["command"] = json!("tail -n +3 /proc/net/dev | grep -vc lo: || true");
    let tool = json!({"name": "terminal", "arguments": arguments, "uniq_id": "u"});
    let body = json!({"trajectory_id": "t", "tool": tool, "allow_network": true});
    let result = Request::post(&server.address, "/execute", &body).send().await.done();
    assert_eq!(result["metadata"]["network_isolated"], true, "{result}");
    assert_eq!(result["output"], "0", "{result}");
    // Where nothing else is asked for, they are no argument: it is the same call.
    let bare = json!({"name": "terminal", "arguments": {"command": arguments["command"]}, "uniq_id": "u"});
    let again = Request::post(&server.address, "/execute", &json!({"trajectory_id": "t", "tool": bare}));
    assert_eq!(again.send().await.done(), result);
    let status = server.status().await;
    assert_eq!(status.pools[0].acquired_slots, 1);
}

#[tokio::test]
async fn both_protocols_speak_of_the_same_trajectory() {
    let server = Server::start();
    assert_eq!(output(&server, "t", "u", "echo over http > f; cat f").await, "over http");
    let read = execute(&server, "t", tool("g", "read_file", json!({"path": "f"}))).await;
    assert_eq!(read.output, "over http\n");
    let listed = Stream::open(&server, "t").await;
    assert!(listed.opened.resumed);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_quick_whatever_there_is() {
    const TRAJECTORIES: usize = 1_000;
    let server = Server::with(&[("MAX_TRAJECTORIES", "2000")]);
    let client = server.client().await;
    let mut open = JoinSet::new();
    for n in 0..TRAJECTORIES {
        let client = client.clone();
        open.spawn(async move {
            Stream::over(client, crate::support::client::open(&n.to_string())).await.expect("it opens")
        });
    }
    let streams = open.join_all().await;
    assert_eq!(server.status().await.trajectories as usize, TRAJECTORIES);
    let mut times = Vec::new();
    for _ in 0..50 {
        let asked = Instant::now();
        let status = Request::get(&server.address, "/status").send().await;
        times.push(asked.elapsed());
        assert_eq!(status.done()["pool"]["started"], true);
    }
    times.sort_unstable();
    // The quickest: the machine may have much else to do.
    assert!(times[0] < Duration::from_millis(2), "{times:?}");
    println!("status with {TRAJECTORIES} trajectories: {:?} at best, {:?} usually", times[0], times[25]);
    drop::<Vec<Stream>>(streams);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_executor_says_when_to_come_again() {
    let mut server = Server::start();
    let script = "touch begun; while [ ! -e go ]; do sleep 0.01; done; echo finished";
    let running = Request::execute(&server.address, "t", "u", script).start().await;
    let asked = Instant::now();
    while server.status().await.running_calls == 0 {
        assert!(asked.elapsed() < PATIENCE, "it does not run");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.signal(Signal::TERM);
    let health = async || Request::get(&server.address, "/health").send().await;
    while health().await.status != 503 {
        assert!(asked.elapsed() < PATIENCE, "it still says that it serves");
    }
    assert_eq!(health().await.body, r#"{"status":"not serving"}"#);
    // A new trajectory, and a new call of an old one.
    for trajectory in ["new", "t"] {
        let refused = Request::execute(&server.address, trajectory, "v", "true").send().await;
        assert_eq!(refused.status, 503, "{refused:?}");
        let seconds = refused.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
        assert!(seconds.is_some_and(|seconds| (1..=60).contains(&seconds)), "{refused:?}");
        assert!(refused.json()["detail"].is_string(), "{refused:?}");
    }
    assert_eq!(Request::get(&server.address, "/status").send().await.done()["pool"]["acquired_slots"], 1);
    release(&server, "t", false).await;
    let result = read(running).await.done();
    assert_eq!(
        (&result["success"], &result["error"]),
        (&json!(false), &json!("Cancelled: the trajectory was released"))
    );
    assert!(server.wait().success());
}
