//! The order of calls, at most once, cancel, release, leases.

use std::time::{Duration, Instant};

use tonic::Code;
use tool_executor::pb::toolexecutor::{
    Attribution, Cancel, CancelTrajectoriesRequest, ExecuteRequest, Executed, ListTrajectoriesRequest, Open, Outcome,
    Reason, ReleaseCause, ReleaseRequest, ReleaseTrajectory, Reset, TrajectoryOptions, trajectory_request::Message,
    trajectory_response,
};

use crate::support::{
    client::{Stream, bash, command, execute, open, seconds, shell, try_execute, until_forgotten},
    process,
    server::Server,
};

#[tokio::test]
async fn calls_run_in_order_and_concurrent_ones_beside_them() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "order").await;
    let mut beside = bash("beside", "until [ -e third ]; do sleep 0.01; done; echo seen");
    beside.concurrent = true;
    stream.batch(vec![beside, bash("first", "sleep 0.2; echo first >> log"), bash("second", "cat log")]).await;
    let ordered = stream.results(2).await;
    let ids: Vec<&str> = ordered.iter().map(|result| &*result.call_id).collect();
    assert_eq!(ids, ["first", "second"], "results come as calls finish");
    assert_eq!(ordered[1].output, "first");
    // Only now may `beside` end: had the third call been in the batch, the two ends would race.
    stream.batch(vec![bash("third", "touch third")]).await;
    let last = stream.results(2).await;
    assert!(last.iter().any(|result| result.call_id == "beside" && result.output == "seen"));
    let sequences: Vec<u64> = ordered.iter().chain(&last).map(|result| result.sequence).collect();
    assert_eq!(sequences, [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_call_runs_at_most_once() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "once").await;
    let append = || bash("a", "echo ran >> log; sleep 0.2");
    stream.batch(vec![append(), append()]).await;
    let (unary, first) = tokio::join!(execute(&server, "once", append()), stream.result());
    assert_eq!((unary.sequence, first.sequence), (1, 1));
    assert!(!first.replayed);
    stream.batch(vec![append()]).await;
    let again = stream.result().await;
    assert!(again.replayed && again.sequence == 1);
    stream.batch(vec![bash("a", "echo other >> log")]).await;
    let reused = stream.result().await;
    assert_eq!((reused.outcome(), reused.reason(), reused.sequence), (Outcome::Rejected, Reason::CallIdReused, 0));
    assert_eq!((reused.executed(), reused.attribution()), (Executed::No, Attribution::Client));
    assert_eq!(stream.bash("b", "cat log").await.output, "ran");
}

#[tokio::test]
async fn the_ledger_outlives_a_release() {
    let server = Server::start();
    let client = &mut server.client().await;
    let first = execute(&server, "late", bash("a", "echo ran >> log; cat log")).await;
    assert_eq!((first.sequence, &*first.output), (1, "ran"));
    let release = ReleaseRequest { trajectory_id: "late".to_owned(), keep_workspace: false };
    client.release(release.clone()).await.expect("it is released");
    client.release(release).await.expect("a release of what is released succeeds");
    let again = execute(&server, "late", bash("a", "echo ran >> log; cat log")).await;
    assert!(again.replayed && again.sequence == 1);
    let next = execute(&server, "late", bash("b", "cat log")).await;
    assert_eq!(
        (next.sequence, next.generation, next.success),
        (2, 2, false),
        "an unseen call goes on, in a new workspace"
    );
    // An explicit open starts afresh.
    client.release(ReleaseRequest { trajectory_id: "late".to_owned(), keep_workspace: false }).await.expect("released");
    let stream = Stream::open(&server, "late").await;
    assert!(!stream.opened.resumed);
    assert_eq!(execute(&server, "late", bash("a", "echo afresh")).await.output, "afresh");
}

