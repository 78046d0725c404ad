//! What a trajectory remembers: which calls it has accepted, and the log of their results. A fold of its records.
//!
//! Invariants: a call_id stands for one call for good; the results in the log have consecutive sequences; the ledger
//! changes in [`Ledger::apply`] alone.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use sha2::{Digest, Sha256};

use crate::{
    id::{CallId, CallNumber, Generation, Sequence},
    journal::{CallHash, Options, Record, Workspace},
    tool::{ActionHash, CallResult},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) phase: Phase,
    pub(super) options: Arc<Options>,
    /// Of the present or last workspace; 0 before the first.
    pub(super) generation: Generation,
    pub(super) workspace: Workspace,
    calls: HashMap<CallHash, Entry>,
    log: VecDeque<Kept>,
    log_bytes: u64,
    unsent: usize,
    unsent_bytes: u64,
    last_sequence: Sequence,
    last_number: CallNumber,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Given back by its client; a late call still finds its result, and a new one goes on.
    Released,
    /// Its lease has ended; a late call still finds its result, and nothing new runs without an `open`.
    Expired,
}

#[derive(Debug)]
struct Kept {
    call: CallHash,
    result: Arc<CallResult>,
    /// Somebody has been sent it. Not a record: it is of use only while that somebody may still be there.
    sent: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    action: ActionHash,
    state: EntryState,
}

#[derive(Debug, Clone, Copy)]
enum EntryState {
    Pending(CallNumber),
    Ended(Sequence),
    Dropped,
}

/// What the ledger knows of a call_id.
#[derive(Debug, PartialEq)]
pub(super) enum Known {
    Nothing,
    /// It waits or runs.
    Pending(CallNumber),
    Ended(Arc<CallResult>),
    /// It has ended, and its result is no longer kept.
    Dropped,
    /// The id stands for another action.
    Reused,
}

pub(super) fn hash(call: &CallId) -> CallHash {
    let digest = Sha256::digest(call.as_str().as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    CallHash(bytes)
}

impl Ledger {
    pub(super) fn new(options: Arc<Options>) -> Self {
        Self {
            phase: Phase::Open,
            options,
            generation: Generation(0),
            workspace: Workspace::None,
            calls: HashMap::new(),
            log: VecDeque::new(),
            log_bytes: 0,
            unsent: 0,
            unsent_bytes: 0,
            last_sequence: Sequence(0),
            last_number: CallNumber(0),
        }
    }

    /// The only place where a ledger changes.
    pub(super) fn apply(&mut self, record: Record) {
        match record {
            Record::Opened(options) => *self = Self::new(options),
            Record::Accepted { call, number, action } => {
                self.last_number = number;
                self.calls.insert(call, Entry { action, state: EntryState::Pending(number) });
            }
            Record::Ended { call, result } => {
                self.last_sequence = result.sequence;
                self.log_bytes += result.retained_bytes();
                self.unsent += 1;
                self.unsent_bytes += result.retained_bytes();
                if let Some(entry) = self.calls.get_mut(&call) {
                    entry.state = EntryState::Ended(result.sequence);
                }
                self.log.push_back(Kept { call, result, sent: false });
            }
            Record::Dropped { through } => {
                while let Some(kept) = self.log.pop_front_if(|kept| kept.result.sequence <= through) {
                    self.log_bytes -= kept.result.retained_bytes();
                    if let Some(entry) = self.calls.get_mut(&kept.call) {
                        entry.state = EntryState::Dropped;
                    }
                }
            }
            Record::Workspace(workspace) => {
                self.workspace = workspace;
                match workspace {
                    Workspace::None => {}
                    Workspace::Present(generation) | Workspace::Gone(generation) | Workspace::Empty(generation) => {
                        self.generation = generation;
                    }
                }
            }
            Record::Released => self.phase = Phase::Released,
            Record::LeaseEnded => self.phase = Phase::Expired,
            Record::Reopened => self.phase = Phase::Open,
        }
    }

    /// `action`: none where the call has no meaning, so that it cannot be one that was accepted.
    pub(super) fn lookup(&self, call: CallHash, action: Option<ActionHash>) -> Known {
        let Some(entry) = self.calls.get(&call) else { return Known::Nothing };
        match entry.state {
            EntryState::Dropped => Known::Dropped,
            _ if Some(entry.action) != action => Known::Reused,
            EntryState::Pending(number) => Known::Pending(number),
            EntryState::Ended(sequence) => match self.result(sequence) {
                Some(result) => Known::Ended(result.clone()),
                None => Known::Dropped,
            },
        }
    }

    /// The number of a call that waits or runs.
    pub(super) fn pending(&self, call: CallHash) -> Option<CallNumber> {
        match self.calls.get(&call)?.state {
            EntryState::Pending(number) => Some(number),
            EntryState::Ended(_) | EntryState::Dropped => None,
        }
    }

    /// Somebody has been sent this result; whether that outlives the ledger's memory is of no importance.
    pub(super) fn mark_sent(&mut self, sequence: Sequence) {
        let Some(index) = self.index(sequence) else { return };
        let Some(kept) = self.log.get_mut(index) else { return };
        if !std::mem::replace(&mut kept.sent, true) {
            self.unsent -= 1;
            self.unsent_bytes -= kept.result.retained_bytes();
        }
    }

    /// Its client says that it has these.
    pub(super) fn mark_sent_through(&mut self, sequence: Sequence) {
        let has = self.log.iter_mut().take_while(|kept| kept.result.sequence <= sequence);
        for kept in has.filter(|kept| !kept.sent) {
            kept.sent = true;
            self.unsent -= 1;
            self.unsent_bytes -= kept.result.retained_bytes();
        }
    }

    fn result(&self, sequence: Sequence) -> Option<&Arc<CallResult>> {
        self.log.get(self.index(sequence)?).map(|kept| &kept.result)
    }

    fn index(&self, sequence: Sequence) -> Option<usize> {
        let oldest = self.log.front()?.result.sequence.0;
        usize::try_from(sequence.0.checked_sub(oldest)?).ok()
    }

    /// The kept results after `sequence`, oldest first.
    pub(super) fn results_after(&self, sequence: Sequence) -> impl Iterator<Item = &Arc<CallResult>> {
        self.log.iter().map(|kept| &kept.result).skip_while(move |result| result.sequence <= sequence)
    }

    /// Of the oldest kept result; 0 if none is kept.
    pub(super) fn oldest_sequence(&self) -> Sequence {
        self.log.front().map_or(Sequence(0), |kept| kept.result.sequence)
    }

    pub(super) fn last_sequence(&self) -> Sequence {
        self.last_sequence
    }

    pub(super) fn next_number(&self) -> CallNumber {
        self.last_number.next()
    }

    /// How many calls it has accepted in all.
    pub(super) fn accepted(&self) -> u64 {
        self.last_number.0
    }

    pub(super) fn kept_results(&self) -> usize {
        self.log.len()
    }

    pub(super) fn kept_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// The oldest results, as far as they have been sent: those that may be dropped.
    pub(super) fn sent_results(&self) -> impl Iterator<Item = &Arc<CallResult>> {
        self.log.iter().take_while(|kept| kept.sent).map(|kept| &kept.result)
    }

    pub(super) fn unsent_results(&self) -> usize {
        self.unsent
    }

    pub(super) fn unsent_bytes(&self) -> u64 {
        self.unsent_bytes
    }
}
