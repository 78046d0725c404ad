//! A trainer that loses nothing, whatever becomes of its streams.

use std::collections::BTreeMap;

use tonic::Status;
use tool_executor::pb::toolexecutor::{Call, CallResult, Open, Outcome, trajectory_response::Message};

use super::client::{self, Stream, bash};

/// One trajectory of many: sends its calls, and after each break of its stream those again that it has no answer to.
pub(crate) struct Trainer {
    pub(crate) id: String,
    stream: Option<Stream>,
    last: u64,
    unanswered: BTreeMap<String, Call>,
    answered: usize,
}

impl Trainer {
    pub(crate) const CALLS: usize = 125;

    pub(crate) fn new(number: usize) -> Self {
        let call = |n: usize| {
            let concurrent = n.is_multiple_of(5);
            (
                format!("{n}"),
                Call { concurrent, ..bash(&format!("{n}"), &format!("sleep 0.01; echo {n} >> log; echo {n}")) },
            )
        };
        let unanswered = (0..Self::CALLS).map(call).collect();
        Self { id: format!("trainer{number}"), stream: None, last: 0, unanswered, answered: 0 }
    }

    /// Goes on until everything is answered, or the stream breaks; `open` opens one.
    pub(crate) async fn go_on(&mut self, open: impl AsyncFnOnce(Open) -> Result<Stream, Status>) -> Result<(), Status> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let again = Open { last_sequence: self.last, take_over: true, ..client::open(&self.id) };
                let stream = open(again).await?;
                stream.try_batch(self.unanswered.values().cloned().collect()).await;
                stream
            }
        };
        while !self.unanswered.is_empty() {
            match stream.next().await? {
                Some(Message::Result(result)) => self.answered(&result),
                Some(_) => {}
                None => panic!("{}: the stream ended", self.id),
            }
        }
        self.stream = Some(stream);
        Ok(())
    }

    /// As if the connection had broken.
    pub(crate) fn hang_up(&mut self) {
        self.stream = None;
    }

    pub(crate) fn has_finished(&self) -> bool {
        assert!(!self.unanswered.is_empty() || self.answered == Self::CALLS);
        self.unanswered.is_empty()
    }

    fn answered(&mut self, result: &CallResult) {
        assert_eq!(
            (result.outcome(), &result.output),
            (Outcome::Succeeded, &result.call_id),
            "{}: {result:?}",
            self.id
        );
        let was_open = self.unanswered.remove(&result.call_id).is_some();
        assert!(was_open || result.replayed || result.sequence > 0, "{result:?}");
        if !result.replayed {
            assert_eq!(result.sequence, self.last + 1, "{}: none is left out, none comes twice", self.id);
            self.last = result.sequence;
        }
        self.answered += usize::from(was_open);
    }
}
