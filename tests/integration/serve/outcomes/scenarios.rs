//! What causes each outcome: the real thing, of both a tool call and a command where it can befall both.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;
use tool_executor::pb::toolexecutor::{
    Call, CallResult, Cancel, CancelTrajectoriesRequest, Command, Executed, Input, Open, Outcome, Reason,
    ReleaseTrajectory, Reset, TrajectoryOptions,
    notice::Event,
    trajectory_request::Message as Request,
    trajectory_response::Message::{self, Notice},
};

pub(super) use super::elsewhere::{
    external_tool_failed, tool_server_protocol, tool_server_timeout, tool_server_unreachable,
};
pub(super) use super::limits::{cpu_limit, disk_limit, machine_memory, out_of_memory, process_limit};
use super::{By, Case, impostor};
use crate::support::{
    client::{PATIENCE, Stream, argv, bash, command, open, seconds, shell, tool},
    dying::{BLOCKER, Cue, kill, kill_agents},
    process,
    server::Server,
};

/// Runs and is accepted, whatever it says: on a server of its own, after `prepare`.
async fn run(prepare: &str, calls: Vec<(By, Call)>) -> Vec<Case> {
    let server = Server::start();
    let mut stream = Stream::open(&server, "run").await;
    assert!(stream.bash("prepare", prepare).await.success);
    let mut cases = Vec::new();
    for (by, call) in calls {
        stream.batch(vec![call]).await;
        cases.push(Case::accepted(by, Executed::Yes, stream.result().await));
    }
    cases
}

pub(super) async fn terminal_state() -> Vec<Case> {
    run(":", vec![(By::Model, tool("none", "process", json!({"action": "poll", "id": 1})))]).await
}

async fn run_both(script: &str) -> Vec<Case> {
    run(":", By::BOTH.map(|by| (by, by.call(&format!("{by:?}"), script))).into()).await
}

/// Is refused for what it is, and leaves its id free.
async fn reject(calls: Vec<(By, Call)>) -> Vec<Case> {
    let server = Server::start();
    let mut stream = Stream::open(&server, "rejected").await;
    let mut cases = Vec::new();
    for (by, call) in calls {
        let id = call.call_id.clone();
        stream.batch(vec![call]).await;
        cases.push(Case::refused(by, stream.result().await));
        assert_free(&mut stream, &id).await;
    }
    cases
}

/// Another action may have this id: nothing is known of it.
async fn assert_free(stream: &mut Stream, id: &str) {
    let result = stream.bash(id, "echo free").await;
    assert!(result.success && result.sequence > 0 && !result.replayed, "{id}: {result:?}");
}

/// The results of so many calls, in the order of their ids.
async fn answers<const N: usize>(stream: &mut Stream, ids: [&str; N]) -> [CallResult; N] {
    let results = stream.results(N).await;
    ids.map(|id| {
        results.iter().find(|result| result.call_id == id).unwrap_or_else(|| panic!("{id}: {results:?}")).clone()
    })
}

async fn notice(stream: &mut Stream, wanted: impl Fn(&Event) -> bool) {
    stream
        .until(|message| match message {
            Notice(notice) => notice.event.filter(&wanted).map(drop),
            _ => None,
        })
        .await;
}

async fn output(stream: &mut Stream) {
    stream
        .until(|message| match message {
            Message::Output(output) => Some(output),
            _ => None,
        })
        .await;
}

async fn reset(stream: &mut Stream, generation: u64) {
    stream.send(Request::Reset(Reset { generation })).await;
    stream.until(|message| matches!(message, Message::WorkspaceReset(_)).then_some(())).await;
}

fn read_file(path: &str) -> (By, Call) {
    (By::Model, tool(&format!("read-{}", path.len()), "read_file", json!({ "path": path })))
}

pub(super) async fn succeeded() -> Vec<Case> {
    run_both("echo done").await
}

pub(super) async fn exit_status() -> Vec<Case> {
    run_both("exit 3").await
}

pub(super) async fn signalled() -> Vec<Case> {
    run_both("kill -SEGV $$").await
}

