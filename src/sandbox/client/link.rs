//! The link itself, and the task that keeps it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Streaming};
use tracing::{debug, info};

use super::{
    Attached, ConnectError, Endpoint, LinkOptions,
    attach::{Attachment, attach},
    outgoing::Conversation,
    slot::{Receipt, SlotEvent, SlotHandle},
};
use crate::{
    id::{CallNumber, ContainerId, Generation, TrajectoryKey},
    pb::sandbox::{
        AssignSlot, Event, Events, LinkResponse, ReleaseSlot, Shutdown, event, link_response, request::Request,
    },
    sandbox::{session::Inbox, wire},
    tool::{Evidence, Location},
};

/// Between attempts to connect.
const BACKOFF: Duration = Duration::from_millis(10);
/// How long an acknowledgement waits for a request to go with.
const ACKNOWLEDGE_AFTER: Duration = Duration::from_millis(20);

/// A link that has been made.
pub struct Connected {
    pub link: Link,
    pub attached: Attached,
    /// Of the container as a whole.
    pub events: mpsc::UnboundedReceiver<LinkEvent>,
}

/// What happens to a container, for whoever watches over it. Bounded by what is asked of its slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// A slot that was released is empty again; or, `kept`, as its owner left it.
    SlotReady { slot: u32, kept: bool },
    /// A slot that was released could not be emptied: it must not be used again.
    SlotQuarantined { slot: u32, cause: String },
    /// The link could not be made again. The last event.
    Lost { cause: String },
    /// The agent obeys a later executor. The last event.
    Stale,
}

/// The way to one agent. Cheap to clone; the link ends with [`Link::lose`].
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    container: ContainerId,
    conversation: Arc<Conversation>,
    slots: Mutex<Slots>,
    /// The link is not wanted any more.
    ended: CancellationToken,
}

struct Slots {
    holders: Vec<Option<mpsc::UnboundedSender<SlotEvent>>>,
    lost: Option<Arc<Evidence>>,
}

/// Links to the agent, trying until it answers. Whoever calls bounds the time.
///
/// # Errors
/// If the agent refuses this executor for good.
pub async fn connect(
    container: ContainerId,
    endpoint: Endpoint,
    options: LinkOptions,
) -> Result<Connected, ConnectError> {
    let conversation = Arc::new(Conversation::new(options.max_batch_size));
    // Each attempt is a connection of its own: what is left of an earlier one must not take any requests.
    let mut connection = 1;
    let attachment = loop {
        match attach(&endpoint, &options, &conversation, connection, 0).await {
            Ok(attachment) => break attachment,
            Err(error) if error.is_final() => return Err(error),
            Err(error) => debug!(%container, error = &error as &dyn std::error::Error, "the agent does not answer yet"),
        }
        connection += 1;
        sleep(BACKOFF).await;
    };
    let slots = Slots { holders: (0..attachment.attached.slots).map(|_| None).collect(), lost: None };
    let shared =
        Arc::new(Shared { container, conversation, slots: Mutex::new(slots), ended: CancellationToken::new() });
    let attached = attachment.attached.clone();
    let (events, receiver) = mpsc::unbounded_channel();
    let keeper = Keeper { shared: shared.clone(), endpoint, options, inbox: Inbox::default(), connection, events };
    // Ends by itself: when the link is lost, or not wanted any more.
    tokio::spawn(keeper.run(attachment));
    Ok(Connected { link: Link { shared }, attached, events: receiver })
}

impl Link {
    /// Gives a clean slot, or one kept for this owner, to the owner. There must be no other handle of it.
    pub fn assign(&self, slot: u32, owner: &TrajectoryKey, generation: Generation) -> SlotHandle {
        // Bounded by the calls that run and by their windows of live output.
        let (sender, events) = mpsc::unbounded_channel();
        let mut slots = self.shared.slots();
        match (&slots.lost, slots.holders.get(slot as usize).is_some()) {
            (Some(evidence), _) => drop(sender.send(SlotEvent::ContainerLost(at_slot(evidence, slot)))),
            (None, true) => slots.holders[slot as usize] = Some(sender),
            (None, false) => drop(sender.send(SlotEvent::SlotLost { cause: "there is no such slot".to_owned() })),
        }
        drop(slots);
        let assign = AssignSlot { slot, owner: owner.to_string(), generation: generation.0 };
        self.shared.conversation.ask(Request::Assign(assign));
        SlotHandle::new(slot, self.shared.conversation.clone(), events)
    }

