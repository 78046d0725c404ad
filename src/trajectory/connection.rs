//! The attached stream of a trajectory: what its client sends, and what waits to be sent to it.

use std::{collections::VecDeque, future::pending};

use tokio::sync::mpsc;
use tokio_stream::StreamExt;

use super::request::{Notice, Output, Request, Requests, Response, StreamError, StreamFault};
use crate::id::{CallNumber, Sequence};

/// How many messages may wait between a trajectory and its client's connection. Behind them wait results, which the log
/// bounds, and live output.
const RESPONSES: usize = 8;
/// Of live output that waits for the client. What comes beyond it is dropped, which leaves a gap in its offsets.
const MAX_WAITING_OUTPUT: usize = 1 << 20;

/// What the attached client receives. It ends after an error.
pub type Responses = mpsc::Receiver<Result<Response, Box<StreamError>>>;

/// Live output of a call, in bytes: it may send as much again once this has left.
type LiveOutput = (CallNumber, u32);

/// See the module.
pub(super) struct Connection {
    /// `None` after the client's half-close.
    requests: Option<Requests>,
    responses: mpsc::Sender<Result<Response, Box<StreamError>>>,
    outbox: VecDeque<Waiting>,
    /// Of the live output in `outbox`.
    output_bytes: usize,
}

enum Waiting {
    Response(Response),
    Output(Box<Output>, LiveOutput),
    /// Output that was dropped. Its call may send more once the client has read what came before.
    Dropped(LiveOutput),
}

/// What has left for the client.
#[derive(Debug, PartialEq)]
pub(super) enum Sent {
    Result(Sequence),
    /// With the dropped, which did not.
    Output(LiveOutput),
    Other,
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
        (Self { requests: Some(requests), responses, outbox: VecDeque::new(), output_bytes: 0 }, receiver)
    }

    /// Waits for the client, to say something or to read something. Cancel-safe.
    pub(super) async fn next(&mut self) -> Heard {
        let Self { requests, responses, outbox, .. } = self;
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

    pub(super) fn post(&mut self, response: Response) {
        self.outbox.push_back(Waiting::Response(response));
    }

    pub(super) fn post_output(&mut self, call: CallNumber, output: Output) {
        let bytes = output.data.len();
        let live = (call, u32::try_from(bytes).unwrap_or(u32::MAX));
        if self.output_bytes + bytes > MAX_WAITING_OUTPUT {
            return self.outbox.push_back(Waiting::Dropped(live));
        }
        self.output_bytes += bytes;
        self.outbox.push_back(Waiting::Output(Box::new(output), live));
    }

    /// Hands the next message on, if there is one and room for it.
    pub(super) fn send_one(&mut self) -> Option<Sent> {
        if self.outbox.is_empty() {
            return None;
        }
        let permit = self.responses.try_reserve().ok()?;
        let (response, sent) = match self.outbox.pop_front()? {
            Waiting::Dropped(live) => return Some(Sent::Output(live)),
            Waiting::Output(output, live) => {
                self.output_bytes -= output.data.len();
                (Response::Output(output), Sent::Output(live))
            }
            Waiting::Response(response) => {
                let sent = match &response {
                    Response::Result { result, .. } => Sent::Result(result.sequence),
                    _ => Sent::Other,
                };
                (response, sent)
            }
        };
        permit.send(Ok(response));
        Some(sent)
    }

    /// The live output that has not been handed on.
    pub(super) fn waiting_output(&self) -> impl Iterator<Item = LiveOutput> {
        self.outbox.iter().filter_map(|waiting| match waiting {
            Waiting::Output(_, live) | Waiting::Dropped(live) => Some(*live),
            Waiting::Response(_) => None,
        })
    }

    /// Keeps of what waits only that another stream has taken over.
    pub(super) fn forget_waiting(&mut self) {
        self.outbox.retain(|waiting| matches!(waiting, Waiting::Response(Response::Notice(Notice::TakenOver))));
    }

    /// Hands on what waits, at the client's pace, and then how it ended. Ends when the client is gone, too.
    pub(super) async fn finish(self, error: Option<StreamError>) {
        let waiting = self.outbox.into_iter().filter_map(|waiting| match waiting {
            Waiting::Response(response) => Some(Ok(response)),
            Waiting::Output(output, _) => Some(Ok(Response::Output(output))),
            Waiting::Dropped(_) => None,
        });
        for message in waiting.chain(error.map(|error| Err(Box::new(error)))) {
            if self.responses.send(message).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::CallId, trajectory::request::OutputStream};

    fn output(offset: u64, bytes: usize) -> Output {
        let call = CallId::parse("a").expect("it is a name");
        Output { call, stream: OutputStream::Stdout, offset, data: vec![0; bytes].into() }
    }

    #[tokio::test]
    async fn live_output_that_nobody_reads_is_dropped_and_goes_on_with_its_reader() {
        const CALL: CallNumber = CallNumber(1);
        let (mut connection, mut responses) = Connection::new(Box::pin(tokio_stream::pending()));
        connection.post_output(CALL, output(0, MAX_WAITING_OUTPUT));
        connection.post_output(CALL, output(1 << 20, 10));
        let window = 1 << 20;
        assert_eq!(connection.waiting_output().collect::<Vec<_>>(), [(CALL, window), (CALL, 10)]);
        assert_eq!(connection.send_one(), Some(Sent::Output((CALL, window))));
        connection.post_output(CALL, output(20 << 20, 30));
        assert_eq!(connection.send_one(), Some(Sent::Output((CALL, 10))), "it may send as much as was dropped");
        assert_eq!(connection.send_one(), Some(Sent::Output((CALL, 30))));
        assert_eq!(connection.send_one(), None);
        drop(connection);
        let mut offsets = Vec::new();
        while let Some(Ok(Response::Output(output))) = responses.recv().await {
            offsets.push(output.offset);
        }
        assert_eq!(offsets, [0, 20 << 20]);
    }
}
