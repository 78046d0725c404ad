//! An agent that has slots in name only: it answers to releases, and tells the test what it is asked.

use std::{path::PathBuf, pin::Pin};

use tokio::{net::UnixListener, sync::mpsc, task::JoinHandle};
use tokio_stream::{
    Stream,
    wrappers::{ReceiverStream, UnixListenerStream},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::Server};
use tool_executor::{
    pb::sandbox::{
        Attached, Event, Events, LinkRequest, LinkResponse, SlotQuarantined, SlotReady, SlotSnapshot, SlotState,
        TransferRequest, TransferResponse, event, link_request, link_response, request,
        sandbox_service_server::{SandboxService, SandboxServiceServer},
    },
    sandbox::PROTOCOL_VERSION,
};

pub(super) const TOKEN: &str = "token";

/// What an agent was asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Assign {
        slot: u32,
        owner: String,
        generation: u64,
    },
    Release {
        slot: u32,
        keep: bool,
    },
    /// Whatever else.
    Other,
}

/// How an agent answers to releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Good,
    /// It answers nothing.
    Mute,
    /// It keeps nothing, whatever it is asked.
    KeepsNothing,
    /// It cannot wipe.
    Quarantines,
}

/// What an executor that attaches is told.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) version: u32,
    pub(super) slots: Vec<SlotSnapshot>,
}

impl Told {
    /// All slots are clean.
    pub(super) fn new(slots: u32) -> Self {
        let clean = SlotSnapshot { state: SlotState::Clean.into(), ..SlotSnapshot::default() };
        Self { version: PROTOCOL_VERSION, slots: vec![clean; slots as usize] }
    }

    /// All slots are somebody's.
    pub(super) fn used(slots: u32) -> Self {
        let used = SlotSnapshot { state: SlotState::Assigned.into(), ..SlotSnapshot::default() };
        Self { version: PROTOCOL_VERSION, slots: vec![used; slots as usize] }
    }
}

pub(super) struct FakeAgent {
    task: JoinHandle<()>,
    dead: CancellationToken,
}

impl FakeAgent {
    pub(super) fn start(socket: PathBuf, told: Told, manner: Manner, asked: mpsc::UnboundedSender<Asked>) -> Self {
        let listener = UnixListener::bind(&socket).expect("a socket");
        let dead = CancellationToken::new();
        let container = socket.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        let service = Service { container, told, manner, asked, dead: dead.clone() };
        let served = Server::builder()
            .add_service(SandboxServiceServer::new(service))
            .serve_with_incoming(UnixListenerStream::new(listener));
        Self { task: tokio::spawn(async move { served.await.expect("it serves") }), dead }
    }

    /// Nobody answers any more.
    pub(super) fn kill(&self) {
        self.task.abort();
        self.dead.cancel();
    }
}

struct Service {
    container: String,
    told: Told,
    manner: Manner,
    asked: mpsc::UnboundedSender<Asked>,
    dead: CancellationToken,
}

#[tonic::async_trait]
impl SandboxService for Service {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<LinkResponse, Status>> + Send>>;
    type TransferStream = tokio_stream::Empty<Result<TransferResponse, Status>>;

    async fn transfer(&self, _: Request<Streaming<TransferRequest>>) -> Result<Response<Self::TransferStream>, Status> {
        Err(Status::unimplemented("it has no files"))
    }

    async fn link(&self, request: Request<Streaming<LinkRequest>>) -> Result<Response<Self::LinkStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|first| first.message);
        let Some(link_request::Message::Attach(attach)) = first else { panic!("{first:?}") };
        assert_eq!(attach.token, TOKEN);
        let (responses, receiver) = mpsc::channel(16);
        let attached = Attached {
            container_id: self.container.clone(),
            isolation: "none".to_owned(),
            network_isolated: true,
            slots: self.told.slots.clone(),
            version: self.told.version,
            ..Attached::default()
        };
        let first = LinkResponse { message: Some(link_response::Message::Attached(attached)) };
        responses.send(Ok(first)).await.expect("the link is there");
        let (manner, asked) = (self.manner, self.asked.clone());
        let dead = self.dead.clone();
        tokio::spawn(async move {
            // With this the link ends.
            dead.run_until_cancelled(converse(requests, responses, manner, asked)).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn converse(
    mut requests: Streaming<LinkRequest>,
    responses: mpsc::Sender<Result<LinkResponse, Status>>,
    manner: Manner,
    asked: mpsc::UnboundedSender<Asked>,
) {
    let mut sent = 0;
    while let Ok(Some(LinkRequest { message: Some(link_request::Message::Requests(batch)) })) = requests.message().await
    {
        let requests_received = batch.first + batch.requests.len() as u64 - 1;
        let answers = batch.requests.into_iter().filter_map(|request| answer(request.request?, manner, &asked));
        let events: Vec<_> = answers.map(|event| Event { event: Some(event) }).collect();
        let first = sent + 1;
        sent += events.len() as u64;
        let events = Events { first, events, requests_received };
        let response = LinkResponse { message: Some(link_response::Message::Events(events)) };
        if responses.send(Ok(response)).await.is_err() {
            return;
        }
    }
}

fn answer(request: request::Request, manner: Manner, asked: &mpsc::UnboundedSender<Asked>) -> Option<event::Event> {
    // A test that is over needs no telling.
    match request {
        request::Request::Assign(assign) => {
            let (slot, owner, generation) = (assign.slot, assign.owner, assign.generation);
            let _ = asked.send(Asked::Assign { slot, owner, generation });
            None
        }
        request::Request::Release(release) => {
            let (slot, keep) = (release.slot, release.keep);
            let _ = asked.send(Asked::Release { slot, keep });
            match manner {
                Manner::Good => Some(event::Event::Ready(SlotReady { slot, released: true, kept: keep })),
                Manner::Mute => None,
                Manner::KeepsNothing => Some(event::Event::Ready(SlotReady { slot, released: true, kept: false })),
                Manner::Quarantines => {
                    let cause = "it cannot be wiped".to_owned();
                    Some(event::Event::Quarantined(SlotQuarantined { slot, cause }))
                }
            }
        }
        _ => {
            let _ = asked.send(Asked::Other);
            None
        }
    }
}
