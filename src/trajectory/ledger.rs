//! What a trajectory remembers: which calls it has accepted, and the log of their results. A fold of its records.
//!
//! Invariants: a call_id stands for one call for good; the results in the log have consecutive sequences; the ledger
//! changes in [`Ledger::apply`] alone.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use sha2::{Digest, Sha256};

use crate::{
    id::{CallId, CallNumber, Generation, Sequence},
    journal::{AcceptedCall, CallHash, Errand, Options, Record, Workspace},
    tool::{ActionHash, CallResult, Location},
};

/// See the module.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq))]
pub(super) struct Ledger {
    pub(super) phase: Phase,
    pub(super) options: Arc<Options>,
    pub(super) opened_at: SystemTime,
    /// Of the present or last workspace; 0 before the first.
    pub(super) generation: Generation,
    pub(super) workspace: Workspace,
    /// Of the slot that it has had last.
    place: Option<Arc<Location>>,
    calls: HashMap<CallHash, Entry>,
    pending: BTreeMap<CallNumber, Pending>,
    log: VecDeque<Kept>,
    log_bytes: u64,
    unsent: usize,
    unsent_bytes: u64,
    sent_through: Sequence,
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
#[cfg_attr(test, derive(PartialEq))]
struct Kept {
    call: CallHash,
    result: Arc<CallResult>,
    /// Somebody has been sent it.
    sent: bool,
}

/// A call that was accepted and has not ended.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq))]
pub(super) struct Pending {
    pub(super) call: Arc<AcceptedCall>,
    /// It may run, or have run.
    pub(super) handed_over: bool,
}

#[derive(Debug, Clone, Copy)]
#[cfg_attr(test, derive(PartialEq))]
struct Entry {
    action: ActionHash,
    state: EntryState,
}

#[derive(Debug, Clone, Copy)]
#[cfg_attr(test, derive(PartialEq))]
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
    pub(super) fn new(options: Arc<Options>, opened_at: SystemTime) -> Self {
        Self {
            phase: Phase::Open,
            options,
            opened_at,
            generation: Generation(0),
            workspace: Workspace::None,
            place: None,
            calls: HashMap::new(),
            pending: BTreeMap::new(),
            log: VecDeque::new(),
            log_bytes: 0,
            unsent: 0,
            unsent_bytes: 0,
            sent_through: Sequence(0),
            last_sequence: Sequence(0),
            last_number: CallNumber(0),
        }
    }

