//! The attached stream of a trajectory: what its client sends, and what waits to be sent to it.

use std::{collections::VecDeque, future::pending};

use tokio::sync::mpsc;
use tokio_stream::StreamExt;

use super::request::{Notice, Request, Requests, Response, StreamError, StreamFault};
use crate::id::{CallNumber, Sequence};

/// How many messages may wait between a trajectory and its client's connection; the log and the windows of live
/// output bound what waits behind them.
const RESPONSES: usize = 8;

/// What the attached client receives. It ends after an error.
pub type Responses = mpsc::Receiver<Result<Response, Box<StreamError>>>;

/// Live output of a call, in bytes: it may send as much again once this has left.
type LiveOutput = (CallNumber, u32);

/// See the module.
pub(super) struct Connection {
    /// `None` after the client's half-close.
    requests: Option<Requests>,
    responses: mpsc::Sender<Result<Response, Box<StreamError>>>,
    outbox: VecDeque<(Response, Option<LiveOutput>)>,
}

/// What comes of a connection.
pub(super) enum Heard {
    Request(Request),
    /// What has no meaning: the stream is at its end.
    Malformed(StreamError),
    /// The client sends no more.
    HalfClose,
    /// There is room for more.
    Writable,
    /// The client is gone.
    Gone,
}

impl Connection {
    pub(super) fn new(requests: Requests) -> (Self, Responses) {
        let (responses, receiver) = mpsc::channel(RESPONSES);
        (Self { requests: Some(requests), responses, outbox: VecDeque::new() }, receiver)
    }

    /// Waits for the client, to say something or to read something. Cancel-safe.
    pub(super) async fn next(&mut self) -> Heard {
        let Self { requests, responses, outbox } = self;
        let request = async {
            match requests {
                Some(requests) => requests.next().await,
                None => pending().await,
            }
        };
        let room = async {
            if outbox.is_empty() {
                responses.closed().await;
                Heard::Gone
            } else {
                responses.reserve().await.map_or(Heard::Gone, |_| Heard::Writable)
            }
        };
        let heard = tokio::select! {
            request = request => match request {
                Some(Ok(request)) => Heard::Request(request),
                Some(Err(StreamFault::Lost)) => Heard::Gone,
                Some(Err(StreamFault::Malformed { field, description })) => {
                    Heard::Malformed(StreamError::Malformed { field, description })
                }
                Some(Err(StreamFault::TooLarge { description })) => {
                    Heard::Malformed(StreamError::TooLarge { description })
                }
                None => Heard::HalfClose,
            },
            heard = room => heard,
        };
        if matches!(heard, Heard::HalfClose) {
            self.requests = None;
        }
        heard
    }

    /// How many messages wait for the client to read.
    pub(super) fn unread(&self) -> usize {
        self.outbox.len()
    }

    pub(super) fn post(&mut self, response: Response, output: Option<LiveOutput>) {
        self.outbox.push_back((response, output));
    }

    /// Hands the next message on, if there is one and room for it: the sequence of the result that it was, or how
    /// much live output.
    pub(super) fn send_one(&mut self) -> Option<(Option<Sequence>, Option<LiveOutput>)> {
        if self.outbox.is_empty() {
            return None;
        }
        let permit = self.responses.try_reserve().ok()?;
        let (response, output) = self.outbox.pop_front()?;
        let sequence = match &response {
            Response::Result { result, .. } => Some(result.sequence),
            _ => None,
        };
        permit.send(Ok(response));
        Some((sequence, output))
    }

    /// The live output that has not been handed on.
    pub(super) fn waiting_output(&self) -> impl Iterator<Item = LiveOutput> {
        self.outbox.iter().filter_map(|(_, output)| *output)
    }

    /// Keeps of what waits only that another stream has taken over.
    pub(super) fn forget_waiting(&mut self) {
        self.outbox.retain(|(response, _)| matches!(response, Response::Notice(Notice::TakenOver)));
    }

    /// Hands on what waits, at the client's pace, and then how it ended. Ends when the client is gone, too.
    pub(super) async fn finish(self, error: Option<StreamError>) {
        let last = error.map(|error| Err(Box::new(error)));
        for message in self.outbox.into_iter().map(|(response, _)| Ok(response)).chain(last) {
            if self.responses.send(message).await.is_err() {
                return;
            }
        }
    }
}
