//! What goes wrong at the stand-in's server on cue: calls, connections, streams, answers, state.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::time::timeout;

use super::bed::{Bed, Stream, sleeper};
use crate::support::{nomad::LostAnswer, process::is_alive};

/// Long enough to see that nothing comes.
const MOMENT: Duration = Duration::from_millis(150);

#[tokio::test]
async fn calls_fail_as_often_as_is_cued() {
    let bed = Bed::start().await;
    bed.nomad.fail_requests("/v1/alloc", 500, "No path to region", Some(2));
    for expected in [500, 500, 200] {
        assert_eq!(bed.get("/v1/allocations").await.status, expected);
    }
    bed.nomad.fail_requests("/v1/jobs", 429, "", None);
    assert_eq!(bed.get("/v1/jobs").await.status, 429);
    assert_eq!(bed.get("/v1/nodes").await.status, 200);
    bed.nomad.heal_requests();
    assert_eq!(bed.get("/v1/jobs").await.status, 200);
    let asked = bed.nomad.requests();
    assert_eq!(asked.iter().filter(|asked| asked.method == "GET" && asked.path == "/v1/allocations").count(), 3);
    assert!(asked.is_sorted_by_key(|asked| asked.at));
}

#[tokio::test]
async fn without_a_leader_calls_fail_and_streams_go_on_empty() {
    let bed = Bed::start().await;
    bed.register(&sleeper("pool")).await;
    bed.nomad.no_leader(true);
    let answer = bed.get("/v1/status/leader").await;
    assert_eq!((answer.status, &*answer.text()), (500, "No cluster leader"));
    let health = bed.get("/v1/agent/health?type=server").await;
    assert_eq!((health.status, health.json()["server"]["ok"].clone()), (500, json!(false)));
    assert_eq!(bed.get("/v1/jobs?stale=true").await.status, 200);
    let mut stream = Stream::open(&bed, "topic=Job:*").await;
    assert!(stream.is_silent(MOMENT).await);
    bed.nomad.no_leader(false);
    assert_eq!(bed.get("/v1/status/leader").await.text(), "\"127.0.0.1:4647\"");
    stream.event(|event| event["Key"] == "pool").await;
}

#[tokio::test]
async fn a_server_hangs_and_refuses() {
    let bed = Bed::start().await;
    bed.nomad.hang(true);
    assert!(timeout(MOMENT, bed.get("/v1/jobs")).await.is_err());
    bed.nomad.hang(false);
    assert_eq!(bed.get("/v1/jobs").await.status, 200);
    bed.nomad.refuse_connections(true);
    let refused = bed.try_ask("GET", "/v1/jobs", "", b"").await;
    assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::ConnectionRefused));
    bed.nomad.refuse_connections(false);
    assert_eq!(bed.get("/v1/jobs").await.status, 200);
}

#[tokio::test]
async fn streams_fall_silent_and_are_cut() {
    let bed = Bed::start().await;
    let mut stream = Stream::open(&bed, "topic=Job:*").await;
    bed.nomad.silent_streams(true);
    bed.register(&sleeper("pool")).await;
    let mut late = Stream::open_silent(&bed, "topic=Job:*").await;
    assert!(stream.is_silent(MOMENT).await && late.is_silent(MOMENT).await);
    bed.nomad.silent_streams(false);
    stream.event(|event| event["Key"] == "pool").await;
    bed.nomad.cut_streams();
    assert!(stream.ends().await && late.ends().await);
    Stream::open(&bed, "topic=Job:*").await.event(|event| event["Key"] == "pool").await;
}

#[tokio::test]
async fn a_stream_replays_from_its_index_and_filters_by_key() {
    let bed = Bed::start().await;
    bed.register(&sleeper("pool")).await;
    let first = bed.dispatch("pool", "r1").await;
    bed.until_status(&first, "running").await;
    let known = bed.get("/v1/allocations").await.header("x-nomad-index").expect("an index").to_owned();
    let second = bed.dispatch("pool", "r2").await;
    let mut stream = Stream::open(&bed, &format!("topic=Allocation:*&index={known}")).await;
    let replayed = stream.event(|_| true).await;
    assert_eq!(replayed["Index"].to_string(), known, "the entry of the index itself is replayed");
    assert_eq!(stream.allocation(|_, _| true).await["JobID"], json!(second));
    let mut of_one = Stream::open(&bed, &format!("topic=Allocation:{second}")).await;
    assert_eq!(of_one.allocation(|_, _| true).await["JobID"], json!(second));
    let bad = bed.get("/v1/event/stream?index=abc").await;
    assert_eq!((bed.get("/v1/event/stream?topic=a:b:c").await.status, bad.status), (400, 400));
}

