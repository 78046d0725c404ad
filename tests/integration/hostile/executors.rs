//! The agent, facing whoever reaches it: without its token, and with it.

use std::{cell::Cell, time::Duration};

use hyper_util::rt::TokioIo;
use proptest::{collection::vec, prelude::*};
use prost::Message as _;
use tokio::{
    net::UnixStream,
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};
use tool_executor::{
    id::{CallNumber, ContainerId, Generation, Opening, Tenant, TrajectoryId, TrajectoryKey},
    pb::sandbox::{
        Argv, AssignSlot, Attach, CancelCall, GrantOutput, LinkRequest, LinkResponse, Process, ReadFile, ReleaseSlot,
        Request, Requests, ResetSlot, RunCall, SendInput, WriteFile, link_request, process, request, run_call,
    },
    sandbox::client::{ConnectError, Connected, LinkEvent, LinkOptions, SlotEvent, SlotHandle, connect},
    tool::job::{End, Exit, Job, Order, OutputLimits, Process as SlotProcess, Program},
};

use super::{
    bed::{MEMORY, cases, never_panicked, runtime},
    mutate::mutated,
    values::{arguments, data, duration, number, script, small, text},
};
use crate::support::{
    agent::{Agent, TOKEN, endpoint},
    client::PATIENCE,
    raw,
};

const LINK: &str = "/sandbox.v1.SandboxService/Link";
const SLOTS: u32 = 2;
/// For what comes after the last message.
const LISTEN: Duration = Duration::from_millis(60);

#[test]
fn an_agent_survives_executors_that_talk_nonsense() {
    let runtime = runtime();
    let epoch = Cell::new(0);
    let (kept, all, served) = (Cell::new(None), Cell::new(0), Cell::new(0));
    cases(32, &vec(message(), 0..8), |messages| {
        runtime.block_on(async {
            let agent = kept.take().unwrap_or_else(|| Agent::start(SLOTS));
            let hostile = Attach { token: TOKEN.to_owned(), epoch: epoch.get() + 1, ..Attach::default() };
            let attach = link_request::Message::Attach(hostile);
            let first = LinkRequest { message: Some(attach) }.encode_to_vec();
            converse(&agent, [vec![first], messages].concat(), LISTEN).await;
            never_panicked(&agent.log());
            assert!(agent.peak_memory() < MEMORY, "it has had {} MiB", agent.peak_memory() >> 20);
            epoch.set(epoch.get() + 2);
            // Unless it was told to end, or to obey a later executor, by one that has its token.
            if serves(&agent, epoch.get()).await {
                kept.set(Some(agent));
                served.set(served.get() + 1);
            }
            all.set(all.get() + 1);
        });
    });
    assert!(served.get() * 2 > all.get(), "few say that: {} of {}", all.get() - served.get(), all.get());
}

#[test]
fn whoever_has_no_token_is_told_so() {
    let runtime = runtime();
    let agent = runtime.block_on(async { Agent::start(SLOTS) });
    let fields = (text(), number(), text(), number(), small());
    let attach = fields.prop_map(|(executor_id, epoch, token, events_received, version)| {
        let attach = Attach { executor_id, epoch, token, events_received, version };
        LinkRequest { message: Some(link_request::Message::Attach(attach)) }.encode_to_vec()
    });
    let first = prop_oneof![mutated(attach), vec(any::<u8>(), 0..64)];
    cases(64, &(first, vec(message(), 0..4)), |(first, rest)| {
        runtime.block_on(async {
            let status = converse(&agent, [vec![first], rest].concat(), PATIENCE).await.expect("it is refused");
            let expected = [Code::Unauthenticated, Code::InvalidArgument];
            assert!(expected.contains(&status.code()), "{status:?}");
        });
    });
    never_panicked(&agent.log());
    assert!(runtime.block_on(serves(&agent, 1)), "it obeys none of them");
}

/// How it ended; none, if it would go on.
async fn converse(agent: &Agent, messages: Vec<Vec<u8>>, listen: Duration) -> Option<Status> {
    let (requests, receiver) = mpsc::channel(messages.len().max(1));
    for message in messages {
        requests.try_send(message).expect("there is room");
    }
    let talk = async {
        let mut responses = raw::stream(channel(agent).await, LINK, ReceiverStream::new(receiver)).await?;
        while let Some(response) = responses.next().await {
            LinkResponse::decode(&*response?).expect("a response");
        }
        Ok(())
    };
    let ended = timeout(listen, talk).await;
    drop(requests);
    ended.ok()?.err()
}

pub(super) async fn channel(agent: &Agent) -> Channel {
    let socket = agent.socket();
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let agent = tonic::transport::Endpoint::from_static("http://agent");
    agent.connect_with_connector(connect).await.expect("the agent is there")
}

/// As a good executor.
pub(super) async fn attach(agent: &Agent, epoch: u64) -> Result<Connected, ConnectError> {
    let options = LinkOptions {
        executor_id: "executor".to_owned(),
        epoch,
        max_batch_size: 64,
        agent_grace: PATIENCE,
        superseded: CancellationToken::new(),
    };
    let deadline = Instant::now() + Duration::from_secs(if agent.is_running() { 20 } else { 0 });
    connect(ContainerId::new("container"), endpoint(agent.socket()), options, deadline, &[]).await
}

