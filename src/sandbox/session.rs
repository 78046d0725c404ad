//! A conversation over a connection that can break at any time: messages are numbered, kept until the other side needs
//! them no more, and sent again after a reconnect. Pure: who moves the messages is none of its business.
//!
//! Invariants: what is pushed is taken in the same order; what was received once is never received again, and nothing
//! is left out; nothing is forgotten before it is acknowledged, and nothing is kept after.

mod past;

use std::collections::{BTreeSet, VecDeque};

pub(super) use self::past::pasts;

/// The two sides do not speak of the same conversation. No reconnect mends that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Mismatch {
    #[error("message {next} was to come, and {first} came")]
    Gap { next: u64, first: u64 },
    #[error("the other side has received {received} messages, where {acknowledged} to {sent} are possible")]
    Forgotten { received: u64, acknowledged: u64, sent: u64 },
}

/// What one side has to say.
#[derive(Debug)]
pub(super) struct Outbox<M> {
    /// Not acknowledged, oldest first.
    kept: VecDeque<M>,
    /// The number of the first of `kept`; the first of all is 1.
    first: u64,
    /// How many of `kept` have been taken since the connection was made.
    taken: usize,
}

impl<M: Clone> Outbox<M> {
    pub(super) fn new() -> Self {
        Self { kept: VecDeque::new(), first: 1, taken: 0 }
    }

    /// The message's number.
    pub(super) fn push(&mut self, message: M) -> u64 {
        self.kept.push_back(message);
        self.last()
    }

    /// How many wait to be taken.
    pub(super) fn waiting(&self) -> usize {
        self.kept.len() - self.taken
    }

    /// The next messages, at most `max`, for as long as their sizes sum to at most `max_bytes` (the first always is
    /// one of them); with the number of the first.
    pub(super) fn take(&mut self, max: usize, max_bytes: usize, size: impl Fn(&M) -> usize) -> (u64, Vec<M>) {
        let number = self.first + self.taken as u64;
        let mut bytes = 0;
        let messages: Vec<M> = self
            .kept
            .iter()
            .skip(self.taken)
            .take(max)
            .take_while(|message| {
                let first = bytes == 0;
                bytes += size(message).max(1);
                first || bytes <= max_bytes
            })
            .cloned()
            .collect();
        self.taken += messages.len();
        (number, messages)
    }

    /// The other side needs nothing up to this number any more.
    pub(super) fn acknowledge(&mut self, through: u64) {
        while self.first <= through && self.kept.pop_front().is_some() {
            self.first += 1;
            self.taken = self.taken.saturating_sub(1);
        }
    }

    /// What has not been acknowledged, with its numbers.
    pub(super) fn kept(&self) -> impl Iterator<Item = (u64, &M)> {
        (self.first..).zip(&self.kept)
    }

    /// Everything up to this number has been acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.first - 1
    }

    /// The connection is a new one, and this is the last message that the other side has received.
    pub(super) fn resume_after(&mut self, received: u64) -> Result<(), Mismatch> {
        let (acknowledged, sent) = (self.acknowledged(), self.last());
        if !(acknowledged..=sent).contains(&received) {
            return Err(Mismatch::Forgotten { received, acknowledged, sent });
        }
        // As many as are kept, at most.
        self.taken = usize::try_from(received - acknowledged).unwrap_or(self.kept.len());
        Ok(())
    }

    /// The number of the last message; 0 if there was none.
    pub(super) fn last(&self) -> u64 {
        self.acknowledged() + self.kept.len() as u64
    }
}

/// What one side has heard.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    received: u64,
}

impl Inbox {
    /// Of a conversation that this side joins after so many messages.
    pub(super) fn after(received: u64) -> Self {
        Self { received }
    }

    /// How many of `count` messages, the first of which has number `first`, have been received before. The others
    /// count as received now.
    pub(super) fn accept(&mut self, first: u64, count: usize) -> Result<usize, Mismatch> {
        let next = self.received.saturating_add(1);
        if first > next {
            return Err(Mismatch::Gap { next, first });
        }
        let known = usize::try_from(next - first).unwrap_or(usize::MAX).min(count);
        self.received = self.received.saturating_add((count - known) as u64);
        Ok(known)
    }

    /// The number of the last message received; 0 if there was none.
    pub(super) fn received(&self) -> u64 {
        self.received
    }
}

/// Which messages have been dealt with, where that is not in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Dealt {
    /// All up to here.
    through: u64,
    beyond: BTreeSet<u64>,
}

impl Dealt {
    /// Of a conversation that this side joins after so many messages.
    pub(super) fn after(through: u64) -> Self {
        Self { through, beyond: BTreeSet::new() }
    }

    pub(super) fn with(&mut self, number: u64) {
        if number > self.through {
            self.beyond.insert(number);
        }
        while let Some(next) = self.through.checked_add(1)
            && self.beyond.remove(&next)
        {
            self.through = next;
        }
    }

    /// Every message up to this number has been dealt with.
    pub(super) fn through(&self) -> u64 {
        self.through
    }
}

/// Which acknowledgement the other side has been sent last, and whether it can wait for the next. One that goes with
/// a message that goes anyway costs nothing; but the other side keeps in memory what is not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Told {
    through: u64,
    /// Of the messages received since.
    bytes: usize,
}

impl Told {
    const MAX_MESSAGES: u64 = 64;
    const MAX_BYTES: usize = 256 << 10;

    /// So much was received.
    pub(super) fn received(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// The acknowledgement that goes out now.
    pub(super) fn tell(&mut self, through: u64) -> u64 {
        *self = Self { through, bytes: 0 };
        through
    }

    /// There is something to acknowledge.
    pub(super) fn owes(&self, through: u64) -> bool {
        through > self.through
    }

    /// So much that it should not wait.
    pub(super) fn is_urgent(&self, through: u64) -> bool {
        self.owes(through) && (through - self.through >= Self::MAX_MESSAGES || self.bytes >= Self::MAX_BYTES)
    }
}

#[cfg(test)]
mod tests;
