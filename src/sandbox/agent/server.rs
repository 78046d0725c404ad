//! The agent's end of the link: who may attach, and what goes in and out in which order.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use prost::Message as _;
use subtle::ConstantTimeEq;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::{
    config::Config,
    handle::{SlotHandle, settle, snapshots},
    transfer,
};
use crate::{
    pb::sandbox::{
        Attach, Attached, BeginTransfer, Event, Events, LinkRequest, LinkResponse, Requests, TransferRequest, event,
        link_request, link_response, request,
        sandbox_service_server::{SandboxService, SandboxServiceServer},
    },
    sandbox::{
        PROTOCOL_VERSION,
        client::{ACKNOWLEDGE_AFTER, MAX_BATCH_BYTES, MAX_MESSAGE_BYTES},
        outgoing::{BatchLimits, Outgoing},
        session::{Inbox, Mismatch, Told},
        wire,
    },
    tool::{
        job::{End, Ending, Phases},
        limit::SlotLimit,
    },
};

const LIMITS: BatchLimits = BatchLimits { messages: 1024, bytes: MAX_BATCH_BYTES };
/// How long whoever connects may take to say who it is.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct AgentService {
    shared: Arc<Shared>,
}

/// Who an agent is.
pub(super) struct Identity {
    /// Its container's name.
    pub(super) container: String,
    pub(super) isolation: String,
    /// Of each slot.
    pub(super) limits: Vec<SlotLimit>,
    pub(super) config: Config,
}

struct Shared {
    identity: Identity,
    slots: Vec<SlotHandle>,
    events: Arc<Outgoing<Event>>,
    session: Mutex<Session>,
    attached: watch::Sender<bool>,
    end: CancellationToken,
}

/// The executor that is obeyed.
#[derive(Default)]
struct Session {
    epoch: u64,
    /// Nothing that an earlier executor has asked is still to be begun.
    settled: bool,
    /// Of its requests.
    inbox: Inbox,
    told: Told,
    /// Counts the links that there were.
    connection: u64,
    fence: Fence,
}

/// Ends one link, and says why.
#[derive(Clone, Default)]
struct Fence {
    down: CancellationToken,
    why: Arc<OnceLock<Status>>,
}

impl Fence {
    /// The first reason stands.
    fn lower(&self, why: Status) {
        let _ = self.why.set(why);
        self.down.cancel();
    }
}

/// A connection whose executor is let in.
struct Admitted {
    connection: u64,
    fence: Fence,
    /// Of each slot, when it has dealt with what was asked of it by executors before; none if all have.
    settling: Vec<oneshot::Receiver<()>>,
}

impl AgentService {
    pub(super) fn new(
        identity: Identity,
        slots: Vec<SlotHandle>,
        events: Arc<Outgoing<Event>>,
        attached: watch::Sender<bool>,
        end: CancellationToken,
    ) -> Self {
        let session = Mutex::default();
        Self { shared: Arc::new(Shared { identity, slots, events, session, attached, end }) }
    }

