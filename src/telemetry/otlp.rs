//! Spans go to a collector over OTLP, in batches, from a thread of their own: whoever ends a span waits for nothing, and
//! what a collector does not take in time is lost.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{self, Sampler, SdkTracerProvider, SpanData},
};
use tracing::{info, warn};

/// How long the last spans may take to be sent at the end.
const FLUSH: Duration = Duration::from_secs(2);

/// The way of spans to a collector.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Sends spans to the collector at `endpoint` from now on: a `ratio` of those of which nobody else decides. Within a
    /// runtime. Headers, timeouts, batches, and the service's name and attributes are as OpenTelemetry's variables say.
    pub fn start(endpoint: &str, ratio: f64, instance: &str) -> Result<Self, ExporterBuildError> {
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        let exporter = Reported { exporter, failing: AtomicBool::new(false), endpoint: endpoint.to_owned() };
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("tool-executor");
        }
        let attributes = [("service.version", env!("CARGO_PKG_VERSION")), ("service.instance.id", instance)];
        let attributes = attributes.map(|(name, value)| KeyValue::new(name, value.to_owned()));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
            .with_resource(resource.with_attributes(attributes).build())
            .build();
        global::set_tracer_provider(provider.clone());
        Ok(Self(provider))
    }

    /// Sends what has not been sent; within two seconds.
    pub async fn finish(self) {
        // It waits, and not as a future.
        let done = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FLUSH));
        if !matches!(tokio::time::timeout(FLUSH, done).await, Ok(Ok(Ok(())))) {
            warn!("the last spans have not reached the collector");
        }
    }
}

/// Tells once that a collector takes nothing, and once that it does again.
#[derive(Debug)]
struct Reported {
    exporter: SpanExporter,
    failing: AtomicBool,
    endpoint: String,
}

impl trace::SpanExporter for Reported {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let done = self.exporter.export(batch).await;
        let failed = self.failing.swap(done.is_err(), Ordering::Relaxed);
        match &done {
            Err(error) if !failed => {
                warn!(endpoint = self.endpoint, %error, "spans are lost: the collector does not take them");
            }
            Ok(()) if failed => info!(endpoint = self.endpoint, "the collector takes spans again"),
            _ => {}
        }
        done
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
