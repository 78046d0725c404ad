//! What is kept of requests, and for how long.

use tokio::time::timeout;
use tonic::Code;
use tool_executor::{
    id::CallNumber,
    pb::sandbox::{AssignSlot, CancelCall, request::Request},
    sandbox::client::SlotEvent,
    tool::job::{End, Ending, Exit, Order, Stop},
};

use super::{
    bed::{assign, attach, end_of, interactive, next, output_of, run, shell},
    raw::Raw,
};
use crate::support::{agent::Agent, client::PATIENCE, proxy::Proxy};

#[tokio::test(flavor = "multi_thread")]
async fn a_single_request_is_acknowledged_soon() {
    let agent = Agent::start(1);
    let mut peer = Raw::attach(&agent, 1).await.expect("it attaches");
    peer.send(vec![Request::Assign(AssignSlot { owner: "owner".to_owned(), ..AssignSlot::default() })]).await;
    let acknowledged = async {
        while peer.requests_received < 1 {
            peer.receive().await;
        }
    };
    timeout(PATIENCE, acknowledged).await.expect("it is acknowledged, though nothing answers it");
}

/// Nothing is left out in silence: a gap ends the connection, and a reconnect sends it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_ends_the_connection() {
    let agent = Agent::start(1);
    let mut peer = Raw::attach(&agent, 1).await.expect("it attaches");
    peer.skip(1);
    peer.send(vec![Request::Cancel(CancelCall::default())]).await;
    assert_eq!(peer.end().await.code(), Code::DataLoss);
    assert_eq!(Raw::attach(&agent, 1).await.expect("it attaches").attached.requests_received, 0);
}

/// An executor keeps no more of a call's input than a little, however long the agent hears nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn input_that_cannot_be_brought_to_the_agent_has_a_limit() {
    const PIECE: usize = 64 << 10;
    let agent = Agent::start(1);
    let proxy = Proxy::start(&agent.socket());
    let connected = attach(proxy.path()).await;
    let mut slot = assign(&connected.link, 0);

    // What is read costs nothing, however much it is.
    let (limit, pieces) = (256 << 10, 96);
    let order = |script: &str| Order { max_pending_input: limit, stream_output: true, ..interactive(script) };
    slot.run(CallNumber(1), order(&format!("for i in $(seq {pieces}); do head -c {PIECE} | wc -c; done")));
    for _ in 0..pieces {
        slot.input(CallNumber(1), vec![0; PIECE].into(), false);
        output_of(&mut slot).await;
    }
    let end = end_of(&mut slot, 1).await;
    assert_eq!((end.exit, end.stop), (Exit::Code(0), None));
    assert_eq!(&end.stdout.head[..], format!("{PIECE}\n").repeat(pieces).as_bytes());

    slot.run(CallNumber(2), order("echo started; exec wc -c"));
    output_of(&mut slot).await;
    proxy.refuse();
    proxy.cut();
    for _ in 0..pieces {
        slot.input(CallNumber(2), vec![0; PIECE].into(), false);
    }
    proxy.go_on();
    assert_eq!(end_of(&mut slot, 2).await.stop, Some(Stop::InputLimit));
}

/// It would break the link each time that it was sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_too_large_is_answered_and_the_link_lives() {
    let agent = Agent::start(1);
    let proxy = Proxy::start(&agent.socket());
    let connected = attach(proxy.path()).await;
    let mut slot = assign(&connected.link, 0);
    slot.run(CallNumber(1), shell(&" ".repeat(64 << 20)));
    match next(&mut slot).await {
        SlotEvent::Ended { call: CallNumber(1), ending: Ending { end: End::NotRun(_), .. }, .. } => {}
        other => panic!("{other:?}"),
    }
    // The largest that go are the kernel's to refuse.
    slot.run(CallNumber(2), shell(&" ".repeat(63 << 20)));
    match next(&mut slot).await {
        SlotEvent::Ended { call: CallNumber(2), ending: Ending { end: End::NotStarted { .. }, .. }, .. } => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(run(&mut slot, 3, shell("true")).await.exit, Exit::Code(0));
    assert_eq!(proxy.connections(), 1);
}
