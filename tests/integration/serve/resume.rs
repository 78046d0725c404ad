//! Broken streams, resumed and taken over.

use tonic::Code;
use tool_executor::pb::toolexecutor::{
    Open, Output, OutputStream, Reset, notice::Event, trajectory_request, trajectory_response,
};

use crate::support::{
    client::{Stream, bash, command, open, shell},
    server::Server,
};

#[tokio::test]
async fn a_broken_stream_loses_nothing() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "broken").await;
    let calls =
        |range: std::ops::Range<u32>| range.map(|n| bash(&n.to_string(), &format!("echo {n} | tee -a log"))).collect();
    stream.batch(calls(0..20)).await;
    let seen = stream.results(5).await;
    drop(stream);

    let mut again = open("broken");
    again.take_over = true;
    again.last_sequence = seen.last().expect("it has seen some").sequence;
    let mut stream = Stream::try_open(&server, again).await.expect("it resumes");
    assert!(stream.opened.resumed);
    stream.batch(calls(0..20)).await;
    let mut fresh: Vec<_> = Vec::new();
    while fresh.len() < 15 {
        let result = stream.result().await;
        if !result.replayed {
            fresh.push(result);
        }
    }
    let sequences: Vec<u64> = fresh.iter().map(|result| result.sequence).collect();
    assert_eq!(sequences, (6..=20).collect::<Vec<u64>>(), "what came after, in order");
    let log = loop {
        let result = stream.bash("log", "cat log | tr '\\n' ' '").await;
        if result.call_id == "log" {
            break result;
        }
    };
    let expected: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(log.output, expected.join(" "), "each ran once, in order");
}

#[tokio::test]
async fn a_second_stream_is_refused_unless_it_takes_over() {
    let server = Server::start();
    let mut first = Stream::open(&server, "shared").await;
    assert!(first.bash("a", "touch file").await.success);
    assert_eq!(
        Stream::try_open(&server, open("shared")).await.err().map(|status| status.code()),
        Some(Code::AlreadyExists)
    );
    let mut take_over = open("shared");
    take_over.take_over = true;
    let mut second = Stream::try_open(&server, take_over).await.expect("it takes over");
    assert!(second.opened.resumed);
    first
        .until(|message| match message {
            trajectory_response::Message::Notice(notice) => {
                matches!(notice.event, Some(Event::TakenOver(_))).then_some(())
            }
            _ => None,
        })
        .await;
    assert_eq!(first.end().await.expect_err("it is fenced").code(), Code::Aborted);
    assert_eq!(second.result().await.call_id, "a", "it gets what it says it has not");
    assert_eq!(second.bash("b", "ls").await.output, "file");
}

#[tokio::test]
async fn only_what_is_there_can_be_resumed() {
    let server = Server::start();
    let refusal = async |open| Stream::try_open(&server, open).await.err().map(|status| status.code());
    let mut existing = open("never");
    existing.require_existing = true;
    assert_eq!(refusal(existing).await, Some(Code::NotFound));
    let mut resumed = open("never");
    resumed.last_sequence = 3;
    assert_eq!(refusal(resumed).await, Some(Code::NotFound));
    drop(Stream::open(&server, "never").await);
    let mut beyond = open("never");
    beyond.last_sequence = 3;
    beyond.take_over = true;
    assert_eq!(refusal(beyond).await, Some(Code::OutOfRange));
}

#[tokio::test]
async fn a_result_that_is_gone_is_out_of_range_and_its_id_is_never_run_again() {
    let server = Server::with(&[("MAX_KEPT_RESULTS", "4")]);
    let mut stream = Stream::open(&server, "bounded").await;
    for n in 0..8 {
        assert!(stream.bash(&n.to_string(), "echo ran >> log").await.success);
    }
    stream.batch(vec![bash("0", "echo ran >> log")]).await;
    let dropped = stream.result().await;
    assert_eq!(dropped.reason(), tool_executor::pb::toolexecutor::Reason::ResultDropped);
    assert_eq!(dropped.executed(), tool_executor::pb::toolexecutor::Executed::Unknown);
    drop(stream);
    let mut old = open("bounded");
    old.last_sequence = 1;
    old.take_over = true;
    let status = Stream::try_open(&server, old).await.err().expect("it is gone");
    assert_eq!(status.code(), Code::OutOfRange);
    assert!(status.message().contains("oldest is 5"), "{}", status.message());
    let mut kept = open("bounded");
    kept.last_sequence = 4;
    kept.take_over = true;
    let mut stream = Stream::try_open(&server, kept).await.expect("the rest is kept");
    assert_eq!(stream.opened.oldest_sequence, 5);
    assert_eq!(stream.results(4).await.len(), 4);
    assert_eq!(stream.bash("count", "wc -l < log").await.output, "8");
}

fn taking_over(id: &str) -> Open {
    Open { take_over: true, ..open(id) }
}

fn output(message: trajectory_response::Message) -> Option<Output> {
    match message {
        trajectory_response::Message::Output(output) => Some(output),
        _ => None,
    }
}