pub(super) async fn file_not_found() -> Vec<Case> {
    run(":", vec![read_file("missing"), (By::Trainer, command("a", argv(&["no-such-program"])))]).await
}

pub(super) async fn not_a_file() -> Vec<Case> {
    run("mkdir directory", vec![read_file("directory")]).await
}

pub(super) async fn file_too_large() -> Vec<Case> {
    run("head -c 200000 /dev/zero > large", vec![read_file("large")]).await
}

pub(super) async fn path_outside_workspace() -> Vec<Case> {
    run(":", vec![read_file("../etc/passwd"), read_file("/etc/passwd")]).await
}

pub(super) async fn file_error() -> Vec<Case> {
    let script = command("a", argv(&["./not-executable"]));
    run("echo > not-executable", vec![read_file(&"x".repeat(300)), (By::Trainer, script)]).await
}

pub(super) async fn larger_than_the_kernel_takes() -> Vec<Case> {
    // Each may have 128 KiB, and all together a quarter of the stack's limit: at most 6 MiB.
    let argument = "x".repeat(120_000);
    let mut arguments = vec!["true"];
    arguments.resize(60, &argument);
    run(":", vec![(By::Trainer, command("a", argv(&arguments)))]).await
}

pub(super) async fn timed_out() -> Vec<Case> {
    let timed = By::BOTH.map(|by| (by, Call { timeout: seconds(1), ..by.call(&format!("{by:?}"), "exec sleep 600") }));
    run(":", timed.into()).await
}

pub(super) async fn input_limit() -> Vec<Case> {
    let server = Server::with(&[("MAX_PENDING_INPUT_BYTES", "100000")]);
    let mut stream = Stream::open(&server, "input").await;
    let deaf = |id, script| command(id, Command { interactive: true, ..shell(script) });
    let runs = Call { stream_output: true, ..deaf("runs", "echo begun; exec sleep 600") };
    stream.batch(vec![runs, deaf("waits", "true")]).await;
    output(&mut stream).await;
    for call_id in ["waits", "runs"] {
        // What a pipe holds of it does not count.
        for _ in 0..4 {
            let data = vec![b'x'; 80_000].into();
            stream.send(Request::Input(Input { call_id: call_id.to_owned(), data, end_of_file: false })).await;
        }
    }
    let [runs, waits] = answers(&mut stream, ["runs", "waits"]).await;
    vec![Case::accepted(By::Trainer, Executed::Yes, runs), Case::accepted(By::Trainer, Executed::No, waits)]
}

pub(super) async fn unknown_tool() -> Vec<Case> {
    reject(vec![(By::Model, tool("a", "no_such_tool", json!({})))]).await
}

pub(super) async fn invalid_arguments() -> Vec<Case> {
    reject(vec![(By::Model, tool("a", "bash", json!({ "command": 7 })))]).await
}

pub(super) async fn request_too_large() -> Vec<Case> {
    let write = tool("a", "write_file", json!({ "path": "f", "content": "x".repeat(100_001) }));
    reject(vec![(By::Model, write), (By::Trainer, command("b", shell(&"x".repeat(140_000))))]).await
}

pub(super) async fn call_id_reused() -> Vec<Case> {
    let server = Server::start();
    let mut stream = Stream::open(&server, "reused").await;
    let mut cases = Vec::new();
    for by in By::BOTH {
        let id = format!("{by:?}");
        stream.batch(vec![by.call(&id, "echo one")]).await;
        assert!(stream.result().await.success);
        stream.batch(vec![by.call(&id, "echo another")]).await;
        cases.push(Case::refused(by, stream.result().await));
    }
    cases
}

pub(super) async fn result_dropped() -> Vec<Case> {
    let server = Server::with(&[("MAX_KEPT_RESULTS", "2")]);
    let mut stream = Stream::open(&server, "dropped").await;
    let calls = || By::BOTH.map(|by| by.call(&format!("{by:?}"), "echo once"));
    for call in calls().into_iter().chain(["x", "y", "z"].map(|id| bash(id, "true"))) {
        stream.batch(vec![call]).await;
        assert!(stream.result().await.success);
    }
    let mut cases = Vec::new();
    for (by, call) in By::BOTH.into_iter().zip(calls()) {
        stream.batch(vec![call]).await;
        // It did run: what came of it is no longer known.
        cases.push(Case { executed: Executed::Unknown, ..Case::refused(by, stream.result().await) });
    }
    cases
}

