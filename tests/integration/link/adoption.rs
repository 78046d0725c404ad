//! What the next executor finds in slots that an executor before it has left: everything that concerns the trajectory
//! that has the slot, once, and nothing that concerns another.

use std::{collections::BTreeSet, fs, sync::Arc, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, timeout};
use tool_executor::{
    id::{CallNumber, ContainerId, Generation, Opening, Tenant, TrajectoryId, TrajectoryKey},
    pb::sandbox::{
        AssignSlot, Process, ReleaseSlot, ResetSlot, RunCall, SlotState, event, process::Program, request, run_call,
    },
    sandbox::client::{Connected, Held, LinkEvent, LinkOptions, Receipt, SlotEvent, SlotHandle, Wanted, connect},
    tool::{
        Evidence,
        job::{End, Exit, Order},
    },
};

use super::{
    bed::{assign, attach, end_of, interactive, link_event, next, options, output_of, owner, run, shell},
    raw::Raw,
    slots::keeper_of,
};
use crate::support::{
    agent::{Agent, endpoint},
    client::PATIENCE,
    process::tree,
};

fn wanted(slot: u32, owner: TrajectoryKey, generation: u64) -> Wanted {
    Wanted { slot, owner, generation: Generation(generation), opening: Opening(1), is_complete: true }
}

/// As [`assign`] has assigned it.
fn own(slot: u32) -> Wanted {
    wanted(slot, owner(slot), 1)
}

fn another() -> TrajectoryKey {
    TrajectoryKey { tenant: Tenant::anonymous(), id: TrajectoryId::parse("another").expect("it is an id") }
}

/// The executor after so many.
async fn successor(agent: &Agent, epoch: u64, wanted: &[Wanted]) -> Connected {
    let (options, deadline) = (LinkOptions { epoch, ..options() }, Instant::now() + PATIENCE);
    connect(ContainerId::new("container"), endpoint(agent.socket()), options, deadline, wanted)
        .await
        .expect("the agent takes the executor")
}

/// The one slot that was wanted.
fn held(connected: &mut Connected) -> Held {
    connected.held.remove(0).expect("it is there")
}

fn calls(numbers: impl IntoIterator<Item = u64>) -> BTreeSet<CallNumber> {
    numbers.into_iter().map(CallNumber).collect()
}

