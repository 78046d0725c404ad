//! Who may call, as whom, and how much.

mod certificates;
mod open;
mod quotas;
mod reload;
mod start;
mod tenants;

use std::fs::{self, File};

use rustix::process::Signal;
use tempfile::TempDir;
use tonic::{Request, Response, Status};
use tool_executor::pb::toolexecutor::{
    CallResult, ExecuteRequest, GetStatusRequest, GetStatusResponse, ListTrajectoriesRequest, Open, TrajectoryOptions,
};

use super::tls::said;
use crate::support::{
    client::{Stream, bash, bear},
    server::Server,
};

/// An executor whose callers are those of a file.
struct Guarded {
    server: Server,
    directory: TempDir,
}

impl Guarded {
    fn with(tenants: &str, settings: &[(&str, &str)]) -> Self {
        let directory = TempDir::new().expect("a directory");
        fs::write(directory.path().join("tokens.toml"), tenants).expect("a file");
        let state = TempDir::new().expect("a directory for the state");
        let mut command = Server::command(&state);
        command.stderr(File::create(directory.path().join("log")).expect("a log"));
        command.env("TOOL_EXECUTOR_TOKENS_FILE", directory.path().join("tokens.toml"));
        command.envs(settings.iter().map(|(name, value)| (format!("TOOL_EXECUTOR_{name}"), value)));
        Self { server: Server::run(command, state), directory }
    }

    /// Has it read these; once it has said this.
    async fn reload(&self, tenants: &str, told: &str) {
        fs::write(self.directory.path().join("tokens.toml"), tenants).expect("a file");
        self.server.signal(Signal::HUP);
        said(&self.directory.path().join("log"), told).await;
    }

    async fn open(&self, token: &str, open: Open) -> Result<Stream, Status> {
        Stream::bearing(self.server.client().await, Some(token), open).await
    }

    async fn execute(&self, token: &str, trajectory: &str, command: &str) -> Result<CallResult, Status> {
        self.ask(token, execute(trajectory, command), async |mut client, request| client.execute(request).await)
            .await
            .map(|answer| answer.result.expect("every answer has a result"))
    }

    async fn status(&self, token: &str) -> GetStatusResponse {
        self.ask(token, GetStatusRequest {}, async |mut client, request| client.get_status(request).await)
            .await
            .expect("it may ask")
    }

    /// The ids of the tenant's trajectories.
    async fn list(&self, token: &str) -> Vec<String> {
        let request = ListTrajectoriesRequest::default();
        let listed = self.ask(token, request, async |mut client, request| client.list_trajectories(request).await);
        let listed = listed.await.expect("it may ask").trajectories;
        listed.into_iter().map(|trajectory| trajectory.trajectory_id).collect()
    }

    async fn ask<T, A>(
        &self,
        token: &str,
        message: T,
        method: impl AsyncFnOnce(Client, Request<T>) -> Result<Response<A>, Status>,
    ) -> Result<A, Status> {
        let mut request = Request::new(message);
        bear(&mut request, token);
        method(self.server.client().await, request).await.map(Response::into_inner)
    }
}

type Client = tool_executor::pb::toolexecutor::tool_executor_client::ToolExecutorClient<tonic::transport::Channel>;

fn execute(trajectory: &str, command: &str) -> ExecuteRequest {
    ExecuteRequest { trajectory_id: trajectory.to_owned(), call: Some(bash("", command)), ..ExecuteRequest::default() }
}

fn labelled(labels: &[(&str, &str)]) -> Option<TrajectoryOptions> {
    let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Some(TrajectoryOptions { labels, ..TrajectoryOptions::default() })
}
