//! The link itself, and the task that keeps it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prost::Message as _;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{debug, info};

use super::{
    ACKNOWLEDGE_AFTER, Attached, ConnectError, Endpoint, LinkOptions,
    attach::{Attachment, attach},
    outgoing::Conversation,
    slot::{Receipt, SlotEvent, SlotHandle},
};
use crate::{
    id::{CallNumber, ContainerId, Generation, TrajectoryKey},
    pb::sandbox::{
        AssignSlot, Event, Events, LinkResponse, ReleaseSlot, Shutdown, event, link_response, request::Request,
    },
    sandbox::{
        session::{Inbox, Mismatch},
        wire,
    },
    tool::{
        Evidence, Location,
        job::{End, Ending, Phases},
    },
};

/// Between attempts to connect.
const BACKOFF: Duration = Duration::from_millis(10);
/// While an agent starts, which may have to wait for its image.
const LONGEST_BACKOFF: Duration = Duration::from_millis(40);
/// A connection that lasted for less has not proved itself: the next one waits, too.
const PROVEN: Duration = Duration::from_secs(1);

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

#[derive(Default)]
struct Slots {
    holders: Vec<Option<mpsc::UnboundedSender<SlotEvent>>>,
    lost: Option<Arc<Evidence>>,
}

/// Links to the agent, trying until it answers.
///
/// # Errors
/// If the agent refuses this executor for good, or does not answer before the deadline.
pub async fn connect(
    container: ContainerId,
    endpoint: Endpoint,
    options: LinkOptions,
    deadline: Instant,
) -> Result<Connected, ConnectError> {
    let shared = Arc::new(Shared {
        container,
        conversation: Arc::new(Conversation::new(options.max_batch_size)),
        slots: Mutex::default(),
        ended: CancellationToken::new(),
    });
    let (events, receiver) = mpsc::unbounded_channel();
    let inbox = Inbox::default();
    let mut keeper = Keeper { shared: shared.clone(), endpoint, options, inbox, connection: 0, events };
    let attachment = keeper.begin(deadline).await?;
    let attached = attachment.attached.clone();
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

    /// The container will be taken away: every holder of a slot hears it.
    pub fn tell_draining(&self, why: &str) {
        let why: Arc<str> = why.into();
        for holder in self.shared.slots().holders.iter().flatten() {
            // A holder that is gone needs no telling.
            let _ = holder.send(SlotEvent::ContainerDraining(why.clone()));
        }
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
    /// It can be made again.
    Cut(String),
    /// It cannot.
    Lost(String),
    Stale,
    NotWanted,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Else the body of the last connection would wait for requests, and hold it open, for ever.
        self.shared.conversation.requests.close();
    }
}

impl Keeper {
    /// Makes the link for the first time.
    async fn begin(&mut self, deadline: Instant) -> Result<Attachment, ConnectError> {
        let mut last = ConnectError::Silent;
        let mut delay = BACKOFF;
        let attachment = loop {
            match timeout_at(deadline, self.attach()).await {
                Ok(Ok(attachment)) => break attachment,
                Ok(Err(error)) if error.is_final() => return Err(error),
                Ok(Err(error)) => {
                    let container = &self.shared.container;
                    debug!(%container, error = &error as &dyn std::error::Error, "the agent does not answer yet");
                    last = error;
                }
                Err(_) => return Err(ConnectError::TooLate(Box::new(last))),
            }
            sleep(delay).await;
            delay = (delay * 2).min(LONGEST_BACKOFF);
        };
        // What an earlier executor has dealt with is none of this one's business.
        self.inbox = Inbox::after(attachment.events_acknowledged);
        self.shared.conversation.join_after(attachment.events_acknowledged);
        self.shared.slots().holders = (0..attachment.attached.slots).map(|_| None).collect();
        Ok(attachment)
    }

    /// Tries once. Each attempt is a connection of its own: nothing may go to one that was given up and is not quite
    /// gone.
    async fn attach(&mut self) -> Result<Attachment, ConnectError> {
        self.connection += 1;
        let received = self.inbox.received();
        let container = &self.shared.container;
        let attached =
            attach(container, &self.endpoint, &self.options, &self.shared.conversation, self.connection, received)
                .await;
        if let Err(ConnectError::Forbidden(status)) = &attached
            && status.code() == Code::FailedPrecondition
        {
            self.options.superseded.cancel();
        }
        attached
    }

