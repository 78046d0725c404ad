//! The old system's HTTP API, for its clients, on the same port: field names, texts and status codes are its own. What
//! an answer says that the old system had no words for is told by a status code that any client knows.
//!
//! ```text
//! token -> body: bounded, in time, JSON -> fields -> the trajectory's rooms -> answer
//! 401, 403    413, 408, 400, 422           422       503                       200
//! ```
//!
//! Each endpoint has a file of its own; [`openapi.json`](docs) describes them all.

mod artifacts;
mod body;
mod docs;
mod execute;
mod field;
mod refusal;
mod release;
mod scrape;
mod status;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, header::CONTENT_TYPE, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{json, value::RawValue};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tonic::Status;

use self::refusal::Refusal;
pub use self::scrape::Exporter;
use super::{
    access::{self, Access},
    parse::Parser,
};
use crate::{
    id::{Tenant, TrajectoryId, TrajectoryKey},
    scheduler,
    trajectory::Directory,
};

/// What the endpoints have in common.
#[derive(Clone)]
pub(super) struct Gateway {
    pub(super) access: Access,
    pub(super) parser: Arc<Parser>,
    pub(super) directory: Directory,
    pub(super) scheduler: scheduler::Handle,
    /// Of a body, in bytes.
    pub(super) max_request_bytes: usize,
    /// For a body to come.
    pub(super) body_timeout: Duration,
    /// Whether new trajectories are welcome.
    pub(super) serving: watch::Receiver<bool>,
    pub(super) exporter: Arc<dyn Exporter>,
}

impl Gateway {
    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/health", get(health))
            .route("/status", get(status::status))
            .route("/metrics", get(scrape::scrape))
            .route("/execute", post(execute::execute))
            .route("/release", post(release::release))
            .route("/artifacts/read", post(artifacts::read))
            .route("/artifacts/list", post(artifacts::list))
            .route("/artifacts/archive", post(artifacts::archive))
            .route("/openapi.json", get(docs::openapi))
            .route("/docs", get(docs::page))
            .with_state(self)
            .method_not_allowed_fallback(method_not_allowed)
            .fallback(not_found)
    }

    /// Lets a request in whose sender may call, and reads its body, in this order.
    async fn admit(&self, request: Request) -> Result<(Tenant, Box<RawValue>), Refusal> {
        let tenant = self.access.caller(request.headers(), request.extensions())?.tenant.clone();
        let body = body::read(request, self.max_request_bytes, self.body_timeout).await?;
        Ok((tenant, body))
    }
}

/// What a caller is told who does not show who it is.
pub(super) fn refused(refused: access::Refused) -> Response {
    Refusal::Access(refused).into_response()
}

pub(super) async fn method_not_allowed() -> Response {
    Refusal::MethodNotAllowed.into_response()
}

/// The old system's greeting, which its clients know it by.
pub(super) async fn greeting() -> Json<serde_json::Value> {
    Json(json!({"message": "Atropos-Agent Tool Executor"}))
}

async fn health(State(gateway): State<Gateway>, request: Parts) -> Result<Json<serde_json::Value>, Refusal> {
    gateway.access.onlooker(|unasked| unasked.health, &request.headers, &request.extensions)?;
    if *gateway.serving.borrow() { Ok(Json(json!({"status": "ok"}))) } else { Err(Refusal::NotServing) }
}

/// An unknown path: a gRPC client asked for a service that is not here, anybody else for a page.
async fn not_found(headers: HeaderMap) -> Response {
    let grpc = headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        return Status::unimplemented("there is no such service").into_http::<axum::body::Body>();
    }
    Refusal::NotFound.into_response()
}

/// The old system took any text for a trajectory's id: one that is none here stands for its digest.
fn trajectory_key(tenant: Tenant, text: &str) -> TrajectoryKey {
    let id = TrajectoryId::parse(text)
        .unwrap_or_else(|_| TrajectoryId::parse(&digest(text)).expect("a digest has plain characters, and few"));
    TrajectoryKey { tenant, id }
}

/// Names a text that is too long or too odd to be a name itself.
fn digest(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().fold("sha256:".to_owned(), |name, byte| name + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_names_a_trajectory() {
        let id = |text: &str| trajectory_key(Tenant::anonymous(), text).id;
        assert_eq!(id("run-7/3").as_str(), "run-7/3");
        assert_eq!(id("").as_str(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_ne!(id("a b"), id("a  b"));
        assert!(id(&"x".repeat(1_000_000)).as_str().len() < 100);
    }
}
