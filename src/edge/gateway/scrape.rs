//! `GET /metrics`, which the old system did not have: for whoever may look at the whole service.

use axum::{
    extract::State,
    http::{
        header::{CACHE_CONTROL, CONTENT_TYPE},
        request::Parts,
    },
    response::IntoResponse,
};

use super::{Gateway, Refusal};

/// Says how the service does.
#[async_trait::async_trait]
pub trait Exporter: Send + Sync {
    /// In the text format of OpenMetrics.
    async fn export(&self) -> String;
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn scrape(State(gateway): State<Gateway>, request: Parts) -> Result<impl IntoResponse, Refusal> {
    if let Some(caller) = gateway.access.onlooker(|unasked| unasked.metrics, &request.headers, &request.extensions)? {
        caller.must_be_operator()?;
    }
    let headers = [(CONTENT_TYPE, OPEN_METRICS), (CACHE_CONTROL, "no-store")];
    Ok((headers, gateway.exporter.export().await))
}