    /// Takes a slot back; [`LinkEvent::SlotReady`] or [`LinkEvent::SlotQuarantined`] follows.
    pub fn release(&self, slot: u32, keep: bool) {
        if let Some(holder) = self.shared.slots().holders.get_mut(slot as usize) {
            *holder = None;
        }
        self.shared.conversation.ask(Request::Release(ReleaseSlot { slot, keep }));
    }

    /// Asks the agent to end.
    pub fn shut_down(&self) {
        self.shared.conversation.ask(Request::Shutdown(Shutdown {}));
    }

    /// The container is gone: every holder of a slot hears it, once and last, and the link ends.
    pub fn lose(&self, evidence: &Arc<Evidence>) {
        let mut slots = self.shared.slots();
        if slots.lost.replace(evidence.clone()).is_none() {
            for (slot, holder) in (0..).zip(&mut slots.holders) {
                if let Some(holder) = holder.take() {
                    // A holder that is gone needs no telling.
                    let _ = holder.send(SlotEvent::ContainerLost(at_slot(evidence, slot)));
                }
            }
        }
        self.shared.ended.cancel();
    }
}

fn at_slot(evidence: &Evidence, slot: u32) -> Arc<Evidence> {
    let location = evidence.location.clone().map(|location| Location { slot, ..location });
    Arc::new(Evidence { location, ..evidence.clone() })
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        // Each change is whole before the lock is given back.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, slot: u32, event: SlotEvent) {
        if let Some(Some(holder)) = self.slots().holders.get(slot as usize) {
            // A holder that is gone needs no telling.
            let _ = holder.send(event);
        }
    }
}

/// Keeps the link: routes events, and makes it again where it breaks.
struct Keeper {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    options: LinkOptions,
    inbox: Inbox,
    connection: u64,
    events: mpsc::UnboundedSender<LinkEvent>,
}

enum Broken {
    Lost(String),
    Stale,
    NotWanted,
}

impl Keeper {
    async fn run(mut self, attachment: Attachment) {
        let last = self.keep(attachment).await;
        // Else the body of the last connection would wait for requests, and hold it open, for ever.
        self.shared.conversation.requests.close();
        if let Some(last) = last {
            self.watch(last);
        }
    }

    /// Until the link is lost, or not wanted any more.
    async fn keep(&mut self, mut attachment: Attachment) -> Option<LinkEvent> {
        loop {
            let requests = &self.shared.conversation.requests;
            requests.acknowledge(attachment.requests_received);
            requests.resume(self.connection, attachment.requests_received);
            let mended = match self.converse(attachment.responses).await {
                Broken::Lost(cause) => {
                    info!(container = %self.shared.container, cause, "the link is broken");
                    self.mend(cause).await
                }
                other => Err(other),
            };
            match mended {
                Ok(mended) => attachment = mended,
                Err(Broken::Lost(cause)) => return Some(LinkEvent::Lost { cause }),
                Err(Broken::Stale) => return Some(LinkEvent::Stale),
                Err(Broken::NotWanted) => return None,
            }
        }
    }