/// Whether it obeys a good executor, which then finds everything in order.
async fn serves(agent: &Agent, epoch: u64) -> bool {
    let Connected { link, attached, mut events, .. } = match attach(agent, epoch).await {
        Ok(connected) => connected,
        Err(ConnectError::Forbidden(_)) => return false,
        Err(_) if !agent.is_running() => return false,
        Err(error) => panic!("{error:?}"),
    };
    for slot in &attached.used {
        link.release(slot.slot, false);
        until_ready(&mut events, slot.slot).await;
    }
    let id = TrajectoryId::parse("good").expect("it is an id");
    let owner = TrajectoryKey { tenant: Tenant::anonymous(), id };
    for slot in 0..SLOTS {
        let mut held = link.assign(slot, &owner, Generation(1), Opening(1));
        assert_eq!(echo(&mut held).await, "well\n");
        link.release(slot, false);
        until_ready(&mut events, slot).await;
    }
    link.lose(&std::sync::Arc::default());
    true
}

/// What others have asked for may still be answered before that.
async fn until_ready(events: &mut mpsc::UnboundedReceiver<LinkEvent>, slot: u32) {
    loop {
        match timeout(PATIENCE, events.recv()).await.expect("an event in time") {
            Some(LinkEvent::SlotReady { slot: ready, kept: false }) if ready == slot => return,
            Some(LinkEvent::SlotReady { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

pub(super) async fn echo(slot: &mut SlotHandle) -> String {
    let process = SlotProcess { program: Program::Shell("echo well".to_owned()), ..SlotProcess::default() };
    let order = Order {
        job: Job::Process(process),
        timeout: PATIENCE,
        limits: OutputLimits::default(),
        stream_output: false,
        max_pending_input: 0,
    };
    // Of none that others have used: what they ran may still be answered.
    let number = CallNumber(fastrand::u64(1_000..u64::MAX - 1_000));
    slot.run(number, order);
    loop {
        let ending = match timeout(PATIENCE, slot.next()).await.expect("an event in time") {
            SlotEvent::Ended { call, ending, .. } if call == number => ending,
            SlotEvent::Ended { .. } | SlotEvent::Output { .. } | SlotEvent::SlotLost { .. } | SlotEvent::Reset => {
                continue;
            }
            other => panic!("{other:?}"),
        };
        match ending.end {
            End::Process(end) if end.exit == Exit::Code(0) => {
                return String::from_utf8_lossy(&end.stdout.head).into_owned();
            }
            other => panic!("{other:?}"),
        }
    }
}

/// What may follow `attach`.
fn message() -> BoxedStrategy<Vec<u8>> {
    let requests = || {
        (prop_oneof![2 => Just(1), 1 => number()], vec(request(), 0..8), number()).prop_map(
            |(first, requests, events_acknowledged)| {
                let requests = Requests { first, requests, events_acknowledged };
                LinkRequest { message: Some(link_request::Message::Requests(requests)) }.encode_to_vec()
            },
        )
    };
    prop_oneof![6 => requests(), 3 => mutated(requests()), 1 => vec(any::<u8>(), 0..64)].boxed()
}

fn request() -> BoxedStrategy<Request> {
    use request::Request as Kind;
    let slot = || prop_oneof![8 => 0..SLOTS, 1 => small()];
    let call = || prop_oneof![4 => 1..3_u64, 1 => number()];
    let kind = prop_oneof![
        4 => (slot(), text(), number(), number()).prop_map(|(slot, owner, generation, opening)| Kind::Assign(AssignSlot { slot, owner, generation, opening })),
        6 => (slot(), call(), run()).prop_map(|(slot, call, run)| Kind::Run(RunCall { slot, call, ..run })),
        2 => (slot(), call(), data(), any::<bool>(), any::<bool>()).prop_map(|(slot, call, data, end_of_file, over_limit)| {
            Kind::Input(SendInput { slot, call, data, end_of_file, over_limit })
        }),
        1 => (slot(), call()).prop_map(|(slot, call)| Kind::Cancel(CancelCall { slot, call })),
        1 => (slot(), call(), small()).prop_map(|(slot, call, bytes)| Kind::GrantOutput(GrantOutput { slot, call, bytes })),
        1 => (slot(), number()).prop_map(|(slot, generation)| Kind::Reset(ResetSlot { slot, generation })),
        2 => (slot(), any::<bool>()).prop_map(|(slot, keep)| Kind::Release(ReleaseSlot { slot, keep })),
    ];
    prop::option::weighted(0.95, kind).prop_map(|request| Request { request }).boxed()
}

/// In a slot, and by a call, to be named.
fn run() -> BoxedStrategy<RunCall> {
    let process = process().prop_map(run_call::Job::Process);
    let read = (text(), number()).prop_map(|(path, max_bytes)| run_call::Job::ReadFile(ReadFile { path, max_bytes }));
    let write = (text(), data()).prop_map(|(path, content)| run_call::Job::WriteFile(WriteFile { path, content }));
    let job = prop::option::weighted(0.95, prop_oneof![4 => process, 1 => read, 1 => write]);
    (job, duration(), small(), small(), any::<bool>(), small())
        .prop_map(|(job, timeout, head_bytes, tail_bytes, stream_output, max_pending_input_bytes)| RunCall {
            job,
            timeout,
            head_bytes,
            tail_bytes,
            stream_output,
            max_pending_input_bytes,
            ..RunCall::default()
        })
        .boxed()
}

fn process() -> BoxedStrategy<Process> {
    let program = prop_oneof![
        3 => script().prop_map(process::Program::Shell),
        1 => arguments().prop_map(|arguments| process::Program::Argv(Argv { arguments })),
    ];
    let directory = prop_oneof![4 => Just(String::new()), 1 => text()];
    let environment = prop::collection::hash_map(text(), text(), 0..3);
    (prop::option::weighted(0.95, program), directory, environment, data(), any::<bool>())
        .prop_map(|(program, working_directory, environment, stdin, interactive)| Process {
            program,
            working_directory,
            environment,
            stdin,
            interactive,
        })
        .boxed()
}
