//! The agent's own life, and what it keeps of what runs in it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;
use tool_executor::{
    id::CallNumber,
    tool::{
        Evidence,
        job::{Exit, Order, OutputLimits, Stop},
    },
};

use super::bed::{assign, attach, end_of, interactive, output_of, run, shell};
use crate::support::{
    agent::Agent,
    client::PATIENCE,
    process::{children, is_alive, tree},
    proxy::Proxy,
};

const ORPHAN_TIMEOUT: Duration = Duration::from_secs(1);

fn mortal() -> Agent {
    Agent::with(1, |config| config.profile.orphan_timeout = ORPHAN_TIMEOUT)
}

async fn ends(agent: &mut Agent) {
    let status = timeout(PATIENCE, agent.ended()).await.expect("it ends");
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_nobody_wants_ends() {
    let started = Instant::now();
    ends(&mut mortal()).await;
    assert!(started.elapsed() >= ORPHAN_TIMEOUT);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_stays_for_as_long_as_it_is_attached() {
    let mut agent = mortal();
    let connected = attach(agent.socket()).await;
    let early = timeout(ORPHAN_TIMEOUT * 5 / 2, agent.ended()).await;
    assert!(early.is_err(), "it ended while it was attached: {early:?}");
    let processes = tree(agent.pid());
    assert!(processes.len() > 1, "the slot has processes");
    connected.link.lose(&Arc::new(Evidence::default()));
    let lost = Instant::now();
    ends(&mut agent).await;
    assert!((ORPHAN_TIMEOUT..ORPHAN_TIMEOUT * 5).contains(&lost.elapsed()), "{:?}", lost.elapsed());
    assert!(!processes.into_iter().any(is_alive));
}

/// An executor's machine that is gone says nothing: only silence tells.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_behind_a_dead_network_ends() {
    let mut agent = mortal();
    let proxy = Proxy::start(&agent.socket());
    let connected = attach(proxy.path()).await;
    proxy.freeze();
    ends(&mut agent).await;
    drop(connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_an_agent_at_once() {
    for script in
        [None, Some("echo started; sleep 100 & sleep 100"), Some("trap '' TERM; echo started; while :; do :; done")]
    {
        let mut agent = Agent::start(2);
        let connected = attach(agent.socket()).await;
        let mut slots = [assign(&connected.link, 0), assign(&connected.link, 1)];
        for slot in &mut slots {
            assert_eq!(run(slot, 1, shell("true")).await.exit, Exit::Code(0));
            if let Some(script) = script {
                slot.run(CallNumber(2), Order { stream_output: true, ..shell(script) });
                output_of(slot).await;
            }
        }
        let processes = tree(agent.pid());
        assert!(processes.len() > 2, "the slots have processes");
        let told = Instant::now();
        agent.signal(Signal::TERM);
        ends(&mut agent).await;
        assert!(told.elapsed() < Duration::from_millis(900), "{script:?}: {:?}", told.elapsed());
        assert!(!processes.into_iter().any(is_alive), "{script:?}: something is left");
    }
}

/// The kernel keeps signals from a first process that has no handler for them.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_process_of_a_container_heeds_signals_too() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for signal in [Signal::TERM, Signal::INT] {
        let mut agent = Agent::as_init(1);
        attach(agent.socket()).await;
        let init = children(agent.pid())[0];
        let processes = tree(init);
        let asked = Instant::now();
        kill_process(Pid::from_raw(init.cast_signed()).expect("it is not 0"), signal).expect("it can be signalled");
        ends(&mut agent).await;
        assert!(asked.elapsed() < Duration::from_secs(2), "{signal:?}: {:?}", asked.elapsed());
        assert!(!processes.into_iter().any(is_alive));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn much_output_costs_little_memory() {
    const BYTES: u64 = 300_000_000;
    let agent = Agent::start(1);
    let connected = attach(agent.socket()).await;
    let mut slot = assign(&connected.link, 0);
    let limits = OutputLimits { head: 1000, tail: 1000 };
    let script = format!("echo first; head -c {BYTES} /dev/zero; echo last");
    for (number, stream_output) in [(1, false), (2, true)] {
        // Nothing is granted: after the first window it runs on without live output.
        let order = Order { limits, stream_output, ..shell(&script) };
        let stdout = run(&mut slot, number, order).await.stdout;
        assert_eq!(stdout.total, BYTES + 11);
        assert!(stdout.head.starts_with(b"first\n\0") && stdout.tail.ends_with(b"\0last\n"));
        assert_eq!((stdout.head.len(), stdout.tail.len()), (1000, 1000));
    }
    assert!(agent.peak_memory() < 60 << 20, "{} bytes", agent.peak_memory());
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_nobody_reads_has_a_limit() {
    const LIMIT: u32 = 100_000;
    let agent = Agent::start(1);
    let connected = attach(agent.socket()).await;
    let mut slot = assign(&connected.link, 0);
    slot.run(CallNumber(1), Order { max_pending_input: LIMIT, ..interactive("echo partial; sleep 100") });
    // The limit, and a pipe's worth beside it.
    for _ in 0..4 {
        slot.input(CallNumber(1), vec![0; 64 << 10].into(), false);
    }
    let end = end_of(&mut slot, 1).await;
    assert_eq!((end.stop, end.exit), (Some(Stop::InputLimit), Exit::Signal(9)));

    // What is read does not count.
    slot.run(
        CallNumber(2),
        Order { max_pending_input: LIMIT, stream_output: true, ..interactive("head -c 1; exec wc -c") },
    );
    slot.input(CallNumber(2), "x".into(), false);
    output_of(&mut slot).await;
    slot.input(CallNumber(2), vec![0; LIMIT as usize].into(), true);
    assert_eq!(&end_of(&mut slot, 2).await.stdout.head[..], b"x100000\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_keeps_what_was_said() {
    let agent = Agent::start(1);
    let connected = attach(agent.socket()).await;
    let mut slot = assign(&connected.link, 0);
    let allowed = Duration::from_millis(300);
    let order = Order { timeout: allowed, ..shell("echo partial; echo problem >&2; sleep 100") };
    let asked = Instant::now();
    let end = run(&mut slot, 1, order).await;
    assert_eq!((end.stop, end.exit), (Some(Stop::TimedOut), Exit::Signal(9)));
    assert_eq!((&end.stdout.head[..], &end.stderr.head[..]), (&b"partial\n"[..], &b"problem\n"[..]));
    assert!((allowed..allowed * 10).contains(&asked.elapsed()), "{:?}", asked.elapsed());
}
