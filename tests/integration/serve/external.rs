//! Tools that run elsewhere, at a ToolServer.

use std::{sync::atomic::Ordering, time::Duration};

use rustix::process::Signal;
use serde_json::json;
use tool_executor::pb::toolexecutor::{
    Attribution, Call, CallResult, Cancel, Executed, ListToolsRequest, Outcome, Reason, ReleaseTrajectory, ToolRoute,
    ToolSourceKind, ToolSourceStatus, trajectory_request::Message as Request,
};

use crate::support::{
    client::{PATIENCE, Stream, bash, execute, open, seconds, tool},
    server::Server,
    tool_server::{ToolServer, schema},
};

fn with(tools: &ToolServer, settings: &[(&str, &str)]) -> Server {
    let url = tools.url();
    let mut all =
        vec![("TOOL_SERVER_URL", url.as_str()), ("TOOL_SERVER_TOKEN", "s3cret"), ("TOOL_SERVER_REFRESH", "1s")];
    all.extend(settings);
    Server::with(&all)
}

fn call(id: &str, name: &str, text: &str) -> Call {
    tool(id, name, json!({ "text": text }))
}

async fn listed(server: &Server) -> Vec<(String, ToolRoute)> {
    let answer = server.client().await.list_tools(ListToolsRequest::default()).await.expect("it lists them");
    answer.into_inner().tools.into_iter().map(|tool| (tool.name.clone(), tool.route())).collect()
}

