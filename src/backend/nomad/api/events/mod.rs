//! The stream of what changes. A hint only: it has gaps, begins with what is known already, and says nothing of
//! allocations that are deleted.
//!
//! A stream that Nomad refuses stays open and says nothing, not even that it is alive; one whose server has died does
//! the same. So silence is an end.

mod event;
mod lines;

use std::{future::Future, pin::Pin, time::Duration};

use reqwest::Response;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};

pub use self::event::{Event, Events, Payload};
use self::{event::Line, lines::Lines};
use super::{
    call::{Call, Effect, Request},
    client::Client,
    error::ApiError,
};

/// Nomad says `{}` at once.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// Nomad says `{}` every 30 s.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(45);

const EVENTS: Call = Call { name: "GET /v1/event/stream", capability: Some("read-job"), effect: Effect::Read };

/// Why a stream has ended. Another may be opened after [`EventStream::last_index`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamEnd {
    /// Nomad has taken the call and says nothing: the token lacks something that one of the topics needs.
    #[error("the event stream is refused: the token needs read-job, and node {{ policy = \"read\" }} for nodes")]
    Refused,
    #[error("the event stream has fallen silent")]
    Silent,
    #[error("the event stream was closed")]
    Closed,
    #[error("the event stream could not be opened or read")]
    Failed(#[source] ApiError),
}

/// Opens with the first [`EventStream::next`], and takes a connection of the client's until it is dropped or has ended.
pub struct EventStream {
    client: Client,
    topics: Vec<String>,
    /// What came up to this is known. Nomad repeats some of it, and may tell of one index in several lines.
    after: u64,
    last: u64,
    state: State,
}

enum State {
    Closed,
    Opening(Pin<Box<dyn Future<Output = Result<Open, ApiError>> + Send>>),
    Open(Box<Open>),
    Ended(StreamEnd),
}

struct Open {
    response: Response,
    lines: Lines,
    greeted: bool,
    heard_at: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Client {
    /// Events of these topics (`Allocation:*`, `Node:*`, `Allocation:<child ID>`) after the index; with 0, all that
    /// Nomad still has.
    pub fn events(&self, topics: &[&str], after: u64) -> EventStream {
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        EventStream { client: self.clone(), topics, after, last: after, state: State::Closed }
    }
}

impl EventStream {
    /// The next events; none of them is a sign of life. The first answer, which comes at once, means that the stream
    /// is open. May be dropped and called again, and nothing is lost.
    ///
    /// # Errors
    /// Once the stream has ended, and each time thereafter.
    pub async fn next(&mut self) -> Result<Events, StreamEnd> {
        loop {
            let advanced = match &mut self.state {
                State::Closed => {
                    self.state = State::Opening(Box::pin(open(self.client.clone(), self.topics.clone(), self.after)));
                    continue;
                }
                State::Opening(opening) => match opening.await {
                    Ok(open) => {
                        self.state = State::Open(Box::new(open));
                        continue;
                    }
                    Err(error) => Err(StreamEnd::Failed(error)),
                },
                State::Open(open) => open.line().await,
                State::Ended(end) => return Err(end.clone()),
            };
            let transport = &self.client.transport;
            let events = advanced.and_then(|line| {
                let events = match line.complaint() {
                    Some(text) => Err(transport.failure(&EVENTS, 500, text)),
                    None => line.events_after(self.after, &EVENTS),
                };
                events.map_err(StreamEnd::Failed)
            });
            match events {
                Ok(events) => {
                    self.last = self.last.max(events.index);
                    return Ok(events);
                }
                // Gives the connection back.
                Err(end) => self.state = State::Ended(end),
            }
        }
    }

    /// Of the last events, or what the stream began after: where the next stream is to begin.
    pub fn last_index(&self) -> u64 {
        self.last
    }
}

async fn open(client: Client, topics: Vec<String>, after: u64) -> Result<Open, ApiError> {
    let transport = &client.transport;
    let mut request = Request::get(EVENTS, &["event", "stream"]).with("index", after.to_string());
    for topic in topics {
        request = request.with("topic", topic);
    }
    let opened = timeout_at(Instant::now() + transport.timeout, async {
        let permit = transport.permit().await;
        Ok((transport.send(&request).await?, permit))
    });
    let timed_out =
        |_| Err(ApiError::TimedOut { call: EVENTS.name, after: transport.timeout, may_have_applied: false });
    let opened = opened.await.unwrap_or_else(timed_out);
    transport.tally.add(EVENTS.name, &opened);
    let (response, permit) = opened?;
    Ok(Open { response, lines: Lines::default(), greeted: false, heard_at: Instant::now(), _permit: permit })
}

impl Open {
    async fn line(&mut self) -> Result<Line, StreamEnd> {
        loop {
            match self.lines.next() {
                Ok(Some(line)) => {
                    self.greeted = true;
                    return Ok(Line(line));
                }
                Ok(None) => {}
                Err(too_long) => return Err(StreamEnd::Failed(EVENTS.malformed(too_long))),
            }
            let deadline = self.heard_at + if self.greeted { SILENCE_TIMEOUT } else { GREETING_TIMEOUT };
            match timeout_at(deadline, self.response.chunk()).await {
                Ok(Ok(Some(bytes))) => {
                    self.heard_at = Instant::now();
                    self.lines.push(&bytes);
                }
                // A last line without an end was cut.
                Ok(Ok(None)) if self.greeted => return Err(StreamEnd::Closed),
                // Nomad closes a stream that it has refused once it comes across it.
                Ok(Ok(None)) => return Err(StreamEnd::Refused),
                Ok(Err(_)) => return Err(StreamEnd::Closed),
                Err(_) if self.greeted => return Err(StreamEnd::Silent),
                Err(_) => return Err(StreamEnd::Refused),
            }
        }
    }
}
