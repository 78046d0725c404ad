//! What a call cannot cost less than: a spawn, an echo, an echo over two hops. The echoes speak the same protocols
//! with the same messages as the executor and its agent, and do nothing else.

use std::{
    collections::HashMap,
    env,
    path::PathBuf,
    pin::Pin,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};
use tokio_stream::Empty;
use tokio_stream::{
    Stream, StreamExt,
    wrappers::{ReceiverStream, UnixListenerStream},
};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Endpoint, Server, server::TcpIncoming},
};
use tool_executor::pb::toolexecutor;
use tool_executor::pb::{
    sandbox::{
        CallEnded, Event, Events, LinkRequest, LinkResponse, ReadFile, Request as LinkCall, Requests, RunCall,
        call_ended, event, link_request, link_response, request, run_call,
        sandbox_service_client::SandboxServiceClient,
        sandbox_service_server::{SandboxService, SandboxServiceServer},
    },
    toolexecutor::{
        self as pb, CallResult, TrajectoryRequest, TrajectoryResponse,
        tool_executor_server::{ToolExecutor, ToolExecutorServer},
        trajectory_request, trajectory_response,
    },
};

use crate::{
    Result,
    load::{Latency, Load, Phases, percentiles},
};

pub(crate) const ECHO: &str = "floor-echo";
pub(crate) const RELAY: &str = "floor-relay";
/// With a spawn behind it.
pub(crate) const SPAWNING_RELAY: &str = "floor-spawning-relay";
pub(crate) const FAR_ECHO: &str = "floor-far-echo";
pub(crate) const SPAWNING_FAR_ECHO: &str = "floor-spawning-far-echo";

type Responses<T> = Pin<Box<dyn Stream<Item = std::result::Result<T, Status>> + Send>>;

/// `sh -c true` by the cheapest way there is: std's posix_spawn, which is a vfork.
pub(crate) fn spawn() {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "true"]).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().is_ok_and(|status| status.success()));
}

/// One after another.
pub(crate) fn spawns(calls: usize) -> Latency {
    let times = (0..calls).map(|_| timed(spawn)).collect();
    let (median, p99) = percentiles(times);
    Latency { median, p99, phases: Phases::default() }
}

/// On so many threads.
pub(crate) fn spawns_at_once(threads: usize, time: Duration) -> Load {
    let start = Instant::now();
    let threads: Vec<_> = (0..threads)
        .map(|_| {
            thread::spawn(move || {
                let mut times = Vec::new();
                while start.elapsed() < time {
                    times.push(timed(spawn));
                }
                times
            })
        })
        .collect();
    let times: Vec<Duration> = threads.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect();
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    Load { p99: percentiles(times).1, rate }
}

pub(crate) fn timed(act: impl FnOnce()) -> Duration {
    let start = Instant::now();
    act();
    start.elapsed()
}

type Answers = mpsc::Sender<std::result::Result<TrajectoryResponse, Status>>;

/// How a floor answers the calls of one stream.
trait Floor: Send + Sync + 'static {
    fn answer(&self, call_id: String, answers: Answers) -> impl Future<Output = ()> + Send;
}

/// Answers every call at once; or `spawns` first.
struct Echo {
    spawns: bool,
}

/// Hands every call to the far echo, over one stream for all.
struct Relay {
    link: mpsc::Sender<LinkRequest>,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<CallEnded>>>>,
    calls: AtomicU64,
}

impl Floor for Echo {
    async fn answer(&self, call_id: String, answers: Answers) {
        let _ = answers.send(Ok(result(call_id))).await;
    }
}

impl Floor for Relay {
    async fn answer(&self, call_id: String, answers: Answers) {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        if let Ok(mut waiting) = self.waiting.lock() {
            waiting.insert(call, reply);
        }
        let _ = self.link.send(run(call)).await;
        if answer.await.is_ok() {
            let _ = answers.send(Ok(result(call_id))).await;
        }
    }
}

