//! Keeps one link: makes it, routes what comes over it, and makes it again where it breaks.

use std::{sync::Arc, time::Duration};

use prost::Message as _;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tonic::Code;
use tracing::{debug, info};

use super::{
    ACKNOWLEDGE_AFTER, ConnectError, Endpoint, LinkEvent, LinkOptions,
    attach::{Attachment, attach},
    link::Shared,
    slot::{Receipt, SlotEvent},
};
use crate::{
    id::CallNumber,
    pb::sandbox::{Event, Events, LinkResponse, SlotLost, SlotQuarantined, SlotReady, event, link_response},
    sandbox::{
        session::{Inbox, Mismatch},
        wire,
    },
    tool::{
        Executed,
        job::{End, Ending, Phases},
    },
};

/// Between attempts to connect.
const BACKOFF: Duration = Duration::from_millis(10);
/// While an agent starts, which may have to wait for its image.
const LONGEST_BACKOFF: Duration = Duration::from_millis(40);
/// A connection that lasted for less has not proved itself: the next one waits, too.
const PROVEN: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Keeper {
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
    pub(super) fn new(
        shared: Arc<Shared>,
        endpoint: Endpoint,
        options: LinkOptions,
        events: mpsc::UnboundedSender<LinkEvent>,
    ) -> Self {
        Self { shared, endpoint, options, inbox: Inbox::default(), connection: 0, events }
    }

    /// Makes the link for the first time.
    pub(super) async fn begin(&mut self, deadline: Instant) -> Result<Attachment, ConnectError> {
        let mut last = ConnectError::Silent;
        let mut delay = BACKOFF;
        let mut attachment = loop {
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
            // An attempt may fail at once, and then the time is never looked at.
            if Instant::now() >= deadline {
                return Err(ConnectError::TooLate(Box::new(last)));
            }
            sleep(delay).await;
            delay = (delay * 2).min(LONGEST_BACKOFF);
        };
        // What an earlier executor has dealt with is none of this one's business.
        self.inbox = Inbox::after(attachment.events_acknowledged);
        self.shared.conversation.join_after(attachment.events_acknowledged);
        self.shared.has_slots(std::mem::take(&mut attachment.horizons));
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

    pub(super) async fn run(mut self, attachment: Attachment) {
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
        for (offset, Event { event }) in (0..).zip(events).skip(known) {
            let number = first.saturating_add(offset);
            if let Some(event) = event {
                self.route_one(number, event);
            } else {
                self.shared.conversation.deal_with(number);
            }
        }
        Ok(())
    }

    fn route_one(&self, number: u64, event: event::Event) {
        // What nobody is told is dealt with by this.
        let receipt = Receipt::new(number, self.shared.conversation.clone());
        match event {
            event::Event::Output(output) => {
                let call = CallNumber(output.call);
                let (stderr, offset, data) = (output.is_stderr, output.offset, output.data);
                self.shared.tell(output.slot, number, SlotEvent::Output { call, stderr, offset, data });
            }
            event::Event::Ended(ended) => {
                let (slot, call) = (ended.slot, CallNumber(ended.call));
                let ending = wire::to_ending(ended).unwrap_or_else(|error| Ending {
                    end: End::AgentFailed { cause: error.to_string(), executed: Executed::Unknown },
                    phases: Phases::default(),
                });
                self.shared.tell(slot, number, SlotEvent::Ended { call, ending, receipt });
            }
            // An earlier executor was to hear this; this one knows what became of it since.
            event::Event::Ready(SlotReady { slot, .. })
            | event::Event::Lost(SlotLost { slot, .. })
            | event::Event::Quarantined(SlotQuarantined { slot, .. })
                if self.shared.is_known(slot, number) => {}
            event::Event::Ready(ready) if ready.released => {
                self.watch(LinkEvent::SlotReady { slot: ready.slot, kept: ready.kept });
            }
            event::Event::Ready(ready) => self.shared.tell(ready.slot, number, SlotEvent::Reset),
            event::Event::Lost(lost) => self.shared.tell(lost.slot, number, SlotEvent::SlotLost { cause: lost.cause }),
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
