//! An executor that is killed, and another that goes on with what it has left.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::json;
use tonic::Code;
use tool_executor::pb::toolexecutor::{
    Attribution, Call, CallResult, Command, ExecuteRequest, Executed, Input, Outcome, OutputStream, Reason,
    trajectory_request::Message as Request, trajectory_response::Message as Response,
};

use crate::support::{
    client::{PATIENCE, Stream, bash, command, execute, open, shell, tool, try_execute},
    dying, process,
    server::Server,
    trainer::Trainer,
};

/// The trajectory again, after the results up to `last`.
async fn resume(server: &Server, id: &str, last: u64) -> Stream {
    let open = tool_executor::pb::toolexecutor::Open { last_sequence: last, require_existing: true, ..open(id) };
    let stream = Stream::try_open(server, open).await.expect("it resumes");
    assert!(stream.opened.resumed);
    stream
}

/// Until so many calls run.
async fn running(server: &Server, count: u32) {
    let asked = std::time::Instant::now();
    while server.status().await.running_calls != count {
        assert!(asked.elapsed() < PATIENCE, "{count} calls should run");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_killed_executor_loses_nothing() {
    let mut server = Server::start();
    let mut stream = Stream::open(&server, "survivor").await;
    let early = stream.bash("early", "echo early | tee log; echo kept > file").await;
    assert!(early.success, "{early:?}");
    let generation = early.generation;
    stream.batch(vec![bash("runs", "sleep 1.5; echo runs | tee -a log")]).await;
    let waiting: Vec<Call> = (0..5).map(|n| bash(&format!("waits{n}"), &format!("echo {n} | tee -a log"))).collect();
    stream.batch(waiting).await;
    running(&server, 1).await;
    let agents = server.agents();

    server.kill_and_start_again();
    assert_eq!(server.agents(), agents, "they are taken over");
    let mut stream = resume(&server, "survivor", early.sequence).await;
    assert_eq!(stream.opened.generation, generation);
    let results = stream.results(6).await;
    let expected = ["runs", "0", "1", "2", "3", "4"];
    for (index, (result, output)) in results.iter().zip(expected).enumerate() {
        assert_eq!((result.outcome(), &*result.output), (Outcome::Succeeded, output), "{result:?}");
        assert_eq!((result.sequence, result.generation), (early.sequence + 1 + index as u64, generation));
    }
    assert!(results[0].timings.as_ref().is_some_and(|timings| timings.execution.is_some()));
    let log = stream.bash("log", "cat file log | tr '\\n' ' '").await;
    assert_eq!(log.output, "kept early runs 0 1 2 3 4", "each ran once, in order, where its files are");
}

#[tokio::test]
async fn what_outlives_its_calls_outlives_the_executor() {
    let mut server = Server::start();
    let mut stream = Stream::open(&server, "sessions").await;
    let shell = |id: &str, script: &str| tool(id, "terminal_stateful", json!({ "command": script }));
    let tmux = |id: &str, arguments| tool(id, "tmux", arguments);
    let before = [
        shell("begin", "X=kept; f() { echo \"f $X\"; }; mkdir d; cd d; sleep 600 &"),
        tmux("start", json!({"action": "start", "pane_width": 80, "pane_height": 20})),
        tmux("keys", json!({"action": "send_keys", "keys": ["Y=typed; clear; echo on\"ce\"", "Enter"], "block": true})),
        tool("background", "bash", json!({"command": "echo ready; read -r x; echo \"read $x\"", "background": true})),
    ];
    stream.batch(before.to_vec()).await;
    let results = stream.results(before.len()).await;
    assert!(results.iter().all(|result| result.success), "{results:?}");
    assert_eq!(results[2].output, "once\n$");
    let asks = shell("asks", "echo begun; read -r x; echo \"$x $X\"");
    stream.batch(vec![Call { stream_output: true, ..asks }]).await;
    running(&server, 1).await;
    let agents = server.agents();

    server.kill_and_start_again();
    assert_eq!(server.agents(), agents, "they are taken over");
    let mut stream = resume(&server, "sessions", results[3].sequence).await;
    let input = |id: &str, data: &'static str| Input { call_id: id.into(), data: data.into(), end_of_file: false };
    stream.send(Request::Input(input("asks", "answer\n"))).await;
    let (mut live, mut asked) = (Vec::new(), None);
    while asked.is_none() {
        match stream.next().await.expect("the stream goes on").expect("it has not ended") {
            Response::Output(output) => {
                assert_eq!(output.stream(), OutputStream::Terminal);
                live.extend_from_slice(&output.data);
            }
            Response::Result(result) => asked = Some(result),
            _ => {}
        }
    }
    assert_eq!(asked.expect("there is one").output, "begun\nanswer kept");
    assert!(live.ends_with(b"answer kept\n"), "it is read live again: {live:?}");
    let after = [
        shell("after", "f; pwd; jobs -p | wc -l"),
        tmux("screen", json!({"action": "capture"})),
        tmux("more", json!({"action": "send_keys", "keys": ["echo \"$Y\"", "Enter"], "block": true})),
        tool("write", "process", json!({"action": "write", "id": 1, "input": "line\n"})),
        tool("wait", "process", json!({"action": "wait", "id": 1})),
        tool("log", "process", json!({"action": "log", "id": 1})),
    ];
    stream.batch(after.to_vec()).await;
    let outputs: Vec<String> = stream.results(after.len()).await.into_iter().map(|result| result.output).collect();
    assert_eq!(outputs[..3], ["f kept\n/workspace/d\n1", "once\n$", "once\n$ echo \"$Y\"\ntyped\n$"]);
    assert!(outputs[5].starts_with("ready\nread line\n"), "{outputs:?}");
}

#[tokio::test]
async fn what_ends_while_nobody_is_there_is_heard_of() {
    let mut server = Server::start();
    let mut stream = Stream::open(&server, "alone").await;
    assert!(stream.bash("first", "true").await.success);
    let calls = |script: &str| (0..3).map(|n| Call { concurrent: true, ..bash(&format!("c{n}"), script) }).collect();
    let script = "echo x >> log; sleep 0.7; echo done";
    stream.batch(calls(script)).await;
    running(&server, 3).await;
    server.signal(Signal::KILL);
    server.wait();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    server.start_again();
    // A client that heard nothing sends them again.
    let mut stream = resume(&server, "alone", 0).await;
    stream.batch(calls(script)).await;
    let mut results: BTreeMap<String, Vec<CallResult>> = BTreeMap::new();
    for result in stream.results(4).await {
        results.entry(result.call_id.clone()).or_default().push(result);
    }
    for n in 0..3 {
        let results = &results[&format!("c{n}")];
        assert!(results.iter().all(|result| result.success && result.output == "done"), "{results:?}");
    }
    assert_eq!(execute(&server, "alone", bash("log", "cat log")).await.output, "x\nx\nx", "each ran once");
}

#[tokio::test]
async fn executor_and_agents_that_die_together_leave_doubt_and_no_repetition() {
    let mut server = Server::start();
    let mut stream = Stream::open(&server, "both").await;
    let before = stream.bash("before", "echo before").await;
    stream.batch(vec![bash("ran", "echo ran; sleep 600"), bash("waited", "echo waited")]).await;
    running(&server, 1).await;
    let tree: Vec<u32> = server.agents().into_iter().flat_map(process::tree).collect();
    server.agents().into_iter().for_each(dying::kill);
    server.signal(Signal::KILL);
    server.start_again();

    let mut stream = resume(&server, "both", before.sequence).await;
    let results = stream.results(2).await;
    let [ran, waited] = &results[..] else { unreachable!("there are two") };
    assert_eq!((&*ran.call_id, ran.outcome(), ran.executed()), ("ran", Outcome::SandboxLost, Executed::Unknown));
    assert_eq!((&*waited.call_id, waited.outcome(), waited.executed()), ("waited", Outcome::SandboxLost, Executed::No));
    for result in &results {
        assert_eq!(result.attribution(), Attribution::Infrastructure);
        let evidence = result.fault.as_ref().and_then(|fault| fault.evidence.as_ref()).expect("it says why");
        assert!(!evidence.cause.is_empty());
    }
    // Its id is never run again; and nothing else is run in a workspace that is silently empty.
    let again = execute(&server, "both", bash("ran", "echo ran; sleep 600")).await;
    assert_eq!(
        (again.outcome(), again.executed(), again.sequence),
        (Outcome::SandboxLost, Executed::Unknown, ran.sequence)
    );
    let refused = execute(&server, "both", bash("next", "echo next")).await;
    assert_eq!((refused.reason(), refused.sequence), (Reason::WorkspaceGone, 0));
    assert_eq!(execute(&server, "both", bash("before", "echo before")).await.output, "before", "the log is there");
    assert!(tree.iter().all(|pid| !process::is_alive(*pid)), "nothing of the agents is left");
}

#[tokio::test]
async fn a_ledger_outlives_executors_and_releases() {
    let mut server = Server::start();
    let first = execute(&server, "ledger", bash("a", "echo a")).await;
    let failed = execute(&server, "ledger", bash("b", "echo b >&2; exit 3")).await;
    let content = tool("w", "write_file", serde_json::json!({ "path": "f", "content": "x".repeat(100_000) }));
    let wrote = execute(&server, "ledger", content.clone()).await;
    assert!(wrote.success, "{wrote:?}");
    let again = |result: &CallResult| CallResult { replayed: true, ..result.clone() };
    let mut client = server.client().await;
    let release =
        tool_executor::pb::toolexecutor::ReleaseRequest { trajectory_id: "ledger".to_owned(), keep_workspace: false };
    client.release(release).await.expect("it releases");
    for _ in 0..2 {
        server.kill_and_start_again();
        assert_eq!(execute(&server, "ledger", bash("a", "echo a")).await, again(&first));
        assert_eq!(execute(&server, "ledger", bash("b", "echo b >&2; exit 3")).await, again(&failed));
        assert_eq!(execute(&server, "ledger", content.clone()).await, again(&wrote));
        let reused = execute(&server, "ledger", bash("a", "echo something else")).await;
        assert_eq!(reused.reason(), Reason::CallIdReused);
    }
    let request = ExecuteRequest {
        trajectory_id: "ledger".to_owned(),
        call: Some(bash("new", "ls")),
        require_existing: true,
        ..ExecuteRequest::default()
    };
    assert_eq!(try_execute(&server, request).await.expect_err("it was released").code(), Code::NotFound);
    let next = execute(&server, "ledger", bash("new", "ls")).await;
    assert_eq!((next.success, &*next.output, next.sequence), (true, "", wrote.sequence + 1));
}

/// Returns when each has come as far as it can.
async fn all_go_on(trainers: &mut [Trainer], server: &Server) {
    let mut all: Vec<_> = trainers
        .iter_mut()
        .map(|trainer| Box::pin(trainer.go_on(async |open| Stream::try_open(server, open).await)))
        .collect();
    let mut ended = vec![false; all.len()];
    std::future::poll_fn(|context| {
        for (trainer, ended) in all.iter_mut().zip(&mut ended).filter(|(_, ended)| !**ended) {
            // A stream that broke is the executor's end, which is what this is about.
            *ended = trainer.as_mut().poll(context).is_ready();
        }
        if ended.iter().all(|ended| *ended) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_it_is_killed_nothing_is_lost_and_nothing_runs_twice() {
    let mut server = Server::with(&[("SLOTS", "8"), ("MAX_CONTAINERS", "1")]);
    let mut trainers: Vec<Trainer> = (0..8).map(Trainer::new).collect();
    let mut kills = 0;
    while !trainers.iter().all(Trainer::has_finished) {
        let wait = Duration::from_millis(fastrand::u64(20..120));
        // From the very beginning: some assignments are on their way to the agent.
        if tokio::time::timeout(wait, all_go_on(&mut trainers, &server)).await.is_err() && kills < 12 {
            kills += 1;
            server.kill_and_start_again();
        }
        trainers.iter_mut().for_each(Trainer::hang_up);
    }
    assert!(kills > 3, "it was killed {kills} times: the calls are too few");
    for trainer in &trainers {
        let log = execute(&server, &trainer.id, bash("log", "sort -n log | tr '\\n' ' '")).await;
        let expected: Vec<String> = (0..Trainer::CALLS).map(|n| n.to_string()).collect();
        assert_eq!(log.output, expected.join(" "), "{}: each ran exactly once", trainer.id);
    }
}

#[tokio::test]
async fn a_hand_over_costs_a_reconnect_and_nothing_else() {
    let mut server = Server::with(&[("ON_SHUTDOWN", "hand_over")]);
    let mut stream = Stream::open(&server, "handed").await;
    let first = stream.bash("first", "echo first > file").await;
    let mut calls = vec![bash("runs", "sleep 1; cat file")];
    calls.extend((0..3).map(|n| bash(&format!("waits{n}"), &format!("echo {n}"))));
    stream.batch(calls).await;
    running(&server, 1).await;
    let unary = ExecuteRequest {
        trajectory_id: "handed".to_owned(),
        call: Some(Call { concurrent: true, ..bash("unary", "sleep 1; echo unary") }),
        ..ExecuteRequest::default()
    };
    let mut client = server.client().await;
    let waiting = tokio::spawn({
        let unary = unary.clone();
        async move { client.execute(unary).await }
    });
    running(&server, 2).await;
    let agents = server.agents();

    server.signal(Signal::TERM);
    assert_eq!(stream.end().await.expect_err("it ends").code(), Code::Unavailable);
    let cut = waiting.await.expect("it does not panic").expect_err("it is told to ask again");
    assert_eq!(cut.code(), Code::Unavailable, "{cut}");
    assert!(server.wait().success());
    server.start_again();
    assert_eq!(server.agents(), agents);
    let mut stream = resume(&server, "handed", first.sequence).await;
    let mut outputs: Vec<(String, String)> =
        stream.results(5).await.into_iter().map(|result| (result.call_id, result.output)).collect();
    outputs.sort();
    let expected = [("runs", "first"), ("unary", "unary"), ("waits0", "0"), ("waits1", "1"), ("waits2", "2")];
    assert_eq!(outputs, expected.map(|(id, output)| (id.to_owned(), output.to_owned())));
    let again = try_execute(&server, unary).await.expect("it answers");
    assert_eq!(again.output, "unary");
    server.set("ON_SHUTDOWN", "end");
}

/// Takes all that is left of the file system that has this directory, for as long as it is told to.
fn fill(directory: std::path::PathBuf, stop: std::sync::Arc<AtomicBool>) {
    let mut file = std::fs::File::create(directory.join("filler")).expect("it can be made");
    while !stop.load(Ordering::Relaxed) {
        for bytes in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; bytes]).is_ok() {}
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    std::fs::remove_file(directory.join("filler")).expect("it is there");
}

#[tokio::test]
async fn a_full_disk_refuses_new_calls_and_forgets_none() {
    if !rustix::process::getuid().is_root() {
        return println!("only root can mount a small file system");
    }
    let state = tempfile::TempDir::new().expect("a directory");
    let journal = state.path().join("journal");
    std::fs::create_dir(&journal).expect("a directory");
    let serve = Server::command(&state);
    let mut start = std::process::Command::new("unshare");
    start.args(["--mount", "sh", "-c", "mount -t tmpfs -o size=40m journal \"$0\" && exec \"$@\""]).arg(&journal);
    start.arg(serve.get_program()).args(serve.get_args()).current_dir(state.path()).env_clear();
    start.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let server = Server::run(start, state);
    let seen = std::path::PathBuf::from(format!("/proc/{}/root{}", server.pid().as_raw_nonzero(), journal.display()));

    let mut runs = Stream::open(&server, "runs").await;
    runs.batch(vec![bash("long", "sleep 3; echo done")]).await;
    running(&server, 1).await;
    let stop = std::sync::Arc::<AtomicBool>::default();
    let filling = std::thread::spawn({
        let stop = stop.clone();
        move || fill(seen, stop)
    });
    // A segment has 16 MiB.
    let mut refused = None;
    for n in 0..40 {
        let stdin = vec![b'x'; 1 << 20].into();
        let large = command(&n.to_string(), Command { stdin, ..shell("cat > file") });
        let result = execute(&server, "writes", large).await;
        if !result.success {
            refused = Some(result);
            break;
        }
    }
    let refused = refused.expect("the disk is full");
    assert_eq!((refused.outcome(), refused.reason()), (Outcome::NoCapacity, Reason::QueueFull), "{refused:?}");
    assert!(refused.error.contains("disk"), "{}", refused.error);
    assert_eq!(refused.sequence, 0);
    let not_opened = Stream::try_open(&server, open("another")).await.err().map(|status| status.code());
    assert_eq!(not_opened, Some(Code::ResourceExhausted));
    assert_eq!(runs.result().await.output, "done", "what was accepted is answered, and remembered");
    stop.store(true, Ordering::Relaxed);
    filling.join().expect("it ends");
    let asked = std::time::Instant::now();
    while !execute(&server, "writes", bash("again", "true")).await.success {
        assert!(asked.elapsed() < PATIENCE, "there is room again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_trusted_is_left_alone() {
    let mut server = Server::start();
    assert!(execute(&server, "a", bash("a", "true")).await.success);
    server.signal(Signal::TERM);
    server.wait();
    let start = |server: &Server| {
        let output = Server::command(&server.state).output().expect("it runs");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let format = server.state.path().join("format");
    let known = std::fs::read(&format).expect("it is there");
    std::fs::write(&format, "99").expect("it can be written");
    let said = start(&server);
    assert!(said.contains("format 99") && said.contains("--state-dir"), "{said}");
    std::fs::write(&format, known).expect("it can be written");

    let segment = server.state.path().join("journal/0000000000000001.segment");
    let bytes = std::fs::read(&segment).expect("it is there");
    let mut damaged = bytes.clone();
    damaged[60] ^= 1;
    std::fs::write(&segment, &damaged).expect("it can be written");
    let said = start(&server);
    assert!(said.contains("the journal is damaged") && said.contains("move its directory away"), "{said}");
    assert!(std::fs::read(&segment).expect("it is there") == damaged, "nothing of it is changed");
    std::fs::write(&segment, bytes).expect("it can be written");
    server.start_again();
    assert!(execute(&server, "a", bash("a", "true")).await.replayed);
}
