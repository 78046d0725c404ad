//! How a slot becomes empty again, and what becomes of one that does not.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tool_executor::{
    id::{CallNumber, Generation},
    sandbox::client::{Connected, LinkEvent, SlotEvent, SlotHandle},
    tool::{
        Executed,
        job::{End, Exit, Order, Stop},
    },
};

use super::{
    bed::{assign, attach, end_of, link_event, next, output_of, run, shell},
    slots::{keeper_of, not_a_process},
};
use crate::support::{
    agent::Agent,
    client::PATIENCE,
    process::{children, is_alive, is_maker, keepers, tree, without_makers},
};

async fn until(what: &str, done: impl Fn() -> bool) {
    let asked = Instant::now();
    while !done() {
        assert!(asked.elapsed() < PATIENCE, "waiting until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// How many names there are in a directory; none if it is not there.
fn names(directory: &Path) -> usize {
    fs::read_dir(directory).map_or(0, Iterator::count)
}

fn kill(pid: u32) {
    send(pid, Signal::KILL);
}

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).expect("it is a pid"), signal).expect("it can be signalled");
}

async fn reset(slot: &mut SlotHandle, generation: u64) -> SlotEvent {
    slot.reset(Generation(generation));
    next(slot).await
}

/// The slot is lost to its holder for this cause, takes no call any more, and is set aside once it is given back.
async fn is_quarantined(told: SlotEvent, slot: &mut SlotHandle, connected: &mut Connected, why: &str) {
    assert!(matches!(&told, SlotEvent::SlotLost { cause } if cause.contains(why)), "{told:?}");
    slot.run(CallNumber(1_000), shell("true"));
    assert!(matches!(not_a_process(slot).await, End::NotRun(_)));
    connected.link.release(0, false);
    let told = link_event(connected).await;
    assert!(matches!(&told, LinkEvent::SlotQuarantined { slot: 0, cause } if cause.contains(why)), "{told:?}");
}

/// What made a reset fail may be gone a moment later; what it left half done is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_a_reset_could_not_empty_is_not_tried_again() {
    let agent = Agent::start(1);
    let mut connected = attach(agent.socket()).await;
    let mut slot = assign(&connected.link, 0);
    run(&mut slot, 1, shell("echo mine > file")).await;
    let trash = agent.slots().join("trash");
    let _ = fs::remove_dir_all(&trash);
    fs::write(&trash, "in the way").expect("it can be written");
    slot.reset(Generation(2));
    let told = next(&mut slot).await;
    assert!(matches!(&told, SlotEvent::SlotLost { cause } if cause.contains("move the workspace")), "{told:?}");
    fs::remove_file(&trash).expect("it can be removed");
    slot.run(CallNumber(2), shell("true"));
    assert!(matches!(not_a_process(&mut slot).await, End::NotRun(_)));
    for _ in 0..2 {
        connected.link.release(0, false);
        let told = link_event(&mut connected).await;
        let why =
            matches!(&told, LinkEvent::SlotQuarantined { slot: 0, cause } if cause.contains("move the workspace"));
        assert!(why, "{told:?}");
    }
}

/// Slots that are emptied at the same time have their old files deleted, by one thread.
#[tokio::test(flavor = "multi_thread")]
async fn what_resets_leave_is_deleted() {
    const SLOTS: u32 = 4;
    let agent = Agent::start(SLOTS);
    let connected = attach(agent.socket()).await;
    let mut slots: Vec<SlotHandle> = (0..SLOTS).map(|slot| assign(&connected.link, slot)).collect();
    for slot in &mut slots {
        slot.run(CallNumber(1), shell("mkdir -p a/b && cd a/b && for i in 1 2 3 4 5 6 7 8 9; do mkdir $i; done"));
    }
    for slot in &mut slots {
        assert_eq!(end_of(slot, 1).await.exit, Exit::Code(0));
    }
    slots.iter().for_each(|slot| slot.reset(Generation(2)));
    for slot in &mut slots {
        assert!(matches!(next(slot).await, SlotEvent::Reset));
    }
    let left = || ["trash", "deleting"].map(|name| names(&agent.slots().join(name)));
    until("old workspaces are deleted", || left() == [0, 0]).await;
}

/// Whoever is given the slot would be at its mercy: it is the same user.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_the_slots_user_that_is_left_outside_of_it_is_found() {
    let agent = Agent::start(1);
    let Some(user) = agent.user_id(0) else { return eprintln!("skipped: slots have no users of their own here") };
    let mut connected = attach(agent.socket()).await;
    let mut slot = assign(&connected.link, 0);
    assert!(matches!(reset(&mut slot, 2).await, SlotEvent::Reset), "while there is none, all is well");
    let user = user.to_string();
    let mut left = Command::new("setpriv");
    left.args(["--reuid", &user, "--regid", &user, "--clear-groups", "sleep", "1000"]);
    let mut left = left.spawn().expect("it starts");
    let is_the_users =
        || fs::read_to_string(format!("/proc/{}/status", left.id())).is_ok_and(|text| text.contains(&user));
    until("it is the slot's user's", is_the_users).await;
    let told = reset(&mut slot, 3).await;
    left.kill().expect("it can be killed");
    left.wait().expect("it can be waited for");
    is_quarantined(told, &mut slot, &mut connected, "has processes already").await;
}