#[tokio::test]
async fn live_output_of_a_running_call_comes_again_from_its_start() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "live").await;
    let script = "echo out; echo err >&2; until [ -e go ]; do sleep 0.01; done; echo end";
    let mut call = command("printer", shell(script));
    (call.stream_output, call.concurrent) = (true, true);
    stream.batch(vec![call]).await;
    // Both are printed by then, whoever hears of them.
    stream.until(output).await;
    stream.until(output).await;
    drop(stream);
    for round in 0..3 {
        let mut stream = Stream::try_open(&server, taking_over("live")).await.expect("it resumes");
        let (out, err) = (stream.until(output).await, stream.until(output).await);
        assert_eq!((out.stream(), out.offset, &*out.data), (OutputStream::Stdout, 0, &b"out\n"[..]), "{round}");
        assert_eq!((err.stream(), err.offset, &*err.data), (OutputStream::Stderr, 0, &b"err\n"[..]), "{round}");
    }
    let mut stream = Stream::try_open(&server, taking_over("live")).await.expect("it resumes");
    stream.batch(vec![bash("go", "touch go")]).await;
    let (mut live, mut results) = (Vec::new(), Vec::new());
    while results.len() < 2 {
        match stream.next().await.expect("the stream goes on").expect("it has not ended") {
            trajectory_response::Message::Output(output) => live.push((output.offset, output.data)),
            trajectory_response::Message::Result(result) => results.push(result),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(live.last().map(|(offset, data)| (*offset, &**data)), Some((4, &b"end\n"[..])), "and goes on live");
    let printer = results.iter().find(|result| result.call_id == "printer").expect("it is answered");
    assert_eq!(printer.stdout.as_ref().map(|stdout| &*stdout.data), Some(&b"out\nend\n"[..]));
    drop(stream);
    let mut stream = Stream::try_open(&server, taking_over("live")).await.expect("it resumes");
    let first = stream.next().await.expect("it goes on").expect("it has not ended");
    assert!(
        matches!(first, trajectory_response::Message::Result(_)),
        "of what has ended there is the result: {first:?}"
    );
}

#[tokio::test]
async fn a_reset_that_is_sent_again_by_another_stream_resets_once() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "reset").await;
    assert!(stream.bash("a", "touch file").await.success);
    let reset = || trajectory_request::Message::Reset(Reset { generation: 1 });
    let done = |message| match message {
        trajectory_response::Message::WorkspaceReset(reset) => Some(reset.generation),
        _ => None,
    };
    stream.send(reset()).await;
    assert_eq!(stream.until(done).await, 2);
    // The answer was lost, as far as this client knows.
    let mut stream = Stream::try_open(&server, taking_over("reset")).await.expect("it resumes");
    assert_eq!(stream.opened.generation, 2);
    let written = async |stream: &mut Stream| {
        stream.batch(vec![bash("b", "touch kept")]).await;
        stream
            .until(|message| match message {
                trajectory_response::Message::Result(result) if result.call_id == "b" => Some(result.generation),
                _ => None,
            })
            .await
    };
    assert_eq!(written(&mut stream).await, 2);
    stream.send(reset()).await;
    assert_eq!(stream.until(done).await, 2);
    assert_eq!(stream.bash("c", "ls").await.output, "kept", "what was there since is not emptied");
}

/// What a process holds: memory in KiB, open files, threads.
fn held(server: &Server) -> (u64, usize, usize) {
    let process = format!("/proc/{}", server.pid().as_raw_nonzero());
    let status = std::fs::read_to_string(format!("{process}/status")).expect("it runs");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    let resident = resident.trim().trim_end_matches(" kB").parse().expect("a number");
    let entries = |of: &str| std::fs::read_dir(format!("{process}/{of}")).expect("it runs").count();
    (resident, entries("fd"), entries("task"))
}

/// Takes the stream over so often; every other time the stream before has gone away first. Every tenth is a client of its
/// own that reads nothing.
async fn resumes(server: &Server, count: usize) {
    let client = server.client().await;
    let (mut before, mut unread) = (None, Vec::new());
    for round in 0..count {
        if round % 2 == 0 {
            before = None;
        }
        if round % 10 == 0 {
            unread.push(Stream::try_open(server, taking_over("again")).await.expect("it resumes"));
            continue;
        }
        let mut stream = Stream::over(client.clone(), taking_over("again")).await.expect("it resumes");
        assert!(stream.opened.resumed);
        assert_eq!(stream.result().await.sequence, 1, "it has the log");
        stream.until(|message| output(message).filter(|output| output.offset == 0)).await;
        if let Some(mut before) = before.replace(stream) {
            assert_eq!(before.end().await.expect_err("it is fenced").code(), Code::Aborted);
        }
    }
}

#[tokio::test]
async fn thousands_of_resumes_leak_nothing() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "again").await;
    // 50 KB of each result and of each running call's output are there for every stream.
    assert!(stream.bash("log", "head -c 49000 /dev/zero | tr '\\0' x").await.success);
    let mut printer = command("printer", shell("head -c 49000 /dev/zero; sleep 600"));
    printer.stream_output = true;
    stream.batch(vec![printer]).await;
    stream.until(|message| output(message).filter(|output| output.offset + output.data.len() as u64 == 49_000)).await;
    drop(stream);
    resumes(&server, 200).await;
    let before = held(&server);
    for _ in 0..10 {
        resumes(&server, 200).await;
    }
    let asked = std::time::Instant::now();
    loop {
        let after = held(&server);
        // 2 KB of memory for each resume would be too much; the log alone has 50.
        if after.0 < before.0 + 4_000 && after.1 <= before.1 + 2 && after.2 <= before.2 + 2 {
            break;
        }
        assert!(asked.elapsed() < std::time::Duration::from_secs(20), "{before:?} became {after:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(server.status().await.trajectories, 1);
}
