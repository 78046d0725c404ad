//! Broken streams, resumed and taken over.

use tonic::Code;
use tool_executor::pb::toolexecutor::{notice::Event, trajectory_response};

use crate::support::{
    client::{Stream, bash, open},
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