/// At the door, where too much waits; and after a wait in vain for a place in the line.
pub(super) async fn queue_full() -> Vec<Case> {
    let settings = [("SLOTS", "1"), ("MAX_CONTAINERS", "1"), ("MAX_CALLS_IN_FLIGHT", "2")];
    let server = Server::with(&[&settings[..], &[("MAX_WAITING_TRAJECTORIES", "1")]].concat());
    let mut full = Stream::open(&server, "full").await;
    assert!(full.bash("slot", "true").await.success);
    full.batch(vec![bash("runs", "exec sleep 600"), bash("waits", "true")]).await;
    full.batch(By::BOTH.map(|by| by.call(&format!("{by:?}"), "true")).into()).await;
    let mut cases: Vec<Case> = Vec::new();
    for by in By::BOTH {
        cases.push(Case::refused(by, full.result().await));
    }
    full.send(Request::Cancel(Cancel::default())).await;
    full.results(2).await;
    for by in By::BOTH {
        assert_free(&mut full, &format!("{by:?}")).await;
    }

    let first = Stream::open(&server, "first").await;
    first.batch(vec![bash("a", "true")]).await;
    server.pool_until("one in the line", |pool| pool.waiting_trajectories == 1).await;
    let mut second = Stream::open(&server, "beyond").await;
    second.batch(By::BOTH.map(|by| by.call(&format!("{by:?}"), "true")).into()).await;
    let [tool, command] = answers(&mut second, ["Model", "Trainer"]).await;
    drop(first);
    cases.push(Case::accepted(By::Model, Executed::No, tool));
    cases.push(Case::accepted(By::Trainer, Executed::No, command));
    cases
}

pub(super) async fn slot_timeout() -> Vec<Case> {
    let server = Server::with(&[("SLOTS", "1"), ("MAX_CONTAINERS", "1"), ("ACQUIRE_TIMEOUT_S", "1")]);
    let mut holder = Stream::open(&server, "holder").await;
    assert!(holder.bash("a", "true").await.success);
    let mut waiter = Stream::open(&server, "waiter").await;
    waiter.batch(By::BOTH.map(|by| by.call(&format!("{by:?}"), "true")).into()).await;
    notice(&mut waiter, |event| matches!(event, Event::WaitingForSlot(waiting) if waiting.position == 1)).await;
    let [tool, command] = answers(&mut waiter, ["Model", "Trainer"]).await;
    holder.send(Request::Release(ReleaseTrajectory::default())).await;
    holder.end().await.expect("it ends well");
    assert!(waiter.bash("later", "true").await.success, "it may try again");
    vec![Case::accepted(By::Model, Executed::No, tool), Case::accepted(By::Trainer, Executed::No, command)]
}

/// What slots are to be shown was there when the service was started, and is not when a container is.
pub(super) async fn container_start_failed() -> Vec<Case> {
    let shown = TempDir::new_in("/opt").or_else(|_| TempDir::new()).expect("a directory");
    let path = shown.path().to_str().expect("it is text").to_owned();
    let server = Server::with(&[("MIN_CONTAINERS", "0"), ("SANDBOX_READ_ONLY", &path)]);
    shown.close().expect("it can be removed");
    let mut stream = Stream::open(&server, "start").await;
    stream.batch(By::BOTH.map(|by| by.call(&format!("{by:?}"), "true")).into()).await;
    let results = answers(&mut stream, ["Model", "Trainer"]).await;
    for result in &results {
        let evidence = result.fault.as_ref().and_then(|fault| fault.evidence.as_ref()).expect("it says why");
        assert!(evidence.stderr_tail.contains(&path), "{evidence:?}");
    }
    By::BOTH.into_iter().zip(results).map(|(by, result)| Case::accepted(by, Executed::No, result)).collect()
}

