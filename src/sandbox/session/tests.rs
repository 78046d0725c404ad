use proptest::prelude::*;

use super::*;

#[test]
fn a_batch_is_bounded_by_count_and_size() {
    let mut outbox = Outbox::new();
    assert_eq!((1..=5).map(|n| outbox.push(n)).last(), Some(5));
    assert_eq!(outbox.take(2, 100, |_| 1), (1, vec![1, 2]));
    assert_eq!(outbox.take(9, 3, |_| 2), (3, vec![3]));
    assert_eq!(outbox.take(9, 1, |_| 50), (4, vec![4]));
    outbox.acknowledge(2);
    assert_eq!(outbox.resume_after(2), Ok(()));
    assert_eq!(outbox.take(9, 100, |_| 1), (3, vec![3, 4, 5]));
    assert_eq!(outbox.waiting(), 0);
}

#[test]
fn another_conversation_is_noticed() {
    let mut outbox = Outbox::new();
    (1..=3).for_each(|n| {
        outbox.push(n);
    });
    outbox.acknowledge(2);
    let forgotten = |received| Err(Mismatch::Forgotten { received, acknowledged: 2, sent: 3 });
    assert_eq!(outbox.resume_after(1), forgotten(1));
    assert_eq!(outbox.resume_after(4), forgotten(4));
    let mut inbox = Inbox::after(7);
    assert_eq!(inbox.accept(9, 1), Err(Mismatch::Gap { next: 8, first: 9 }));
    assert_eq!(inbox.accept(5, 5), Ok(3));
    assert_eq!(inbox.received(), 9);
    assert_eq!(inbox.accept(10, 0), Ok(0));
    assert_eq!(inbox.accept(1, 2), Ok(2));
    assert_eq!(inbox.received(), 9);
    assert_eq!(inbox.accept(u64::MAX, usize::MAX), Err(Mismatch::Gap { next: 10, first: u64::MAX }));
}

#[test]
fn only_what_has_no_gap_is_dealt_with() {
    let mut dealt = Dealt::after(10);
    [12, 13, 15].into_iter().for_each(|number| dealt.with(number));
    assert_eq!(dealt.through(), 10);
    dealt.with(11);
    assert_eq!(dealt.through(), 13);
    dealt.with(13);
    dealt.with(14);
    assert_eq!(dealt.through(), 15);
}

#[test]
fn an_acknowledgement_waits_until_it_is_worth_a_message() {
    let mut told = Told::default();
    assert!(!told.owes(0));
    told.received(Told::MAX_BYTES);
    assert!(!told.is_urgent(0), "nothing has been dealt with");
    assert!(told.is_urgent(1));
    assert_eq!(told.tell(1), 1);
    assert!(told.owes(2) && !told.is_urgent(2));
    assert!(told.is_urgent(1 + Told::MAX_MESSAGES));
}

/// One direction of a link: what is sent, what is on its way, what has arrived.
#[derive(Default)]
struct Direction {
    sent: u32,
    outbox: Option<Outbox<u32>>,
    wire: VecDeque<(u64, Vec<u32>)>,
    /// Acknowledgements on their way back.
    back: VecDeque<u64>,
    inbox: Inbox,
    arrived: Vec<u32>,
    undealt: Vec<u64>,
    dealt: Dealt,
}

#[derive(Debug, Clone)]
enum Step {
    Push,
    Take(usize),
    Deliver,
    /// A receiver that repeats itself, as after a cut that it has noticed and the sender has not.
    DeliverTwice,
    /// Any of those that arrived.
    Deal(usize),
    Acknowledge,
    HearAcknowledgement,
    Cut,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Push),
        3 => (1..4_usize).prop_map(Step::Take),
        3 => Just(Step::Deliver),
        1 => Just(Step::DeliverTwice),
        4 => any::<usize>().prop_map(Step::Deal),
        2 => Just(Step::Acknowledge),
        2 => Just(Step::HearAcknowledgement),
        1 => Just(Step::Cut),
    ]
}

impl Direction {
    fn outbox(&mut self) -> &mut Outbox<u32> {
        self.outbox.get_or_insert_with(Outbox::new)
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Push => {
                self.sent += 1;
                let message = self.sent;
                assert_eq!(self.outbox().push(message), u64::from(message));
            }
            Step::Take(max) => {
                let batch = self.outbox().take(max, usize::MAX, |_| 1);
                self.wire.push_back(batch);
            }
            Step::Deliver => {
                if let Some(batch) = self.wire.pop_front() {
                    self.deliver(batch);
                }
            }
            Step::DeliverTwice => {
                if let Some(batch) = self.wire.pop_front() {
                    self.deliver(batch.clone());
                    self.deliver(batch);
                }
            }
            Step::Deal(any) => {
                if !self.undealt.is_empty() {
                    let number = self.undealt.swap_remove(any % self.undealt.len());
                    self.dealt.with(number);
                }
            }
            Step::Acknowledge => self.back.push_back(self.dealt.through()),
            Step::HearAcknowledgement => {
                if let Some(through) = self.back.pop_front() {
                    self.outbox().acknowledge(through);
                }
            }
            Step::Cut => {
                self.wire.clear();
                self.back.clear();
                let received = self.inbox.received();
                assert_eq!(self.outbox().resume_after(received), Ok(()));
            }
        }
    }

    fn deliver(&mut self, (first, messages): (u64, Vec<u32>)) {
        let known = self.inbox.accept(first, messages.len()).expect("no gap");
        for (number, message) in (first..).zip(messages).skip(known) {
            self.arrived.push(message);
            self.undealt.push(number);
        }
    }

    /// What is kept is what is not acknowledged, and no more.
    fn check(&mut self) {
        let sent = self.sent;
        let dealt = self.dealt.through();
        let outbox = self.outbox();
        assert_eq!(outbox.kept.len() as u64, u64::from(sent) - outbox.acknowledged());
        assert!(outbox.acknowledged() <= dealt);
        assert!(self.arrived.iter().copied().eq(1..=u32::try_from(self.arrived.len()).expect("few")));
    }
}

proptest! {
    #[test]
    fn every_message_arrives_exactly_once_and_in_order(steps in proptest::collection::vec(step(), 0..300)) {
        let mut direction = Direction::default();
        for step in steps {
            direction.apply(step);
            direction.check();
        }
        for step in [Step::Cut, Step::Take(usize::MAX), Step::Deliver] {
            direction.apply(step);
        }
        prop_assert_eq!(direction.arrived.len(), direction.sent as usize);
        while !direction.undealt.is_empty() {
            direction.apply(Step::Deal(0));
        }
        for step in [Step::Acknowledge, Step::HearAcknowledgement] {
            direction.apply(step);
        }
        prop_assert!(direction.outbox().kept.is_empty());
        prop_assert!(direction.dealt.beyond.is_empty());
        direction.check();
    }
}
