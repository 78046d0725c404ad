//! Whom an agent obeys, and what the next executor hears.

use std::{fs, sync::Arc};

use tokio::time::timeout;
use tonic::Code;
use tool_executor::{
    id::CallNumber,
    pb::sandbox::{RunCall, SendInput, SlotState, event, request},
    sandbox::client::{Address, ConnectError, Endpoint, LinkEvent, LinkOptions, Token},
    tool::{Evidence, job::Order},
};

use super::{
    bed::{assign, attach, link_event, options, output_of, owner, run, shell, try_attach},
    raw::Raw,
};
use crate::support::{
    agent::{Agent, endpoint},
    client::PATIENCE,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_refused_at_once() {
    let agent = Agent::start(1);
    let endpoint = Endpoint::new(Address::Unix(agent.socket()), Token::new("another"));
    let error = try_attach(endpoint, options()).await.err().expect("it is refused");
    assert!(matches!(&error, ConnectError::Forbidden(status) if status.code() == Code::Unauthenticated), "{error:?}");
    // Which leaves the agent as it was.
    attach(agent.socket()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_executor_fences_an_earlier_one() {
    let agent = Agent::start(2);
    let mut first = attach(agent.socket()).await;
    let mut slot = assign(&first.link, 0);
    let script = "echo started; until [ -e go ]; do sleep 0.01; done; echo went";
    slot.run(CallNumber(7), Order { stream_output: true, ..shell(script) });
    output_of(&mut slot).await;

    let mut second = Raw::attach(&agent, 2).await.expect("a later executor is obeyed");
    assert_eq!(link_event(&mut first).await, LinkEvent::Stale);
    let snapshots = &second.attached.slots;
    assert_eq!(snapshots[0].state(), SlotState::Assigned);
    assert_eq!(snapshots[0].owner, owner(0).to_string());
    assert_eq!(snapshots[0].running_calls, [7]);
    assert_eq!(snapshots[1].state(), SlotState::Clean);
    assert_eq!(second.attached.requests_received, 0, "its requests are numbered anew");

    let error = try_attach(endpoint(agent.socket()), options()).await.err().expect("it is stale");
    assert!(
        matches!(&error, ConnectError::Forbidden(status) if status.code() == Code::FailedPrecondition),
        "{error:?}"
    );

    // The call goes on, and its end comes to whoever is obeyed.
    fs::write(agent.workspace(0).join("go"), "").expect("the workspace can be written");
    let ended = loop {
        match second.event().await.1.event {
            Some(event::Event::Output(_)) => {}
            Some(event::Event::Ended(ended)) => break ended,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((ended.slot, ended.call), (0, 7));
}

/// The numbers of events go on from one executor to the next: a second one begins in the middle, and must let the
/// agent forget what it has dealt with all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_later_executor_acknowledges_events() {
    let agent = Agent::start(1);
    let first = attach(agent.socket()).await;
    let mut slot = assign(&first.link, 0);
    for number in 1..=5 {
        run(&mut slot, number, shell("true")).await;
    }
    first.link.lose(&Arc::new(Evidence::default()));

    let mut second =
        try_attach(endpoint(agent.socket()), LinkOptions { epoch: 2, ..options() }).await.expect("it attaches");
    second.link.release(0, false);
    assert_eq!(link_event(&mut second).await, LinkEvent::SlotReady { slot: 0, kept: false });
    let mut slot = assign(&second.link, 0);
    for number in 1..=5 {
        run(&mut slot, number, shell("true")).await;
    }
    second.link.lose(&Arc::new(Evidence::default()));
    // Each run has told of the end of the one before it.
    let mut third = Raw::attach(&agent, 3).await.expect("it attaches");
    third.send(vec![request::Request::Run(RunCall::default())]).await;
    let (number, _) = third.event().await;
    assert!(number >= 11, "the agent still keeps event {number}");
}

/// Requests that nothing answers are acknowledged, too: an executor need not keep all the input of a call.
#[tokio::test(flavor = "multi_thread")]
async fn requests_without_an_answer_are_acknowledged() {
    let agent = Agent::start(1);
    let mut peer = Raw::attach(&agent, 1).await.expect("it attaches");
    let input = || request::Request::Input(SendInput { data: vec![b'x'; 1 << 10].into(), ..SendInput::default() });
    for _ in 0..64 {
        peer.send(std::iter::repeat_with(input).take(64).collect()).await;
    }
    let acknowledged = async {
        while peer.requests_received < 32 * 64 {
            peer.receive().await;
        }
    };
    timeout(PATIENCE, acknowledged).await.expect("most of it is acknowledged");
}
