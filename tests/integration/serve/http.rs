//! The one port also answers plain HTTP.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::support::server::Server;

async fn request(server: &Server, line: &str) -> (String, String) {
    let mut connection = TcpStream::connect(&server.address).await.expect("it listens");
    let request = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("the answer has a head");
    (head.lines().next().expect("the head has a line").to_owned(), body.to_owned())
}

#[tokio::test]
async fn plain_http_is_answered() {
    let server = Server::start();
    let (status, body) = request(&server, "GET /health").await;
    assert_eq!((&*status, &*body), ("HTTP/1.1 200 OK", r#"{"status":"ok"}"#));
    let (status, body) = request(&server, "GET /").await;
    assert_eq!((&*status, &*body), ("HTTP/1.1 200 OK", r#"{"message":"Atropos-Agent Tool Executor"}"#));
    let (status, body) = request(&server, "GET /nope").await;
    assert_eq!((&*status, &*body), ("HTTP/1.1 404 Not Found", r#"{"detail":"Not Found"}"#));
    let (status, body) = request(&server, "POST /health").await;
    assert_eq!((&*status, &*body), ("HTTP/1.1 405 Method Not Allowed", r#"{"detail":"Method Not Allowed"}"#));
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
