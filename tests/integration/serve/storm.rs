//! Each call runs at most once, and each result reaches its client, however bad the network is between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::sleep};
use tonic::transport::Channel;
use tool_executor::pb::toolexecutor::{
    Call, CallResult, Outcome, tool_executor_client::ToolExecutorClient, trajectory_response::Message,
};

use crate::support::{
    client::{Stream, bash, command, execute, open, shell},
    proxy::Proxy,
    server::Server,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_network_neither_doubles_nor_loses_a_call() {
    storm(4, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the same with 6,400 calls: cargo test --test integration storm -- --ignored"]
async fn a_longer_storm() {
    storm(16, 400).await;
}

async fn storm(trajectories: usize, calls: usize) {
    let slots = trajectories.to_string();
    let server = Server::with(&[("SLOTS", &slots), ("MAX_CONTAINERS", "1")]);
    let proxy = Arc::new(Proxy::before(&server.address).await);
    let enough = trajectories * 2;
    let mut clients = JoinSet::new();
    for index in 0..trajectories {
        let proxy = proxy.clone();
        clients.spawn(async move { client(&proxy, enough, format!("storm-{index}"), calls).await });
    }
    let weather = async {
        loop {
            sleep(Duration::from_millis(fastrand::u64(10..80))).await;
            match fastrand::u8(..4) {
                0 => {
                    proxy.freeze();
                    sleep(Duration::from_millis(fastrand::u64(20..200))).await;
                    proxy.go_on();
                }
                1 => {
                    proxy.delay(Duration::from_millis(3));
                    sleep(Duration::from_millis(100)).await;
                    proxy.go_on();
                }
                _ => proxy.cut(),
            }
        }
    };
    let ended = tokio::select! {
        ended = clients.join_all() => ended,
        () = weather => unreachable!("the weather never ends"),
    };
    assert!(proxy.connections() > enough, "it was a storm: {} connections", proxy.connections());
    for (name, results) in ended {
        let sequences: Vec<u64> = results.keys().copied().collect();
        assert_eq!(sequences, (1..=calls as u64).collect::<Vec<_>>(), "{name}: every result has come");
        let log = execute(&server, &name, command("log", shell("cat log"))).await;
        let log = String::from_utf8(log.stdout.expect("it was captured").data.to_vec()).expect("it is text");
        let ran: Vec<&str> = log.lines().collect();
        let expected: Vec<String> = results.values().map(|result| result.call_id.clone()).collect();
        assert_eq!(ran, expected, "{name}: each ran once, in the order of its results");
        assert_eq!(ran.iter().collect::<BTreeSet<_>>().len(), calls);
        assert!(results.values().all(|result| result.outcome() == Outcome::Succeeded), "{name}: {results:?}");
    }
}

/// A trainer's client as the protocol wants it: resumes after what it has, sends again what it has no result of. It stays
/// until there was enough of a storm.
async fn client(proxy: &Proxy, enough: usize, name: String, calls: usize) -> (String, BTreeMap<u64, CallResult>) {
    let all: Vec<Call> = (0..calls).map(|n| bash(&format!("{name}-{n}"), &format!("echo {name}-{n} >> log"))).collect();
    let mut results: BTreeMap<u64, CallResult> = BTreeMap::new();
    let begun = Instant::now();
    while results.len() < calls || proxy.connections() <= enough {
        assert!(begun.elapsed() < Duration::from_secs(240), "{name} has {} of {calls} results", results.len());
        let mut open = open(&name);
        open.take_over = true;
        open.last_sequence = results.len() as u64;
        let channel = Channel::from_shared(format!("http://{}", proxy.address())).expect("an address").connect().await;
        let Ok(channel) = channel else { continue };
        let client = ToolExecutorClient::new(channel).max_decoding_message_size(16 << 20);
        let mut stream = match Stream::over(client, open).await {
            Ok(stream) => stream,
            Err(status) => {
                // What the executor itself says has no cause here.
                assert!(std::error::Error::source(&status).is_some(), "it is the connection that broke: {status:?}");
                continue;
            }
        };
        let has = |call: &Call| results.values().any(|result| result.call_id == call.call_id);
        let missing: Vec<Call> = all.iter().filter(|call| !has(call)).cloned().collect();
        let mut taken = true;
        for batch in missing.chunks(16) {
            taken = taken && stream.try_batch(batch.to_vec()).await;
        }
        // A broken stream is left, whatever is still on its way.
        while taken && (results.len() < calls || proxy.connections() <= enough) {
            match stream.next().await {
                Ok(Some(Message::Result(result))) => {
                    // What was running is told again to a stream that asks again.
                    results.insert(result.sequence, result);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
    }
    (name, results)
}