#[tokio::test]
async fn kept_files_come_back_to_the_same_trajectory_alone() {
    let server = Server::with(&[("SLOTS", "1"), ("MAX_CONTAINERS", "1")]);
    let mut stream = Stream::open(&server, "keeper").await;
    assert!(stream.bash("a", "echo mine > file").await.success);
    stream.send(Message::Release(ReleaseTrajectory { keep_workspace: true })).await;
    stream.end().await.expect("the stream ends well");
    let kept = execute(&server, "keeper", bash("b", "cat file")).await;
    assert_eq!(kept.output, "mine");
    let release = ReleaseRequest { trajectory_id: "keeper".to_owned(), keep_workspace: true };
    server.client().await.release(release).await.expect("it is released");
    let other = execute(&server, "other", bash("a", "ls -A | wc -l")).await;
    assert_eq!(other.output, "0", "another trajectory gets an empty workspace");
}

#[tokio::test]
async fn kept_files_go_with_a_later_release() {
    let server = Server::with(&[("SLOTS", "2"), ("MAX_CONTAINERS", "1")]);
    for (id, is_forgotten) in [("keeper", false), ("forgotten", true)] {
        let options = TrajectoryOptions { lease: seconds(1), ..TrajectoryOptions::default() };
        let mut stream =
            Stream::try_open(&server, Open { options: Some(options), ..open(id) }).await.expect("it opens");
        assert!(stream.bash("a", "echo mine > file").await.success);
        stream.send(Message::Release(ReleaseTrajectory { keep_workspace: true })).await;
        stream.end().await.expect("the stream ends well");
        if is_forgotten {
            until_forgotten(&server, id, bash("a", "echo mine > file")).await;
        }
        let pool = server.pool_until("the files to be kept", |pool| pool.available_slots == 2).await;
        assert_eq!(pool.acquired_slots, 0);
        let release = ReleaseRequest { trajectory_id: id.to_owned(), keep_workspace: false };
        server.client().await.release(release).await.expect("it is released");
        assert_eq!(execute(&server, id, bash("b", "ls -A")).await.output, "");
    }
}

#[tokio::test]
async fn a_cancel_kills_the_whole_tree_and_keeps_what_was_printed() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "cancel").await;
    let script = "(setsid sh -c 'while :; do touch alive; sleep 0.01; done' &) ; echo partial; sleep 60";
    let mut call = bash("a", script);
    call.stream_output = true;
    stream.batch(vec![call, bash("b", "echo never")]).await;
    stream
        .until(|message| match message {
            trajectory_response::Message::Output(output) => Some(output),
            _ => None,
        })
        .await;
    let asked = Instant::now();
    stream.send(Message::Cancel(Cancel { call_ids: Vec::new() })).await;
    let results = stream.results(2).await;
    assert!(asked.elapsed() < Duration::from_secs(5));
    let ran = results.iter().find(|result| result.call_id == "a").expect("it is answered");
    assert_eq!((ran.outcome(), ran.reason()), (Outcome::Cancelled, Reason::CancelledByClient));
    assert_eq!((ran.executed(), ran.attribution(), &*ran.output), (Executed::Yes, Attribution::Client, "partial"));
    let waited = results.iter().find(|result| result.call_id == "b").expect("it is answered");
    assert_eq!((waited.outcome(), waited.executed()), (Outcome::Cancelled, Executed::No));
    let after = stream.bash("c", "rm -f alive; sleep 0.1; ls; ps ax 2>/dev/null | grep -c sleep").await;
    assert!(!after.output.contains("alive"), "the daemon is dead: {}", after.output);
}

#[tokio::test]
async fn what_a_call_leaves_behind_ends_with_it() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "leftovers").await;
    let started = Instant::now();
    assert_eq!(stream.bash("a", "setsid sleep 60 & (sleep 60 &) ; echo hi").await.output, "hi");
    assert!(started.elapsed() < Duration::from_secs(20), "nobody waited for the sleeps");
    assert_eq!(stream.bash("b", "cat /proc/[0-9]*/comm | grep -c sleep").await.output, "0");
}

#[tokio::test]
async fn live_output_comes_with_its_offsets() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "live").await;
    let mut call = command("a", shell("head -c 3000000 /dev/zero; printf end >&2"));
    call.stream_output = true;
    stream.batch(vec![call]).await;
    let (mut seen, mut errors) = (0, Vec::new());
    loop {
        match stream.next().await.expect("the stream goes on").expect("it has not ended") {
            trajectory_response::Message::Output(output) if output.stream == 1 => {
                assert_eq!(output.offset, seen, "a client that reads misses nothing");
                seen += output.data.len() as u64;
            }
            trajectory_response::Message::Output(output) => errors.extend_from_slice(&output.data),
            trajectory_response::Message::Result(result) => {
                assert_eq!(result.stdout.expect("stdout").total_bytes, 3_000_000);
                break;
            }
            _ => {}
        }
    }
    assert_eq!((seen, &errors[..]), (3_000_000, &b"end"[..]));
}

