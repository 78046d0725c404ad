//! A conversation over a connection that can break at any time: messages are numbered, kept until the other side needs
//! them no more, and sent again after a reconnect. Pure: who moves the messages is none of its business.
//!
//! Invariants: what is pushed is taken in the same order; what was received once is never received again; nothing is
//! forgotten before it is acknowledged.

use std::collections::{BTreeSet, VecDeque};

/// What one side has to say.
#[derive(Debug)]
pub(super) struct Outbox<M> {
    /// Not acknowledged, oldest first. Bounded by what the two sides have under way.
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

    pub(super) fn push(&mut self, message: M) {
        self.kept.push_back(message);
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

    /// The connection is a new one, and this is the last message that the other side has received.
    pub(super) fn resume_after(&mut self, received: u64) {
        let received = received.saturating_add(1).saturating_sub(self.first);
        self.taken = usize::try_from(received).unwrap_or(usize::MAX).min(self.kept.len());
    }
}

/// What one side has heard.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    received: u64,
}

impl Inbox {
    /// How many of `count` messages, the first of which has number `first`, have been received before. The others
    /// count as received now.
    pub(super) fn accept(&mut self, first: u64, count: usize) -> usize {
        let last = first + count as u64;
        let known = (self.received + 1).saturating_sub(first).min(count as u64);
        self.received = self.received.max(last.saturating_sub(1));
        usize::try_from(known).unwrap_or(count)
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
    /// Those up to here were another's to deal with.
    pub(super) fn begin_after(&mut self, number: u64) {
        self.through = self.through.max(number);
    }

    pub(super) fn with(&mut self, number: u64) {
        if number > self.through {
            self.beyond.insert(number);
        }
        while self.beyond.remove(&(self.through + 1)) {
            self.through += 1;
        }
    }

    /// Every message up to this number has been dealt with.
    pub(super) fn through(&self) -> u64 {
        self.through
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_batch_is_bounded_by_count_and_size() {
        let mut outbox = Outbox::new();
        (1..=5).for_each(|n| outbox.push(n));
        assert_eq!(outbox.take(2, 100, |_| 1), (1, vec![1, 2]));
        assert_eq!(outbox.take(9, 3, |_| 2), (3, vec![3]));
        assert_eq!(outbox.take(9, 1, |_| 50), (4, vec![4]));
        outbox.acknowledge(2);
        outbox.resume_after(2);
        assert_eq!(outbox.take(9, 100, |_| 1), (3, vec![3, 4, 5]));
        assert_eq!(outbox.waiting(), 0);
    }

    #[test]
    fn what_was_anothers_leaves_no_gap() {
        let mut dealt = Dealt::default();
        dealt.begin_after(6);
        dealt.with(8);
        assert_eq!(dealt.through(), 6);
        dealt.with(7);
        assert_eq!(dealt.through(), 8);
    }

    #[test]
    fn only_what_has_no_gap_is_dealt_with() {
        let mut dealt = Dealt::default();
        [2, 3, 5].into_iter().for_each(|number| dealt.with(number));
        assert_eq!(dealt.through(), 0);
        dealt.with(1);
        assert_eq!(dealt.through(), 3);
        dealt.with(3);
        dealt.with(4);
        assert_eq!(dealt.through(), 5);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push,
        Take(usize),
        Deliver,
        Acknowledge,
        Cut,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Push),
            3 => (1..4_usize).prop_map(Step::Take),
            3 => Just(Step::Deliver),
            1 => Just(Step::Acknowledge),
            1 => Just(Step::Cut),
        ]
    }

    proptest! {
        #[test]
        fn every_message_arrives_exactly_once_and_in_order(steps in proptest::collection::vec(step(), 0..200)) {
            let mut outbox = Outbox::new();
            let mut inbox = Inbox::default();
            let mut wire: VecDeque<(u64, Vec<u32>)> = VecDeque::new();
            let (mut pushed, mut arrived) = (0, Vec::new());
            let deliver = |wire: &mut VecDeque<(u64, Vec<u32>)>, inbox: &mut Inbox, arrived: &mut Vec<u32>| {
                if let Some((first, messages)) = wire.pop_front() {
                    let known = inbox.accept(first, messages.len());
                    arrived.extend(messages.into_iter().skip(known));
                }
            };
            for step in steps.into_iter().chain([Step::Cut, Step::Take(usize::MAX), Step::Deliver]) {
                match step {
                    Step::Push => {
                        pushed += 1;
                        outbox.push(pushed);
                    }
                    Step::Take(max) => {
                        let batch = outbox.take(max, usize::MAX, |_| 1);
                        if !batch.1.is_empty() {
                            wire.push_back(batch);
                        }
                    }
                    Step::Deliver => deliver(&mut wire, &mut inbox, &mut arrived),
                    Step::Acknowledge => outbox.acknowledge(inbox.received()),
                    Step::Cut => {
                        wire.clear();
                        outbox.resume_after(inbox.received());
                    }
                }
                prop_assert!(outbox.kept.len() as u64 <= u64::from(pushed));
            }
            prop_assert_eq!(arrived, (1..=pushed).collect::<Vec<u32>>());
            outbox.acknowledge(inbox.received());
            prop_assert!(outbox.kept.is_empty());
        }
    }
}
