//! What a line of the stream says.

use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::super::{
    call::Call,
    error::ApiError,
    model::{Allocation, Evaluation, Job, NodeStub},
};

/// What one line says: nothing new, or all that one entry of Nomad's log has changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Events {
    /// 0 of a sign of life.
    pub index: u64,
    pub events: Vec<Event>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `Allocation`, `Node`, `Evaluation`, `Job` or another.
    pub topic: String,
    /// `PlanResult`, `AllocationUpdated` and the like.
    pub kind: String,
    /// The ID of what has changed.
    pub key: String,
    pub index: u64,
    pub payload: Payload,
}

/// What has changed, as it is now.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// Without its job.
    Allocation(Box<Allocation>),
    Node(Box<NodeStub>),
    Evaluation(Box<Evaluation>),
    Job(Box<Job>),
    /// Of another topic, or not to be understood.
    Other,
}

/// As it came.
pub(super) struct Line(pub(super) Bytes);

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct WireLine {
    index: u64,
    events: Option<Vec<WireEvent>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct WireEvent {
    topic: String,
    r#type: String,
    key: String,
    index: u64,
    payload: Value,
}

impl Line {
    /// Where a stream breaks off, Nomad may say why, in plain text.
    pub(super) fn complaint(&self) -> Option<&[u8]> {
        Some(self.0.trim_ascii()).filter(|text| !text.starts_with(b"{"))
    }

    /// What is new in it.
    pub(super) fn events_after(&self, last: u64, call: &Call) -> Result<Events, ApiError> {
        let WireLine { index, events } = call.decode(&self.0)?;
        let events = events.unwrap_or_default().into_iter().filter(|event| event.index > last).map(Event::from);
        Ok(Events { index, events: events.collect() })
    }
}

impl From<WireEvent> for Event {
    fn from(WireEvent { topic, r#type, key, index, mut payload }: WireEvent) -> Self {
        let payload = match topic.as_str() {
            "Allocation" => take(&mut payload, &topic).map(Payload::Allocation),
            "Node" => take(&mut payload, &topic).map(Payload::Node),
            "Evaluation" => take(&mut payload, &topic).map(Payload::Evaluation),
            "Job" => take(&mut payload, &topic).map(Payload::Job),
            _ => None,
        };
        Self { topic, kind: r#type, key, index, payload: payload.unwrap_or(Payload::Other) }
    }
}

fn take<T: DeserializeOwned>(payload: &mut Value, topic: &str) -> Option<Box<T>> {
    serde_json::from_value(payload.get_mut(topic)?.take()).ok()
}

#[cfg(test)]
mod tests {
    use super::{super::EVENTS, *};

    fn events(line: &'static str, last: u64) -> Result<Events, ApiError> {
        Line(Bytes::from_static(line.as_bytes())).events_after(last, &EVENTS)
    }

    #[test]
    fn what_was_seen_is_dropped() {
        const LINE: &str = r#"{"Index":7,"Events":[{"Topic":"Job","Index":6},{"Topic":"Job","Index":7}]}"#;
        let count = |last| events(LINE, last).expect("events").events.len();
        assert_eq!([count(5), count(6), count(7)], [2, 1, 0]);
    }

    #[test]
    fn what_is_not_understood_does_no_harm() {
        let payload = |line| events(line, 0).expect("events").events.remove(0).payload;
        assert_eq!(payload(r#"{"Events":[{"Topic":"Weather","Index":1,"Payload":{"Weather":1}}]}"#), Payload::Other);
        assert_eq!(payload(r#"{"Events":[{"Topic":"Node","Index":1,"Payload":{"Node":3}}]}"#), Payload::Other);
        assert_eq!(payload(r#"{"Events":[{"Topic":"Node","Index":1,"Payload":null}]}"#), Payload::Other);
        assert_eq!(events("{}", 3), Ok(Events::default()));
        assert_eq!(events(r#"{"Index":4,"Events":null}"#, 3), Ok(Events { index: 4, events: vec![] }));
    }

    #[test]
    fn a_line_that_is_no_event_says_what_is_wrong() {
        assert_eq!(Line(Bytes::from_static(b"EOF\n")).complaint(), Some(&b"EOF"[..]));
        assert_eq!(Line(Bytes::from_static(b"{}\n")).complaint(), None);
        assert!(matches!(events("{\"Index\":", 0), Err(ApiError::Malformed { .. })));
    }
}