/// Of the slot in which a `sleep` runs, or is about to.
async fn keeper_of_sleep(agent: &Agent) -> Pid {
    let runs = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep");
    let deadline = Instant::now() + PATIENCE;
    while !tree(agent.pid()).into_iter().any(runs) {
        assert!(Instant::now() < deadline, "it should run");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    keeper_of(agent, "sleep")
}

/// The end of the one call that runs, with its receipt.
async fn ended(slot: &mut SlotHandle) -> (CallNumber, String, Receipt) {
    match next(slot).await {
        SlotEvent::Ended { call, ending, receipt } => match ending.end {
            End::Process(end) => (call, String::from_utf8_lossy(&end.stdout.head).into_owned(), receipt),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_runs_on_and_its_end_comes_to_the_next_executor_once() {
    let agent = Agent::start(2);
    let first = attach(agent.socket()).await;
    let mut slot = assign(&first.link, 1);
    let script = "echo started; until [ -e go ]; do sleep 0.01; done; echo went | tee -a log";
    slot.run(CallNumber(7), Order { stream_output: true, ..shell(script) });
    output_of(&mut slot).await;
    first.link.leave();

    let mut second = successor(&agent, 2, &[own(1)]).await;
    let Held { mut slot, calls: arrived } = held(&mut second);
    assert_eq!((slot.index(), arrived), (1, calls([7])));
    fs::write(agent.workspace(1).join("go"), "").expect("the workspace can be written");
    assert_eq!(&end_of(&mut slot, 7).await.stdout.head[..], b"started\nwent\n");
    // The slot is as good as before, and nothing is told again.
    assert_eq!(&run(&mut slot, 8, shell("cat log")).await.stdout.head[..], b"went\n");
    second.link.release(1, false);
    assert_eq!(link_event(&mut second).await, LinkEvent::SlotReady { slot: 1, kept: false });
    second.link.leave();
    let mut third = successor(&agent, 3, &[own(1)]).await;
    assert_eq!(third.held.remove(0).err(), Some("the slot is nobody's any more"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_while_nobody_was_there_is_told_until_it_is_dealt_with() {
    let agent = Agent::start(1);
    let first = attach(agent.socket()).await;
    let mut slot = assign(&first.link, 0);
    // Dealt with.
    drop(ended_of(&mut slot, 1, "echo one").await);
    slot.run(CallNumber(2), shell("until [ -e go ]; do sleep 0.01; done; echo two; touch gone"));
    // The receipt of this one is held when the executor ends, and dropped after.
    let three = ended_of(&mut slot, 3, "echo three").await;
    first.link.leave();
    drop(three);
    fs::write(agent.workspace(0).join("go"), "").expect("the workspace can be written");
    let deadline = Instant::now() + PATIENCE;
    while !agent.workspace(0).join("gone").exists() {
        assert!(Instant::now() < deadline, "the call should go on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    for epoch in [2, 3] {
        let mut next = successor(&agent, epoch, &[own(0)]).await;
        let Held { mut slot, calls: arrived } = held(&mut next);
        assert_eq!(arrived, calls([2, 3]), "of call 1 all has been dealt with");
        let (one, other) = (ended(&mut slot).await, ended(&mut slot).await);
        assert_eq!([(one.0, &*one.1), (other.0, &*other.1)], [(CallNumber(3), "three\n"), (CallNumber(2), "two\n")]);
        next.link.leave();
    }
    let mut fourth = successor(&agent, 4, &[own(0)]).await;
    let Held { mut slot, .. } = held(&mut fourth);
    drop((ended(&mut slot).await, ended(&mut slot).await));
    // What is dealt with is said at last with the next request.
    assert_eq!(run(&mut slot, 4, shell("true")).await.exit, Exit::Code(0));
    let fifth = Raw::attach(&agent, 5).await.expect("it attaches");
    assert!(fifth.attached.slots[0].ended_calls.iter().all(|call| *call == 4), "{:?}", fifth.attached);
}

async fn ended_of(slot: &mut SlotHandle, call: u64, script: &str) -> Receipt {
    slot.run(CallNumber(call), shell(script));
    let (ended, _, receipt) = ended(slot).await;
    assert_eq!(ended, CallNumber(call));
    receipt
}

/// Trajectories number their calls each for itself. An end that was not acknowledged comes again, and must not be taken
/// for the end of the call that has its number in the same slot now.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_anothers_call_is_nobodys() {
    let agent = Agent::start(2);
    let mut first = attach(agent.socket()).await;
    let mut other = assign(&first.link, 1);
    // As long as this one is not dealt with, everything after it comes again, too.
    let unacknowledged = ended_of(&mut other, 1, "true").await;
    let mut slot = assign(&first.link, 0);
    for call in 1..=3 {
        let order = Order { stream_output: true, ..shell("echo another; echo secret > file") };
        assert_eq!(run(&mut slot, call, order).await.exit, Exit::Code(0));
    }
    first.link.release(0, false);
    assert_eq!(link_event(&mut first).await, LinkEvent::SlotReady { slot: 0, kept: false });
    let mut slot = first.link.assign(0, &another(), Generation(1), Opening(1));
    drop(ended_of(&mut slot, 1, "echo own").await);
    slot.run(CallNumber(2), shell("sleep 0.3; echo own two"));
    drop(slot);
    // All of it has been sent.
    assert_eq!(run(&mut other, 2, shell("true")).await.exit, Exit::Code(0));
    first.link.leave();
    drop(unacknowledged);

    let mut second = successor(&agent, 2, &[wanted(0, another(), 1)]).await;
    let Held { mut slot, calls: arrived } = held(&mut second);
    assert_eq!(arrived, calls([1, 2]), "call 3 is the other one's");
    assert_eq!(ended(&mut slot).await.1, "own\n");
    assert_eq!(ended(&mut slot).await.1, "own two\n");
    assert_eq!(&run(&mut slot, 3, shell("ls")).await.stdout.head[..], b"");
    second.link.release(1, false);
    assert_eq!(link_event(&mut second).await, LinkEvent::SlotReady { slot: 1, kept: false }, "and not slot 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_still_ones_own_can_be_had() {
    let agent = Agent::start(5);
    let mut first = attach(agent.socket()).await;
    let mut slots: Vec<_> = [0, 1, 2, 3].map(|slot| assign(&first.link, slot)).into();
    first.link.release(2, true);
    assert_eq!(link_event(&mut first).await, LinkEvent::SlotReady { slot: 2, kept: true });
    slots[3].run(CallNumber(1), Order { stream_output: true, ..shell("echo started; sleep 100") });
    output_of(&mut slots[3]).await;
    kill_process(keeper_of_sleep(&agent).await, Signal::KILL).expect("it can be signalled");
    while !matches!(next(&mut slots[3]).await, SlotEvent::SlotLost { .. }) {}
    run(&mut slots[0], 1, shell("true")).await;
    first.link.leave();

    let all = [
        (own(0), None),
        (own(0), Some("the slot is wanted twice")),
        (wanted(0, owner(0), 2), Some("the slot has another workspace")),
        (wanted(1, another(), 1), Some("the slot is another trajectory's")),
        (own(2), Some("the slot was given back")),
        (own(3), Some("the slot's processes have died")),
        // It has never been assigned: that was on its way.
        (own(4), None),
        (own(5), Some("the slot is nobody's any more")),
    ];
    let wanted: Vec<Wanted> = all.iter().map(|(wanted, _)| wanted.clone()).collect();
    let second = successor(&agent, 2, &wanted).await;
    let used: Vec<u32> = second.attached.used.iter().map(|used| used.slot).collect();
    assert_eq!((used, second.attached.is_old, second.attached.is_exact), (vec![0, 1, 2, 3], false, true));
    let found = second.held.into_iter().map(Result::err);
    assert_eq!(found.collect::<Vec<_>>(), all.map(|(_, why)| why));
}

/// That an earlier life had it, in a workspace of the same generation, does not show that this one's assignment came.
#[tokio::test(flavor = "multi_thread")]
async fn an_assignment_of_an_earlier_life_is_another() {
    let agent = Agent::start(2);
    let mut first = attach(agent.socket()).await;
    for slot in 0..2 {
        drop(assign(&first.link, slot));
        first.link.release(slot, false);
        assert_eq!(link_event(&mut first).await, LinkEvent::SlotReady { slot, kept: false });
    }
    first.link.leave();
    let later = Wanted { opening: Opening(2), ..own(0) };
    let mut second = successor(&agent, 2, &[later, own(1)]).await;
    assert_eq!(second.held.pop().and_then(Result::err), Some("the slot is nobody's any more"));
    let Held { mut slot, calls: arrived } = held(&mut second);
    assert_eq!(arrived, calls([]));
    assert_eq!(run(&mut slot, 1, shell("true")).await.exit, Exit::Code(0));
}

/// What the agent has read of the link before, and not begun, is not to be seen; it must have been dealt with before the
/// next executor is told that a call never arrived.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_and_not_begun_is_seen_by_the_next_executor() {
    const RESETS: u64 = 30;
    let agent = Agent::start(1);
    let mut first = Raw::attach(&agent, 1).await.expect("it attaches");
    let assign = AssignSlot { slot: 0, owner: owner(0).to_string(), generation: 1, opening: 1 };
    let resets = (2..=RESETS).map(|generation| request::Request::Reset(ResetSlot { slot: 0, generation }));
    let script = Program::Shell("echo ran >> log".to_owned());
    let run = |call| {
        let job = run_call::Job::Process(Process { program: Some(script.clone()), ..Process::default() });
        let timeout = Some(prost_types::Duration { seconds: 10, nanos: 0 });
        request::Request::Run(RunCall { call, job: Some(job), timeout, head_bytes: 100, ..RunCall::default() })
    };
    let mut requests = vec![request::Request::Assign(assign)];
    requests.extend(resets);
    requests.extend([run(1), run(2)]);
    first.send(requests).await;
    // It has read them.
    while first.requests_received < RESETS + 2 {
        first.receive().await;
    }
    let mut second = successor(&agent, 2, &[wanted(0, owner(0), RESETS)]).await;
    let Held { mut slot, calls: arrived } = held(&mut second);
    assert_eq!(arrived, calls([1, 2]));
    let mut found = calls([]);
    for _ in 0..2 {
        found.insert(ended(&mut slot).await.0);
    }
    assert_eq!(found, calls([1, 2]));
    assert_eq!(&super::bed::run(&mut slot, 4, shell("cat log")).await.stdout.head[..], b"ran\nran\n");
}

/// Of a slot that does not come to an end with what it was asked nothing is said, and the others are to be had.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_busy_for_too_long_holds_up_nobody() {
    let agent = Agent::start(2);
    let first = attach(agent.socket()).await;
    let mut slots = [assign(&first.link, 0), assign(&first.link, 1)];
    for slot in &mut slots {
        run(slot, 1, shell("true")).await;
    }
    slots[1].run(CallNumber(2), Order { stream_output: true, ..shell("echo started; exec sleep 600") });
    output_of(&mut slots[1]).await;
    let _stopped = Stopped::new(keeper_of_sleep(&agent).await);
    // One or two take a runner that is ready; each of the others waits for a while for the keeper to make one.
    for call in 3..12 {
        slots[1].run(CallNumber(call), shell("true"));
    }
    // Requests go in order: so all of them have arrived.
    run(&mut slots[0], 2, shell("true")).await;
    first.link.leave();
    let asked = Instant::now();
    let second = successor(&agent, 2, &[own(0), own(1)]).await;
    assert!(asked.elapsed() < Duration::from_millis(4500), "{:?}", asked.elapsed());
    let mut held = second.held.into_iter();
    held.next().expect("there are two").expect("it is there");
    let why = held.next().expect("there are two").err().expect("it cannot be had");
    assert!(why.contains("does not answer in time"), "{why}");
}

/// A process that is stopped until this goes.
struct Stopped(Pid);

impl Stopped {
    fn new(process: Pid) -> Self {
        kill_process(process, Signal::STOP).expect("it can be signalled");
        Self(process)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been ended.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// One that is gone before it is answered has been here, and is gone.
#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_goes_away_while_it_attaches_is_gone() {
    let mut agent = Agent::with(1, |config| config.profile.orphan_timeout = Duration::from_secs(1));
    let mut first = Raw::attach(&agent, 1).await.expect("it attaches");
    let assign = AssignSlot { slot: 0, owner: owner(0).to_string(), generation: 1, opening: 1 };
    let mut requests = vec![request::Request::Assign(assign)];
    requests.extend((2..100).map(|generation| request::Request::Reset(ResetSlot { slot: 0, generation })));
    let sent = requests.len() as u64;
    first.send(requests).await;
    while first.requests_received < sent {
        first.receive().await;
    }
    let early = timeout(Duration::from_millis(30), Raw::attach(&agent, 2)).await;
    assert!(early.is_err(), "the agent was busy");
    drop(first);
    let status = timeout(PATIENCE, agent.ended()).await.expect("it ends, since nobody is attached");
    assert!(status.success(), "{status}");
}

/// What one executor was sent and has not granted again, the next is not charged for.
#[tokio::test(flavor = "multi_thread")]
async fn live_output_goes_on_under_the_next_executor() {
    const WINDOW: usize = 256 << 10;
    let agent = Agent::start(1);
    let first = attach(agent.socket()).await;
    let mut slot = assign(&first.link, 0);
    let script = format!("head -c {WINDOW} /dev/zero; until [ -e go ]; do sleep 0.01; done; echo more; sleep 100");
    slot.run(CallNumber(1), Order { stream_output: true, ..shell(&script) });
    let mut received = 0;
    while received < WINDOW {
        match next(&mut slot).await {
            SlotEvent::Output { data, .. } => received += data.len(),
            other => panic!("{other:?}"),
        }
    }
    first.link.leave();
    let mut second = successor(&agent, 2, &[own(0)]).await;
    let Held { mut slot, .. } = held(&mut second);
    // Until the process is held up no more it would be told anyway: with a gap.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    fs::write(agent.workspace(0).join("go"), "").expect("the workspace can be written");
    loop {
        match next(&mut slot).await {
            // It may not have been acknowledged.
            SlotEvent::Output { offset, .. } if offset < WINDOW as u64 => {}
            SlotEvent::Output { offset, data, .. } => {
                break assert_eq!((offset, &data[..]), (WINDOW as u64, &b"more\n"[..]));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn input_goes_on_under_the_next_executor() {
    let agent = Agent::start(1);
    let first = attach(agent.socket()).await;
    let mut slot = assign(&first.link, 0);
    let order = Order { stream_output: true, ..interactive("head -n 1; cat") };
    slot.run(CallNumber(1), order.clone());
    slot.input(CallNumber(1), "one\n".into(), false);
    output_of(&mut slot).await;
    first.link.leave();
    let mut second = successor(&agent, 2, &[own(0)]).await;
    let Held { mut slot, .. } = held(&mut second);
    slot.resume(CallNumber(1), &order);
    slot.input(CallNumber(1), "two\n".into(), true);
    assert_eq!(&end_of(&mut slot, 1).await.stdout.head[..], b"one\ntwo\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_executors_that_race_the_latest_has_the_slot() {
    let agent = Agent::start(1);
    let first = attach(agent.socket()).await;
    let mut slot = assign(&first.link, 0);
    slot.run(CallNumber(1), Order { stream_output: true, ..shell("echo started; sleep 0.5; echo once >> log") });
    output_of(&mut slot).await;
    first.link.leave();
    let wanted = [own(0)];
    let start = |epoch| {
        let (options, deadline) = (LinkOptions { epoch, ..options() }, Instant::now() + PATIENCE);
        connect(ContainerId::new("container"), endpoint(agent.socket()), options, deadline, &wanted)
    };
    let (earlier, later) = tokio::join!(start(2), start(3));
    let mut later = later.expect("nobody is later");
    let Held { mut slot, calls: arrived } = held(&mut later);
    assert_eq!(arrived, calls([1]));
    assert_eq!(end_of(&mut slot, 1).await.exit, Exit::Code(0));
    assert_eq!(&run(&mut slot, 2, shell("cat log")).await.stdout.head[..], b"once\n");
    // The other was refused, or had it for a moment and hears that it has it no more.
    if let Ok(mut earlier) = earlier {
        assert_eq!(link_event(&mut earlier).await, LinkEvent::Stale);
        let Held { mut slot, .. } = held(&mut earlier);
        slot.run(CallNumber(9), shell("echo twice >> log"));
        earlier.link.lose(&Arc::new(Evidence::default()));
    }
    assert_eq!(&run(&mut slot, 3, shell("cat log")).await.stdout.head[..], b"once\n");
}

/// It says who it is and what it does, whoever asks.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_says_which_version_of_the_protocol_it_speaks() {
    let agent = Agent::start(1);
    let mut raw = Raw::attach(&agent, 1).await.expect("an executor of an earlier build is obeyed, too");
    assert_eq!(raw.attached.version, tool_executor::sandbox::PROTOCOL_VERSION);
    raw.send(vec![request::Request::Release(ReleaseSlot { slot: 0, keep: false })]).await;
    assert!(matches!(raw.event().await.1.event, Some(event::Event::Ready(_))));
    let snapshot = &Raw::attach(&agent, 2).await.expect("it attaches").attached.slots[0];
    assert_eq!((snapshot.state(), snapshot.events_of_others), (SlotState::Clean, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assignment_that_never_arrived_is_made_again() {
    let agent = Agent::start(2);
    // The slot has had somebody, the end of whose call nobody has heard of: it has the number of one that is to come.
    let mut raw = Raw::attach(&agent, 1).await.expect("it attaches");
    let process = Process { program: Some(Program::Shell("echo theirs".to_owned())), ..Process::default() };
    let timeout = Some(prost_types::Duration { seconds: 10, nanos: 0 });
    let job = Some(run_call::Job::Process(process));
    let theirs = RunCall { call: 7, job, timeout, head_bytes: 100, ..RunCall::default() };
    let release = ReleaseSlot { slot: 0, keep: false };
    raw.send(vec![
        request::Request::Assign(AssignSlot { slot: 0, owner: another().to_string(), generation: 1, opening: 1 }),
        request::Request::Run(theirs),
        request::Request::Release(release),
    ])
    .await;
    while !matches!(raw.event().await.1.event, Some(event::Event::Ready(_))) {}
    drop(raw);

    // Where the journal's last part may have gone with its machine, a slot may have been had and given back.
    let incomplete = Wanted { is_complete: false, ..own(1) };
    let mut first = successor(&agent, 2, &[incomplete]).await;
    assert_eq!(first.held.remove(0).err(), Some("the slot is nobody's any more"));
    first.link.leave();
    // Both were written to the journal, and neither was heard of.
    let mut second = successor(&agent, 3, &[own(0), own(1)]).await;
    for index in [0, 1] {
        let Held { mut slot, calls: arrived } = held(&mut second);
        assert_eq!((slot.index(), arrived), (index, calls([])), "none of its calls can have run");
        assert_eq!(&run(&mut slot, 7, shell("ls; echo ours")).await.stdout.head[..], b"ours\n");
    }
    // What did arrive and is gone is not given again in silence.
    second.link.release(0, false);
    while link_event(&mut second).await != (LinkEvent::SlotReady { slot: 0, kept: false }) {}
    second.link.leave();
    let mut third = successor(&agent, 4, &[own(0), own(1)]).await;
    assert_eq!(third.held.remove(0).err(), Some("the slot is nobody's any more"));
    assert_eq!(held(&mut third).slot.index(), 1, "it is there as before");
    third.link.leave();
    // The next workspace of the same owner has never been there.
    let mut fourth = successor(&agent, 5, &[wanted(0, owner(0), 2)]).await;
    assert_eq!(&run(&mut held(&mut fourth).slot, 1, shell("echo again")).await.stdout.head[..], b"again\n");
}