async fn until_listed(server: &Server, name: &str, wanted: bool) {
    let asked = std::time::Instant::now();
    while listed(server).await.iter().any(|(listed, _)| listed == name) != wanted {
        assert!(asked.elapsed() < PATIENCE, "{name} should be listed: {wanted}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Until the tool server has been asked for the call.
async fn asked(tools: &ToolServer, id: &str) {
    let began = std::time::Instant::now();
    while tools.runs(id) == 0 {
        assert!(began.elapsed() < PATIENCE, "{id} should have been asked for");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn millis(duration: Option<prost_types::Duration>) -> i64 {
    let duration = duration.expect("every phase has a duration");
    duration.seconds * 1000 + i64::from(duration.nanos) / 1_000_000
}

#[tokio::test]
async fn a_tool_elsewhere_is_listed_checked_and_run_without_a_slot() {
    let tools = ToolServer::start();
    let server = with(&tools, &[]);
    assert!(listed(&server).await.contains(&("echo".to_owned(), ToolRoute::External)));
    let result = execute(&server, "t1", call("c1", "echo", "hi")).await;
    assert_eq!((result.outcome(), &*result.output, result.generation), (Outcome::Succeeded, "hi", 0));
    assert_eq!((result.executed(), result.sequence), (Executed::Yes, 1));
    assert!(result.metadata.is_some_and(|metadata| metadata.fields.contains_key("n")));
    let body = tools.seen.bodies.lock().expect("whole")[0].clone();
    let tool = json!({"name": "echo", "arguments": {"text": "hi"}, "uniq_id": "c1"});
    let expected =
        json!({"trajectory_id": "t1", "tool": tool, "timeout_s": 30.0, "slot_id": null, "container_addr": null});
    assert_eq!(body, expected);
    assert_eq!(tools.seen.authorization.lock().expect("whole").as_deref(), Some("Bearer s3cret"));

    let unfit = execute(&server, "t1", self::tool("c2", "echo", json!({}))).await;
    assert_eq!((unfit.outcome(), unfit.reason()), (Outcome::Rejected, Reason::InvalidArguments));
    // Known ids are not run again.
    let again = execute(&server, "t1", call("c1", "echo", "hi")).await;
    assert!(again.replayed && tools.runs("c1") == 1);
    let other = execute(&server, "t1", call("c1", "echo", "ho")).await;
    assert_eq!(other.reason(), Reason::CallIdReused);
}

#[tokio::test]
async fn calls_elsewhere_run_beside_those_of_the_slot_and_one_another() {
    let tools = ToolServer::start();
    let server = with(&tools, &[]);
    let mut stream = Stream::open(&server, "beside").await;
    stream.batch(vec![bash("slot", "sleep 2"), call("slow", "slow", "500"), call("quick", "echo", "x")]).await;
    let ids: Vec<String> = stream.results(3).await.into_iter().map(|result| result.call_id).collect();
    assert_eq!(ids, ["quick", "slow", "slot"]);
}

#[tokio::test]
async fn waiting_for_room_is_no_execution() {
    let tools = ToolServer::start();
    let server = with(&tools, &[("MAX_EXTERNAL_CALLS_PER_SOURCE", "1")]);
    let mut stream = Stream::open(&server, "bound").await;
    let calls = (0..3).map(|n| Call { timeout: seconds(2), ..call(&format!("c{n}"), "slow", "900") }).collect();
    stream.batch(calls).await;
    let results = stream.results(3).await;
    for (index, result) in results.iter().enumerate() {
        assert!(result.success, "each has its own time: {result:?}");
        let timings = result.timings.expect("it has timings");
        let (queued, execution) = (millis(timings.queued), millis(timings.execution));
        assert!(queued >= 850 * index as i64 && (850..1800).contains(&execution), "{queued} {execution}");
    }
    assert_eq!(tools.seen.most.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_cancel_answers_at_once_what_is_known() {
    let tools = ToolServer::start();
    let server = with(&tools, &[("MAX_EXTERNAL_CALLS_PER_SOURCE", "1")]);
    let mut stream = Stream::open(&server, "cancel").await;
    stream.batch(vec![call("runs", "slow", "60000"), call("waits", "echo", "x")]).await;
    asked(&tools, "runs").await;
    stream.send(Request::Cancel(Cancel { call_ids: vec![] })).await;
    let executed = |results: &[CallResult], id: &str| {
        let result = results.iter().find(|result| result.call_id == id).expect("it is answered");
        assert_eq!((result.outcome(), result.reason()), (Outcome::Cancelled, Reason::CancelledByClient));
        result.executed()
    };
    let results = stream.results(2).await;
    assert_eq!(executed(&results, "runs"), Executed::Unknown);
    assert_eq!(executed(&results, "waits"), Executed::No);
    // Its room is free again.
    stream.batch(vec![call("after", "echo", "x")]).await;
    assert!(stream.result().await.success);
    assert_eq!(tools.runs("waits"), 0);
    // A release waits for nobody elsewhere.
    stream.batch(vec![call("long", "slow", "60000")]).await;
    asked(&tools, "long").await;
    stream.send(Request::Release(ReleaseTrajectory::default())).await;
    assert_eq!(stream.result().await.reason(), Reason::Released);
    stream.end().await.expect("it ends well");
}

#[tokio::test]
async fn a_source_that_comes_later_is_listed_then() {
    let address = ToolServer::start().address;
    let url = format!("http://{address}");
    let server = Server::with(&[("TOOL_SERVER_URL", url.as_str()), ("TOOL_SERVER_REFRESH", "1s")]);
    let early = execute(&server, "t", call("early", "echo", "x")).await;
    assert_eq!((early.outcome(), early.reason()), (Outcome::ExternalUnavailable, Reason::ToolServerUnreachable));
    assert_eq!((early.executed(), early.sequence), (Executed::No, 0));
    assert!(execute(&server, "t", bash("slot", "true")).await.success, "slots need no tool server");
    let tools = ToolServer::at(address);
    until_listed(&server, "echo", true).await;
    assert!(execute(&server, "t", call("early", "echo", "x")).await.success, "its id was free");
    let unknown = execute(&server, "t", call("unknown", "nope", "x")).await;
    assert_eq!((unknown.outcome(), unknown.reason()), (Outcome::Rejected, Reason::UnknownTool));

    // Tools come and go; a call under way is not touched, nor do they take the place of a slot's tools.
    let mut stream = Stream::open(&server, "refresh").await;
    stream.batch(vec![call("slow", "slow", "3000")]).await;
    asked(&tools, "slow").await;
    *tools.seen.tools.lock().expect("whole") = vec![schema("fresh"), schema("bash"), json!({"no": "schema"})];
    until_listed(&server, "fresh", true).await;
    until_listed(&server, "slow", false).await;
    let routes: Vec<_> = listed(&server).await.into_iter().filter(|(name, _)| name == "bash").collect();
    assert_eq!(routes, [("bash".to_owned(), ToolRoute::Sandbox)]);
    assert!(stream.result().await.success);
}

#[tokio::test]
async fn toolsets_choose_among_tools_elsewhere_too() {
    let tools = ToolServer::start();
    let server = with(&tools, &[("ENABLED_TOOLSETS", "default")]);
    assert!(listed(&server).await.iter().all(|(_, route)| *route == ToolRoute::Sandbox));
    let result = execute(&server, "t", call("c", "echo", "x")).await;
    assert_eq!(result.reason(), Reason::UnknownTool);
}

/// Of an executor that has ended while it had two calls elsewhere: one that was sent, and one that was not.
async fn one_is_in_doubt_and_the_other_runs_once(server: &Server, tools: &ToolServer, calls: Vec<Call>) {
    let resumed = tool_executor::pb::toolexecutor::Open { require_existing: true, ..open("ended") };
    let mut stream = Stream::try_open(server, resumed).await.expect("it resumes");
    let mut results = stream.results(2).await;
    results.sort_by_key(|result| result.call_id.clone());
    let [ran, waited] = &results[..] else { unreachable!("there are two") };
    assert_eq!((ran.outcome(), ran.executed()), (Outcome::Internal, Executed::Unknown), "{ran:?}");
    assert_eq!(ran.attribution(), Attribution::Infrastructure);
    let fault = ran.fault.clone().expect("it has a fault");
    let cause = "the executor ended before it heard how the external call did";
    assert_eq!((&*ran.error, fault.retryable), (&*format!("Internal error: {cause}"), false));
    assert_eq!(fault.evidence.expect("it has evidence").cause, cause);
    assert!(waited.success && waited.output == "late", "it had not been sent: {waited:?}");
    stream.batch(calls).await;
    assert!(stream.results(2).await.iter().all(|result| result.replayed));
    assert_eq!((tools.runs("ran"), tools.runs("waited")), (1, 1));
}

#[tokio::test]
async fn a_call_that_was_handed_over_when_the_executor_died_is_never_repeated() {
    let tools = ToolServer::start();
    let mut server = with(&tools, &[("MAX_EXTERNAL_CALLS_PER_SOURCE", "1")]);
    let stream = Stream::open(&server, "ended").await;
    let calls = || vec![call("ran", "slow", "20000"), call("waited", "echo", "late")];
    stream.batch(calls()).await;
    asked(&tools, "ran").await;
    server.kill_and_start_again();
    one_is_in_doubt_and_the_other_runs_once(&server, &tools, calls()).await;
}

#[tokio::test]
async fn a_call_that_was_sent_when_the_executor_handed_over_is_never_repeated() {
    let tools = ToolServer::start();
    let mut server = with(&tools, &[("MAX_EXTERNAL_CALLS_PER_SOURCE", "1"), ("ON_SHUTDOWN", "hand_over")]);
    let mut stream = Stream::open(&server, "ended").await;
    let calls = || vec![call("ran", "slow", "20000"), call("waited", "echo", "late")];
    stream.batch(calls()).await;
    asked(&tools, "ran").await;
    server.signal(Signal::TERM);
    let ended = stream.end().await.expect_err("its executor goes");
    assert_eq!(ended.code(), tonic::Code::Unavailable, "{ended:?}");
    server.start_again();
    one_is_in_doubt_and_the_other_runs_once(&server, &tools, calls()).await;
}

#[tokio::test]
async fn a_connection_that_ends_leaves_doubt_and_is_not_tried_again() {
    let tools = ToolServer::start();
    let server = with(&tools, &[]);
    let mut stream = Stream::open(&server, "gone").await;
    stream.batch(vec![call("c", "slow", "60000")]).await;
    asked(&tools, "c").await;
    let seen = tools.seen.clone();
    drop(tools);
    let result = stream.result().await;
    assert_eq!((result.outcome(), result.executed()), (Outcome::ExternalUnavailable, Executed::Unknown), "{result:?}");
    assert!(!result.fault.expect("it has a fault").retryable);
    assert_eq!(seen.bodies.lock().expect("whole").len(), 1);
}

#[tokio::test]
async fn status_says_how_a_source_does() {
    let tools = ToolServer::start();
    let server = with(&tools, &[]);
    let source = async |server: &Server| server.status().await.tool_sources.first().expect("there is one").clone();
    let good = ToolSourceStatus {
        name: "tool_server".to_owned(),
        kind: ToolSourceKind::ToolServer.into(),
        reachable: true,
        tools: 8,
        ..ToolSourceStatus::default()
    };
    assert_eq!(source(&server).await, good);
    assert_eq!(execute(&server, "t", call("crash", "crash", "x")).await.outcome(), Outcome::ExternalUnavailable);
    let crashed = source(&server).await;
    assert_eq!(
        (crashed.reachable, &*crashed.last_error),
        (true, "it answered 500 Internal Server Error: it fell over")
    );
    let address = tools.address;
    drop(tools);
    // It is asked every second.
    let began = std::time::Instant::now();
    while source(&server).await.reachable {
        assert!(began.elapsed() < PATIENCE, "it should be known to be gone");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let gone = source(&server).await;
    assert!(gone.last_error.contains("refused") && gone.tools == 8, "{gone:?}");
    assert!(gone.last_error_at.is_some() && gone.last_error_at != crashed.last_error_at);
    let _tools = ToolServer::at(address);
    let began = std::time::Instant::now();
    while !source(&server).await.reachable {
        assert!(began.elapsed() < PATIENCE, "it should be known to be back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn check_says_what_a_tool_server_has() {
    let tools = ToolServer::start();
    let state = tempfile::TempDir::new().expect("a directory for the state");
    let check = |url: &str| {
        let output = Server::command_of("check", &state).env("TOOL_EXECUTOR_TOOL_SERVER_URL", url).output();
        String::from_utf8_lossy(&output.expect("it runs").stdout).into_owned()
    };
    let said = check(&tools.url());
    assert!(said.contains("tool_server: ok: 8 tools"), "{said}");
    let url = tools.url();
    drop(tools);
    let said = check(&url);
    assert!(said.contains("tool_server: ok: warning: it does not say what tools it has: "), "{said}");
}
