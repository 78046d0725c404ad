//! The gRPC service: reads a request, asks the room it belongs to, writes the answer.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::SystemTime};

use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::StatusExt;

use super::{
    access::{Access, Caller},
    artifacts,
    parse::{self, Parser, Violation},
    render::{self, PublicLimits},
    status,
    trace::trace_parent,
};
use crate::{
    external,
    id::{Tenant, TrajectoryId, TrajectoryKey},
    pb::toolexecutor::{self as pb, tool_executor_server::ToolExecutor},
    scheduler,
    trajectory::{Directory, Requests, StreamFault, Workspace},
};

const DEFAULT_PAGE: u32 = 100;
const MAX_PAGE: u32 = 1000;

/// See the module.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) access: Access,
    pub(super) parser: Arc<Parser>,
    pub(super) limits: Arc<PublicLimits>,
    pub(super) directory: Directory,
    pub(super) scheduler: scheduler::Handle,
    pub(super) tools: external::Handle,
    pub(super) backend: &'static str,
    pub(super) started_at: SystemTime,
}

type Responses = Pin<Box<dyn Stream<Item = Result<pb::TrajectoryResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ToolExecutor for Service {
    type TrajectoryStream = Responses;

    async fn trajectory(
        &self,
        request: Request<Streaming<pb::TrajectoryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let caller = self.caller(&request)?;
        let trace = trace_parent(request.metadata().as_ref());
        let mut requests = request.into_inner();
        let open = match requests.message().await? {
            Some(pb::TrajectoryRequest { message: Some(pb::trajectory_request::Message::Open(open)) }) => open,
            _ => {
                return Err(crate::pb::codec::invalid_argument(
                    "open",
                    "the first message of a stream must be an open",
                ));
            }
        };
        let (id, mut open) = self.parser.open(open).map_err(|error| status::violation(&error))?;
        open.trace = trace;
        caller.may_use(&open.options.labels).map_err(|refused| status::refused(&refused))?;
        let key = TrajectoryKey { tenant: caller.tenant.clone(), id: id.clone() };
        let requests = parsed(requests, self.parser.clone());
        let responses = self.directory.open(key, open, requests).await.map_err(|error| status::directory(&error))?;
        let limits = self.limits.clone();
        let responses = ReceiverStream::new(responses).map(move |response| match response {
            Ok(response) => Ok(render::response(response, id.as_str(), &limits)),
            Err(error) => Err(status::stream(&error)),
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn execute(&self, request: Request<pb::ExecuteRequest>) -> Result<Response<pb::ExecuteResponse>, Status> {
        let caller = self.caller(&request)?;
        let trace = trace_parent(request.metadata().as_ref());
        let request = request.into_inner();
        let key = self.key(caller.tenant.clone(), &request.trajectory_id)?;
        let call = request.call.ok_or_else(|| crate::pb::codec::invalid_argument("call", "must be set"))?;
        let call = self.parser.call(call, "call", true).map_err(|error| status::violation(&error))?;
        let options = self.parser.options(request.options, "options").map_err(|error| status::violation(&error))?;
        caller.may_use(&options.labels).map_err(|refused| status::refused(&refused))?;
        let answer = self
            .directory
            .execute(key, call, options, request.require_existing, trace)
            .await
            .map_err(|error| status::directory(&error))?;
        Ok(Response::new(pb::ExecuteResponse { result: Some(render::call_result(&answer.result, answer.replayed)) }))
    }

    async fn release(&self, request: Request<pb::ReleaseRequest>) -> Result<Response<pb::ReleaseResponse>, Status> {
        let tenant = self.tenant(&request)?;
        let request = request.into_inner();
        let key = self.key(tenant, &request.trajectory_id)?;
        self.directory.release(&key, request.keep_workspace).await;
        Ok(Response::new(pb::ReleaseResponse {}))
    }

    async fn cancel_trajectories(
        &self,
        request: Request<pb::CancelTrajectoriesRequest>,
    ) -> Result<Response<pb::CancelTrajectoriesResponse>, Status> {
        let tenant = self.tenant(&request)?;
        let request = request.into_inner();
        if request.labels.is_empty() {
            return Err(crate::pb::codec::invalid_argument("labels", "must have at least one"));
        }
        let labels = request.labels.into_iter().collect();
        let (trajectories, calls) = self.directory.cancel(&tenant, labels, request.release).await;
        let count = |number| render::count(number as u64);
        Ok(Response::new(pb::CancelTrajectoriesResponse { trajectories: count(trajectories), calls: count(calls) }))
    }

    type ReadArtifactStream = artifacts::Answers<pb::ReadArtifactResponse>;
    type ArchiveArtifactsStream = artifacts::Answers<pb::ArchiveArtifactsResponse>;

    async fn read_artifact(
        &self,
        request: Request<pb::ReadArtifactRequest>,
    ) -> Result<Response<Self::ReadArtifactStream>, Status> {
        let key = self.key(self.tenant(&request)?, &request.get_ref().trajectory_id)?;
        let request = artifacts::read(request.into_inner()).map_err(|error| status::violation(&error))?;
        let workspace = self.workspace(&key).await?;
        artifacts::stream(workspace, request, artifacts::read_piece).await.map(Response::new)
    }

    async fn write_artifact(
        &self,
        request: Request<Streaming<pb::WriteArtifactRequest>>,
    ) -> Result<Response<pb::WriteArtifactResponse>, Status> {
        let tenant = self.tenant(&request)?;
        let mut requests = request.into_inner();
        let header = match requests.message().await?.and_then(|first| first.message) {
            Some(pb::write_artifact_request::Message::Header(header)) => header,
            _ => return Err(crate::pb::codec::invalid_argument("header", "must be the first message")),
        };
        let key = self.key(tenant, &header.trajectory_id)?;
        let request = artifacts::write(header).map_err(|error| status::violation(&error))?;
        let workspace = self.workspace(&key).await?;
        artifacts::bring(workspace, request, requests).await.map(Response::new)
    }

    async fn list_artifacts(
        &self,
        request: Request<pb::ListArtifactsRequest>,
    ) -> Result<Response<pb::ListArtifactsResponse>, Status> {
        let key = self.key(self.tenant(&request)?, &request.get_ref().trajectory_id)?;
        let path = request.get_ref().path.clone();
        let request = artifacts::list(request.into_inner()).map_err(|error| status::violation(&error))?;
        let workspace = self.workspace(&key).await?;
        artifacts::page(workspace, request, &path).await.map(Response::new)
    }

    async fn archive_artifacts(
        &self,
        request: Request<pb::ArchiveArtifactsRequest>,
    ) -> Result<Response<Self::ArchiveArtifactsStream>, Status> {
        let key = self.key(self.tenant(&request)?, &request.get_ref().trajectory_id)?;
        let request = artifacts::archive(request.into_inner()).map_err(|error| status::violation(&error))?;
        let workspace = self.workspace(&key).await?;
        artifacts::stream(workspace, request, artifacts::archive_piece).await.map(Response::new)
    }

    async fn list_tools(
        &self,
        request: Request<pb::ListToolsRequest>,
    ) -> Result<Response<pb::ListToolsResponse>, Status> {
        self.tenant(&request)?;
        let tools = self.parser.registry().list(&request.into_inner().toolsets);
        let tools = tools.map_err(|error| crate::pb::codec::invalid_argument("toolsets", &error.to_string()))?;
        Ok(Response::new(pb::ListToolsResponse { tools: tools.into_iter().map(render::tool).collect() }))
    }

    async fn get_status(
        &self,
        request: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::GetStatusResponse>, Status> {
        let caller = self.caller(&request)?;
        let pools = self.scheduler.status().await;
        let counts =
            if caller.is_operator { self.directory.counts() } else { self.directory.counts_of(&caller.tenant) };
        Ok(Response::new(pb::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: Some(render::timestamp(self.started_at)),
            draining: self.directory.is_draining(),
            backend: self.backend.to_owned(),
            trajectories: render::count(counts.open_trajectories),
            queue_size: render::count(counts.waiting_calls),
            running_calls: render::count(counts.running_calls),
            total_requests: counts.answers,
            total_errors: counts.unsuccessful_answers,
            pools: pools.iter().map(render::pool).collect(),
            tool_sources: self.tools.status().into_iter().map(render::tool_source).collect(),
        }))
    }

    async fn list_trajectories(
        &self,
        request: Request<pb::ListTrajectoriesRequest>,
    ) -> Result<Response<pb::ListTrajectoriesResponse>, Status> {
        let tenant = self.tenant(&request)?;
        let request = request.into_inner();
        let labels: BTreeMap<String, String> = request.labels.into_iter().collect();
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(parse::trajectory_id(token, "page_token").map_err(|error| status::violation(&error))?),
        };
        let size = match request.page_size {
            0 => DEFAULT_PAGE,
            size => size.min(MAX_PAGE),
        } as usize;
        let mut listed = self.directory.list(&tenant, &labels, after.as_ref(), size + 1).await;
        let more = listed.len() > size;
        listed.truncate(size);
        let next_page_token =
            listed.last().filter(|_| more).map_or_else(String::new, |last| last.id.as_str().to_owned());
        let trajectories = listed.into_iter().map(render::trajectory).collect();
        Ok(Response::new(pb::ListTrajectoriesResponse { trajectories, next_page_token }))
    }
}

impl Service {
    fn caller<T>(&self, request: &Request<T>) -> Result<Arc<Caller>, Status> {
        let caller = self.access.caller(request.metadata().as_ref(), request.extensions());
        caller.map_err(|refused| status::refused(&refused))
    }

    fn tenant<T>(&self, request: &Request<T>) -> Result<Tenant, Status> {
        self.caller(request).map(|caller| caller.tenant.clone())
    }

    async fn workspace(&self, key: &TrajectoryKey) -> Result<Workspace, Status> {
        let workspace = self.directory.files(key).await.map_err(|error| status::directory(&error))?;
        workspace.map_err(status::no_workspace)
    }

    fn key(&self, tenant: Tenant, id: &str) -> Result<TrajectoryKey, Status> {
        let id: TrajectoryId = parse::trajectory_id(id, "trajectory_id").map_err(|error| status::violation(&error))?;
        Ok(TrajectoryKey { tenant, id })
    }
}

/// The messages of a stream, each parsed as it is read.
fn parsed(requests: Streaming<pb::TrajectoryRequest>, parser: Arc<Parser>) -> Requests {
    Box::pin(requests.map(move |request| match request {
        Ok(request) => parser.request(request).map_err(malformed),
        Err(status) => Err(fault(&status)),
    }))
}

fn malformed(Violation { field, description }: Violation) -> StreamFault {
    StreamFault::Malformed { field, description }
}

/// What tonic says when it cannot read on: the client sent nonsense, or too much at once, or is gone.
fn fault(status: &Status) -> StreamFault {
    match status.code() {
        Code::InvalidArgument => {
            let violation =
                status.get_details_bad_request().and_then(|details| details.field_violations.into_iter().next());
            let (field, description) = match violation {
                Some(violation) => (violation.field, violation.description),
                None => (String::new(), status.message().to_owned()),
            };
            StreamFault::Malformed { field, description }
        }
        Code::OutOfRange => StreamFault::TooLarge { description: status.message().to_owned() },
        _ => StreamFault::Lost,
    }
}
