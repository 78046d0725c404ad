//! An agent that talks nonsense, in the place of one that has a link: whatever it is to run, it answers with a file.

use std::path::PathBuf;

use rustix::{
    net::Shutdown,
    process::{Pid, PidfdFlags, PidfdGetfdFlags},
};
use tokio::{net::UnixListener, sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};
use tool_executor::{
    pb::sandbox::{
        Attached, CallEnded, Event, Events, LinkRequest, LinkResponse, SlotSnapshot, TransferRequest, TransferResponse,
        call_ended, event, link_request, link_response, request,
        sandbox_service_server::{SandboxService, SandboxServiceServer},
    },
    sandbox::PROTOCOL_VERSION,
};

use crate::support::{dying, server::Server};

/// What an executor has asked for that has run one call in one slot.
const REQUESTS: u64 = 2;

/// Stops the server's one agent, breaks the link to it, and answers in its stead until it is dropped. One slot must be
/// assigned, and one call have run in it.
pub(super) fn take_over(server: &Server) -> JoinSet<()> {
    let containers = std::fs::read_dir(server.state.path().join("containers")).expect("there are containers");
    let container = containers.flatten().next().expect("there is one").path();
    let agent = server.agents()[0];
    dying::stop(agent);
    let socket = container.join("agent.sock");
    std::fs::remove_file(&socket).expect("it can be removed");
    let impostor = Impostor { container: container.file_name().and_then(|name| name.to_str()).expect("an id").into() };
    let mut task = JoinSet::new();
    task.spawn(impostor.listen(socket));
    hang_up(agent);
    task
}

/// Ends every connection that a process has, in its name.
fn hang_up(pid: u32) {
    let process = Pid::from_raw(pid.cast_signed()).expect("it is not 0");
    let process = rustix::process::pidfd_open(process, PidfdFlags::empty()).expect("it is there");
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it can be looked at").flatten() {
        let is_socket = std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
        if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()).filter(|_| is_socket) {
            let ours = rustix::process::pidfd_getfd(&process, number, PidfdGetfdFlags::empty());
            // One that is not connected has nothing to end.
            let _ = rustix::net::shutdown(ours.expect("it can be had"), Shutdown::Both);
        }
    }
}

struct Impostor {
    container: String,
}

impl Impostor {
    async fn listen(self, socket: PathBuf) {
        let listener = UnixListener::bind(socket).expect("it can be bound");
        let server = tonic::transport::Server::builder().add_service(SandboxServiceServer::new(self));
        server.serve_with_incoming(UnixListenerStream::new(listener)).await.expect("it serves");
    }
}

#[tonic::async_trait]
impl SandboxService for Impostor {
    type LinkStream = ReceiverStream<Result<LinkResponse, Status>>;
    type TransferStream = tokio_stream::Empty<Result<TransferResponse, Status>>;

    async fn transfer(&self, _: Request<Streaming<TransferRequest>>) -> Result<Response<Self::TransferStream>, Status> {
        Err(Status::unimplemented("it has no files"))
    }

    async fn link(&self, request: Request<Streaming<LinkRequest>>) -> Result<Response<Self::LinkStream>, Status> {
        let mut requests = request.into_inner();
        let Some(link_request::Message::Attach(attach)) = requests.message().await?.and_then(|first| first.message)
        else {
            return Err(Status::invalid_argument("the first request is not `attach`"));
        };
        let (responses, receiver) = mpsc::channel(16);
        let attached = Attached {
            container_id: self.container.clone(),
            isolation: "L0".to_owned(),
            requests_received: REQUESTS,
            events_acknowledged: attach.events_received,
            slots: vec![SlotSnapshot::default(); 4],
            version: PROTOCOL_VERSION,
            ..Attached::default()
        };
        tokio::spawn(async move {
            let mut first = attach.events_received;
            let say = async |message| {
                // An executor that is gone needs no answer.
                let _ = responses.send(Ok(LinkResponse { message: Some(message) })).await;
            };
            say(link_response::Message::Attached(attached)).await;
            while let Ok(Some(LinkRequest { message })) = requests.message().await {
                let Some(link_request::Message::Requests(requests)) = message else { continue };
                let requests_received = requests.first + requests.requests.len() as u64 - 1;
                for request in requests.requests {
                    let Some(request::Request::Run(run)) = request.request else { continue };
                    first += 1;
                    let end = Some(call_ended::End::Content("of no file".into()));
                    let ended = CallEnded { slot: run.slot, call: run.call, end, ..CallEnded::default() };
                    let events = vec![Event { event: Some(event::Event::Ended(ended)) }];
                    say(link_response::Message::Events(Events { first, events, requests_received })).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