/// As a kernel that cannot let go of it keeps one: the first process of a slot ends only once all others of its pid
/// namespace have been reaped, by their parents.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_whose_keeper_does_not_die_is_given_up() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can put a process of its own into a slot");
    }
    let agent = Agent::start(2);
    let mut connected = attach(agent.socket()).await;
    let (mut slot, mut other) = (assign(&connected.link, 0), assign(&connected.link, 1));
    slot.run(CallNumber(1), Order { stream_output: true, ..shell("echo started; sleep 100; :") });
    output_of(&mut slot).await;
    let keeper = keeper_of(&agent, "sh").as_raw_pid().to_string();
    let parent = Guest(
        Command::new("nsenter")
            .args(["--target", &keeper, "--pid", "--", "sleep", "1000"])
            .stdin(Stdio::null())
            .spawn()
            .expect("it starts"),
    );
    until("a guest is in the slot", || !children(parent.0.id()).is_empty()).await;
    send(parent.0.id(), Signal::STOP);

    let asked = Instant::now();
    slot.reset(Generation(2));
    assert_eq!(end_of(&mut slot, 1).await.stop, Some(Stop::Cancelled), "calls can be ended");
    // Nobody else waits for it.
    let meanwhile = Instant::now();
    assert_eq!(run(&mut other, 1, shell("true")).await.exit, Exit::Code(0));
    assert!(meanwhile.elapsed() < Duration::from_secs(2), "{:?}", meanwhile.elapsed());
    let told = next(&mut slot).await;
    assert!(asked.elapsed() < Duration::from_secs(9), "{:?}", asked.elapsed());
    is_quarantined(told, &mut slot, &mut connected, "does not end").await;
    let processes = tree(agent.pid());
    drop(parent);
    drop((slot, other, connected));
    drop(agent);
    until("nothing is left", || !processes.iter().any(|pid| is_alive(*pid))).await;
}

/// A process that was put into a slot from outside; dropped, it is gone.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // It may be dead, which is as well.
        for pid in children(self.0.id()).into_iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a call has filled is emptied by the reset itself, which needs room to begin with.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_the_slot_has_filled_is_no_obstacle() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can mount a small disk");
    }
    let agent = Agent::on_small_disk(1, 300);
    let mut connected = attach(agent.socket()).await;
    let mut slot = assign(&connected.link, 0);
    let fill = "i=0; while mkdir d$i 2> /dev/null; do i=$((i + 1)); done; [ $i -gt 100 ] && echo full";
    let old = agent.seen(&agent.slots().join("trash"));
    for round in 1..=5 {
        // It is deleted behind the answer.
        until("nothing is left to be deleted", || fs::read_dir(&old).is_ok_and(|old| old.count() == 0)).await;
        let filled = run(&mut slot, round, shell(fill)).await;
        assert_eq!(&filled.stdout.head[..], b"full\n");
        let told = reset(&mut slot, round + 1).await;
        assert!(matches!(told, SlotEvent::Reset), "{told:?}");
    }
    assert_eq!(&run(&mut slot, 6, shell("ls -A; echo empty")).await.stdout.head[..], b"empty\n");

    // Somebody else has filled it: that is said, and the slot is set aside.
    let place = agent.seen(&agent.slots());
    // Of a directory that is open somewhere nothing is free, though it is deleted.
    let _open = fs::File::open(agent.seen(&agent.workspace(0))).expect("it can be opened");
    let mut count = 0;
    while fs::create_dir(place.join(format!("other-{count}"))).is_ok() {
        count += 1;
    }
    let told = reset(&mut slot, 7).await;
    is_quarantined(told, &mut slot, &mut connected, "No space left on device").await;
}

