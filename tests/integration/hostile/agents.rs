//! An executor's end of the link, facing agents that do not keep to the protocol: see `cluster` for what a trainer sees
//! of it.

use std::{collections::VecDeque, time::Duration};

use proptest::{collection::vec, prelude::*};
use tempfile::TempDir;
use tokio::{
    net::UnixListener,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tool_executor::{
    id::{CallNumber, ContainerId, Generation, Opening, Tenant, TrajectoryId, TrajectoryKey},
    sandbox::client::{LinkEvent, LinkOptions, connect},
    tool::job::{Job, Order, OutputLimits, Process, Program},
};

use super::{
    bed::{cases, no_panics, runtime, watched_runtime},
    impostor::{self, Said, Speech, encoded, odd_attached, said},
    mutate::mutated,
};
use crate::support::{agent::endpoint, client::PATIENCE};

const CONTAINER: &str = "container";

#[test]
fn a_link_to_an_agent_that_talks_nonsense_ends() {
    let (ours, theirs) = (runtime(), watched_runtime());
    cases(48, &speech(), |speech| {
        let directory = TempDir::new().expect("a directory");
        let socket = directory.path().join("agent.sock");
        let listener = {
            let _ours = ours.enter();
            UnixListener::bind(&socket).expect("a socket")
        };
        let agent = ours.spawn(impostor::listen(listener, speech));
        theirs.block_on(async {
            let options = LinkOptions {
                executor_id: "executor".to_owned(),
                epoch: 1,
                max_batch_size: 64,
                agent_grace: Duration::from_millis(100),
                superseded: CancellationToken::new(),
            };
            let deadline = Instant::now() + Duration::from_millis(500);
            let linked = connect(ContainerId::new(CONTAINER), endpoint(socket), options, deadline, &[]);
            let Ok(mut linked) = timeout(PATIENCE, linked).await.expect("an end in time") else { return };
            let id = TrajectoryId::parse("trajectory").expect("it is an id");
            let owner = TrajectoryKey { tenant: Tenant::anonymous(), id };
            let mut slot = linked.link.assign(0, &owner, Generation(1), Opening(1));
            slot.run(CallNumber(1), order());
            let ended = async {
                loop {
                    tokio::select! {
                        // What came with it is acknowledged.
                        event = slot.next() => drop(event),
                        event = linked.events.recv() => match event {
                            Some(LinkEvent::SlotReady { .. } | LinkEvent::SlotQuarantined { .. }) => {}
                            Some(LinkEvent::Lost { .. } | LinkEvent::Stale) | None => return,
                        },
                    }
                }
            };
            timeout(PATIENCE, ended).await.expect("an end in time");
        });
        agent.abort();
        no_panics();
    });
}

fn order() -> Order {
    let process = Process { program: Program::Shell("cat".to_owned()), interactive: true, ..Process::default() };
    Order {
        job: Job::Process(process),
        timeout: PATIENCE,
        limits: OutputLimits::default(),
        stream_output: true,
        max_pending_input: 1 << 20,
    }
}

fn speech() -> BoxedStrategy<Speech> {
    let well = Just(impostor::attached(CONTAINER, 1));
    let attached = prop_oneof![2 => well, 3 => odd_attached(CONTAINER)];
    let message = odd_attached(CONTAINER)
        .prop_map(|attached| encoded(tool_executor::pb::sandbox::link_response::Message::Attached(attached)));
    let greeting = prop::option::weighted(0.1, prop_oneof![mutated(message), vec(any::<u8>(), 0..32)]);
    (attached, greeting, vec(said(), 0..6))
        .prop_map(|(attached, greeting, rest): (_, _, Vec<Said>)| Speech {
            attached,
            greeting,
            rest,
            transfers: VecDeque::new(),
        })
        .boxed()
}