    async fn run(mut self, attachment: Attachment) {
        if let Some(last) = self.keep(attachment).await {
            self.watch(last);
        }
    }

    /// Until the link is lost, or not wanted any more.
    async fn keep(&mut self, mut attachment: Attachment) -> Option<LinkEvent> {
        loop {
            let attached_at = Instant::now();
            let mended = match self.converse(attachment).await {
                Broken::Cut(cause) => {
                    info!(container = %self.shared.container, cause, "the link is broken");
                    self.mend(cause, attached_at).await
                }
                other => Err(other),
            };
            match mended {
                Ok(mended) => attachment = mended,
                Err(Broken::Cut(cause) | Broken::Lost(cause)) => return Some(LinkEvent::Lost { cause }),
                Err(Broken::Stale) => return Some(LinkEvent::Stale),
                Err(Broken::NotWanted) => return None,
            }
        }
    }

    /// Talks until the connection breaks.
    async fn converse(&mut self, attachment: Attachment) -> Broken {
        let Attachment { requests_received, mut responses, .. } = attachment;
        let conversation = self.shared.conversation.clone();
        if let Err(mismatch) = conversation.requests.resume(self.connection, requests_received) {
            return Broken::Lost(format!("the agent has forgotten what it was sent: {mismatch}"));
        }
        conversation.requests.acknowledge(requests_received);
        let mut acknowledge_at = None;
        loop {
            let message = tokio::select! {
                message = responses.message() => message,
                () = at(acknowledge_at) => {
                    // What has not been dealt with by now is looked after again.
                    let all = conversation.acknowledge() >= self.inbox.received();
                    acknowledge_at = (!all).then(|| Instant::now() + ACKNOWLEDGE_AFTER);
                    continue;
                }
                () = self.shared.ended.cancelled() => return Broken::NotWanted,
            };
            match message {
                Ok(Some(LinkResponse { message: Some(link_response::Message::Events(events)) })) => {
                    if let Err(mismatch) = self.route(events) {
                        return Broken::Lost(format!("the agent leaves something out: {mismatch}"));
                    }
                    acknowledge_at.get_or_insert_with(|| Instant::now() + ACKNOWLEDGE_AFTER);
                }
                Ok(Some(_)) => return Broken::Cut("the agent said something that makes no sense".to_owned()),
                Ok(None) => return Broken::Cut("the agent ended the link".to_owned()),
                Err(status) if status.code() == Code::FailedPrecondition => {
                    self.options.superseded.cancel();
                    return Broken::Stale;
                }
                Err(status) => return Broken::Cut(format!("the link to the agent broke: {}", status.message())),
            }
        }
    }

    /// Makes the link again, within the agent's grace.
    async fn mend(&mut self, cause: String, attached_at: Instant) -> Result<Attachment, Broken> {
        let ended = self.shared.ended.clone();
        let deadline = Instant::now() + self.options.agent_grace;
        let mut last = cause;
        let attempts = async {
            if attached_at.elapsed() < PROVEN {
                sleep(BACKOFF).await;
            }
            loop {
                match self.attach().await {
                    Ok(attachment) => return Ok(attachment),
                    Err(ConnectError::Forbidden(status)) if status.code() == Code::FailedPrecondition => {
                        return Err(Broken::Stale);
                    }
                    Err(error) if error.is_final() => return Err(Broken::Lost(error.to_string())),
                    Err(error) => last = error.to_string(),
                }
                sleep(BACKOFF).await;
            }
        };
        tokio::select! {
            attached = attempts => return attached,
            () = ended.cancelled() => return Err(Broken::NotWanted),
            () = sleep_until(deadline) => {}
        }
        let grace = self.options.agent_grace;
        Err(Broken::Lost(format!("the agent could not be reached for {grace:?}: {last}")))
    }

    fn route(&mut self, events: Events) -> Result<(), Mismatch> {
        self.shared.conversation.received(events.encoded_len());
        let Events { first, events, requests_received } = events;
        self.shared.conversation.requests.acknowledge(requests_received);
        let known = self.inbox.accept(first, events.len())?;
        for (number, Event { event }) in (first..).zip(events).skip(known) {
            if let Some(event) = event {
                self.route_one(number, event);
            } else {
                self.shared.conversation.deal_with(number);
            }
        }
        Ok(())
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
                let ending = wire::to_ending(ended).unwrap_or_else(|error| Ending {
                    end: End::AgentFailed(error.to_string()),
                    phases: Phases::default(),
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

/// Never, if there is no time for it.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