    pub(super) fn into_server(self) -> SandboxServiceServer<Self> {
        SandboxServiceServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl SandboxService for AgentService {
    type LinkStream = Body;
    type TransferStream = transfer::Responses;

    async fn transfer(
        &self,
        request: Request<Streaming<TransferRequest>>,
    ) -> Result<Response<transfer::Responses>, Status> {
        let mut requests = request.into_inner();
        let begin = transfer::introduction(&mut requests, INTRODUCTION).await?;
        let slot = self.shared.admit(&begin)?;
        transfer::run(begin, slot, requests).await.map(Response::new)
    }

    async fn link(&self, request: Request<Streaming<LinkRequest>>) -> Result<Response<Body>, Status> {
        let mut requests = request.into_inner();
        let first = timeout(INTRODUCTION, requests.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("there was no `attach`"))??;
        let Some(LinkRequest { message: Some(link_request::Message::Attach(attach)) }) = first else {
            return Err(Status::invalid_argument("the first request is `attach`"));
        };
        let Admitted { connection, fence, settling } = self.shared.attach(&attach)?;
        info!(executor = attach.executor_id, epoch = attach.epoch, connection, "attached");
        let shared = self.shared.clone();
        let reading = fence.clone();
        // Ends with the connection, or when a newer one takes its place. It begins before anything is waited for: whoever
        // goes away meanwhile is gone.
        tokio::spawn(async move {
            tokio::select! {
                why = shared.read(connection, requests) => reading.lower(why),
                () = reading.down.cancelled() => {}
            }
            shared.detach(connection);
        });
        let unsettled = settle(settling).await;
        let attached = self.shared.attached(connection, &unsettled);
        Ok(Response::new(Body {
            shared: self.shared.clone(),
            connection,
            attached: Some(attached),
            down: Box::pin(fence.down.clone().cancelled_owned()),
            fence,
            ended: false,
        }))
    }
}

impl Shared {
    fn session(&self) -> MutexGuard<'_, Session> {
        // Each change is whole before the lock is given back.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot of a transfer, if the executor that is obeyed asks for it.
    fn admit(&self, begin: &BeginTransfer) -> Result<&SlotHandle, Status> {
        self.check(&begin.token)?;
        if begin.epoch != self.session().epoch {
            return Err(Status::failed_precondition("the agent obeys another executor"));
        }
        self.slots.get(begin.slot as usize).ok_or_else(|| Status::invalid_argument("there is no such slot"))
    }

    fn check(&self, token: &str) -> Result<(), Status> {
        match token.as_bytes().ct_eq(self.identity.config.token.as_bytes()).into() {
            true => Ok(()),
            false => Err(Status::unauthenticated("this is not the agent's token")),
        }
    }

    /// Lets an executor in: one that knows the token, and is not an earlier one than has been here.
    fn attach(&self, attach: &Attach) -> Result<Admitted, Status> {
        self.check(&attach.token)?;
        let mut session = self.session();
        if attach.epoch < session.epoch {
            let why = format!("epoch {} is stale: the agent obeys epoch {}", attach.epoch, session.epoch);
            return Err(Status::failed_precondition(why));
        }
        let newer = attach.epoch > session.epoch;
        let events_acknowledged = self.events.acknowledged();
        // An executor that is new here has received nothing, and is sent whatever no other has dealt with.
        let received = if newer { events_acknowledged } else { attach.events_received.max(events_acknowledged) };
        let connection = session.connection + 1;
        self.events.resume(connection, received).map_err(|mismatch| Status::out_of_range(mismatch.to_string()))?;
        session.connection = connection;
        std::mem::take(&mut session.fence).lower(if newer {
            Status::failed_precondition("the agent obeys a later executor")
        } else {
            Status::aborted("another link has taken this one's place")
        });
        if newer {
            session.epoch = attach.epoch;
            session.inbox = Inbox::default();
            session.settled = false;
        }
        // From here on nothing more of an earlier executor is received, and nothing of this one has been.
        let settling = if session.settled { Vec::new() } else { self.slots.iter().map(SlotHandle::settle).collect() };
        self.attached.send_replace(true);
        Ok(Admitted { connection, fence: session.fence.clone(), settling })
    }

    /// What a new link is told. `unsettled`: slots that nothing can be said of.
    fn attached(&self, connection: u64, unsettled: &[usize]) -> Attached {
        let mut session = self.session();
        let requests_received = session.inbox.received();
        if session.connection == connection {
            session.settled |= unsettled.is_empty();
            session.told.tell(requests_received);
        }
        Attached {
            container_id: self.identity.container.clone(),
            isolation: self.identity.isolation.clone(),
            network_isolated: !self.identity.config.profile.network,
            requests_received,
            slots: snapshots(&self.slots, &self.events, unsettled),
            events_acknowledged: self.events.acknowledged(),
            version: PROTOCOL_VERSION,
            limits: wire::from_limits(&self.identity.limits),
        }
    }

    /// The link is gone; everything goes on without it.
    fn detach(&self, connection: u64) {
        if self.session().connection == connection {
            info!(connection, "the executor is gone");
            self.attached.send_replace(false);
        }
    }

    /// Until there is nothing more to read: why.
    async fn read(&self, connection: u64, mut requests: Streaming<LinkRequest>) -> Status {
        let mut acknowledge_at = None;
        loop {
            let message = tokio::select! {
                message = requests.message() => message,
                () = at(acknowledge_at) => {
                    acknowledge_at = None;
                    self.acknowledge(connection);
                    continue;
                }
            };
            match message {
                Ok(Some(LinkRequest { message: Some(link_request::Message::Requests(requests)) })) => {
                    match self.receive(connection, requests) {
                        Ok(true) => acknowledge_at = acknowledge_at.or(Some(Instant::now() + ACKNOWLEDGE_AFTER)),
                        Ok(false) => {}
                        Err(mismatch) => {
                            warn!(%mismatch, "the executor leaves something out");
                            return Status::data_loss(mismatch.to_string());
                        }
                    }
                }
                Ok(Some(_)) => return Status::invalid_argument("`attach` comes first and once, then `requests`"),
                Ok(None) => return Status::cancelled("the executor ended the link"),
                Err(status) => return status,
            }
        }
    }

    /// Whether there is something to acknowledge. Of a link whose place another has taken nothing is received.
    fn receive(&self, connection: u64, requests: Requests) -> Result<bool, Mismatch> {
        let bytes = requests.encoded_len();
        let Requests { first, requests, events_acknowledged } = requests;
        // Until all of it is with the slots: no other link comes between.
        let mut session = self.session();
        if session.connection != connection {
            return Ok(false);
        }
        let known = session.inbox.accept(first, requests.len())?;
        session.told.received(bytes);
        let urgent = session.told.is_urgent(session.inbox.received());
        self.events.acknowledge(events_acknowledged);
        let something = !requests.is_empty();
        for request in requests.into_iter().skip(known).filter_map(|request| request.request) {
            match slot_of(&request) {
                None => self.end.cancel(),
                Some(slot) => match self.slots.get(slot as usize) {
                    Some(handle) => handle.ask(request),
                    None => self.refuse(slot, &request),
                },
            }
        }
        if urgent {
            self.events.nudge();
        }
        Ok(something && !urgent)
    }

    /// There is no such slot; but every run is answered.
    fn refuse(&self, slot: u32, request: &request::Request) {
        warn!(slot, "there is no such slot");
        if let request::Request::Run(run) = request {
            let end = End::NotRun("there is no such slot".to_owned());
            let ended = wire::from_ending(slot, run.call, Ending { end, phases: Phases::default() });
            self.events.push(Event { event: Some(event::Event::Ended(ended)) });
        }
    }

    /// Says what was received, if no event has gone that said it.
    fn acknowledge(&self, connection: u64) {
        let session = self.session();
        if session.connection == connection && session.told.owes(session.inbox.received()) {
            self.events.nudge();
        }
    }
}

/// Never, if there is no time for it.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Of a request for the agent as a whole there is none.
fn slot_of(request: &request::Request) -> Option<u32> {
    match request {
        request::Request::Assign(assign) => Some(assign.slot),
        request::Request::Run(run) => Some(run.slot),
        request::Request::Input(input) => Some(input.slot),
        request::Request::Cancel(cancel) => Some(cancel.slot),
        request::Request::GrantOutput(grant) => Some(grant.slot),
        request::Request::Reset(reset) => Some(reset.slot),
        request::Request::Release(release) => Some(release.slot),
        request::Request::Shutdown(_) => None,
    }
}

/// What goes out on one connection.
pub(super) struct Body {
    shared: Arc<Shared>,
    connection: u64,
    attached: Option<Attached>,
    fence: Fence,
    down: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
}

impl Stream for Body {
    type Item = Result<LinkResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.down.as_mut().poll(cx).is_ready() {
            self.ended = true;
            return Poll::Ready(self.fence.why.get().cloned().map(Err));
        }
        let message = if let Some(attached) = self.attached.take() {
            link_response::Message::Attached(attached)
        } else {
            match self.shared.events.poll_take(self.connection, LIMITS, cx) {
                Poll::Pending => return Poll::Pending,
                // The fence comes down with the newer connection.
                Poll::Ready(None) => return Poll::Pending,
                Poll::Ready(Some((first, events))) => {
                    let mut session = self.shared.session();
                    let requests_received = session.inbox.received();
                    session.told.tell(requests_received);
                    drop(session);
                    link_response::Message::Events(Events { first, events, requests_received })
                }
            }
        };
        Poll::Ready(Some(Ok(LinkResponse { message: Some(message) })))
    }
}