pub(super) async fn draining() -> Vec<Case> {
    let server = Server::start();
    let mut stream = Stream::open(&server, "draining").await;
    assert!(stream.bash("slot", "true").await.success);
    // Else the trajectory would end at once.
    stream.batch(vec![Call { stream_output: true, ..bash("runs", "echo begun; exec sleep 600") }]).await;
    output(&mut stream).await;
    server.signal(Signal::TERM);
    notice(&mut stream, |event| matches!(event, Event::Draining(_))).await;
    let mut cases = Vec::new();
    for script in ["true", "echo another, which is not known either"] {
        for by in By::BOTH {
            stream.batch(vec![by.call(&format!("{by:?}"), script)]).await;
            cases.push(Case::refused(by, stream.result().await));
        }
    }
    cases
}

/// Whether a call of a dead agent's ran is told as far as it is known, and no further.
pub(super) async fn container_lost() -> Vec<Case> {
    let mut cases = Vec::new();
    for (cue, executed) in [
        (Cue::BeforeHandOver, Executed::No),
        (Cue::AfterHandOver, Executed::Unknown),
        (Cue::AfterOutput, Executed::Yes),
    ] {
        let server = Server::with(&[("MAX_CONTAINERS", "1")]);
        let mut stream = Stream::open(&server, "lost").await;
        assert!(stream.bash("slot", "true").await.success);
        let calls = By::BOTH.map(|by| by.call(&format!("{by:?}"), "echo begun; exec sleep 600"));
        kill_agents(cue, &server, &mut stream, calls.into()).await;
        let results = if cue == Cue::BeforeHandOver {
            let [blocker, tool, command] = answers(&mut stream, [BLOCKER, "Model", "Trainer"]).await;
            assert_eq!((blocker.reason(), blocker.executed()), (Reason::ContainerLost, Executed::Unknown));
            [tool, command]
        } else {
            answers(&mut stream, ["Model", "Trainer"]).await
        };
        for (by, result) in By::BOTH.into_iter().zip(results) {
            let evidence = result.fault.as_ref().and_then(|fault| fault.evidence.as_ref()).expect("it says why");
            assert!(evidence.location.is_some(), "{evidence:?}");
            cases.push(Case::accepted(by, executed, result));
        }
    }
    cases
}

