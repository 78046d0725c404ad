//! A slot as its holder uses it.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::mpsc;

use super::{
    MAX_REQUEST_BYTES,
    files::{Files, Way},
    input::Inputs,
    outgoing::Conversation,
};
use crate::{
    id::{CallNumber, Generation, TrajectoryKey},
    pb::sandbox::{CancelCall, GrantOutput, ResetSlot, SendInput, request::Request},
    sandbox::wire,
    tool::{
        Evidence,
        job::{End, Ending, Order, Phases},
    },
};

/// One slot, assigned to one trajectory.
pub struct SlotHandle {
    slot: u32,
    conversation: Arc<Conversation>,
    way: Arc<Way>,
    /// Bounded by the calls that run and by their windows of live output.
    events: mpsc::UnboundedReceiver<SlotEvent>,
    inputs: Inputs,
    /// Calls that were too large to be sent.
    refused: VecDeque<CallNumber>,
}

/// What happens in a slot.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most events are ends of calls")]
pub enum SlotEvent {
    /// Live output. As much again may be sent once it is granted.
    Output {
        call: CallNumber,
        stderr: bool,
        /// Of the first byte of `data` in its stream.
        offset: u64,
        data: Bytes,
    },
    /// The one answer to a run.
    Ended { call: CallNumber, ending: Ending, receipt: Receipt },
    /// The workspace is empty, as a reset asked.
    Reset,
    /// The slot's processes died, or it could not be emptied.
    SlotLost { cause: String },
    /// The container will be taken away, for this reason; until then all goes on.
    ContainerDraining(Arc<str>),
    /// The last event of all: nothing that runs will be answered.
    ContainerLost(Arc<Evidence>),
}

/// Dropped, it lets the agent forget the event that it came with.
#[derive(Debug)]
pub struct Receipt(Option<(u64, Arc<Conversation>)>);

impl Receipt {
    pub(super) fn new(event: u64, conversation: Arc<Conversation>) -> Self {
        Self(Some((event, conversation)))
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some((event, conversation)) = &self.0 {
            conversation.deal_with(*event);
        }
    }
}

/// Of a call that takes input while it runs, in bytes.
fn input_room(order: &Order) -> Option<u32> {
    order.job.input_kept().map(|_| order.max_pending_input)
}

impl SlotHandle {
    pub(super) fn new(
        slot: u32,
        conversation: Arc<Conversation>,
        way: Arc<Way>,
        events: mpsc::UnboundedReceiver<SlotEvent>,
    ) -> Self {
        Self { slot, conversation, way, events, inputs: Inputs::default(), refused: VecDeque::new() }
    }

    /// Counted from 0 in its container.
    pub fn index(&self) -> u32 {
        self.slot
    }

    /// The way to the files of its workspace, which is of this generation.
    pub fn files(&self, owner: &TrajectoryKey, generation: Generation) -> Files {
        Files::new(self.way.clone(), self.slot, owner.to_string(), generation)
    }

    /// Hands a call over. `call` must be new to the slot.
    pub fn run(&mut self, call: CallNumber, order: Order) {
        let input = input_room(&order);
        let run = wire::from_order(self.slot, call.0, order);
        if run.encoded_len() > MAX_REQUEST_BYTES {
            return self.refused.push_back(call);
        }
        if let Some(max_pending) = input {
            self.inputs.open(call, max_pending);
        }
        self.conversation.ask(Request::Run(run));
    }

    /// A call that an earlier executor has handed over.
    pub fn resume(&mut self, call: CallNumber, order: &Order) {
        if let Some(max_pending) = input_room(order) {
            self.inputs.open(call, max_pending);
        }
    }

    /// More input for an interactive call. It is stopped for it ([`Stop::InputLimit`](crate::tool::job::Stop)) if it
    /// leaves too much of it unread, or if too much cannot be brought to the agent.
    pub fn input(&mut self, call: CallNumber, data: Bytes, end_of_file: bool) {
        let bytes = data.len();
        let input = match self.inputs.may_send(call, bytes, self.conversation.requests.acknowledged()) {
            Some(true) if bytes <= MAX_REQUEST_BYTES => {
                SendInput { slot: self.slot, call: call.0, data, end_of_file, over_limit: false }
            }
            Some(_) => SendInput { slot: self.slot, call: call.0, over_limit: true, ..SendInput::default() },
            // It takes none, or no more.
            None => return,
        };
        let request = self.conversation.ask(Request::Input(input));
        self.inputs.sent(call, bytes, request);
    }

    /// Ends a call; its answer comes as always.
    pub fn cancel(&self, call: CallNumber) {
        self.conversation.ask(Request::Cancel(CancelCall { slot: self.slot, call: call.0 }));
    }

    /// So many more bytes of live output may be sent.
    pub fn grant_output(&self, call: CallNumber, bytes: u32) {
        self.conversation.ask(Request::GrantOutput(GrantOutput { slot: self.slot, call: call.0, bytes }));
    }

    /// Asks for an empty workspace; calls that run are ended.
    pub fn reset(&self, generation: Generation) {
        self.conversation.ask(Request::Reset(ResetSlot { slot: self.slot, generation: generation.0 }));
    }

    /// The next event. Never returns after the slot was given back or its container lost.
    pub async fn next(&mut self) -> SlotEvent {
        if let Some(call) = self.refused.pop_front() {
            let end = End::NotRun(format!("it has more than {MAX_REQUEST_BYTES} bytes"));
            let ending = Ending { end, phases: Phases::default() };
            return SlotEvent::Ended { call, ending, receipt: Receipt(None) };
        }
        let Some(event) = self.events.recv().await else { return std::future::pending().await };
        if let SlotEvent::Ended { call, .. } = &event {
            self.inputs.close(*call);
        }
        event
    }
}