#[tokio::test]
async fn lists_are_stale() {
    let bed = Bed::start().await;
    bed.register(&sleeper("pool")).await;
    bed.nomad.stale_lists(true);
    let child = bed.dispatch("pool", "r1").await;
    bed.until_status(&child, "running").await;
    assert_eq!(bed.get("/v1/allocations").await.json(), json!([]));
    assert_eq!(bed.get(&format!("/v1/job/{child}/allocations")).await.json(), json!([]));
    assert_eq!(bed.get(&format!("/v1/job/{child}")).await.status, 200);
    bed.nomad.stale_lists(false);
    assert_eq!(bed.get("/v1/allocations").await.json().as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_dispatch_is_carried_out_and_its_answer_lost() {
    let bed = Bed::start().await;
    bed.register(&sleeper("pool")).await;
    bed.nomad.apply_then_fail_dispatch(1, LostAnswer::LeadershipLost);
    let lost = bed.try_dispatch("pool", "r1").await.expect("it answers");
    assert_eq!((lost.status, &*lost.text()), (500, "leadership lost while committing log"));
    bed.nomad.apply_then_fail_dispatch(1, LostAnswer::ConnectionCut);
    assert!(bed.try_dispatch("pool", "r2").await.is_err());
    bed.nomad.apply_then_fail_dispatch(1, LostAnswer::NeverAnswers);
    assert!(timeout(MOMENT, bed.try_dispatch("pool", "r3")).await.is_err());
    assert_eq!(bed.nomad.children().len(), 3);
    for run in ["r1", "r2", "r3"] {
        let filter = format!("DispatchIdempotencyToken == \"token-{run}\"");
        let found = bed.filtered("/v1/jobs", &filter).await.json();
        assert_eq!(found[0]["ID"].as_str(), Some(&*bed.dispatch("pool", run).await), "the token finds it again");
    }
    assert_eq!(bed.nomad.children().len(), 3);
}

#[tokio::test]
async fn one_token_makes_two_children() {
    let bed = Bed::start().await;
    bed.register(&sleeper("pool")).await;
    bed.nomad.double_dispatch(1);
    bed.dispatch("pool", "r1").await;
    bed.dispatch("pool", "r2").await;
    let children = bed.nomad.children();
    let runs: Vec<&str> = children.iter().map(|child| &*child.meta["run"]).collect();
    assert_eq!(runs, ["r1", "r1", "r2"]);
    assert!(children.iter().all(|child| child.parent == "pool"));
}

#[tokio::test]
async fn a_dev_agent_forgets_and_its_tasks_run_on() {
    let bed = Bed::start().await;
    let (child, alloc) = bed.run_one().await;
    let mut stream = Stream::open(&bed, "topic=Allocation:*").await;
    let pid = bed.nomad.allocations()[0].pid.expect("it runs");
    bed.nomad.forget_everything();
    assert!(stream.ends().await);
    assert_eq!(bed.get("/v1/jobs").await.json(), json!([]));
    assert_eq!(bed.get(&format!("/v1/job/{child}")).await.text(), "job not found");
    assert_eq!(bed.get(&format!("/v1/allocation/{alloc}")).await.status, 404);
    assert!(is_alive(pid));
    bed.run_one().await;
    drop(bed);
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn a_server_with_a_data_directory_comes_back_as_it_was() {
    let bed = Bed::start().await;
    let (child, alloc) = bed.run_one().await;
    let mut stream = Stream::open(&bed, "topic=Allocation:*").await;
    let asked = Instant::now();
    bed.nomad.restart(Duration::from_millis(300));
    assert!(bed.try_ask("GET", "/v1/jobs", "", b"").await.is_err());
    assert!(stream.ends().await);
    while bed.try_ask("GET", "/v1/jobs", "", b"").await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(asked.elapsed() >= Duration::from_millis(290));
    assert_eq!(bed.allocation(&alloc).await["ClientStatus"], "running");
    assert_eq!(bed.dispatch("pool", "r1").await, child, "the same token is the same child");
}

#[tokio::test]
async fn what_is_denied_is_refused_as_recorded() {
    let bed = Bed::start().await;
    let (child, alloc) = bed.run_one().await;
    let denied = (403, "Permission denied".to_owned());
    let logs = format!("/v1/client/fs/logs/{alloc}?task=sandbox&type=stderr");
    for (capability, method, path) in [
        ("list-jobs", "GET", "/v1/jobs"),
        ("read-job", "GET", "/v1/allocations"),
        ("submit-job", "DELETE", "/v1/job/pool"),
        ("dispatch-job", "POST", "/v1/job/pool/dispatch"),
        ("read-logs", "GET", &logs),
        ("alloc-lifecycle", "POST", &format!("/v1/allocation/{alloc}/stop")),
        ("node:read", "GET", "/v1/nodes"),
    ] {
        bed.nomad.deny(capability);
        if capability == "read-logs" {
            // One that may read files may read logs, too.
            bed.nomad.deny("read-fs");
        }
        assert_eq!(bed.ask_as("", method, path).await, denied, "{capability}");
    }
    let alloc = bed.get(&format!("/v1/allocation/{alloc}")).await;
    assert_eq!(alloc.status, 500);
    assert!(alloc.text().starts_with("Unknown allocation \""));
    assert!(Stream::open_silent(&bed, "topic=Allocation:*").await.is_silent(MOMENT).await);
    let mut stream = Stream::open_silent(&bed, "topic=Allocation:*").await;
    bed.nomad.allow("read-job");
    stream.event(|_| true).await;
    let mut stream = Stream::open(&bed, "topic=Allocation:*&index=1000000").await;
    // The last entry is replayed.
    stream.event(|_| true).await;
    bed.nomad.deny("read-job");
    bed.nomad.stop_allocation(bed.nomad.allocations()[0].id.as_str());
    assert!(stream.is_silent(MOMENT).await, "a revoked stream falls silent");
    bed.nomad.allow("read-job");
    assert_eq!(bed.get(&format!("/v1/job/{child}")).await.status, 200);
    Stream::open(&bed, "topic=Allocation:*").await;
    assert!(Stream::open_silent(&bed, "topic=Allocation:*&topic=Node:*").await.is_silent(MOMENT).await);
}

#[tokio::test]
async fn tokens_have_their_capabilities() {
    let tokens = [("own", &["list-jobs", "read-job"][..]), ("all", &["*"])];
    let tokens = tokens.map(|(token, may)| (token.to_owned(), may.iter().map(ToString::to_string).collect()));
    let bed = Bed::with(|options| options.acl = Some(tokens.into())).await;
    let status = async |token: &str, method: &str, path: &str| bed.ask_as(token, method, path).await.0;
    for token in ["", "unknown"] {
        assert_eq!(bed.ask_as(token, "GET", "/v1/jobs").await, (403, "Permission denied".to_owned()));
    }
    assert_eq!(status("own", "GET", "/v1/jobs").await, 200);
    assert_eq!(status("own", "DELETE", "/v1/job/x").await, 403);
    assert_eq!(status("all", "DELETE", "/v1/job/x").await, 200);
    let none = "00000000-0000-0000-0000-000000000000";
    let path = format!("/v1/client/fs/logs/{none}?task=sandbox&type=stderr");
    assert_eq!(bed.ask_as("unknown", "GET", &path).await, (500, "rpc error: Permission denied".to_owned()));
    assert_eq!(status("own", "GET", &path).await, 403);
    let own = |text: String| serde_json::from_str::<Value>(&text).expect("it is JSON")["AccessorID"].clone();
    assert_eq!(own(bed.ask_as("", "GET", "/v1/acl/token/self").await.1), "anonymous");
    assert_eq!(status("unknown", "GET", "/v1/acl/token/self").await, 403);
    assert_eq!(status("", "GET", "/v1/status/leader").await, 200);
}
