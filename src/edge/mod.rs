//! gRPC and HTTP on one port. Translation only: what a client says is parsed and handed on, what the program says is
//! rendered, and nothing is decided here.

mod access;
mod artifacts;
mod gateway;
mod json;
mod page;
mod parse;
mod peer;
mod port;
mod program;
mod render;
mod service;
mod status;
mod trace;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, interceptor::InterceptedService};
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::warn;

pub use self::{
    access::{Access, Caller, Holder, TokenDigest, Unasked},
    gateway::Exporter,
    page::History,
    peer::Peer,
    port::{ConnectionCounts, ConnectionLimits, Keepalive, Tls, TlsError, TlsFiles},
    program::AgentProgram,
    render::PublicLimits,
};
use self::{gateway::Gateway, parse::Parser, port::Port, service::Service};
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
    pub connections: ConnectionLimits,
    pub counts: ConnectionCounts,
    /// Without it everything is sent as it is.
    pub tls: Option<Tls>,
    /// Whether new trajectories are welcome.
    pub serving: watch::Receiver<bool>,
    /// Says how the service does.
    pub exporter: Arc<dyn Exporter>,
    /// What the status page remembers.
    pub history: Arc<History>,
    /// What containers elsewhere download.
    pub program: Option<AgentProgram>,
}

impl Edge {
    /// Serves the listener until `shutdown`, and then until every request under way has been answered.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let (tls, limits, counts) = (self.tls.clone(), self.connections, self.counts.clone());
        let (health, health_service) = tonic_health::server::health_reporter();
        let watched = tokio::spawn(report_health(health, self.serving.clone()));
        let routes = self.routes(health_service, shutdown.clone()).into_axum_router();
        Port { listener, tls, limits, counts, routes }.serve(shutdown).await;
        watched.abort();
    }

    fn routes(
        self,
        health: tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
        closing: CancellationToken,
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
        let page = page::router(
            self.access.clone(),
            self.directory.clone(),
            self.scheduler.clone(),
            self.history,
            self.backend,
            closing,
        );
        let router = gateway.router().merge(page);
        let router = match self.program {
            Some(program) => router.merge(program.router()),
            None => router,
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
        let guard = |unasked: fn(&Unasked) -> bool| {
            let access = access.clone();
            move |request: tonic::Request<()>| {
                let caller = access.onlooker(unasked, request.metadata().as_ref(), request.extensions());
                caller.map(|_| request).map_err(|refused| status::refused(&refused))
            }
        };
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        // Before its message, which a stranger may never send.
        let known = guard(|_| false);
        let service = ToolExecutorServer::new(service).max_decoding_message_size(max_request_bytes);
        let routes = Routes::from(router)
            .add_service(InterceptedService::new(service, known))
            .add_service(InterceptedService::new(health, guard(|unasked| unasked.health)));
        // The descriptors are this build's own, so that they always decode; without them calls work all the same.
        let routes = match reflection().build_v1() {
            Ok(v1) => routes.add_service(InterceptedService::new(v1, guard(|unasked| unasked.reflection))),
            Err(error) => without_reflection(routes, &error),
        };
        match reflection().build_v1alpha() {
            Ok(v1alpha) => routes.add_service(InterceptedService::new(v1alpha, guard(|unasked| unasked.reflection))),
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
