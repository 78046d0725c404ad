//! Short ways to attach to an agent and to run things in its slots.

use std::{path::PathBuf, time::Duration};

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tool_executor::{
    id::{CallNumber, ContainerId, Generation, Opening, Tenant, TrajectoryId, TrajectoryKey},
    sandbox::client::{
        ConnectError, Connected, Endpoint, Link, LinkEvent, LinkOptions, SlotEvent, SlotHandle, connect,
    },
    tool::job::{End, Job, Order, OutputLimits, Process, ProcessEnd, Program},
};

use crate::support::{agent::endpoint, client::PATIENCE};

pub(super) fn options() -> LinkOptions {
    LinkOptions {
        executor_id: "executor".to_owned(),
        epoch: 1,
        max_batch_size: 64,
        agent_grace: Duration::from_secs(20),
        superseded: CancellationToken::new(),
    }
}

pub(super) async fn try_attach(endpoint: Endpoint, options: LinkOptions) -> Result<Connected, ConnectError> {
    connect(ContainerId::new("container"), endpoint, options, Instant::now() + PATIENCE, &[]).await
}

pub(super) async fn attach(socket: PathBuf) -> Connected {
    try_attach(endpoint(socket), options()).await.expect("the agent takes the executor")
}

pub(super) fn owner(slot: u32) -> TrajectoryKey {
    let id = TrajectoryId::parse(&format!("trajectory-{slot}")).expect("it is an id");
    TrajectoryKey { tenant: Tenant::anonymous(), id }
}

pub(super) fn assign(link: &Link, slot: u32) -> SlotHandle {
    link.assign(slot, &owner(slot), Generation(1), Opening(1))
}

fn process(process: Process) -> Order {
    Order {
        job: Job::Process(process),
        timeout: PATIENCE,
        limits: OutputLimits::default(),
        stream_output: false,
        max_pending_input: 1 << 20,
    }
}

pub(super) fn shell(script: &str) -> Order {
    process(Process { program: Program::Shell(script.to_owned()), ..Process::default() })
}

/// A call whose input stays open.
pub(super) fn interactive(script: &str) -> Order {
    process(Process { program: Program::Shell(script.to_owned()), interactive: true, ..Process::default() })
}

pub(super) async fn next(slot: &mut SlotHandle) -> SlotEvent {
    timeout(PATIENCE, slot.next()).await.expect("an event in time")
}

/// The end of the one process that runs; live output is passed over.
pub(super) async fn end_of(slot: &mut SlotHandle, number: u64) -> ProcessEnd {
    loop {
        match next(slot).await {
            SlotEvent::Output { .. } => {}
            SlotEvent::Ended { call, ending, .. } if call == CallNumber(number) => match ending.end {
                End::Process(end) => return end,
                other => panic!("call {number} ended so: {other:?}"),
            },
            other => panic!("waiting for the end of call {number}: {other:?}"),
        }
    }
}

pub(super) async fn run(slot: &mut SlotHandle, number: u64, order: Order) -> ProcessEnd {
    slot.run(CallNumber(number), order);
    end_of(slot, number).await
}

/// Waits until a call that streams has said something.
pub(super) async fn output_of(slot: &mut SlotHandle) {
    match next(slot).await {
        SlotEvent::Output { .. } => {}
        other => panic!("waiting for output: {other:?}"),
    }
}

pub(super) async fn link_event(connected: &mut Connected) -> LinkEvent {
    timeout(PATIENCE, connected.events.recv()).await.expect("an event in time").expect("the link is watched over")
}