#[tokio::test]
async fn a_reset_gives_the_next_generation_an_empty_workspace() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "reset").await;
    let first = stream.bash("a", "touch file /tmp/file; ls").await;
    assert_eq!((first.generation, &*first.output), (1, "file"));
    stream.batch(vec![bash("b", "sleep 60")]).await;
    stream.send(Message::Reset(Reset { generation: 1 })).await;
    let cancelled = stream.result().await;
    assert_eq!((cancelled.outcome(), &*cancelled.call_id), (Outcome::Cancelled, "b"));
    let reset = |message| match message {
        trajectory_response::Message::WorkspaceReset(reset) => Some(reset.generation),
        _ => None,
    };
    assert_eq!(stream.until(reset).await, 2);
    stream.send(Message::Reset(Reset { generation: 1 })).await;
    assert_eq!(stream.until(reset).await, 2, "an older generation is only answered");
    let after = stream.bash("c", "ls -A . /tmp").await;
    assert_eq!((after.generation, &*after.output), (2, ".:\n\n/tmp:"));
}

#[tokio::test]
async fn a_lease_ends_and_nothing_runs_in_a_silently_empty_workspace() {
    let server = Server::start();
    let mut open = open("leased");
    open.options = Some(TrajectoryOptions { lease: seconds(1), ..TrajectoryOptions::default() });
    let mut stream = Stream::try_open(&server, open).await.expect("it opens");
    assert!(stream.bash("a", "touch file").await.success);
    drop(stream);
    server.pool_until("the slot to be free", |pool| pool.acquired_slots == 0 && pool.available_slots > 0).await;
    let known = execute(&server, "leased", bash("a", "touch file")).await;
    assert!(known.replayed, "the ledger outlives the lease");
    let refused = execute(&server, "leased", bash("b", "ls")).await;
    assert_eq!((refused.outcome(), refused.reason()), (Outcome::SandboxLost, Reason::WorkspaceGone));
    assert_eq!((refused.executed(), refused.sequence), (Executed::No, 0));
    let existing = ExecuteRequest {
        trajectory_id: "leased".to_owned(),
        call: Some(bash("c", "ls")),
        require_existing: true,
        ..ExecuteRequest::default()
    };
    assert_eq!(try_execute(&server, existing).await.expect_err("it is over").code(), tonic::Code::NotFound);
    // Whoever lets go of it knows that it is gone.
    let release = ReleaseRequest { trajectory_id: "leased".to_owned(), keep_workspace: false };
    server.client().await.release(release).await.expect("it releases");
    let next = execute(&server, "leased", bash("b", "ls")).await;
    assert_eq!((next.success, &*next.output, next.generation), (true, "", known.generation + 1));
    assert!(execute(&server, "leased", bash("a", "touch file")).await.replayed, "the ledger outlives that, too");
}

#[tokio::test]
async fn after_a_lease_an_open_begins_afresh() {
    let server = Server::start();
    let mut open = open("leased");
    open.options = Some(TrajectoryOptions { lease: seconds(1), ..TrajectoryOptions::default() });
    let mut stream = Stream::try_open(&server, open.clone()).await.expect("it opens");
    assert!(stream.bash("a", "touch file").await.success);
    drop(stream);
    server.pool_until("the slot to be free", |pool| pool.acquired_slots == 0 && pool.available_slots > 0).await;
    let mut stream = Stream::try_open(&server, open).await.expect("it opens");
    assert!(!stream.opened.resumed);
    let first = stream.bash("a", "ls").await;
    assert_eq!((&*first.output, first.replayed), ("", false));
}

