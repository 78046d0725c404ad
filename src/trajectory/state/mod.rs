//! The pure core of a trajectory: what has happened and what time it is go in, what is to be done comes out. No I/O,
//! no clock, no task.
//!
//! ```text
//!            open                release, or drained             one lease later
//!   (none) --------> Open ------------------------> Released ---------------------> retired
//!                     |  ^                              | an unseen Execute
//!                     |  '------------------------------'
//!                     |  lease runs out                       one lease later
//!                     '-----------------------> Expired ---------------------> retired
//! ```
//!
//! Invariants: an accepted call is answered exactly once; at most one call in order runs at a time; nothing runs in a
//! workspace that the client has not been told of; what the trajectory remembers changes by records alone.

mod accept;
mod attach;
mod description;
mod end;
mod output;
mod outside;
mod restore;
mod slot;
#[cfg(test)]
mod tests;
mod transfer;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;

pub use self::description::{Description, Inspection, LiveCall};
use self::{
    output::Printed,
    outside::Outside,
    slot::{Resetting, Slot},
};
pub(super) use self::{outside::Outgoing, slot::Place};
use super::{
    ledger::{Ledger, Phase},
    observer::Answered,
    request::{Limits, Output, ReleaseCause, Response, StreamError},
    totals::{Holdings, Part},
};
use crate::{
    id::{CallId, CallNumber, Generation, PoolName, Sequence},
    journal::{CallHash, Options, Record, Workspace},
    tool::{CallResult, CancelCause, ToolLabel, Verdict, job::Order},
};

/// When something happens, and how much all other trajectories hold at that moment, and those of its tenant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: Instant,
    pub(super) wall: SystemTime,
    pub(super) others: Holdings,
    pub(super) tenant: super::accounts::Allowance,
    /// There is room to remember new calls.
    pub(super) can_record: bool,
}

/// Why calls wait, or are not accepted, whose client does not read.
const LOG_IS_FULL: &str = "results that nobody has been sent fill the trajectory's log";

/// Why calls are not accepted that could not be remembered.
const DISK_IS_FULL: &str = "the disk of the state directory is full, and what is accepted must be remembered there";

/// Names whoever waits for the result of a unary call; the driver's own.
pub(super) type Waiter = u64;

/// What the driver is to do, in this order.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    /// Make the stream that asks for it the attached one.
    Attach,
    /// To the attached stream.
    Send(Response),
    /// Live output to the attached stream; once it has left, the call may send as much again.
    SendOutput(CallNumber, Output),
    /// End the attached stream, after what was sent to it.
    EndStream(Option<StreamError>),
    Answer {
        waiter: Waiter,
        result: Arc<CallResult>,
        replayed: bool,
    },
    /// The release is done: answer those who wait for it.
    Released,
    Acquire(PoolName),
    LeaveLine,
    OpenSlot(Generation),
    Run(CallNumber, Order),
    CancelRun(CallNumber),
    /// Ask for room to have a tool run elsewhere, at this source.
    AskOutside(CallNumber, Arc<str>),
    /// There is room: have it run.
    RunExternal(CallNumber, Box<Outgoing>),
    /// Neither asked for nor run any more.
    DropExternal(CallNumber),
    Input {
        call: CallNumber,
        data: Bytes,
        end_of_file: bool,
    },
    GrantOutput(CallNumber, u32),
    ResetSlot(Generation),
    ReleaseSlot {
        keep: bool,
    },
    /// Nothing that was kept of an earlier slot is wanted.
    ForgoKept,
}

/// A call that was accepted and has not ended.
#[derive(Debug)]
struct Live {
    id: CallId,
    tool: ToolLabel,
    hash: CallHash,
    /// That it came with.
    bytes: u64,
    /// A tool elsewhere does it; no slot.
    is_external: bool,
    received: Instant,
    /// When its turn came: from then on it waits for the slot alone.
    turn: Option<Instant>,
    stage: Stage,
    /// Why it was cancelled, if it was.
    cancelled: Option<CancelCause>,
    waiters: Vec<Waiter>,
}

