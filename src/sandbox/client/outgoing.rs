//! The requests of one link, which events have been dealt with, and the body of the RPC that carries both.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio_stream::Stream;

use super::MAX_BATCH_BYTES;
use crate::{
    pb::sandbox::{Attach, LinkRequest, Request, Requests, link_request, request},
    sandbox::{
        outgoing::{BatchLimits, Outgoing},
        session::{Dealt, Told},
    },
};

/// What an executor has to say to one agent.
pub(super) struct Conversation {
    limits: BatchLimits,
    pub(super) requests: Outgoing<Request>,
    events: Mutex<Events>,
}

#[derive(Default)]
struct Events {
    dealt: Dealt,
    told: Told,
    /// No more of them are dealt with.
    sealed: bool,
}

impl Conversation {
    pub(super) fn new(max_batch_size: usize) -> Self {
        Self {
            limits: BatchLimits { messages: max_batch_size.max(1), bytes: MAX_BATCH_BYTES },
            requests: Outgoing::new(),
            events: Mutex::default(),
        }
    }

    /// Events up to this number were another executor's.
    pub(super) fn join_after(&self, event: u64) {
        *self.events() = Events { dealt: Dealt::after(event), ..Events::default() };
    }

    /// The number of the request.
    pub(super) fn ask(&self, request: request::Request) -> u64 {
        self.requests.push(Request { request: Some(request) })
    }

    /// Events of so many bytes have come.
    pub(super) fn received(&self, bytes: usize) {
        self.events().told.received(bytes);
    }

    /// Nothing more is said on any connection, and what has not been dealt with by now never is.
    pub(super) fn seal(&self) {
        self.events().sealed = true;
        self.requests.close();
    }

    pub(super) fn deal_with(&self, event: u64) {
        let urgent = {
            let mut events = self.events();
            if events.sealed {
                return;
            }
            events.dealt.with(event);
            events.told.is_urgent(events.dealt.through())
        };
        if urgent {
            self.requests.nudge();
        }
    }

    /// Sends an acknowledgement by itself, if one is due. Returns the number up to which there is nothing to
    /// acknowledge any more.
    pub(super) fn acknowledge(&self) -> u64 {
        let (owes, through) = {
            let events = self.events();
            (events.told.owes(events.dealt.through()), events.dealt.through())
        };
        if owes {
            self.requests.nudge();
        }
        through
    }

    fn acknowledgement(&self) -> u64 {
        let mut events = self.events();
        let through = events.dealt.through();
        events.told.tell(through)
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        // Each change is whole before the lock is given back.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Conversation")
    }
}

/// The body of one connection's RPC.
pub(super) struct Body {
    conversation: Arc<Conversation>,
    connection: u64,
    attach: Option<Attach>,
}

impl Body {
    /// Begins with `attach`; the rest follows once [`Outgoing::resume`] says so.
    pub(super) fn new(conversation: Arc<Conversation>, connection: u64, attach: Attach) -> Self {
        Self { conversation, connection, attach: Some(attach) }
    }
}

impl Stream for Body {
    type Item = LinkRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<LinkRequest>> {
        let message = if let Some(attach) = self.attach.take() {
            link_request::Message::Attach(attach)
        } else {
            let Self { conversation, connection, .. } = &*self;
            match ready!(conversation.requests.poll_take(*connection, conversation.limits, cx)) {
                None => return Poll::Ready(None),
                Some((first, requests)) => link_request::Message::Requests(Requests {
                    first,
                    requests,
                    events_acknowledged: conversation.acknowledgement(),
                }),
            }
        };
        Poll::Ready(Some(LinkRequest { message: Some(message) }))
    }
}
