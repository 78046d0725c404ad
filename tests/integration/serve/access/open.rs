//! What needs no token, and what only an operator may see.

use tokio_stream::StreamExt as _;
use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

use super::Guarded;
use crate::support::{client::bear, http::Request as Http, server::Server};

const TENANTS: &str = "[red]\ntoken = \"r\"\n[watcher]\ntoken = \"w\"\noperator = true\n";

async fn health(server: &Server, token: Option<&str>) -> Code {
    let mut request = Request::new(HealthCheckRequest::default());
    if let Some(token) = token {
        bear(&mut request, token);
    }
    HealthClient::new(server.channel().await).check(request).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

async fn reflection(server: &Server, token: Option<&str>) -> Code {
    let message = Some(MessageRequest::ListServices(String::new()));
    let asked = ServerReflectionRequest { message_request: message, ..ServerReflectionRequest::default() };
    let mut request = Request::new(tokio_stream::once(asked));
    if let Some(token) = token {
        bear(&mut request, token);
    }
    let answered = ServerReflectionClient::new(server.channel().await).server_reflection_info(request).await;
    match answered {
        Ok(answers) => match answers.into_inner().next().await {
            Some(Ok(_)) => Code::Ok,
            other => panic!("{other:?}"),
        },
        Err(status) => status.code(),
    }
}

async fn http(server: &Server, path: &str, token: Option<&str>) -> u16 {
    let request = Http::get(&server.address, path);
    let request = match token {
        Some(token) => request.header("Authorization", &format!("Bearer {token}")),
        None => request,
    };
    request.send().await.status
}

#[tokio::test]
async fn each_is_open_or_closed() {
    const ENDPOINTS: [&str; 4] = ["health", "status", "reflection", "metrics"];
    let cases: [(&str, &[&str]); 4] = [
        ("", &["health"]),
        ("none", &[]),
        ("health, status,reflection, metrics", &ENDPOINTS),
        ("reflection", &["reflection"]),
    ];
    for (setting, open) in cases {
        let guarded = Guarded::with(TENANTS, &[("OPEN_ENDPOINTS", setting), ("MIN_CONTAINERS", "0")]);
        let server = &guarded.server;
        let (grpc, status) = (
            |name| if open.contains(&name) { Code::Ok } else { Code::Unauthenticated },
            |name| if open.contains(&name) { 200 } else { 401 },
        );
        assert_eq!(health(server, None).await, grpc("health"), "{setting}");
        assert_eq!(reflection(server, None).await, grpc("reflection"), "{setting}");
        for name in ["health", "status", "metrics"] {
            assert_eq!(http(server, &format!("/{name}"), None).await, status(name), "{setting}: {name}");
        }
        for token in ["r", "w"] {
            assert_eq!(
                (health(server, Some(token)).await, reflection(server, Some(token)).await),
                (Code::Ok, Code::Ok)
            );
            assert_eq!(
                (http(server, "/health", Some(token)).await, http(server, "/status", Some(token)).await),
                (200, 200)
            );
        }
        let metrics = if open.contains(&"metrics") { 200 } else { 403 };
        assert_eq!(http(server, "/metrics", Some("r")).await, metrics, "{setting}");
        assert_eq!(http(server, "/metrics", Some("w")).await, 200, "{setting}");
    }
}

#[tokio::test]
async fn an_operator_sees_the_whole_service() {
    let guarded = Guarded::with(TENANTS, &[("TOKEN", "own")]);
    guarded.execute("r", "t", "true").await.expect("it runs");
    for (token, trajectories) in [("r", 1), ("w", 1), ("own", 1)] {
        assert_eq!(guarded.status(token).await.trajectories, trajectories, "{token}");
    }
    guarded.execute("own", "t", "true").await.expect("it runs");
    for (token, trajectories) in [("r", 1), ("w", 2), ("own", 2)] {
        let status = guarded.status(token).await;
        assert_eq!((status.trajectories, status.total_requests), (trajectories, trajectories.into()), "{token}");
        assert_eq!(status.pools[0].acquired_slots, 2, "{token}: pools are everybody's");
    }
    assert_eq!(guarded.list("w").await, Vec::<String>::new(), "but not what is another's");
    let refused = Http::get(&guarded.server.address, "/metrics").header("Authorization", "Bearer r").send().await;
    assert_eq!(refused.json()["detail"], "red may not look at the whole service");
}