#[derive(Debug)]
enum Stage {
    Waiting,
    Running {
        queued: Duration,
        slot_wait: Duration,
        /// Output came, so that it is known to have run.
        seen: bool,
        /// For streams to come.
        printed: Printed,
    },
}

#[derive(Debug)]
struct Stream {
    /// The client sends no more: end the stream once everything is answered.
    half_closed: bool,
}

/// A release that waits for what runs.
#[derive(Debug)]
struct Releasing {
    keep: bool,
    cause: ReleaseCause,
}

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    limits: Arc<Limits>,
    ledger: Ledger,
    /// Nobody has got to it since it was made: whoever is the first has opened it.
    untouched: bool,
    live: HashMap<CallNumber, Live>,
    /// Of all in `live`.
    live_bytes: u64,
    /// Waiting for their turn, one at a time.
    in_order: VecDeque<CallNumber>,
    /// Waiting to run beside the others.
    beside: VecDeque<CallNumber>,
    /// Of tools elsewhere.
    outside: Outside,
    /// The call in order that runs.
    running_in_order: Option<CallNumber>,
    slot: Slot,
    resetting: Option<Resetting>,
    releasing: Option<Releasing>,
    draining: bool,
    /// Of files, which run.
    transfers: usize,
    stream: Option<Stream>,
    /// Since when nobody attends to it; or, after its end, since when only the ledger is left.
    idle_since: Option<Instant>,
    effects: Vec<Effect>,
    /// What has been applied and is to be kept before the effects are carried out.
    records: Vec<Record>,
    /// As far as the records say that results have been sent.
    recorded_sent: Sequence,
    /// Of what the calls that run have printed.
    printed_bytes: u64,
    answers: u64,
    unsuccessful: u64,
    /// Since the last time this was asked.
    answered: Vec<Answered>,
}

impl State {
    /// A trajectory that somebody is about to open; it has its lease, should nobody come.
    pub(super) fn new(limits: Arc<Limits>, options: Options, at: Moment) -> Self {
        let options = Arc::new(options);
        let opened = Record::Opened { options: options.clone(), at: at.wall };
        let mut state = Self::with_ledger(limits, Ledger::new(options, at.wall), at);
        state.untouched = true;
        state.records.push(opened);
        state
    }

    fn with_ledger(limits: Arc<Limits>, ledger: Ledger, at: Moment) -> Self {
        Self {
            limits,
            recorded_sent: ledger.sent_through(),
            ledger,
            untouched: false,
            live: HashMap::new(),
            live_bytes: 0,
            in_order: VecDeque::new(),
            beside: VecDeque::new(),
            outside: Outside::default(),
            running_in_order: None,
            slot: Slot::None,
            resetting: None,
            releasing: None,
            draining: false,
            transfers: 0,
            stream: None,
            idle_since: Some(at.now),
            effects: Vec::new(),
            records: Vec::new(),
            printed_bytes: 0,
            answers: 0,
            unsuccessful: 0,
            answered: Vec::new(),
        }
    }

    /// What is to be done since the last time this was asked.
    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// How calls were answered since the last time this was asked.
    pub(super) fn take_answered(&mut self) -> Vec<Answered> {
        std::mem::take(&mut self.answered)
    }

    /// What has happened since the last time this was asked: to be kept before any effect is carried out.
    pub(super) fn take_records(&mut self) -> Vec<Record> {
        let mut records = std::mem::take(&mut self.records);
        let sent = self.ledger.sent_through();
        if !records.is_empty() && sent > self.recorded_sent {
            self.recorded_sent = sent;
            records.push(Record::Sent { through: sent });
        }
        records
    }

    /// Records that stand for all that there have been.
    pub(super) fn restate(&self) -> Vec<Record> {
        self.ledger.restate()
    }

