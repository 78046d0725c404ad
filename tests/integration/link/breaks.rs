//! What happens when the link breaks.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::timeout};
use tool_executor::{
    id::CallNumber,
    sandbox::client::{LinkEvent, LinkOptions, SlotEvent},
    tool::{
        Evidence,
        job::{End, Exit, Order},
    },
};

use super::bed::{assign, attach, end_of, link_event, next, options, output_of, run, shell, try_attach};
use crate::support::{
    agent::{Agent, endpoint},
    client::PATIENCE,
    proxy::Proxy,
};

/// What comes by chance comes the same each time.
const SEED: u64 = 20;

/// What a call ends with that is to run until there were cuts enough.
const GATE: &str = "until [ -e go ]; do sleep 0.01; done";

/// Cuts by chance, until it is dropped; lets the agent's calls pass the [`GATE`] once so many connections broke.
async fn cut_for_ever(proxy: &Proxy, between: std::ops::Range<u64>, agent: &Agent, slots: u32, enough: usize) {
    let mut chance = fastrand::Rng::with_seed(SEED);
    let mut open = false;
    loop {
        tokio::time::sleep(Duration::from_millis(chance.u64(between.clone()))).await;
        if !open && proxy.connections() > enough {
            open = true;
            for slot in 0..slots {
                fs::write(agent.workspace(slot).join("go"), "").expect("the workspace can be written");
            }
        }
        proxy.cut();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_link_loses_nothing() {
    const SLOTS: u32 = 4;
    const CALLS: u64 = 300;
    let agent = Agent::start(SLOTS);
    let proxy = Proxy::start(&agent.socket());
    let connected = attach(proxy.path()).await;
    assert_eq!(connected.attached.slots, SLOTS);

    let mut tasks = JoinSet::new();
    for slot in 0..SLOTS {
        let mut slot = assign(&connected.link, slot);
        tasks.spawn(async move {
            for number in 1..=CALLS {
                let end = run(&mut slot, number, shell(&format!("echo {number} >> log"))).await;
                assert_eq!(end.exit, Exit::Code(0), "{end:?}");
            }
            // An answer that came twice would come before this one.
            let log = run(&mut slot, CALLS + 1, shell(&format!("{GATE}; cat log"))).await.stdout.head;
            let expected: String = (1..=CALLS).map(|number| format!("{number}\n")).collect();
            assert_eq!(String::from_utf8_lossy(&log), expected);
        });
    }
    tokio::select! {
        () = cut_for_ever(&proxy, 2..40, &agent, SLOTS, 10) => {}
        () = async { while let Some(task) = tasks.join_next().await { task.expect("nothing is lost") } } => {}
    }
    assert!(proxy.connections() > 10, "it was cut {} times only", proxy.connections());
}

/// Many calls at once, so that batches are cut in two.
#[tokio::test(flavor = "multi_thread")]
async fn calls_beside_one_another_survive_cuts_and_delays() {
    const CALLS: u64 = 300;
    let agent = Agent::start(1);
    let proxy = Proxy::start(&agent.socket());
    let connected = attach(proxy.path()).await;
    let mut slot = assign(&connected.link, 0);
    proxy.delay(Duration::from_millis(1));
    for number in 1..=CALLS {
        let gate = if number == CALLS { GATE } else { ":" };
        slot.run(CallNumber(number), shell(&format!("{gate}; echo {number} >> log; echo {number}")));
    }
    let mut answered = Vec::new();
    let answers = async {
        while answered.len() < CALLS as usize {
            match next(&mut slot).await {
                SlotEvent::Ended { call, ending, .. } => {
                    let End::Process(end) = ending.end else { panic!("{ending:?}") };
                    assert_eq!(end.stdout.head, format!("{call}\n"));
                    answered.push(call.0);
                }
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::select! {
        () = cut_for_ever(&proxy, 5..30, &agent, 1, 3) => {}
        () = answers => {}
    }
    let log = run(&mut slot, CALLS + 1, shell("cat log")).await.stdout.head;
    let log = String::from_utf8_lossy(&log);
    let mut ran: Vec<u64> = log.lines().map(|line| line.parse().expect("a number")).collect();
    ran.sort_unstable();
    answered.sort_unstable();
    let expected: Vec<u64> = (1..=CALLS).collect();
    assert_eq!(answered, expected, "each is answered once");
    assert_eq!(ran, expected, "each ran once");
    assert!(proxy.connections() > 3, "it was cut {} times only", proxy.connections());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_waits_for_the_link() {
    let agent = Agent::start(1);
    let proxy = Proxy::start(&agent.socket());
    let connected = attach(proxy.path()).await;
    let mut slot = assign(&connected.link, 0);
    let script = "echo started; until [ -e go ]; do sleep 0.01; done; echo went";
    slot.run(CallNumber(1), Order { stream_output: true, ..shell(script) });
    output_of(&mut slot).await;

    proxy.refuse();
    proxy.cut();
    fs::write(agent.workspace(0).join("go"), "").expect("the workspace can be written");
    let early = timeout(Duration::from_millis(300), slot.next()).await;
    assert!(early.is_err(), "it came through a link that is cut: {early:?}");
    proxy.go_on();
    let end = end_of(&mut slot, 1).await;
    assert_eq!(&end.stdout.head[..], b"started\nwent\n");
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn live_output_goes_on_where_the_cut_was() {
    // More than the window that a call begins with, in lines of 8 bytes that say where they are.
    const LINES: u64 = 100_000;
    let agent = Agent::start(1);
    let proxy = Proxy::start(&agent.socket());
    let connected = attach(proxy.path()).await;
    let mut slot = assign(&connected.link, 0);
    let last = 999_999 + LINES;
    let script = format!("seq 1000000 {}; {GATE}; echo {last}", last - 1);
    slot.run(CallNumber(1), Order { stream_output: true, ..shell(&script) });
    let receive = async {
        let (mut expected, mut received) = (0, 0);
        loop {
            match next(&mut slot).await {
                SlotEvent::Output { call, stderr, offset, data } => {
                    assert!(call == CallNumber(1) && !stderr);
                    // A gap is allowed, where nothing was granted for too long; going back is not.
                    assert!(offset >= expected, "{offset} after {expected}");
                    expected = offset + data.len() as u64;
                    received += data.len() as u64;
                    for (at, byte) in (offset..).zip(&data) {
                        let line = format!("{}\n", 1_000_000 + at / 8);
                        assert_eq!(*byte, line.as_bytes()[(at % 8) as usize], "at {at}");
                    }
                    slot.grant_output(call, u32::try_from(data.len()).expect("a piece is small"));
                }
                SlotEvent::Ended { ending, .. } => match ending.end {
                    End::Process(end) => return (received, end.stdout.total),
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            }
        }
    };
    let (received, total) = tokio::select! {
        () = cut_for_ever(&proxy, 1..8, &agent, 1, 2) => unreachable!("it cuts for ever"),
        received = receive => received,
    };
    assert_eq!(total, LINES * 8);
    assert!(received > total / 2, "{received} of {total}: the window was not granted again");
    assert!(proxy.connections() > 2, "it was cut {} times only", proxy.connections());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_lost_after_its_grace_and_not_before() {
    let grace = Duration::from_secs(1);
    let agent = Agent::start(1);
    let proxy = Proxy::start(&agent.socket());
    let options = LinkOptions { agent_grace: grace, ..options() };
    let mut connected = try_attach(endpoint(proxy.path()), options).await.expect("it attaches");
    proxy.refuse();
    let cut = Instant::now();
    proxy.cut();
    let event = link_event(&mut connected).await;
    assert!(matches!(event, LinkEvent::Lost { .. }), "{event:?}");
    assert!((grace..grace * 5).contains(&cut.elapsed()), "{:?}", cut.elapsed());

    // What watched it tells whoever holds a slot.
    let mut slot = assign(&connected.link, 0);
    let evidence = Arc::new(Evidence { cause: "gone".to_owned(), ..Evidence::default() });
    connected.link.lose(&evidence);
    let event = next(&mut slot).await;
    assert!(matches!(&event, SlotEvent::ContainerLost(told) if told.cause == "gone"), "{event:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_network_is_a_broken_link() {
    let agent = Agent::start(1);
    let proxy = Proxy::start(&agent.socket());
    let connected = attach(proxy.path()).await;
    let mut slot = assign(&connected.link, 0);
    assert_eq!(run(&mut slot, 1, shell("true")).await.exit, Exit::Code(0));
    proxy.freeze();
    slot.run(CallNumber(2), shell("echo went"));
    // Nobody says that the connection is dead: only silence tells.
    let early = timeout(Duration::from_secs(1), slot.next()).await;
    assert!(early.is_err(), "{early:?}");
    tokio::time::timeout(PATIENCE, async {
        while proxy.connections() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("another connection is tried");
    proxy.go_on();
    assert_eq!(&end_of(&mut slot, 2).await.stdout.head[..], b"went\n");
}
