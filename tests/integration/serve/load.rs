//! More than anybody needs at once: bounds hold, memory stays flat, nobody else is delayed.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tool_executor::pb::toolexecutor::{
    Call, Cancel, Outcome, Reason, trajectory_request::Message, trajectory_response,
};

use crate::support::{
    client::{Stream, bash, execute, tool},
    process,
    server::Server,
};

const MB: u64 = 1_000_000;

/// What the executor and its agents have had at most, in bytes.
fn peaks(server: &Server) -> Vec<u64> {
    let executor = server.pid().as_raw_pid().cast_unsigned();
    [executor].into_iter().chain(server.agents()).map(process::peak_memory).collect()
}

fn streaming(id: &str, command: &str) -> Call {
    Call { stream_output: true, ..bash(id, command) }
}

#[tokio::test]
async fn a_batch_of_10_000_calls_is_taken_whole() {
    const CALLS: usize = 10_000;
    let server = Server::start();
    let mut stream = Stream::open(&server, "large").await;
    assert!(stream.bash("file", "echo content > file").await.success);
    let read = |n: usize| tool(&n.to_string(), "read_file", serde_json::json!({"path": "file"}));
    stream.batch((0..CALLS).map(read).collect()).await;
    for n in 0..CALLS {
        let result = stream.result().await;
        assert_eq!((result.call_id, result.sequence, result.success), (n.to_string(), n as u64 + 2, true));
    }
    stream.batch((0..CALLS).map(|n| bash(&format!("c{n}"), "sleep 60")).collect()).await;
    stream.send(Message::Cancel(Cancel::default())).await;
    let results = stream.results(CALLS).await;
    assert!(results.iter().all(|result| result.reason() == Reason::CancelledByClient));
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_little_and_slows_nobody_else() {
    // Results are 50 kB each, so that 80 of them fill the log.
    const CALLS: usize = 200;
    let server = Server::with(&[("MAX_CONTAINERS", "1"), ("MAX_KEPT_RESULT_BYTES", "4MiB")]);
    let mut stream = Stream::open(&server, "silent").await;
    // Each that streams is held up for a second.
    let noise = |n: usize| {
        let stream_output = n < 6;
        Call { stream_output, ..bash(&n.to_string(), "head -c 1000000 /dev/zero | tr '\\0' x") }
    };
    stream.batch((0..CALLS).map(noise).collect()).await;
    let mut neighbour = Stream::open(&server, "neighbour").await;
    // The bound of its log is reached when nothing runs although calls wait.
    let mut quick = 0;
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < Duration::from_secs(120), "it is never held back");
        assert!(neighbour.bash(&format!("q{quick}"), "true").await.success);
        quick += 1;
        let status = server.status().await;
        if status.running_calls == 0 && status.queue_size > 0 && quick > 20 {
            break;
        }
    }
    for peak in peaks(&server) {
        assert!(peak < 150 * MB, "{peak} bytes");
    }
    // Nothing is lost to it once it reads.
    let results = stream.results(CALLS).await;
    for (n, result) in results.iter().enumerate() {
        assert_eq!((&*result.call_id, result.sequence), (&*n.to_string(), n as u64 + 1));
        let printed = result.stdout.as_ref().expect("it was captured");
        assert_eq!((result.outcome(), printed.total_bytes), (Outcome::Succeeded, MB), "{}", result.error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn much_output_leaves_memory_flat() {
    much_output(200 * MB, 64, 10 * MB).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the same with 1 GB each: cargo test --release --test integration much_more -- --ignored"]
async fn much_more_output_leaves_memory_flat() {
    much_output(1000 * MB, 64, 1000 * MB).await;
}

/// One call that prints so much, then many at once that print so much each, read by their clients as it comes.
async fn much_output(alone: u64, calls: usize, each: u64) {
    // Two more have a slot already.
    let slots = (calls + 2).to_string();
    let server = Server::with(&[("SLOTS", &slots), ("MAX_CONTAINERS", "1"), ("DEFAULT_TIMEOUT", "10min")]);
    assert!(execute(&server, "first", bash("a", "true")).await.success);
    noisy(&server, "alone".to_owned(), alone).await;
    let after_one = peaks(&server);
    let server = std::sync::Arc::new(server);
    let mut clients = JoinSet::new();
    for index in 0..calls {
        let server = server.clone();
        clients.spawn(async move { noisy(&server, format!("noisy-{index}"), each).await });
    }
    clients.join_all().await;
    let after_many = peaks(&server);
    for (one, many) in after_one.into_iter().zip(after_many) {
        assert!(one < 100 * MB && many < 250 * MB, "{one} bytes after one call, {many} after {calls} at once");
    }
}

async fn noisy(server: &Server, name: String, bytes: u64) {
    let mut stream = Stream::open(server, &name).await;
    stream.batch(vec![streaming("a", &format!("head -c {bytes} /dev/zero"))]).await;
    let mut next = 0;
    loop {
        match stream.next().await.expect("the stream goes on").expect("it has not ended") {
            trajectory_response::Message::Output(output) => {
                assert!(output.offset >= next, "what was dropped is a gap");
                next = output.offset + output.data.len() as u64;
            }
            trajectory_response::Message::Result(result) => {
                let printed = result.stdout.expect("it was captured").total_bytes;
                return assert_eq!((result.success, printed), (true, bytes), "{}", result.error);
            }
            _ => {}
        }
    }
}