    /// The only place where a ledger changes.
    pub(super) fn apply(&mut self, record: Record) {
        match record {
            Record::Opened { options, at } => *self = Self::new(options, at),
            Record::Accepted(call) => {
                let (number, action) = (call.number, call.action);
                self.last_number = self.last_number.max(number);
                self.calls.insert(hash(&call.id), Entry { action, state: EntryState::Pending(number) });
                self.pending.insert(number, Pending { call, handed_over: false });
            }
            Record::Input { call, data, end_of_file } => {
                if let Some(pending) = self.pending.get_mut(&call)
                    && let Errand::Slot { order, .. } = &mut Arc::make_mut(&mut pending.call).errand
                {
                    order.job.add_input(&data, end_of_file);
                }
            }
            Record::HandedOver(number) => self.set_handed_over(number, true),
            Record::TakenBack(number) => self.set_handed_over(number, false),
            Record::Ended { call, result } => {
                self.last_sequence = result.sequence;
                self.log_bytes += result.retained_bytes();
                self.unsent += 1;
                self.unsent_bytes += result.retained_bytes();
                if let Some(entry) = self.calls.get_mut(&call) {
                    if let EntryState::Pending(number) = entry.state {
                        self.pending.remove(&number);
                    }
                    entry.state = EntryState::Ended(result.sequence);
                }
                self.log.push_back(Kept { call, result, sent: false });
            }
            Record::Sent { through } => self.mark_sent_through(through),
            Record::Past { calls, last_number, last_sequence, generation } => {
                let dropped = |action| Entry { action, state: EntryState::Dropped };
                self.calls.extend(calls.into_iter().map(|(call, action)| (call, dropped(action))));
                (self.last_number, self.last_sequence, self.generation) = (last_number, last_sequence, generation);
                self.sent_through = last_sequence;
            }
            Record::Placed(place) => self.place = Some(place),
            Record::Dropped { through } => {
                // Whoever dropped them knew that they had been sent.
                self.mark_sent_through(through);
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

    fn set_handed_over(&mut self, number: CallNumber, handed_over: bool) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.handed_over = handed_over;
        }
    }

    /// What these records say; none if they do not begin with a life.
    pub(super) fn fold(records: impl IntoIterator<Item = Record>) -> Option<Self> {
        let mut records = records.into_iter();
        let Record::Opened { options, at } = records.next()? else { return None };
        let mut ledger = Self::new(options, at);
        records.for_each(|record| ledger.apply(record));
        Some(ledger)
    }

    /// The shortest records that say the same.
    pub(super) fn restate(&self) -> Vec<Record> {
        let ended = self.calls.iter().filter(|(_, entry)| !matches!(entry.state, EntryState::Pending(_)));
        let mut records = vec![
            Record::Opened { options: self.options.clone(), at: self.opened_at },
            Record::Past {
                calls: ended.map(|(call, entry)| (*call, entry.action)).collect(),
                last_number: self.last_number,
                // Those that are kept follow.
                last_sequence: Sequence(self.last_sequence.0 - self.log.len() as u64),
                generation: self.generation,
            },
        ];
        let kept = self.log.iter().map(|kept| Record::Ended { call: kept.call, result: kept.result.clone() });
        records.extend(kept);
        records.push(Record::Sent { through: self.sent_through });
        for Pending { call, handed_over } in self.pending.values() {
            records.push(Record::Accepted(call.clone()));
            records.extend(handed_over.then_some(Record::HandedOver(call.number)));
        }
        records.extend(self.place.clone().map(Record::Placed));
        records.push(Record::Workspace(self.workspace));
        records.extend(match self.phase {
            Phase::Open => None,
            Phase::Released => Some(Record::Released),
            Phase::Expired => Some(Record::LeaseEnded),
        });
        records
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

    /// Somebody has been sent this result. Not by a record: see [`Record::Sent`].
    pub(super) fn mark_sent(&mut self, sequence: Sequence) {
        let Some(index) = self.index(sequence) else { return };
        let Some(kept) = self.log.get_mut(index) else { return };
        if !std::mem::replace(&mut kept.sent, true) {
            self.unsent -= 1;
            self.unsent_bytes -= kept.result.retained_bytes();
        }
        while let Some(next) = self.index(self.sent_through.next()).and_then(|index| self.log.get(index))
            && next.sent
        {
            self.sent_through = next.result.sequence;
        }
    }

    /// Its client says that it has these.
    pub(super) fn mark_sent_through(&mut self, sequence: Sequence) {
        let through = sequence.min(self.last_sequence);
        (self.sent_through.next().0..=through.0).for_each(|number| self.mark_sent(Sequence(number)));
    }

    /// Every result up to this one has been sent to somebody.
    pub(super) fn sent_through(&self) -> Sequence {
        self.sent_through
    }

    /// The call that waits or runs under this number.
    pub(super) fn pending_call(&self, number: CallNumber) -> Option<&Arc<AcceptedCall>> {
        self.pending.get(&number).map(|pending| &pending.call)
    }

    /// Every call that waits or runs, in the order of their coming.
    pub(super) fn pending_calls(&self) -> impl Iterator<Item = &Pending> {
        self.pending.values()
    }

    /// Where its present workspace is.
    pub(super) fn place(&self) -> Option<(Arc<Location>, Generation)> {
        match self.workspace {
            Workspace::Present(generation) => Some((self.place.clone()?, generation)),
            Workspace::None | Workspace::Gone(_) | Workspace::Empty(_) => None,
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
        self.log.iter().map(|kept| &kept.result).take_while(|result| result.sequence <= self.sent_through)
    }

    pub(super) fn unsent_results(&self) -> usize {
        self.unsent
    }

    pub(super) fn unsent_bytes(&self) -> u64 {
        self.unsent_bytes
    }
}