#[tokio::test]
async fn trajectories_are_listed_in_pages_by_their_labels() {
    let server = Server::start();
    let mut streams = Vec::new();
    for index in 0..5 {
        let mut open = open(&format!("listed-{index}"));
        let labels = [("run".to_owned(), if index == 2 { "b" } else { "a" }.to_owned())].into();
        open.options = Some(TrajectoryOptions { labels, ..TrajectoryOptions::default() });
        streams.push(Stream::try_open(&server, open).await.expect("it opens"));
    }
    assert!(streams[0].bash("x", "true").await.success);
    let client = &mut server.client().await;
    let mut request = ListTrajectoriesRequest {
        labels: [("run".to_owned(), "a".to_owned())].into(),
        page_size: 3,
        page_token: String::new(),
    };
    let first = client.list_trajectories(request.clone()).await.expect("a page").into_inner();
    let ids: Vec<&str> = first.trajectories.iter().map(|trajectory| &*trajectory.trajectory_id).collect();
    assert_eq!(ids, ["listed-0", "listed-1", "listed-3"]);
    assert!(first.trajectories[0].attached && first.trajectories[0].location.is_some());
    assert_eq!(first.trajectories[0].finished_calls, 1);
    request.page_token = first.next_page_token;
    let second = client.list_trajectories(request).await.expect("a page").into_inner();
    assert_eq!((second.trajectories.len(), &*second.next_page_token), (1, ""));
}

fn labelled(id: &str, labels: &[(&str, &str)]) -> Open {
    let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Open { options: Some(TrajectoryOptions { labels, ..TrajectoryOptions::default() }), ..open(id) }
}

fn cancel(labels: &[(&str, &str)], release: bool) -> CancelTrajectoriesRequest {
    let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    CancelTrajectoriesRequest { labels, release }
}

#[tokio::test]
async fn trajectories_are_cancelled_by_their_labels() {
    let server = Server::start();
    let client = &mut server.client().await;
    let (run, other) = ([("run", "7"), ("kind", "train")], [("run", "8")]);
    let mut meant = Stream::try_open(&server, labelled("meant", &run)).await.expect("it opens");
    let mut spared = Stream::try_open(&server, labelled("spared", &other)).await.expect("it opens");
    let mut running = bash("running", "setsid sleep 4747 & echo begun; sleep 4747");
    running.stream_output = true;
    meant.batch(vec![running, bash("waiting", "true")]).await;
    spared.batch(vec![bash("a", "sleep 1; echo spared")]).await;
    let begun = meant
        .until(|message| match message {
            trajectory_response::Message::Output(output) => Some(output),
            _ => None,
        })
        .await;
    assert_eq!(&*begun.data, b"begun\n");

    let cancelled = client.cancel_trajectories(cancel(&[("run", "7")], false)).await.expect("it works").into_inner();
    assert_eq!((cancelled.trajectories, cancelled.calls), (1, 2));
    for result in meant.results(2).await {
        let executed = if result.call_id == "running" { Executed::Yes } else { Executed::No };
        assert_eq!((result.outcome(), result.reason()), (Outcome::Cancelled, Reason::CancelledByLabel));
        assert_eq!((result.executed(), result.attribution()), (executed, Attribution::Client), "{result:?}");
    }
    let left: Vec<u32> = server.agents().into_iter().flat_map(process::tree).filter(|pid| sleeps(*pid)).collect();
    assert_eq!(left, [0_u32; 0], "daemons of a cancelled call are ended with it");
    assert_eq!(meant.bash("after", "echo goes on").await.output, "goes on");

    let cancelled = client.cancel_trajectories(cancel(&run, true)).await.expect("it works").into_inner();
    assert_eq!((cancelled.trajectories, cancelled.calls), (1, 0));
    let cause = meant
        .until(|message| match message {
            trajectory_response::Message::Released(released) => Some(released.cause()),
            _ => None,
        })
        .await;
    assert_eq!(cause, ReleaseCause::CancelledByLabel);
    meant.end().await.expect("the stream ends well");
    assert_eq!(spared.result().await.output, "spared");
    let none = client.cancel_trajectories(cancel(&[("run", "9")], true)).await.expect("it works").into_inner();
    assert_eq!((none.trajectories, none.calls), (0, 0));
    let error = client.cancel_trajectories(cancel(&[], true)).await.expect_err("all of them is not meant by accident");
    assert_eq!(error.code(), Code::InvalidArgument);
}

fn sleeps(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep\x004747"))
}