fn result(call_id: String) -> TrajectoryResponse {
    let result = CallResult { call_id, success: true, output: "x".repeat(1024), ..CallResult::default() };
    TrajectoryResponse { message: Some(trajectory_response::Message::Result(result)) }
}

fn ids(request: TrajectoryRequest) -> Vec<String> {
    match request.message {
        Some(trajectory_request::Message::Batch(batch)) => batch.calls.into_iter().map(|call| call.call_id).collect(),
        _ => Vec::new(),
    }
}

/// A floor as the service that it is the floor of.
struct Service<F>(Arc<F>);

#[tonic::async_trait]
impl<F: Floor> ToolExecutor for Service<F> {
    type ReadArtifactStream = Empty<std::result::Result<toolexecutor::ReadArtifactResponse, Status>>;
    type ArchiveArtifactsStream = Empty<std::result::Result<toolexecutor::ArchiveArtifactsResponse, Status>>;

    async fn read_artifact(
        &self,
        _: Request<toolexecutor::ReadArtifactRequest>,
    ) -> std::result::Result<Response<Self::ReadArtifactStream>, Status> {
        Err(Status::unimplemented("a floor has no files"))
    }

    async fn write_artifact(
        &self,
        _: Request<Streaming<toolexecutor::WriteArtifactRequest>>,
    ) -> std::result::Result<Response<toolexecutor::WriteArtifactResponse>, Status> {
        Err(Status::unimplemented("a floor has no files"))
    }

    async fn list_artifacts(
        &self,
        _: Request<toolexecutor::ListArtifactsRequest>,
    ) -> std::result::Result<Response<toolexecutor::ListArtifactsResponse>, Status> {
        Err(Status::unimplemented("a floor has no files"))
    }

    async fn archive_artifacts(
        &self,
        _: Request<toolexecutor::ArchiveArtifactsRequest>,
    ) -> std::result::Result<Response<Self::ArchiveArtifactsStream>, Status> {
        Err(Status::unimplemented("a floor has no files"))
    }

    type TrajectoryStream = Responses<TrajectoryResponse>;

    async fn trajectory(
        &self,
        request: Request<Streaming<TrajectoryRequest>>,
    ) -> std::result::Result<Response<Self::TrajectoryStream>, Status> {
        let (answers, responses) = mpsc::channel(8);
        let mut requests = request.into_inner();
        let floor = self.0.clone();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                if matches!(request.message, Some(trajectory_request::Message::Release(_))) {
                    return;
                }
                for id in ids(request) {
                    floor.answer(id, answers.clone()).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }

    async fn execute(
        &self,
        _: Request<pb::ExecuteRequest>,
    ) -> std::result::Result<Response<pb::ExecuteResponse>, Status> {
        Err(Status::not_found("a floor"))
    }

    async fn cancel_trajectories(
        &self,
        _: Request<pb::CancelTrajectoriesRequest>,
    ) -> std::result::Result<Response<pb::CancelTrajectoriesResponse>, Status> {
        Err(Status::not_found("a floor"))
    }

    async fn release(
        &self,
        _: Request<pb::ReleaseRequest>,
    ) -> std::result::Result<Response<pb::ReleaseResponse>, Status> {
        Err(Status::not_found("a floor"))
    }

    async fn list_tools(
        &self,
        _: Request<pb::ListToolsRequest>,
    ) -> std::result::Result<Response<pb::ListToolsResponse>, Status> {
        Err(Status::not_found("a floor"))
    }

    async fn get_status(
        &self,
        _: Request<pb::GetStatusRequest>,
    ) -> std::result::Result<Response<pb::GetStatusResponse>, Status> {
        Err(Status::not_found("a floor"))
    }

    async fn list_trajectories(
        &self,
        _: Request<pb::ListTrajectoriesRequest>,
    ) -> std::result::Result<Response<pb::ListTrajectoriesResponse>, Status> {
        Err(Status::not_found("a floor"))
    }
}

fn run(call: u64) -> LinkRequest {
    let job = run_call::Job::ReadFile(ReadFile { path: "file".to_owned(), max_bytes: 100_000 });
    let run = RunCall { call, job: Some(job), ..RunCall::default() };
    let requests = vec![LinkCall { request: Some(request::Request::Run(run)) }];
    LinkRequest { message: Some(link_request::Message::Requests(Requests { requests, ..Requests::default() })) }
}

#[tonic::async_trait]
impl SandboxService for Echo {
    type TransferStream = Empty<std::result::Result<tool_executor::pb::sandbox::TransferResponse, Status>>;