    pub(super) fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    /// When [`State::on_deadline`] should be called, if nothing else happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        Some(self.idle_since? + self.ledger.options.lease)
    }

    /// The lease has run out: of the trajectory, or of the ledger that outlived it. True if nothing is left to keep.
    pub(super) fn on_deadline(&mut self, at: Moment) -> bool {
        if self.deadline().is_none_or(|deadline| at.now < deadline) {
            return false;
        }
        match self.ledger.phase {
            Phase::Open if self.untouched => true,
            Phase::Open => {
                // What the log was too full for all that time.
                self.end_all_waiting(Verdict::queue_full(LOG_IS_FULL, None), at);
                self.end_all_waiting_outside(Verdict::queue_full(LOG_IS_FULL, None), at);
                self.give_back_slot(false);
                self.commit(Record::Workspace(Workspace::None));
                self.commit(Record::LeaseEnded);
                self.resetting = None;
                self.idle_since = Some(at.now);
                false
            }
            Phase::Released | Phase::Expired => true,
        }
    }

    /// How many accepted calls wait and run.
    pub(super) fn load(&self) -> (usize, usize) {
        let waiting = self.in_order.len() + self.beside.len() + self.outside.waits();
        (waiting, self.live.len() - waiting)
    }

    /// What it adds to the totals of the service.
    pub(super) fn part(&self) -> Part {
        let (waiting, running) = self.load();
        Part {
            open: self.is_open(),
            leased: self.is_open() && self.idle_since.is_some(),
            waiting,
            running,
            call_bytes: self.live_bytes,
            kept_bytes: self.ledger.kept_bytes() + self.printed_bytes,
            answers: self.answers,
            unsuccessful: self.unsuccessful,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.ledger.phase == Phase::Open
    }

    /// A result of the log has left for its client.
    pub(super) fn sent(&mut self, sequence: Sequence, at: Moment) {
        self.ledger.mark_sent(sequence);
        self.trim();
        self.settle(at);
    }

    /// Results that nobody has been sent fill what there is for them: until somebody is, nothing more is run that would
    /// add to them. So a client that does not read, or is away, holds up itself and nobody else.
    fn is_held_back(&self, at: Moment) -> bool {
        let unsent = self.ledger.unsent_bytes();
        let total = at.others.kept_bytes + self.part().kept_bytes;
        unsent >= self.limits.max_kept_result_bytes || unsent > 0 && total >= self.limits.max_total_result_bytes
    }

    /// The only way in which what the trajectory remembers changes.
    fn commit(&mut self, record: Record) {
        self.records.push(record.clone());
        self.ledger.apply(record);
    }

    fn send(&mut self, response: Response) {
        if self.stream.is_some() {
            self.effects.push(Effect::Send(response));
        }
    }

    /// Brings everything that follows from the last event about: called at the end of each.
    fn settle(&mut self, at: Moment) {
        if self.draining && self.is_open() && self.live.is_empty() && self.transfers == 0 && self.releasing.is_none() {
            self.begin_end(false, ReleaseCause::Drained, CancelCause::Drained, at);
        }
        self.advance_release(at);
        self.advance_loss();
        self.advance_reset();
        self.advance_calls(at);
        self.advance_outside(at);
        let answered = self.live.is_empty() && self.ledger.unsent_results() == 0;
        if answered && self.stream.as_ref().is_some_and(|stream| stream.half_closed) {
            self.end_stream(None);
        }
        let at_rest = self.live.is_empty() || self.load().1 == 0 && self.is_held_back(at);
        let idle = self.stream.is_none() && self.transfers == 0 && self.releasing.is_none() && at_rest;
        match (idle, self.idle_since) {
            (true, None) => self.idle_since = Some(at.now),
            (false, Some(_)) => self.idle_since = None,
            _ => {}
        }
    }

    fn end_stream(&mut self, error: Option<StreamError>) {
        if self.stream.take().is_some() {
            self.effects.push(Effect::EndStream(error));
        }
    }
}