/// The slot's files are still there, and so are those of /tmp: it was not the slot that died.
#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_dies_takes_its_call_along_and_nothing_else() {
    let agent = Agent::start(1);
    let connected = attach(agent.socket()).await;
    let mut slot = assign(&connected.link, 0);
    run(&mut slot, 1, shell("echo mine > file; echo other > /tmp/file")).await;
    slot.run(CallNumber(2), Order { stream_output: true, ..shell("echo started; sleep 100; :") });
    output_of(&mut slot).await;
    slot.run(CallNumber(3), shell("echo $$ > silent; exec sleep 100"));
    let silent = agent.workspace(0).join("silent");
    until("the second call runs", || fs::read(&silent).is_ok_and(|text| text.ends_with(b"\n"))).await;
    let processes = tree(agent.pid());
    let keeper = keepers(agent.pid())[0];
    let runners = children(keeper);
    assert_eq!(runners.len(), 2);
    let killed = Instant::now();
    runners.iter().for_each(|runner| kill(*runner));
    let mut ends: Vec<(CallNumber, Executed)> = Vec::new();
    for _ in 0..2 {
        match next(&mut slot).await {
            SlotEvent::Ended { call, ending, .. } => match ending.end {
                End::AgentFailed { cause, executed } if cause.contains("runner") => ends.push((call, executed)),
                other => panic!("{call:?}: {other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    ends.sort_by_key(|(call, _)| *call);
    assert_eq!(ends, [(CallNumber(2), Executed::Yes), (CallNumber(3), Executed::Unknown)]);
    let left = run(&mut slot, 4, shell("cat file /tmp/file")).await;
    assert_eq!(&left.stdout.head[..], b"mine\nother\n");
    let of_calls = |pid: &u32| *pid != agent.pid() && *pid != keeper;
    let calls: Vec<u32> = processes.into_iter().filter(of_calls).collect();
    until("nothing of those calls is left", || !calls.iter().any(|pid| is_alive(*pid))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_dies_idle_is_replaced() {
    let agent = Agent::start(1);
    let connected = attach(agent.socket()).await;
    let mut slot = assign(&connected.link, 0);
    run(&mut slot, 1, shell("echo mine > file")).await;
    for number in 2..5 {
        let runners = children(keepers(agent.pid())[0]);
        runners.iter().for_each(|runner| kill(*runner));
        until("they have died", || !runners.iter().any(|runner| is_alive(*runner))).await;
        assert_eq!(&run(&mut slot, number, shell("cat file")).await.stdout.head[..], b"mine\n");
    }
}

/// Whether it waits or is at work, when slots are at their most fragile: half made.
#[tokio::test(flavor = "multi_thread")]
async fn a_maker_that_is_killed_leaves_nothing() {
    let mut agent = Agent::start(8);
    let pid = agent.pid();
    let mut connected = attach(agent.socket()).await;
    let living = || without_makers(pid).into_iter().filter(|process| is_alive(*process)).count();
    let before = living();
    let mut lost = 0;
    for index in 0..8 {
        let mut slot = assign(&connected.link, index);
        run(&mut slot, 1, shell("echo mine > file")).await;
        let told = Arc::new(AtomicBool::new(false));
        let hunt = tokio::task::spawn_blocking({
            let told = told.clone();
            move || hunt_makers(pid, &told)
        });
        let answer = reset(&mut slot, 2).await;
        // Those of the next one would be killed else.
        told.store(true, Ordering::Relaxed);
        hunt.await.expect("it ends");
        match answer {
            SlotEvent::Reset => {
                assert_eq!(&run(&mut slot, 2, shell("ls -A; echo on")).await.stdout.head[..], b"on\n");
            }
            SlotEvent::SlotLost { cause } => {
                assert!(cause.contains("maker process has ended") || cause.contains("map the slot's user"), "{cause}");
                lost += 1;
            }
            other => panic!("{other:?}"),
        }
        connected.link.release(index, false);
        link_event(&mut connected).await;
    }
    assert!(lost > 0, "not one of them was killed in time");
    until("what is left belongs to the other slots", || living() <= before - 2 * lost).await;
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("it runs");
    assert!(!mounts.contains(agent.slots().to_str().expect("it is text")), "{mounts}");
    let slots = agent.slots();
    agent.signal(Signal::TERM);
    agent.ended().await;
    assert!(!slots.exists());
}

/// Kills every maker of this agent's, as far as it is fast enough.
fn hunt_makers(agent: u32, end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        for maker in children(agent).into_iter().filter(|child| is_maker(*child)) {
            // It may have ended just now.
            let _ = kill_process(Pid::from_raw(maker.cast_signed()).expect("it is a pid"), Signal::KILL);
        }
    }
}

/// Whatever becomes of it, no more old workspaces are there than are allowed.
#[tokio::test(flavor = "multi_thread")]
async fn old_workspaces_do_not_pile_up() {
    // For one slot: see the sweeper.
    const MOST: usize = 8;
    let agent = Agent::start(1);
    let connected = attach(agent.socket()).await;
    let mut slot = assign(&connected.link, 0);
    let old = agent.slots().join("trash");
    for round in 1..=40 {
        let script = "mkdir -p a/b/c d/e f; for i in 0 1 2 3 4 5 6 7 8 9; do : > a/$i; mkdir d/$i; done";
        slot.run(CallNumber(round), shell(script));
        assert_eq!(end_of(&mut slot, round).await.exit, Exit::Code(0));
        assert!(matches!(reset(&mut slot, round + 1).await, SlotEvent::Reset));
        assert!(names(&old) <= MOST, "{} after {round}", names(&old));
    }
}
