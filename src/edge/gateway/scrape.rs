//! `GET /metrics`, which the old system did not have: for whoever has the token, where there is one.

use axum::{
    extract::State,
    http::{
        HeaderMap,
        header::{CACHE_CONTROL, CONTENT_TYPE},
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

pub(super) async fn scrape(State(gateway): State<Gateway>, headers: HeaderMap) -> Result<impl IntoResponse, Refusal> {
    gateway.access.tenant(&headers)?;
    let headers = [(CONTENT_TYPE, OPEN_METRICS), (CACHE_CONTROL, "no-store")];
    Ok((headers, gateway.exporter.export().await))
}
