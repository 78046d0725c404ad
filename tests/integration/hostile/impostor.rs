//! An agent that says what a test has written for it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{Router, body::Body, extract::Request, http::Response, serve::Listener};
use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*};
use prost::Message as _;
use tokio::{
    sync::mpsc,
    time::{Duration, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, server::Grpc};
use tool_executor::pb::sandbox::{
    AgentFailure, Artifact, ArtifactPage, Attached, CallEnded, CallLost, CallOutput, Captured, Event, Events, Exceeded,
    FileFailure, LastAssignment, LinkRequest, LinkResponse, ProcessEnd, SlotLimit, SlotLost, SlotQuarantined,
    SlotReady, SlotSnapshot, StartFailure, TransferFailure, TransferResponse, TransferSummary, call_ended, event,
    link_request, link_response, process_end, request, transfer_response,
};

use super::{
    mutate::mutated,
    values::{data, duration, integer, number, small, text},
};
use crate::support::raw::Raw;

/// For a call to come, after which the rest is said.
const PATIENCE: Duration = Duration::from_millis(300);
/// For what was said last to be heard before the link ends.
const LAST: Duration = Duration::from_millis(20);

/// What is said on a link, which then ends. The next one is refused for good.
#[derive(Debug, Clone)]
pub(super) struct Speech {
    pub(super) attached: Attached,
    /// In place of that.
    pub(super) greeting: Option<Vec<u8>>,
    pub(super) rest: Vec<Said>,
    /// What is said in each transfer of files, in turn. The link stays until there is none left.
    pub(super) transfers: VecDeque<Vec<Vec<u8>>>,
}

#[derive(Debug, Clone)]
pub(super) enum Said {
    /// Without a number, they have the one that is due.
    Events {
        first: Option<u64>,
        events: Vec<Event>,
        requests_received: u64,
    },
    Bytes(Vec<u8>),
}

/// What has not been said yet.
struct Script {
    link: Mutex<Option<Speech>>,
    transfers: Mutex<VecDeque<Vec<Vec<u8>>>>,
}

impl Script {
    fn transfers(&self) -> MutexGuard<'_, VecDeque<Vec<Vec<u8>>>> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens until it is dropped.
pub(super) async fn listen(listener: impl Listener<Addr: std::fmt::Debug>, mut speech: Speech) {
    let transfers = Mutex::new(std::mem::take(&mut speech.transfers));
    let script = Arc::new(Script { link: Mutex::new(Some(speech)), transfers });
    let answer = move |request: Request| answer(request, script.clone());
    axum::serve(listener, Router::new().fallback(answer)).await.expect("it listens");
}

async fn answer(request: Request, script: Arc<Script>) -> Response<Body> {
    let is_transfer = request.uri().path().ends_with("/Transfer");
    let service = tower::service_fn(move |request: tonic::Request<Streaming<Vec<u8>>>| {
        let script = script.clone();
        async move {
            let (responses, receiver) = mpsc::channel(16);
            let over = || Status::unauthenticated("all has been said");
            if is_transfer {
                let said = script.transfers().pop_front().ok_or_else(over)?;
                tokio::spawn(transfer(request.into_inner(), said, responses));
            } else {
                let speech = script.link.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(over)?;
                tokio::spawn(speech.give(request.into_inner(), responses, script));
            }
            Ok(tonic::Response::new(ReceiverStream::new(receiver)))
        }
    });
    let mut grpc = Grpc::new(Raw).apply_max_message_size_config(Some(64 << 20), Some(64 << 20));
    grpc.streaming(service, request).await.map(Body::new)
}

async fn transfer(
    mut requests: Streaming<Vec<u8>>,
    said: Vec<Vec<u8>>,
    responses: mpsc::Sender<Result<Vec<u8>, Status>>,
) {
    let _ = requests.message().await;
    for bytes in said {
        // An executor that hangs up has heard enough.
        let _ = responses.send(Ok(bytes)).await;
    }
}

impl Speech {
    async fn give(
        self,
        mut requests: Streaming<Vec<u8>>,
        responses: mpsc::Sender<Result<Vec<u8>, Status>>,
        script: Arc<Script>,
    ) {
        let _ = requests.message().await;
        let mut next = self.attached.events_acknowledged.wrapping_add(1);
        let greeting = self.greeting.unwrap_or_else(|| encoded(link_response::Message::Attached(self.attached)));
        // An executor that hangs up has heard enough.
        let _ = responses.send(Ok(greeting)).await;
        let called = async {
            while let Ok(Some(bytes)) = requests.message().await {
                if has_call(&bytes) {
                    return;
                }
            }
        };
        let _ = timeout(PATIENCE, called).await;
        for said in self.rest {
            let bytes = match said {
                Said::Bytes(bytes) => bytes,
                Said::Events { first, events, requests_received } => {
                    let first = first.unwrap_or(next);
                    next = next.wrapping_add(events.len() as u64);
                    encoded(link_response::Message::Events(Events { first, events, requests_received }))
                }
            };
            let _ = responses.send(Ok(bytes)).await;
        }
        while !script.transfers().is_empty() && !responses.is_closed() {
            sleep(LAST).await;
        }
        sleep(LAST).await;
    }
}

pub(super) fn encoded(message: link_response::Message) -> Vec<u8> {
    LinkResponse { message: Some(message) }.encode_to_vec()
}

fn has_call(bytes: &[u8]) -> bool {
    match LinkRequest::decode(bytes).map(|request| request.message) {
        Ok(Some(link_request::Message::Requests(requests))) => {
            requests.requests.iter().any(|request| matches!(request.request, Some(request::Request::Run(_))))
        }
        _ => false,
    }
}

/// As an agent says it that is what it should be.
pub(super) fn attached(container: &str, slots: usize) -> Attached {
    Attached {
        container_id: container.to_owned(),
        isolation: "L0".to_owned(),
        version: 1,
        slots: vec![SlotSnapshot { state: 1, ..SlotSnapshot::default() }; slots],
        ..Attached::default()
    }
}

/// One of this container that may be anything else.
pub(super) fn odd_attached(container: &'static str) -> BoxedStrategy<Attached> {
    let calls = || vec(number(), 0..3);
    let last = (text(), number(), number()).prop_map(|(owner, generation, opening)| LastAssignment {
        owner,
        generation,
        opening,
    });
    let last = option::of(last);
    let slot = (integer(), text(), number(), calls(), calls(), number(), number(), last).prop_map(
        |(state, owner, generation, running_calls, ended_calls, last_event, events_of_others, last_assignment)| {
            SlotSnapshot {
                state,
                owner,
                generation,
                running_calls,
                ended_calls,
                last_event,
                events_of_others,
                last_assignment,
            }
        },
    );
    let limit = (text(), long(), text()).prop_map(|(name, value, mechanism)| SlotLimit { name, value, mechanism });
    let version = prop_oneof![9 => Just(1), 1 => small()];
    let name = prop_oneof![9 => Just(container.to_owned()), 1 => text()];
    (name, text(), number(), vec(slot, 0..4), number(), version, vec(limit, 0..3))
        .prop_map(|(container_id, isolation, requests_received, slots, events_acknowledged, version, limits)| {
            Attached {
                container_id,
                isolation,
                network_isolated: false,
                requests_received,
                slots,
                events_acknowledged,
                version,
                limits,
            }
        })
        .boxed()
}

pub(super) fn said() -> BoxedStrategy<Said> {
    let first = prop_oneof![4 => Just(None), 1 => number().prop_map(Some)];
    let received = prop_oneof![3 => Just(2), 1 => number()];
    let events = (first, vec(event(), 0..4), received).prop_map(|(first, events, requests_received)| Said::Events {
        first,
        events,
        requests_received,
    });
    let bytes = (number(), vec(event(), 0..4)).prop_map(|(first, events)| {
        encoded(link_response::Message::Events(Events { first, events, requests_received: 2 }))
    });
    prop_oneof![
        4 => events,
        1 => mutated(bytes).prop_map(Said::Bytes),
        1 => vec(any::<u8>(), 0..32).prop_map(Said::Bytes),
    ]
    .boxed()
}

/// Mostly of what there is: slot 0 and call 1.
fn event() -> BoxedStrategy<Event> {
    let slot = || prop_oneof![6 => Just(0), 1 => small()];
    let call = || prop_oneof![6 => Just(1), 1 => number()];
    let output = (slot(), call(), any::<bool>(), number(), data()).prop_map(|(slot, call, is_stderr, offset, data)| {
        event::Event::Output(CallOutput { slot, call, is_stderr, offset, data })
    });
    let ended = (slot(), call(), prop::option::weighted(0.95, end()), duration(), duration(), duration()).prop_map(
        |(slot, call, end, dispatch, execution, collection)| {
            event::Event::Ended(CallEnded { slot, call, end, dispatch, execution, collection })
        },
    );
    let ready = (slot(), any::<bool>(), any::<bool>())
        .prop_map(|(slot, released, kept)| event::Event::Ready(SlotReady { slot, released, kept }));
    let lost = (slot(), long()).prop_map(|(slot, cause)| event::Event::Lost(SlotLost { slot, cause }));
    let quarantined =
        (slot(), long()).prop_map(|(slot, cause)| event::Event::Quarantined(SlotQuarantined { slot, cause }));
    let event = prop_oneof![3 => output, 6 => ended, 1 => ready, 1 => lost, 1 => quarantined];
    prop::option::weighted(0.95, event).prop_map(|event| Event { event }).boxed()
}

/// Of one transfer: mostly what makes sense one by one.
pub(super) fn transfer_said() -> BoxedStrategy<Vec<Vec<u8>>> {
    let typed = || piece().prop_map(|message| TransferResponse { message }.encode_to_vec());
    let said = prop_oneof![6 => typed(), 2 => mutated(typed()), 1 => vec(any::<u8>(), 0..32)];
    vec(said, 0..5).boxed()
}

fn piece() -> BoxedStrategy<Option<transfer_response::Message>> {
    use transfer_response::Message;
    let failure = (integer(), long()).prop_map(|(kind, message)| Message::Failure(TransferFailure { kind, message }));
    let page = (vec(artifact(), 0..4), any::<bool>())
        .prop_map(|(artifacts, more)| Message::Page(ArtifactPage { artifacts, more }));
    let summary = (number(), number(), long(), any::<bool>()).prop_map(|(bytes, entries, sha256, truncated)| {
        Message::Summary(TransferSummary { bytes, entries, sha256, truncated })
    });
    let message = prop_oneof![
        3 => artifact().prop_map(Message::Artifact),
        3 => data().prop_map(Message::Chunk),
        2 => summary,
        2 => failure,
        2 => page,
    ];
    prop::option::weighted(0.95, message).boxed()
}

fn artifact() -> impl Strategy<Value = Artifact> {
    let seconds = number().prop_map(u64::cast_signed);
    (data(), any::<bool>(), number(), seconds, small(), small(), long()).prop_map(
        |(path, is_directory, size, modified_seconds, modified_nanos, mode, media_type)| Artifact {
            path,
            is_directory,
            size,
            modified_seconds,
            modified_nanos,
            mode,
            media_type,
        },
    )
}

/// Longer than a result may be, now and then.
fn long() -> impl Strategy<Value = String> {
    prop_oneof![4 => text(), 1 => Just("cause ".repeat(1 << 20))]
}

fn end() -> BoxedStrategy<call_ended::End> {
    use call_ended::End;
    let exceeded = (integer(), text(), text(), long()).prop_map(|(kind, setting, value, evidence)| Exceeded {
        kind,
        setting,
        value,
        evidence,
    });
    let exceeded = prop::option::weighted(0.2, exceeded);
    let rss = prop::option::of(number());
    let process = (exit(), integer(), captured(), captured(), duration(), duration(), rss, exceeded).prop_map(
        |(exit, stop, stdout, stderr, user_cpu, system_cpu, max_rss_bytes, exceeded)| {
            End::Process(ProcessEnd { exit, stop, stdout, stderr, user_cpu, system_cpu, max_rss_bytes, exceeded })
        },
    );
    let file = (integer(), number(), long())
        .prop_map(|(kind, size, message)| End::FileFailure(FileFailure { kind, size, message }));
    prop_oneof![
        6 => process,
        1 => (integer(), long()).prop_map(|(kind, message)| End::StartFailure(StartFailure { kind, message })),
        1 => data().prop_map(End::Content),
        1 => number().prop_map(End::Written),
        1 => file,
        1 => long().prop_map(End::NotRun),
        1 => (long(), any::<bool>()).prop_map(|(cause, ran)| End::SlotLost(CallLost { cause, ran })),
        1 => (long(), integer()).prop_map(|(cause, executed)| End::AgentFailure(AgentFailure { cause, executed })),
    ]
    .boxed()
}

fn exit() -> BoxedStrategy<Option<process_end::Exit>> {
    let exit =
        prop_oneof![integer().prop_map(process_end::Exit::ExitCode), integer().prop_map(process_end::Exit::Signal),];
    prop::option::weighted(0.95, exit).boxed()
}

fn captured() -> BoxedStrategy<Option<Captured>> {
    let much = || prop_oneof![6 => data(), 1 => Just(Bytes::from(vec![0xff; 5 << 20]))];
    let captured =
        (much(), much(), number()).prop_map(|(head, tail, total_bytes)| Captured { head, tail, total_bytes });
    prop::option::weighted(0.9, captured).boxed()
}