/// The slot's processes die, its agent does not.
pub(super) async fn slot_lost() -> Vec<Case> {
    let server = Server::with(&[("MAX_CONTAINERS", "1")]);
    let mut cases = Vec::new();
    for (round, [silent_by, loud_by]) in [By::BOTH, [By::Trainer, By::Model]].into_iter().enumerate() {
        let mut stream = Stream::open(&server, &format!("lost-{round}")).await;
        let marker = format!("{}.{round}{}", 70_000 + round, std::process::id());
        let silent = silent_by.call("silent", &format!("exec sleep {marker}"));
        let loud = loud_by.call("loud", "echo begun; exec sleep 600");
        let loud = Call { concurrent: true, stream_output: true, ..loud };
        stream.batch(vec![silent, loud, silent_by.call("waits", "true")]).await;
        output(&mut stream).await;
        let agent = server.agents()[0];
        let asked = std::time::Instant::now();
        let keeper = loop {
            if let Some(keeper) = process::marked(&marker).into_iter().find_map(|pid| process::keeper_of(agent, pid)) {
                break keeper;
            }
            assert!(asked.elapsed() < PATIENCE, "it should run");
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        kill(keeper);
        let [silent, loud, waits] = answers(&mut stream, ["silent", "loud", "waits"]).await;
        cases.push(Case::accepted(silent_by, Executed::Unknown, silent));
        cases.push(Case::accepted(loud_by, Executed::Yes, loud));
        cases.push(Case::accepted(silent_by, Executed::No, waits));
    }
    cases
}

pub(super) async fn workspace_gone() -> Vec<Case> {
    let server = Server::with(&[("MAX_CONTAINERS", "1")]);
    let mut stream = Stream::open(&server, "gone").await;
    assert!(stream.bash("slot", "true").await.success);
    kill_agents(Cue::AfterResult, &server, &mut stream, vec![bash("last", "echo kept")]).await;
    let last = stream.result().await;
    notice(&mut stream, |event| matches!(event, Event::SandboxLost(_))).await;
    // What had ended before the loss is answered as it ended.
    let again = stream.bash("last", "echo kept").await;
    assert!(again.replayed && again.outcome() == Outcome::Succeeded, "{again:?}");
    assert_eq!((again.sequence, again.output), (last.sequence, last.output));
    let mut cases = Vec::new();
    for by in By::BOTH {
        stream.batch(vec![by.call(&format!("{by:?}"), "true")]).await;
        cases.push(Case::refused(by, stream.result().await));
    }
    reset(&mut stream, 1).await;
    for by in By::BOTH {
        assert_free(&mut stream, &format!("{by:?}")).await;
    }
    cases
}

/// Two that run and two that wait, ended by `end`, which the trajectory's label `row` may help to find.
async fn cancelled(server: &Server, end: impl AsyncFnOnce(&mut Stream)) -> Vec<Case> {
    let options =
        TrajectoryOptions { labels: [("row".to_owned(), "a".to_owned())].into(), ..TrajectoryOptions::default() };
    let open = Open { options: Some(options), ..open("cancelled") };
    let mut stream = Stream::try_open(server, open).await.expect("it opens");
    let runs = |by: By, id| Call { stream_output: true, ..by.call(id, "echo begun; exec sleep 600") };
    let beside = Call { concurrent: true, ..runs(By::Trainer, "beside") };
    let (waits, waits_too) = (By::Model.call("waits", "true"), By::Trainer.call("waits-too", "true"));
    stream.batch(vec![runs(By::Model, "runs"), beside, waits, waits_too]).await;
    for _ in 0..2 {
        output(&mut stream).await;
    }
    end(&mut stream).await;
    let [runs, beside, waits, waits_too] = answers(&mut stream, ["runs", "beside", "waits", "waits-too"]).await;
    vec![
        Case::accepted(By::Model, Executed::Yes, runs),
        Case::accepted(By::Trainer, Executed::Yes, beside),
        Case::accepted(By::Model, Executed::No, waits),
        Case::accepted(By::Trainer, Executed::No, waits_too),
    ]
}

pub(super) async fn cancelled_by_client() -> Vec<Case> {
    cancelled(&Server::start(), async |stream| stream.send(Request::Cancel(Cancel::default())).await).await
}

pub(super) async fn cancelled_by_label() -> Vec<Case> {
    let server = Server::start();
    let cancel = CancelTrajectoriesRequest { labels: [("row".to_owned(), "a".to_owned())].into(), release: false };
    let end = async |_: &mut Stream| {
        let cancelled = server.client().await.cancel_trajectories(cancel).await.expect("it works").into_inner();
        assert_eq!((cancelled.trajectories, cancelled.calls), (1, 4));
    };
    cancelled(&server, end).await
}

pub(super) async fn released() -> Vec<Case> {
    let release = Request::Release(ReleaseTrajectory::default());
    cancelled(&Server::start(), async |stream| stream.send(release).await).await
}

pub(super) async fn drained() -> Vec<Case> {
    let server = Server::with(&[("DRAIN_TIMEOUT", "100ms")]);
    cancelled(&server, async |_| server.signal(Signal::TERM)).await
}

/// An agent answers with something that it was not asked for.
pub(super) async fn internal() -> Vec<Case> {
    let server = Server::with(&[("MAX_CONTAINERS", "1")]);
    let mut stream = Stream::open(&server, "internal").await;
    assert!(stream.bash("slot", "true").await.success);
    let _impostor = impostor::take_over(&server);
    let mut cases = Vec::new();
    for by in By::BOTH {
        stream.batch(vec![by.call(&format!("{by:?}"), "true")]).await;
        cases.push(Case::accepted(by, Executed::Unknown, stream.result().await));
    }
    cases
}
