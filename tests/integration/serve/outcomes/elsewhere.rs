//! What causes the outcomes of tools that run elsewhere.

use serde_json::json;
use tool_executor::pb::toolexecutor::{Call, Executed};

use super::{By, Case};
use crate::support::{
    client::{Stream, seconds, tool},
    server::Server,
    tool_server::ToolServer,
};

fn with(url: &str) -> Server {
    Server::with(&[("TOOL_SERVER_URL", url)])
}

fn call(name: &str, text: &str) -> Call {
    Call { timeout: seconds(1), ..tool(name, name, json!({ "text": text })) }
}

async fn run(executed: Executed, calls: Vec<Call>) -> Vec<Case> {
    let tools = ToolServer::start();
    let server = with(&tools.url());
    let mut stream = Stream::open(&server, "elsewhere").await;
    let mut cases = Vec::new();
    for call in calls {
        let id = call.call_id.clone();
        stream.batch(vec![call]).await;
        cases.push(Case::accepted(By::Model, executed, stream.result().await));
        assert_eq!(tools.runs(&id), 1, "what was sent is not sent again");
    }
    cases
}

pub(super) async fn external_tool_failed() -> Vec<Case> {
    run(Executed::Yes, vec![call("fail", "no such page")]).await
}

/// Before anything is known of its tools, and after.
pub(super) async fn tool_server_unreachable() -> Vec<Case> {
    let tools = ToolServer::start();
    let (known, url) = (with(&tools.url()), tools.url());
    drop(tools);
    let unknown = with(&url);
    let mut cases = Vec::new();
    for (server, make) in
        [(&known, Case::accepted as fn(_, _, _) -> _), (&unknown, |by, _, result| Case::refused(by, result))]
    {
        let mut stream = Stream::open(server, "unreachable").await;
        stream.batch(vec![call("echo", "x")]).await;
        let result = stream.result().await;
        let fault = result.fault.as_ref().expect("it has a fault");
        assert!(fault.retryable && fault.evidence.as_ref().is_some_and(|evidence| !evidence.cause.is_empty()));
        cases.push(make(By::Model, Executed::No, result));
    }
    cases
}

pub(super) async fn tool_server_timeout() -> Vec<Case> {
    run(Executed::Unknown, vec![call("slow", "60000")]).await
}

pub(super) async fn tool_server_protocol() -> Vec<Case> {
    let names = ["crash", "garbage", "huge", "breaks_off", "other_id"];
    run(Executed::Unknown, names.map(|name| call(name, "x")).into()).await
}
