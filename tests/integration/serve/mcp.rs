//! Tools that run elsewhere, at MCP servers: a stand-in that answers badly, and one of the official SDK.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use tool_executor::pb::toolexecutor::{
    Call, CallResult, Cancel, Executed, ListToolsRequest, Outcome, Reason, trajectory_request::Message as Request,
};

use super::clients::python_server;
use crate::support::{
    client::{PATIENCE, Stream, execute, seconds, tool},
    mcp_server::{McpServer, TOOLS},
    server::Server,
    tool_server::ToolServer,
};

fn with(server: &McpServer, settings: &[(&str, &str)]) -> Server {
    let servers = format!("stand-in={}", server.url());
    let mut all = vec![
        ("MCP_SERVERS", servers.as_str()),
        ("MCP_TOKENS", "stand-in=s3cret"),
        ("TOOL_SERVER_REFRESH", "60s"),
        ("MAX_EXTERNAL_ANSWER_BYTES", "2MiB"),
    ];
    all.extend(settings);
    Server::with(&all)
}

fn call(id: &str, name: &str, text: &str) -> Call {
    tool(id, name, json!({ "text": text }))
}

async fn until(what: &str, mut there: impl FnMut() -> bool) {
    let began = Instant::now();
    while !there() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn until_listed(server: &Server, name: &str) {
    let (mut client, began) = (server.client().await, Instant::now());
    loop {
        let listed = client.list_tools(ListToolsRequest::default()).await.expect("it lists them").into_inner();
        if listed.tools.iter().any(|tool| tool.name == name) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{name} should be listed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn its_tools_are_listed_from_all_pages_and_run_in_one_session() {
    let mcp = McpServer::start();
    let server = with(&mcp, &[]);
    let listed = server.client().await.list_tools(ListToolsRequest::default()).await.expect("it lists them");
    let listed: Vec<String> = listed.into_inner().tools.into_iter().map(|tool| tool.name).collect();
    assert!(TOOLS.iter().all(|name| listed.iter().any(|listed| listed == name)), "{listed:?}");
    for id in ["c1", "c2", "c1"] {
        let result = execute(&server, "t1", call(id, "echo", "hi")).await;
        assert_eq!((result.outcome(), &*result.output, result.executed()), (Outcome::Succeeded, "hi", Executed::Yes));
    }
    let asked = mcp.asked("tools/call");
    assert_eq!(asked.len(), 2, "a known id is not asked for again");
    let meta = json!({"tool-executor/trajectory_id": "t1", "tool-executor/call_id": "c1"});
    assert_eq!(asked[0]["params"], json!({"name": "echo", "arguments": {"text": "hi"}, "_meta": meta}));
    assert_eq!((mcp.asked("initialize").len(), mcp.asked("notifications/initialized").len()), (1, 1));
    assert_eq!(mcp.seen.authorization.lock().expect("whole").as_deref(), Some("Bearer s3cret"));
    let unfit = execute(&server, "t1", tool("unfit", "echo", json!({}))).await;
    assert_eq!(unfit.reason(), Reason::InvalidArguments);
}

#[tokio::test]
async fn what_is_no_text_is_told_of() {
    let mcp = McpServer::start();
    let server = with(&mcp, &[]);
    let shown = "see\n[image image/png, 3 bytes]\n[resource file:///a]\ninside\n[resource b at file:///b]";
    let good = execute(&server, "t", call("good", "rich", "good")).await;
    assert_eq!((good.outcome(), &*good.output), (Outcome::Succeeded, shown));
    assert!(good.metadata.is_some_and(|metadata| metadata.fields.contains_key("structured_content")));
    let bad = execute(&server, "t", call("bad", "rich", "bad")).await;
    assert_eq!((bad.reason(), &*bad.output), (Reason::ExternalToolFailed, shown), "{bad:?}");
}

#[tokio::test]
async fn what_is_no_valid_answer_leaves_doubt_and_is_asked_for_once() {
    let mcp = McpServer::start();
    let server = with(&mcp, &[]);
    let cases = [
        ("crash", "500"),
        ("garbage", "makes no sense"),
        ("huge", "larger than 2097152 bytes"),
        ("huge_stream", "larger than 2097152 bytes"),
        ("breaks_off", "breaks off"),
        ("no_answer", "ends before"),
        ("other_id", "another call"),
        ("internal", "error -32603: no"),
    ];
    for (index, (name, cause)) in cases.into_iter().enumerate() {
        let result = execute(&server, "t", call(name, name, "x")).await;
        assert_eq!(
            (result.outcome(), result.reason(), result.executed()),
            (Outcome::ExternalUnavailable, Reason::ToolServerProtocol, Executed::Unknown),
            "{result:?}"
        );
        assert!(result.error.contains(cause), "{name}: {}", result.error);
        assert_eq!(mcp.asked("tools/call").len(), index + 1);
    }
    let unknown = execute(&server, "t", call("unknown", "unknown", "x")).await;
    assert_eq!((unknown.reason(), &*unknown.error), (Reason::ExternalToolFailed, "no"), "{unknown:?}");
    assert!(execute(&server, "t", call("after", "echo", "x")).await.success);
}

#[tokio::test]
async fn a_session_that_is_forgotten_is_begun_again_and_its_call_runs_once() {
    let mcp = McpServer::start();
    let server = with(&mcp, &[]);
    assert!(execute(&server, "t", call("before", "echo", "x")).await.success);
    *mcp.seen.forgetful.lock().expect("whole") = Some("tools/call");
    assert!(execute(&server, "t", call("after", "echo", "x")).await.success);
    assert_eq!((mcp.asked("initialize").len(), mcp.asked("tools/call").len()), (2, 2));
}

#[tokio::test]
async fn what_it_says_of_its_tools_is_heard_at_once() {
    let mcp = McpServer::start();
    let server = with(&mcp, &[]);
    for name in ["fresh", "fresher"] {
        mcp.seen.more.lock().expect("whole").push(name);
        mcp.seen.changed.notify_one();
        // It is asked again in a minute otherwise.
        until_listed(&server, name).await;
    }
    assert_eq!(mcp.asked("initialize").len(), 1);
}

#[tokio::test]
async fn sessions_are_ended_when_they_are_of_no_use_any_more() {
    let mcp = McpServer::start();
    let mut server = with(&mcp, &[]);
    assert!(execute(&server, "t", call("before", "echo", "x")).await.success);
    let ended = || mcp.seen.ended.lock().expect("whole").clone();
    assert!(ended().is_empty());
    // Whoever waits in a session that is forgotten for others is not cut off with it.
    let mut stream = Stream::open(&server, "slow").await;
    stream.batch(vec![call("slow", "slow", "1000")]).await;
    until("it is asked", || mcp.asked("tools/call").len() == 2).await;
    *mcp.seen.forgetful.lock().expect("whole") = Some("tools/call");
    assert!(execute(&server, "t", call("after", "echo", "x")).await.success);
    assert!(ended().is_empty(), "a call still runs in it");
    assert!(stream.result().await.success);
    until("the first is ended", || ended() == ["session-1"]).await;
    drop(stream);
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    assert_eq!(ended(), ["session-1", "session-2"]);
}

#[tokio::test]
async fn who_does_not_wait_for_an_answer_says_so() {
    let mcp = McpServer::start();
    let server = with(&mcp, &[]);
    let mut stream = Stream::open(&server, "cancel").await;
    stream.batch(vec![call("cancelled", "slow", "60000")]).await;
    until("it is asked", || !mcp.asked("tools/call").is_empty()).await;
    stream.send(Request::Cancel(Cancel { call_ids: vec![] })).await;
    let known = |result: CallResult| (result.outcome(), result.reason(), result.executed());
    let result = known(stream.result().await);
    assert_eq!(result, (Outcome::Cancelled, Reason::CancelledByClient, Executed::Unknown));
    let late = Call { timeout: seconds(1), ..call("late", "slow", "60000") };
    let result = known(execute(&server, "late", late).await);
    assert_eq!(result, (Outcome::ExternalUnavailable, Reason::ToolServerTimeout, Executed::Unknown));
    until("both are told", || mcp.asked("notifications/cancelled").len() == 2).await;
    let ids =
        |asked: Vec<serde_json::Value>, of: &str| asked.iter().map(|m| m.pointer(of).cloned()).collect::<Vec<_>>();
    let told = ids(mcp.asked("notifications/cancelled"), "/params/requestId");
    assert_eq!(told, ids(mcp.asked("tools/call"), "/id"));
}

#[tokio::test]
async fn whoever_is_first_has_a_name_that_two_servers_have() {
    let (tools, mcp) = (ToolServer::start(), McpServer::start());
    let url = tools.url();
    let server = with(&mcp, &[("TOOL_SERVER_URL", url.as_str())]);
    assert!(execute(&server, "t", call("both", "echo", "x")).await.success);
    assert_eq!((tools.runs("both"), mcp.asked("tools/call").len()), (1, 0));
    assert_eq!(execute(&server, "t", call("own", "rich", "x")).await.outcome(), Outcome::Succeeded);
}

#[tokio::test]
async fn a_server_of_the_official_sdk_is_called_and_may_be_started_again() {
    let script = "tests/python/mcp_server.py";
    let Some((child, port)) = python_server(script, "mcp, uvicorn", &["s3cret"]) else { return };
    let servers = format!("sdk=http://127.0.0.1:{port}/mcp");
    let settings = [("MCP_SERVERS", servers.as_str()), ("MCP_TOKENS", "sdk=s3cret"), ("TOOL_SERVER_REFRESH", "60s")];
    let mut server = Server::with(&settings);
    let began = Instant::now();
    let sum = loop {
        let result = execute(&server, "sdk", tool("sum", "add", json!({"a": 1, "b": 2.5}))).await;
        // It has printed its port, and is about to serve.
        if result.reason() != Reason::ToolServerUnreachable || began.elapsed() > PATIENCE {
            break result;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((sum.outcome(), &*sum.output), (Outcome::Succeeded, "3.5"), "{sum:?}");
    let failed = execute(&server, "sdk", tool("raised", "divide", json!({"a": 1, "b": 0}))).await;
    assert_eq!((failed.reason(), failed.executed()), (Reason::ExternalToolFailed, Executed::Yes), "{failed:?}");
    assert!(failed.error.contains("division by zero") || failed.error.contains("divide"), "{failed:?}");
    let huge = execute(&server, "sdk", tool("huge", "huge", json!({"size": 1_600_000}))).await;
    assert!(huge.success && huge.output.ends_with("(output truncated)"), "{:?}", huge.outcome());
    let too_large = execute(&server, "sdk", tool("too_large", "huge", json!({"size": 5 << 20}))).await;
    assert_eq!((too_large.reason(), too_large.executed()), (Reason::ToolServerProtocol, Executed::Unknown));
    let picture = execute(&server, "sdk", tool("picture", "picture", json!({}))).await;
    assert_eq!(&*picture.output, "[image image/png, 4 bytes]", "{picture:?}");

    let late = Call { timeout: seconds(1), ..tool("late", "wait", json!({"seconds": 60, "name": "late"})) };
    assert_eq!(execute(&server, "sdk", late).await.reason(), Reason::ToolServerTimeout);
    let began = Instant::now();
    for number in 0.. {
        let stopped = execute(&server, "sdk", tool(&format!("stopped{number}"), "stopped", json!({}))).await;
        if stopped.output == "late" {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "the tool should have been told to stop: {stopped:?}");
    }

    // A tool that adds one says so, and that is there long before the minute that the next list would take.
    let grown = execute(&server, "sdk", tool("grow", "grow", json!({}))).await;
    assert!(grown.success, "{grown:?}");
    until_listed(&server, "grown").await;
    // It is told of an executor that leaves.
    server.signal(Signal::TERM);
    server.start_again();
    let sessions = execute(&server, "sdk", tool("ended", "ended_sessions", json!({}))).await;
    assert_eq!(&*sessions.output, "1", "{sessions:?}");

    // Started again, it knows nothing of the session, in which the call is asked first.
    drop(child);
    let port = port.to_string();
    let (_child, _) = python_server(script, "mcp, uvicorn", &["s3cret", &port]).expect("it was here before");
    let began = Instant::now();
    for number in 0.. {
        let again = execute(&server, "sdk", tool(&format!("again{number}"), "add", json!({"a": 2, "b": 2}))).await;
        if again.success {
            assert_eq!(&*again.output, "4.0");
            break;
        }
        assert_eq!(again.executed(), Executed::No, "it had not been reached: {again:?}");
        assert!(began.elapsed() < PATIENCE, "{again:?}");
    }
}
