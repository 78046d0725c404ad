//! The one port also answers plain HTTP.

use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::support::{http::Request, server::Server};

#[tokio::test]
async fn plain_http_is_answered() {
    let server = Server::start();
    for (method, path, status, body) in [
        ("GET", "/health", 200, r#"{"status":"ok"}"#),
        ("GET", "/", 200, r#"{"message":"Atropos-Agent Tool Executor"}"#),
        ("GET", "/nope", 404, r#"{"detail":"Not Found"}"#),
        ("POST", "/health", 405, r#"{"detail":"Method Not Allowed"}"#),
        ("GET", "/execute", 405, r#"{"detail":"Method Not Allowed"}"#),
    ] {
        let answer = Request::new(&server.address, method, path).send().await;
        assert_eq!((answer.status, &*answer.body), (status, body), "{method} {path}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{method} {path}");
    }
}

#[tokio::test]
async fn the_health_service_says_that_it_serves() {
    let server = Server::start();
    let mut health = HealthClient::new(server.channel().await);
    for service in ["", "toolexecutor.v1.ToolExecutor"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.expect("it answers").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
}
