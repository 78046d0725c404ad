//! What the port answers to plain HTTP.

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::sync::watch;
use tonic::Status;

/// `serving`: whether new trajectories are welcome.
pub(super) fn router(serving: watch::Receiver<bool>) -> Router {
    Router::new()
        .route("/", get(root))
        .route("/health", get(health))
        .with_state(serving)
        .method_not_allowed_fallback(async || detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"))
        .fallback(not_found)
}

/// The old system's greeting, which its clients know it by.
async fn root() -> Json<serde_json::Value> {
    Json(json!({"message": "Atropos-Agent Tool Executor"}))
}

async fn health(State(serving): State<watch::Receiver<bool>>) -> Response {
    if *serving.borrow() {
        Json(json!({"status": "ok"})).into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "not serving"}))).into_response()
    }
}

/// An unknown path: a gRPC client asked for a service that is not here, anybody else for a page.
async fn not_found(headers: HeaderMap) -> Response {
    let grpc = headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        return Status::unimplemented("there is no such service").into_http::<axum::body::Body>();
    }
    detail(StatusCode::NOT_FOUND, "Not Found")
}

fn detail(code: StatusCode, text: &str) -> Response {
    (code, Json(json!({"detail": text}))).into_response()
}