    async fn transfer(
        &self,
        _: Request<Streaming<tool_executor::pb::sandbox::TransferRequest>>,
    ) -> std::result::Result<Response<Self::TransferStream>, Status> {
        Err(Status::unimplemented("a floor has no files"))
    }

    type LinkStream = Responses<LinkResponse>;

    async fn link(
        &self,
        request: Request<Streaming<LinkRequest>>,
    ) -> std::result::Result<Response<Self::LinkStream>, Status> {
        let spawns = self.spawns;
        let responses = request.into_inner().map(move |request| {
            let requests = match request?.message {
                Some(link_request::Message::Requests(requests)) => requests.requests,
                _ => Vec::new(),
            };
            let events = requests
                .into_iter()
                .map(|request| {
                    if spawns {
                        spawn();
                    }
                    let call = match request.request {
                        Some(request::Request::Run(run)) => run.call,
                        _ => 0,
                    };
                    let end = Some(call_ended::End::Content("x".repeat(1024).into()));
                    Event { event: Some(event::Event::Ended(CallEnded { call, end, ..CallEnded::default() })) }
                })
                .collect();
            let message = link_response::Message::Events(Events { events, ..Events::default() });
            Ok(LinkResponse { message: Some(message) })
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

async fn serve_tcp(floor: impl Floor) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on http://{}", listener.local_addr()?);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder()
        .max_concurrent_streams(100_000)
        .add_service(ToolExecutorServer::new(Service(Arc::new(floor))))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

pub(crate) fn serve_echo() -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve_tcp(Echo { spawns: false }))
}

pub(crate) fn serve_relay(spawns: bool) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("far.sock");
    let far = if spawns { SPAWNING_FAR_ECHO } else { FAR_ECHO };
    let mut far = Command::new(env::current_exe()?).arg(far).arg(&socket).stdin(Stdio::piped()).spawn()?;
    let served = tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let channel = loop {
            let socket: PathBuf = socket.clone();
            let connector = tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            });
            match Endpoint::from_static("http://far").connect_with_connector(connector).await {
                Ok(channel) => break channel,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let (link, requests) = mpsc::channel(1024);
        let mut answers = SandboxServiceClient::new(channel).link(ReceiverStream::new(requests)).await?.into_inner();
        let waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<CallEnded>>>> = Arc::default();
        let relay = Relay { link, waiting: waiting.clone(), calls: AtomicU64::new(0) };
        tokio::spawn(async move {
            while let Ok(Some(response)) = answers.message().await {
                let Some(link_response::Message::Events(events)) = response.message else { continue };
                for event in events.events {
                    if let Some(event::Event::Ended(ended)) = event.event
                        && let Ok(mut waiting) = waiting.lock()
                        && let Some(reply) = waiting.remove(&ended.call)
                    {
                        let _ = reply.send(ended);
                    }
                }
            }
        });
        serve_tcp(relay).await
    });
    far.kill()?;
    far.wait()?;
    served
}

/// Ends with whoever holds its stdin.
pub(crate) fn serve_far_echo(socket: &str, spawns: bool) -> Result<()> {
    thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = UnixListenerStream::new(UnixListener::bind(socket)?);
        Server::builder().add_service(SandboxServiceServer::new(Echo { spawns })).serve_with_incoming(listener).await?;
        Ok(())
    })
}
