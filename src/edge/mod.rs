//! gRPC and HTTP on one port. Translation only: what a client says is parsed and handed on, what the program says is
//! rendered, and nothing is decided here.

mod access;
mod artifacts;
mod gateway;
mod json;
mod parse;
mod program;
mod render;
mod service;
mod status;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::{Routes, interceptor::InterceptedService},
    transport::{Server, server::TcpIncoming},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::warn;

pub use self::{access::Access, gateway::Exporter, program::AgentProgram, render::PublicLimits};
use self::{gateway::Gateway, parse::Parser, service::Service};
use crate::{
    external,
    pb::toolexecutor::{FILE_DESCRIPTOR_SET, tool_executor_server::ToolExecutorServer},
    scheduler,
    tool::Registry,
    trajectory::{Defaults, Directory},
};

/// Everything that the edge speaks for.
pub struct Edge {
    pub access: Access,
    /// The tools that there are just now.
    pub registry: watch::Receiver<Arc<Registry>>,
    pub defaults: Defaults,
    pub limits: PublicLimits,
    /// For the body of an HTTP request to come.
    pub http_body_timeout: Duration,
    pub directory: Directory,
    pub scheduler: scheduler::Handle,
    /// Those that are elsewhere.
    pub tools: external::Handle,
    /// The backend's name, for status.
    pub backend: &'static str,
    pub keepalive: Keepalive,
    /// Whether new trajectories are welcome.
    pub serving: watch::Receiver<bool>,
    /// Says how the service does.
    pub exporter: Arc<dyn Exporter>,
    /// What containers elsewhere download.
    pub program: Option<AgentProgram>,
}

/// How a client that has vanished without a word is noticed.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// Of silence, before the client is asked.
    pub interval: Duration,
    /// For its answer.
    pub timeout: Duration,
}

/// A stream's window: a batch of some size need not wait for a round trip.
const STREAM_WINDOW: u32 = 1 << 20;
/// A connection's window, which its streams share.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// A trainer has its trajectories on few connections; the trajectories are bounded by themselves.
const STREAMS_PER_CONNECTION: u32 = 1 << 20;

impl Edge {
    /// Serves the listener until `shutdown`, and then until every request under way has been answered.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        let keepalive = self.keepalive;
        let (health, health_service) = tonic_health::server::health_reporter();
        let watched = tokio::spawn(report_health(health, self.serving.clone()));
        let routes = self.routes(health_service);
        let served = Server::builder()
            .accept_http1(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .http2_keepalive_interval(Some(keepalive.interval))
            .http2_keepalive_timeout(Some(keepalive.timeout))
            .add_routes(routes)
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                shutdown.cancelled_owned(),
            )
            .await;
        watched.abort();
        served
    }

    fn routes(
        self,
        health: tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
    ) -> Routes {
        let max_request_bytes = self.limits.max_request_bytes as usize;
        let access = self.access.clone();
        let parser = Arc::new(Parser {
            registry: self.registry,
            defaults: self.defaults,
            scheduler: self.scheduler.clone(),
            max_output_bytes: self.limits.max_output_bytes,
        });
        let gateway = Gateway {
            access: self.access.clone(),
            parser: parser.clone(),
            directory: self.directory.clone(),
            scheduler: self.scheduler.clone(),
            max_request_bytes,
            body_timeout: self.http_body_timeout,
            serving: self.serving,
            exporter: self.exporter,
        };
        let router = match self.program {
            Some(program) => gateway.router().merge(program.router()),
            None => gateway.router(),
        };
        let service = Service {
            access: self.access,
            parser,
            limits: Arc::new(self.limits),
            directory: self.directory,
            scheduler: self.scheduler,
            tools: self.tools,
            backend: self.backend,
            started_at: SystemTime::now(),
        };
        let interceptor = move |request: tonic::Request<()>| {
            access.tenant(request.metadata().as_ref()).map_err(status::refused)?;
            Ok(request)
        };
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let routes = Routes::from(router)
            .add_service(ToolExecutorServer::new(service).max_decoding_message_size(max_request_bytes))
            .add_service(health);
        // The descriptors are this build's own, so that they always decode; without them calls work all the same.
        let routes = match reflection().build_v1() {
            Ok(v1) => routes.add_service(InterceptedService::new(v1, interceptor.clone())),
            Err(error) => without_reflection(routes, &error),
        };
        match reflection().build_v1alpha() {
            Ok(v1alpha) => routes.add_service(InterceptedService::new(v1alpha, interceptor)),
            Err(error) => without_reflection(routes, &error),
        }
        .prepare()
    }
}

fn without_reflection(routes: Routes, error: &tonic_reflection::server::Error) -> Routes {
    warn!(error = error as &dyn std::error::Error, "there is no reflection");
    routes
}

/// Keeps the health service's answers true for as long as there is somebody who knows.
async fn report_health(health: HealthReporter, mut serving: watch::Receiver<bool>) {
    loop {
        let status = if *serving.borrow_and_update() { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status("", status).await;
        health.set_service_status("toolexecutor.v1.ToolExecutor", status).await;
        if serving.changed().await.is_err() {
            return;
        }
    }
}
