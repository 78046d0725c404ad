//! However a call is ended from outside, nothing of it lives on when it is answered, and what it had printed is in the
//! answer. A slot that cannot be emptied is not used again.

use std::{
    fs,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use tool_executor::pb::toolexecutor::{
    Call, CallResult, Cancel, CancelTrajectoriesRequest, Executed, Open, Outcome, Reason, ReleaseRequest,
    ReleaseTrajectory, Reset, TrajectoryOptions, notice::Event, trajectory_request::Message as Request,
    trajectory_response::Message,
};

use crate::support::{
    client::{PATIENCE, Stream, bash, open, seconds},
    process,
    server::Server,
};

/// What ends a call.
#[derive(Debug, Clone, Copy)]
enum Cause {
    Cancel,
    CancelByLabel,
    Timeout {
        seconds: i64,
    },
    Reset,
    Release,
    /// By somebody else than the stream that is attached.
    ReleaseFromElsewhere,
    ReleaseByLabel,
}

/// Processes that do not want to end, all with `marker` in their command lines; and how many they are. One says goodbye
/// to its parents and its session, one to its grandparent, one ignores what it may, and all but the first hold the
/// call's output open.
fn stubborn(marker: &str) -> (String, usize) {
    let script = format!(
        "touch file; trap '' TERM HUP INT
        setsid sleep {marker} < /dev/null > /dev/null 2>&1 &
        (setsid sh -c 'sleep {marker} & :' &)
        setsid sh -c 'trap \"\" TERM HUP INT QUIT; while :; do sleep {marker}; done' &
        echo partial; exec sleep {marker}"
    );
    (script, 5)
}

/// A number of seconds that no other test sleeps for.
fn marker() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("600.{}{:04}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A trajectory that has its own id as a label.
async fn labelled(server: &Server, id: &str) -> Stream {
    let labels = [("id".to_owned(), id.to_owned())].into();
    let options = Some(TrajectoryOptions { labels, ..TrajectoryOptions::default() });
    Stream::try_open(server, Open { options, ..open(id) }).await.expect("it opens")
}

/// Runs what is [`stubborn`], and returns once all of it does.
async fn start(stream: &mut Stream, marker: &str, timeout: i64) {
    let (script, processes) = stubborn(marker);
    stream.batch(vec![Call { timeout: seconds(timeout), stream_output: true, ..bash("a", &script) }]).await;
    stream.until(|message| matches!(message, Message::Output(_)).then_some(())).await;
    let asked = Instant::now();
    while process::marked(marker).len() < processes {
        assert!(asked.elapsed() < PATIENCE, "all of it should run: {:?}", process::marked(marker));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Starts a call, ends it so, and checks what is left; how long it took from the cause to the answer.
async fn end(server: &Server, id: &str, cause: Cause) -> Duration {
    let marker = marker();
    let mut stream = labelled(server, id).await;
    let limits = stream.opened.limits.as_ref().expect("it is told its limits");
    assert_eq!(limits.max_timeout, seconds(3_600), "an hour can be asked for");
    let timeout = if let Cause::Timeout { seconds } = cause { seconds } else { 3_600 };
    let mut client = server.client().await;
    start(&mut stream, &marker, timeout).await;
    let caused = Instant::now();
    let cancel = |release| CancelTrajectoriesRequest { labels: [("id".to_owned(), id.to_owned())].into(), release };
    match cause {
        Cause::Cancel => stream.send(Request::Cancel(Cancel::default())).await,
        Cause::CancelByLabel => _ = client.cancel_trajectories(cancel(false)).await.expect("it is cancelled"),
        Cause::Timeout { .. } => {}
        Cause::Reset => stream.send(Request::Reset(Reset { generation: 1 })).await,
        Cause::Release => stream.send(Request::Release(ReleaseTrajectory::default())).await,
        Cause::ReleaseFromElsewhere => {
            let release = ReleaseRequest { trajectory_id: id.to_owned(), keep_workspace: false };
            client.release(release).await.expect("it is released");
        }
        Cause::ReleaseByLabel => _ = client.cancel_trajectories(cancel(true)).await.expect("it is released"),
    }
    let result = stream.result().await;
    let took = match cause {
        // By its timings: what came after the timeout.
        Cause::Timeout { seconds } => after(&result, seconds),
        _ => caused.elapsed(),
    };
    assert_eq!(process::marked(&marker), [0_u32; 0], "{cause:?}: nothing outlives the answer");
    let (outcome, reason) = match cause {
        Cause::Timeout { .. } => (Outcome::TimedOut, Reason::Unspecified),
        Cause::Cancel | Cause::Reset => (Outcome::Cancelled, Reason::CancelledByClient),
        Cause::CancelByLabel | Cause::ReleaseByLabel => (Outcome::Cancelled, Reason::CancelledByLabel),
        Cause::Release | Cause::ReleaseFromElsewhere => (Outcome::Cancelled, Reason::Released),
    };
    assert_eq!((result.outcome(), result.reason()), (outcome, reason), "{cause:?}: {result:?}");
    assert_eq!((result.executed(), &*result.output), (Executed::Yes, "partial"), "{cause:?}: {result:?}");
    match cause {
        Cause::Release | Cause::ReleaseFromElsewhere | Cause::ReleaseByLabel => {
            stream.end().await.expect("the stream ends well");
        }
        Cause::Reset => {
            assert_eq!(stream.bash("b", "ls -A").await.output, "", "the workspace is another");
        }
        Cause::Cancel | Cause::CancelByLabel | Cause::Timeout { .. } => {
            assert_eq!(stream.bash("b", "ls -A").await.output, "file", "the workspace is the same");
        }
    }
    let release = ReleaseRequest { trajectory_id: id.to_owned(), keep_workspace: false };
    client.release(release).await.expect("it is released");
    took
}

/// How long a result took beyond its timeout.
fn after(result: &CallResult, timeout: i64) -> Duration {
    let timings = result.timings.as_ref().expect("it has timings");
    let phase = |phase: Option<prost_types::Duration>| {
        Duration::try_from(phase.expect("every phase is told")).expect("it is not negative")
    };
    // The agent counts from when it has handed the call over, which is dispatch still.
    let took = phase(timings.dispatch) + phase(timings.execution) + phase(timings.collection);
    let timeout = Duration::from_secs(timeout.unsigned_abs());
    assert!(took >= timeout, "{took:?} of {timeout:?}");
    took - timeout
}

const CAUSES: [Cause; 8] = [
    Cause::Cancel,
    Cause::CancelByLabel,
    Cause::Timeout { seconds: 1 },
    Cause::Timeout { seconds: 3 },
    Cause::Reset,
    Cause::Release,
    Cause::ReleaseFromElsewhere,
    Cause::ReleaseByLabel,
];

#[tokio::test]
async fn nothing_outlives_the_answer() {
    let server = Server::start();
    for (index, cause) in CAUSES.into_iter().enumerate() {
        let took = end(&server, &format!("ended-{index}"), cause).await;
        assert!(took < Duration::from_secs(2), "{cause:?} took {took:?}");
    }
}

#[tokio::test]
#[ignore = "measures, on a machine that does nothing else: cargo test --test integration how_soon -- --ignored --nocapture"]
async fn how_soon_everything_has_ended() {
    const ROUNDS: usize = 100;
    let server = Server::start();
    for (index, cause) in CAUSES.into_iter().enumerate() {
        let rounds = if matches!(cause, Cause::Timeout { .. }) { ROUNDS / 10 } else { ROUNDS };
        let mut took = Vec::new();
        for round in 0..rounds {
            took.push(end(&server, &format!("measured-{index}-{round}"), cause).await);
        }
        took.sort_unstable();
        println!("{cause:?}: p50 {:?}, p99 {:?} of {rounds}", took[rounds / 2], took[rounds * 99 / 100]);
    }
}

/// Whoever waits for a slot has it only once it is empty.
#[tokio::test]
async fn a_release_in_the_middle_of_a_call_gives_the_slot_on_after_the_wipe() {
    let server = Server::with(&[("SLOTS", "1"), ("MAX_CONTAINERS", "1")]);
    let marker = marker();
    let mut first = labelled(&server, "first").await;
    start(&mut first, &marker, 3_600).await;
    let mut next = Stream::open(&server, "next").await;
    next.batch(vec![bash("a", "ls -A . /tmp; cat /proc/[0-9]*/comm | grep -c sleep")]).await;
    next.until(|message| match message {
        Message::Notice(notice) => matches!(notice.event, Some(Event::WaitingForSlot(_))).then_some(()),
        _ => None,
    })
    .await;
    first.send(Request::Release(ReleaseTrajectory::default())).await;
    let given = next.result().await;
    assert_eq!(process::marked(&marker), [0_u32; 0]);
    assert_eq!(given.output, ".:\n\n/tmp:\n0", "{given:?}");
    assert_eq!(first.result().await.output, "partial");
    first.end().await.expect("the stream ends well");
}

/// From now on no slot of the server's containers can be emptied: what is in the way of old workspaces is a file.
fn block_wipes(server: &Server) {
    let containers = fs::read_dir(server.state.path().join("containers")).expect("there are containers");
    for container in containers.flatten() {
        let trash = container.path().join("slots/trash");
        let _ = fs::remove_dir_all(&trash);
        fs::write(&trash, "").expect("it can be written");
    }
}

async fn location(stream: &mut Stream) -> (String, u32) {
    let location = stream.until(|message| match message {
        Message::Notice(notice) => match notice.event {
            Some(Event::SlotAssigned(assigned)) => assigned.location,
            _ => None,
        },
        _ => None,
    });
    let location = location.await;
    (location.container_id, location.slot)
}

#[tokio::test]
async fn a_slot_that_cannot_be_emptied_is_never_used_again() {
    let server = Server::with(&[("SLOTS", "2"), ("MAX_CONTAINERS", "1")]);
    let marker = marker();
    let mut first = labelled(&server, "first").await;
    start(&mut first, &marker, 3_600).await;
    block_wipes(&server);

    // By a reset: its holder goes on in another one.
    first.send(Request::Reset(Reset { generation: 1 })).await;
    assert_eq!(first.result().await.reason(), Reason::CancelledByClient);
    assert_eq!(process::marked(&marker), [0_u32; 0], "what cannot be emptied can be ended");
    let generation = first.until(|message| match message {
        Message::WorkspaceReset(reset) => Some(reset.generation),
        _ => None,
    });
    assert_eq!(generation.await, 2);
    let pool = server.pool_until("a quarantined slot", |pool| pool.quarantined_slots == 1).await;
    assert_eq!((pool.total_slots, pool.available_slots), (2, 1));
    first.batch(vec![bash("b", "ls -A")]).await;
    let second_slot = location(&mut first).await;
    let after = first.result().await;
    assert_eq!((after.generation, &*after.output), (2, ""), "{after:?}");

    // Nobody is given it, though it is all that there could be.
    let mut waiter = Stream::open(&server, "waiter").await;
    waiter.batch(vec![bash("a", "ls -A")]).await;
    server.pool_until("one in the line", |pool| pool.waiting_trajectories == 1).await;

    // By a release: now there is no slot left, and the container is replaced.
    first.send(Request::Release(ReleaseTrajectory::default())).await;
    first.end().await.expect("the stream ends well");
    let third_slot = location(&mut waiter).await;
    assert_ne!(third_slot.0, second_slot.0, "it is another container's");
    assert_eq!(waiter.result().await.output, "");
    let pool = server.pool_until("the new container alone", |pool| pool.quarantined_slots == 0).await;
    assert_eq!((pool.total_slots, pool.acquired_slots, pool.containers.len()), (2, 1, 1));
}
