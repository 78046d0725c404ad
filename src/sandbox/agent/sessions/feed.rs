//! What a terminal prints while a call runs, passed on to whoever reads it live, by the rules of all live output: its
//! reader holds the terminal up for a while, and then it goes on with a gap.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::{super::stdio::Live, SessionCall};
use crate::{
    pb::sandbox::{CallOutput, Event, event},
    sandbox::outgoing::Outgoing,
};

/// See the module.
pub(super) struct Feed {
    slot: u32,
    call: u64,
    events: Arc<Outgoing<Event>>,
    live: Live,
    /// Of what comes next.
    offset: u64,
}

impl Feed {
    pub(super) fn new(call: &SessionCall) -> Self {
        Self { slot: call.slot, call: call.number, events: call.events.clone(), live: Live::new(), offset: 0 }
    }

    pub(super) fn push(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let (part, rest) = data.split_at(data.len().min(self.live.max_read()));
            if self.live.spend(part.len(), Instant::now().into_std()) {
                self.events.push(Event {
                    event: Some(event::Event::Output(CallOutput {
                        slot: self.slot,
                        call: self.call,
                        is_stderr: false,
                        offset: self.offset,
                        data: Bytes::copy_from_slice(part),
                    })),
                });
            }
            self.offset += part.len() as u64;
            data = rest;
        }
    }

    pub(super) fn is_of(&self, call: u64) -> bool {
        self.call == call
    }

    /// Until when the terminal is not to be read.
    pub(super) fn held_up(&self) -> Option<Instant> {
        self.live.held_up(Instant::now().into_std()).map(Instant::from_std)
    }

    /// How much may be read at a time.
    pub(super) fn max_read(&self) -> usize {
        self.live.max_read()
    }

    pub(super) fn grant(&mut self, bytes: u32) {
        self.live.grant(bytes);
    }

    /// Another executor listens.
    pub(super) fn begin_anew(&mut self) {
        self.live = Live::new();
    }
}
