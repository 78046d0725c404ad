//! What a slot does between its owners, and when it dies.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use tool_executor::{
    id::{CallNumber, Generation, Opening},
    pb::sandbox::{
        AssignSlot, CallEnded, CancelCall, Executed, Process, ReadFile, ReleaseSlot, RunCall, SlotReady, call_ended,
        event, process::Program, request::Request, run_call::Job,
    },
    sandbox::client::{LinkEvent, SlotEvent, SlotHandle},
    tool::job::{End, Exit, Order, OutputLimits, Stop},
};

use super::{
    bed::{assign, attach, end_of, link_event, next, output_of, owner, run, shell},
    raw::Raw,
};
use crate::support::{
    agent::Agent,
    process::{children, is_alive, keepers, tree, without_makers},
    shared_place,
};

fn script(call: u64, script: &str) -> Request {
    let process = Process { program: Some(Program::Shell(script.to_owned())), ..Process::default() };
    let timeout = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    Request::Run(RunCall { call, job: Some(Job::Process(process)), timeout, head_bytes: 100, ..RunCall::default() })
}

fn assigned() -> Request {
    Request::Assign(AssignSlot { owner: "owner".to_owned(), generation: 1, ..AssignSlot::default() })
}

async fn ended(peer: &mut Raw) -> CallEnded {
    match peer.event().await.1.event {
        Some(event::Event::Ended(ended)) => ended,
        other => panic!("waiting for the end of a call: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_run_is_answered_whatever_the_slot() {
    let agent = Agent::start(1);
    let mut peer = Raw::attach(&agent, 1).await.expect("it attaches");
    peer.send(vec![
        script(1, "true"),
        Request::Run(RunCall { slot: 9, call: 2, ..RunCall::default() }),
        assigned(),
        Request::Run(RunCall { call: 3, ..RunCall::default() }),
        // In one batch: it is cancelled before its task has begun.
        script(4, "echo ran > ran"),
        Request::Cancel(CancelCall { call: 4, ..CancelCall::default() }),
        Request::Cancel(CancelCall { call: 99, ..CancelCall::default() }),
    ])
    .await;
    let mut ends = Vec::new();
    for _ in 0..4 {
        let ended = ended(&mut peer).await;
        ends.push((ended.call, ended.end.expect("every answer says how it ended")));
    }
    ends.sort_by_key(|(call, _)| *call);
    for (call, end) in &ends[..2] {
        assert!(matches!(end, call_ended::End::NotRun(_)), "{call}: {end:?}");
    }
    // The slot is as it was.
    let (3, call_ended::End::AgentFailure(failure)) = &ends[2] else { panic!("{ends:?}") };
    assert_eq!(failure.executed(), Executed::No, "{failure:?}");
    assert!(matches!(ends[3], (4, call_ended::End::CancelledEarly(_))), "{ends:?}");
    assert!(!agent.workspace(0).join("ran").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_answered_before_the_slot_is_given_back() {
    let agent = Agent::start(1);
    let mut peer = Raw::attach(&agent, 1).await.expect("it attaches");
    peer.send(vec![assigned(), script(1, "echo partial; sleep 100 & sleep 100"), script(2, "trap '' TERM; sleep 100")])
        .await;
    let released = agent.workspace(0).join("released");
    peer.send(vec![script(3, "until [ -e released ]; do sleep 0.01; done; sleep 100")]).await;
    fs::write(released, "").expect("the workspace can be written");
    peer.send(vec![Request::Release(ReleaseSlot { slot: 0, keep: false }), script(4, "true")]).await;
    let mut calls = Vec::new();
    for _ in 0..3 {
        calls.push(ended(&mut peer).await.call);
    }
    calls.sort_unstable();
    assert_eq!(calls, [1, 2, 3]);
    let ready = SlotReady { slot: 0, released: true, kept: false };
    assert_eq!(peer.event().await.1.event, Some(event::Event::Ready(ready)));
    // And it is nobody's.
    let late = ended(&mut peer).await;
    assert!(matches!(late.end, Some(call_ended::End::NotRun(_))), "{late:?}");
    assert!(!agent.workspace(0).join("released").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_files_are_their_owners_alone() {
    let agent = Agent::start(1);
    let mut connected = attach(agent.socket()).await;
    let mut slot = assign(&connected.link, 0);
    run(&mut slot, 1, shell("echo mine > file; echo other > /tmp/file")).await;
    connected.link.release(0, true);
    assert_eq!(link_event(&mut connected).await, LinkEvent::SlotReady { slot: 0, kept: true });

    let mut other = connected.link.assign(0, &owner(1), Generation(1), Opening(1));
    assert!(matches!(next(&mut other).await, SlotEvent::SlotLost { .. }));
    other.run(CallNumber(1), shell("cat file"));
    assert!(matches!(not_a_process(&mut other).await, End::NotRun(_)));

    let mut again = assign(&connected.link, 0);
    assert_eq!(&run(&mut again, 2, shell("cat file /tmp/file")).await.stdout.head[..], b"mine\nother\n");
    connected.link.release(0, true);
    connected.link.release(0, false);
    assert_eq!(link_event(&mut connected).await, LinkEvent::SlotReady { slot: 0, kept: true });
    assert_eq!(link_event(&mut connected).await, LinkEvent::SlotReady { slot: 0, kept: false });
    let mut other = connected.link.assign(0, &owner(1), Generation(1), Opening(1));
    assert_eq!(&run(&mut other, 1, shell("ls -A . /tmp")).await.stdout.head[..], b".:\n\n/tmp:\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_dies_takes_its_calls_along_and_comes_back() {
    let agent = Agent::start(2);
    let connected = attach(agent.socket()).await;
    let (mut slot, mut other) = (assign(&connected.link, 0), assign(&connected.link, 1));
    run(&mut slot, 1, shell("echo mine > file")).await;
    slot.run(CallNumber(2), Order { stream_output: true, ..shell("echo started; sleep 100; :") });
    output_of(&mut slot).await;
    kill_process(keeper_of(&agent, "sh"), Signal::KILL).expect("it can be killed");
    assert!(matches!(not_a_process(&mut slot).await, End::SlotLost { ran: true, .. }));
    assert!(matches!(next(&mut slot).await, SlotEvent::SlotLost { .. }));
    slot.run(CallNumber(3), shell("true"));
    assert!(matches!(not_a_process(&mut slot).await, End::NotRun(_)));
    assert_eq!(run(&mut other, 1, shell("true")).await.exit, Exit::Code(0), "the other slot lives");

    slot.reset(Generation(2));
    assert!(matches!(next(&mut slot).await, SlotEvent::Reset));
    assert_eq!(&run(&mut slot, 4, shell("ls -A; echo on")).await.stdout.head[..], b"on\n");
    // It is still its owner's.
    connected.link.release(0, true);
    let mut slot = assign(&connected.link, 0);
    assert_eq!(run(&mut slot, 5, shell("true")).await.exit, Exit::Code(0));
}

/// As where the kernel holds it in a file system that does not answer: a runner that is stopped kills nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_does_not_die_is_given_up_with_its_slot() {
    let agent = Agent::start(1);
    let connected = attach(agent.socket()).await;
    let mut slot = assign(&connected.link, 0);
    slot.run(CallNumber(1), Order { stream_output: true, ..shell("echo started; sleep 100; :") });
    output_of(&mut slot).await;
    let runners = children(keeper_of(&agent, "sh").as_raw_pid().cast_unsigned());
    for runner in runners {
        let runner = Pid::from_raw(runner.cast_signed()).expect("it is a pid");
        kill_process(runner, Signal::STOP).expect("it can be stopped");
    }
    slot.cancel(CallNumber(1));
    let End::SlotLost { cause, ran: true } = not_a_process(&mut slot).await else { panic!("it is given up") };
    assert!(cause.contains("does not end"), "{cause}");
    // The kernel kills what is stopped, too: so the slot can be emptied.
    slot.reset(Generation(2));
    assert!(matches!(next(&mut slot).await, SlotEvent::Reset));
    assert_eq!(&run(&mut slot, 2, shell("ls -A; echo on")).await.stdout.head[..], b"on\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn noisy_calls_beside_one_another_cost_little_memory() {
    const CALLS: u64 = 64;
    const BYTES: u64 = 8 << 20;
    let agent = Agent::start(1);
    let connected = attach(agent.socket()).await;
    let mut slot = assign(&connected.link, 0);
    let limits = OutputLimits { head: 10_000, tail: 10_000 };
    for number in 1..=CALLS {
        let script = format!("head -c {BYTES} /dev/zero & head -c {BYTES} /dev/zero >&2; wait");
        slot.run(CallNumber(number), Order { limits, stream_output: number % 2 == 0, ..shell(&script) });
    }
    for _ in 0..CALLS {
        let End::Process(end) = any_end(&mut slot).await else { panic!("each is a process") };
        assert_eq!((end.exit, end.stdout.total, end.stderr.total), (Exit::Code(0), BYTES, BYTES));
    }
    assert!(agent.peak_memory() < 60 << 20, "{} bytes", agent.peak_memory());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_keeps_what_was_said_and_leaves_nothing() {
    let agent = Agent::start(1);
    let connected = attach(agent.socket()).await;
    let mut slot = assign(&connected.link, 0);
    let before = without_makers(agent.pid()).len();
    let noisy = "echo partial; echo problem >&2; setsid sleep 100 & sleep 100";
    slot.run(CallNumber(1), Order { stream_output: true, ..shell(noisy) });
    output_of(&mut slot).await;
    output_of(&mut slot).await;
    let processes = without_makers(agent.pid());
    slot.cancel(CallNumber(1));
    slot.cancel(CallNumber(1));
    let end = end_of(&mut slot, 1).await;
    assert_eq!((end.stop, end.exit), (Some(Stop::Cancelled), Exit::Signal(9)));
    assert_eq!((&end.stdout.head[..], &end.stderr.head[..]), (&b"partial\n"[..], &b"problem\n"[..]));
    assert!(processes.len() > before);
    assert_eq!(processes.into_iter().filter(|pid| is_alive(*pid)).count(), before);

    // Nobody grants anything, and still it ends at once.
    let asked = std::time::Instant::now();
    slot.run(CallNumber(2), Order { stream_output: true, ..shell("yes") });
    while !matches!(next(&mut slot).await, SlotEvent::Output { offset, ref data, .. } if offset + data.len() as u64 == 256 << 10)
    {
    }
    slot.cancel(CallNumber(2));
    assert_eq!(end_of(&mut slot, 2).await.stop, Some(Stop::Cancelled));
    assert!(asked.elapsed() < std::time::Duration::from_millis(900), "{:?}", asked.elapsed());
}

/// A call may hand its output to another one, which then holds it open, or writes on. The call ends all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_though_another_holds_its_output() {
    const TAKE: &str = "import os, socket
listener = socket.socket(socket.AF_UNIX)
listener.bind('socket')
listener.listen()
os.rename('socket', 'ready')
_, taken, _, _ = socket.recv_fds(listener.accept()[0], 1, 1)
os.write(taken[0], b'taken ')
open('taken', 'w')
while True:
    WRITE
";
    const GIVE: &str = "import os, socket, time
sender = socket.socket(socket.AF_UNIX)
while not os.path.exists('ready'):
    time.sleep(0.01)
sender.connect('ready')
socket.send_fds(sender, [b'x'], [1])
while not os.path.exists('taken'):
    time.sleep(0.01)
os.write(1, b'done')
";
    if !std::path::Path::new("/usr/bin/python3").exists() {
        return eprintln!("skipped: no python3 on this machine");
    }
    let agent = Agent::start(1);
    let connected = attach(agent.socket()).await;
    let mut slot = assign(&connected.link, 0);
    let python = |code: &str| shell(&format!("exec /usr/bin/python3 -c \"{code}\""));
    for (round, (write, exactly)) in
        [("import time; time.sleep(1)", true), ("os.write(taken[0], bytes(9999))", false)].into_iter().enumerate()
    {
        let (taker, giver) = (CallNumber(10 * round as u64), CallNumber(10 * round as u64 + 1));
        slot.run(taker, python(&TAKE.replace("WRITE", write)));
        slot.run(giver, python(GIVE));
        let end = end_of(&mut slot, giver.0).await;
        assert_eq!(end.exit, Exit::Code(0));
        assert!(end.stdout.head.starts_with(b"taken "));
        if exactly {
            assert_eq!(&end.stdout.head[..], b"taken done");
        }
        slot.cancel(taker);
        end_of(&mut slot, taker.0).await;
        slot.reset(Generation(round as u64 + 2));
        assert!(matches!(next(&mut slot).await, SlotEvent::Reset));
    }
}

/// A file is read in its slot, and in no other way than calls see it.
#[tokio::test(flavor = "multi_thread")]
async fn files_need_an_owner_too() {
    let agent = Agent::start(1);
    let mut peer = Raw::attach(&agent, 1).await.expect("it attaches");
    let read = |call| {
        let file = ReadFile { path: "file".to_owned(), max_bytes: 10 };
        Request::Run(RunCall { call, job: Some(Job::ReadFile(file)), ..RunCall::default() })
    };
    peer.send(vec![read(1), assigned(), script(2, "printf content > file")]).await;
    assert!(matches!(ended(&mut peer).await.end, Some(call_ended::End::NotRun(_))));
    assert_eq!(ended(&mut peer).await.call, 2);
    peer.send(vec![read(3)]).await;
    assert_eq!(ended(&mut peer).await.end, Some(call_ended::End::Content("content".into())));
}

/// The end of the next call that ends, which must have no process.
pub(super) async fn not_a_process(slot: &mut SlotHandle) -> End {
    match any_end(slot).await {
        End::Process(end) => panic!("it ran: {end:?}"),
        other => other,
    }
}

async fn any_end(slot: &mut SlotHandle) -> End {
    loop {
        match next(slot).await {
            SlotEvent::Ended { ending, .. } => return ending.end,
            SlotEvent::Output { .. } => {}
            other => panic!("waiting for the end of a call: {other:?}"),
        }
    }
}

/// The first process of the slot that runs a program of this name.
pub(super) fn keeper_of(agent: &Agent, program: &str) -> Pid {
    let runs = |pid: &u32| {
        let name = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        tree(*pid).into_iter().any(|pid| name(pid).trim() == program)
    };
    let keeper = keepers(agent.pid()).into_iter().find(runs).expect("one of the slots runs it");
    Pid::from_raw(keeper.cast_signed()).expect("it is a process id")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_generation_begins_with_the_source() {
    let place = shared_place();
    for name in ["one", "two"] {
        fs::write(place.path().join(name), name).expect("it can be written");
    }
    let source = place.path().display();
    let agent = Agent::with(1, |config| config.profile.workspace_source = Some(place.path().to_owned()));
    let mut connected = attach(agent.socket()).await;
    for call in 1..=3 {
        let mut slot = assign(&connected.link, 0);
        let script = format!("cmp one {source}/one && ls && rm one && [ ! -e {source}/one ] && echo done");
        let answer = run(&mut slot, call, shell(&script)).await;
        assert_eq!(String::from_utf8_lossy(&answer.stdout.head), "one\ntwo\ndone\n");
        connected.link.release(0, false);
        assert_eq!(link_event(&mut connected).await, LinkEvent::SlotReady { slot: 0, kept: false });
    }
}
