//! The status page: what a browser is sent, and what is sent to it while it looks.

mod browser;
mod chromium;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use tokio::{io::AsyncReadExt as _, net::TcpStream, task::JoinSet, time::timeout};
use tool_executor::pb::toolexecutor::{ExecuteRequest, Outcome};

use crate::support::{
    client::{PATIENCE, Stream, bash, execute, tool},
    http::{Answer, Request},
    server::Server,
};

const BROWSER: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

async fn page(server: &Server, path: &str) -> Answer {
    Request::get(&server.address, path).header("Accept", BROWSER).send().await
}

/// Reads events until all that came has this text.
async fn until(events: &mut TcpStream, wanted: &str) -> String {
    let mut came = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&came).contains(wanted) {
            let read = events.read_buf(&mut came).await.expect("it can be read");
            assert!(read > 0, "no more comes: {}", String::from_utf8_lossy(&came));
        }
    };
    let found = timeout(PATIENCE, reading).await;
    let came = String::from_utf8_lossy(&came).into_owned();
    assert!(found.is_ok(), "{wanted} is not in {came}");
    came
}

#[tokio::test]
async fn a_browser_has_a_page_where_a_program_has_json() {
    let server = Server::start();
    for accept in ["*/*", "application/json", ""] {
        let answer = Request::get(&server.address, "/").header("Accept", accept).send().await;
        assert_eq!(answer.body, r#"{"message":"Atropos-Agent Tool Executor"}"#, "{accept}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let answer = page(&server, "/").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/html; charset=utf-8")));
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("vary", "Accept"),
    ] {
        assert_eq!(answer.header(name), Some(value));
    }
    let policy = answer.header("content-security-policy").expect("it has a policy");
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
    assert!(!answer.body.contains("://") && !answer.body.contains(" style="), "{}", answer.body);
    assert!(answer.body.contains("No call was answered in the last ten minutes."), "{}", answer.body);
    for (asset, kind) in [("/page.css", "text/css; charset=utf-8"), ("/page.js", "text/javascript; charset=utf-8")] {
        assert!(answer.body.contains(asset));
        let asset = page(&server, asset).await;
        assert_eq!((asset.status, asset.header("content-type")), (200, Some(kind)));
    }
    let refused = Request::new(&server.address, "POST", "/").send().await;
    assert_eq!((refused.status, &*refused.body), (405, r#"{"detail":"Method Not Allowed"}"#));
    for path in ["/trajectories/never", "/trajectories/%00", "/trajectories/a%20b", "/trajectories?id=%3Cscript%3E"] {
        let answer = page(&server, path).await;
        assert_eq!((answer.status, answer.header("content-type")), (404, Some("text/html; charset=utf-8")), "{path}");
    }
    for path in ["/trajectories", "/trajectories?id=+"] {
        let all = page(&server, path).await;
        assert_eq!((all.status, all.header("location")), (303, Some("/")), "{path}");
    }
    let found = page(&server, "/trajectories?id=run-7%2F3").await;
    assert_eq!((found.status, found.header("location")), (303, Some("/trajectories/run-7%2F3")));
}

#[tokio::test]
async fn a_page_needs_the_token_as_a_password() {
    let server = Server::with(&[("TOKEN", "s3cret")]);
    let basic = |password: &str| format!("Basic {}", STANDARD.encode(format!("anybody:{password}")));
    let ask = async |path: &str, accept: &str, authorization: &str| {
        let request = Request::get(&server.address, path).header("Accept", accept);
        match authorization {
            "" => request.send().await,
            authorization => request.header("Authorization", authorization).send().await,
        }
    };
    for path in ["/", "/trajectories/t", "/events", "/events?trajectory=t"] {
        for authorization in ["", &basic("wrong"), "Bearer wrong"] {
            let answer = ask(path, BROWSER, authorization).await;
            assert_eq!(answer.status, 401, "{path} {authorization}");
            let challenge = answer.header("www-authenticate").expect("a browser asks its user");
            assert!(challenge.starts_with("Basic "), "{challenge}");
            assert!(!answer.body.contains("Containers"), "{}", answer.body);
        }
    }
    assert_eq!(ask("/", BROWSER, &basic("s3cret")).await.status, 200);
    assert_eq!(ask("/", BROWSER, "Bearer s3cret").await.status, 200);
    assert_eq!(ask("/", "*/*", "").await.status, 200, "the greeting is open");
    let answer = ask("/events", "text/event-stream", "").await;
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")));
    // A browser sends a password along with whatever another site makes it ask: it must not run anything.
    let call = Request::execute(&server.address, "t", "u", "true").header("Authorization", &basic("s3cret"));
    assert_eq!(call.send().await.status, 401);
    assert_eq!(ask("/metrics", BROWSER, &basic("s3cret")).await.status, 401);
}

#[tokio::test]
async fn events_tell_what_happens_as_it_happens() {
    let server = Server::with(&[("SLOTS", "1"), ("MAX_CONTAINERS", "1")]);
    let stream = Stream::open(&server, "run/1").await;
    let mut events = Request::get(&server.address, "/events").start().await;
    let head = until(&mut events, "\"summary\"").await;
    assert!(head.to_ascii_lowercase().contains("content-type: text/event-stream"), "{head}");
    stream.batch(vec![bash("long", "echo begun; sleep 60")]).await;
    until(&mut events, r#"run%2F1\" title"#).await;
    let mut own = Request::get(&server.address, "/events?trajectory=run%2F1").start().await;
    until(&mut own, "bash runs").await;

    // Another one finds no slot, and why is told.
    let second = Stream::open(&server, "second").await;
    second.batch(vec![bash("waits", "true")]).await;
    let waiting = until(&mut events, "Waiting for a slot").await;
    assert!(waiting.contains("all slots are taken, and the pool has its most containers (1)"), "{waiting}");
    assert!(page(&server, "/").await.body.contains("Waiting for a slot"), "the page says what events say");

    for agent in server.agents() {
        crate::support::dying::kill(agent);
    }
    let lost = until(&mut events, "container lost").await;
    assert!(lost.contains("signal"), "the evidence is told: {lost}");
    until(&mut own, "container lost").await;
}

#[tokio::test]
async fn what_clients_and_models_write_is_text() {
    const ODD: &str = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>";
    let server = Server::start();
    let answer = execute(&server, "odd", bash(ODD, "exit 3")).await;
    assert_eq!(answer.outcome(), Outcome::Failed);
    let unknown = execute(&server, "odd", tool("unknown", ODD, json!({}))).await;
    assert_eq!(unknown.outcome(), Outcome::Rejected);
    for path in ["/", "/trajectories/odd"] {
        let body = page(&server, path).await.body;
        assert!(body.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;"), "{body}");
        assert!(!body.contains("<script>") && !body.contains("<img"), "{body}");
    }
    let mut events = Request::get(&server.address, "/events").start().await;
    let came = until(&mut events, "&lt;script&gt;").await;
    assert!(!came.contains("<script>") && !came.contains("<img"), "{came}");
}

#[tokio::test]
async fn a_thousand_trajectories_are_a_small_page() {
    let server = Server::start();
    let client = server.client().await;
    let mut opened = JoinSet::new();
    for number in 0..1_000 {
        let mut client = client.clone();
        let trajectory_id = format!("{}-{number}", "long".repeat(50));
        let call = Some(tool("call", "there is no such tool", json!({})));
        let request = ExecuteRequest { trajectory_id, call, ..ExecuteRequest::default() };
        opened.spawn(async move { client.execute(request).await.expect("it is answered") });
    }
    opened.join_all().await;
    let body = page(&server, "/").await.body;
    assert!(body.contains("of 1,000 that are open in all"), "{body}");
    assert!(body.len() < 100_000, "{} bytes", body.len());
}

#[tokio::test]
async fn a_service_that_ends_lets_its_viewers_go() {
    let mut server = Server::start();
    let mut events = Request::get(&server.address, "/events").start().await;
    until(&mut events, "sections").await;
    server.signal(rustix::process::Signal::TERM);
    timeout(PATIENCE, events.read_to_end(&mut Vec::new())).await.expect("it ends").expect("it ends in order");
    assert!(server.wait().success());
}