    /// Reads events until the connection breaks.
    async fn converse(&mut self, mut responses: Streaming<LinkResponse>) -> Broken {
        let mut acknowledge_at = None;
        loop {
            let message = tokio::select! {
                message = responses.message() => message,
                () = async {
                    match acknowledge_at {
                        Some(at) => sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                } => {
                    acknowledge_at = None;
                    if self.shared.conversation.owes_acknowledgement() {
                        self.shared.conversation.requests.nudge();
                    }
                    continue;
                }
                () = self.shared.ended.cancelled() => return Broken::NotWanted,
            };
            match message {
                Ok(Some(LinkResponse { message: Some(link_response::Message::Events(events)) })) => {
                    self.route(events);
                    acknowledge_at.get_or_insert_with(|| Instant::now() + ACKNOWLEDGE_AFTER);
                }
                Ok(Some(_)) => return Broken::Lost("the agent said something that makes no sense".to_owned()),
                Ok(None) => return Broken::Lost("the agent ended the link".to_owned()),
                Err(status) if status.code() == Code::FailedPrecondition => return Broken::Stale,
                Err(status) => return Broken::Lost(format!("the link to the agent broke: {}", status.message())),
            }
        }
    }

    /// Makes the link again, within the agent's grace.
    async fn mend(&mut self, cause: String) -> Result<Attachment, Broken> {
        let deadline = Instant::now() + self.options.agent_grace;
        let mut last = cause;
        loop {
            self.connection += 1;
            let received = self.inbox.received();
            let attempt = attach(&self.endpoint, &self.options, &self.shared.conversation, self.connection, received);
            tokio::select! {
                attempt = attempt => match attempt {
                    Ok(attachment) => return Ok(attachment),
                    Err(ConnectError::Forbidden(status)) if status.code() == Code::FailedPrecondition => {
                        return Err(Broken::Stale);
                    }
                    Err(error) => last = error.to_string(),
                },
                () = sleep_until(deadline) => {
                    let grace = self.options.agent_grace;
                    return Err(Broken::Lost(format!("the agent could not be reached for {grace:?}: {last}")));
                }
                () = self.shared.ended.cancelled() => return Err(Broken::NotWanted),
            }
            tokio::select! {
                () = sleep(BACKOFF) => {}
                () = self.shared.ended.cancelled() => return Err(Broken::NotWanted),
            }
        }
    }

    fn route(&mut self, events: Events) {
        let Events { first, events, requests_received } = events;
        self.shared.conversation.requests.acknowledge(requests_received);
        if self.inbox.received() == 0 && !events.is_empty() {
            self.shared.conversation.begin_with(first);
        }
        let known = self.inbox.accept(first, events.len());
        for (number, Event { event }) in (first..).zip(events).skip(known) {
            if let Some(event) = event {
                self.route_one(number, event);
            } else {
                self.shared.conversation.deal_with(number);
            }
        }
    }

    fn route_one(&self, number: u64, event: event::Event) {
        let receipt = Receipt::new(number, self.shared.conversation.clone());
        match event {
            event::Event::Output(output) => {
                let call = CallNumber(output.call);
                let (stderr, offset, data) = (output.is_stderr, output.offset, output.data);
                self.shared.tell(output.slot, SlotEvent::Output { call, stderr, offset, data });
            }
            event::Event::Ended(ended) => {
                let (slot, call) = (ended.slot, CallNumber(ended.call));
                let ending = wire::to_ending(ended).unwrap_or_else(|error| crate::tool::job::Ending {
                    end: crate::tool::job::End::AgentFailed(error.to_string()),
                    phases: Default::default(),
                });
                self.shared.tell(slot, SlotEvent::Ended { call, ending, receipt });
            }
            event::Event::Ready(ready) if ready.released => {
                self.watch(LinkEvent::SlotReady { slot: ready.slot, kept: ready.kept });
            }
            event::Event::Ready(ready) => self.shared.tell(ready.slot, SlotEvent::Reset),
            event::Event::Lost(lost) => self.shared.tell(lost.slot, SlotEvent::SlotLost { cause: lost.cause }),
            event::Event::Quarantined(quarantined) => {
                self.watch(LinkEvent::SlotQuarantined { slot: quarantined.slot, cause: quarantined.cause });
            }
        }
    }

    fn watch(&self, event: LinkEvent) {
        // Whoever does not watch any more needs no telling.
        let _ = self.events.send(event);
    }
}
