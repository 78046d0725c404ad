//! A tenant has as much as it may, and takes nothing from the others.

use serde_json::json;
use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt as _;
use tool_executor::pb::toolexecutor::{Cancel, Reason, ReleaseRequest, trajectory_request, trajectory_response};

use super::Guarded;
use crate::support::{
    client::{Stream, bash, open},
    http::Request as Http,
};

const BOUND: &str = "[red]\ntoken = \"r\"\nmax_trajectories = 2\nmax_calls_in_flight = 3\n[blue]\ntoken = \"b\"\n";

#[tokio::test]
async fn trajectories_have_a_quota() {
    let guarded = Guarded::with(BOUND, &[]);
    let first = guarded.open("r", open("first")).await.expect("it opens");
    guarded.execute("r", "second", "true").await.expect("it opens");
    let text = "the tenant has 2 trajectories open, the most that it may have";
    let refused = guarded.open("r", open("third")).await.err().expect("it is refused");
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, text));
    assert!(refused.get_details_retry_info().is_some(), "it may come later");
    let refused = guarded.execute("r", "third", "true").await.expect_err("it is refused");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let answer = Http::execute(&guarded.server.address, "third", "u", "true").header("Authorization", "Bearer r");
    let answer = answer.send().await;
    assert_eq!((answer.status, answer.json()), (503, json!({ "detail": text })));
    // Those that there are go on, and another tenant has its own.
    assert!(guarded.execute("r", "second", "true").await.expect("it answers").success);
    for trajectory in ["first", "second", "third"] {
        guarded.execute("b", trajectory, "true").await.expect("it opens");
    }
    let release = ReleaseRequest { trajectory_id: "second".into(), ..Default::default() };
    guarded.ask("r", release, async |mut client, request| client.release(request).await).await.expect("it may");
    guarded.execute("r", "third", "true").await.expect("there is room now");
    // One that has ended begins again only if there is room.
    let reopened = guarded.execute("r", "second", "true").await.expect("it answers");
    assert_eq!((reopened.reason, reopened.error), (i32::from(Reason::QueueFull), format!("No capacity: {text}")));
    let refused = guarded.open("r", open("second")).await.err().expect("it is refused");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(guarded.list("r").await, ["first", "third"]);
    drop(first);
}

#[tokio::test]
async fn many_at_once_are_not_too_many() {
    let guarded = Guarded::with(BOUND, &[]);
    let client = guarded.server.client().await;
    let opening = (0..32).map(|n| {
        let client = client.clone();
        async move { Stream::bearing(client, Some("r"), open(&n.to_string())).await }
    });
    let mut opened = Vec::new();
    for answer in opening.collect::<JoinSet<_>>().join_all().await {
        match answer {
            Ok(stream) => opened.push(stream),
            Err(refused) => assert_eq!(refused.code(), Code::ResourceExhausted),
        }
    }
    assert_eq!(opened.len(), 2);
}

#[tokio::test]
async fn calls_in_flight_have_a_quota() {
    let guarded = Guarded::with(BOUND, &[]);
    let mut one = guarded.open("r", open("one")).await.expect("it opens");
    let mut two = guarded.open("r", open("two")).await.expect("it opens");
    one.batch(vec![bash("a", "cat > /dev/null; sleep 60"), bash("b", "true")]).await;
    one.until(|message| match message {
        trajectory_response::Message::Notice(_) => Some(()),
        _ => None,
    })
    .await;
    two.batch(vec![bash("a", "sleep 60"), bash("b", "true")]).await;
    let refused = two.result().await;
    let text = "No capacity: the tenant has 3 calls waiting or running, the most that it may have";
    assert_eq!((&*refused.call_id, refused.reason, &*refused.error), ("b", i32::from(Reason::QueueFull), text));
    assert!(refused.fault.expect("it has a fault").retry_after.is_some());
    let status = guarded.status("r").await;
    assert_eq!(status.queue_size + status.running_calls, 3);
    // It is no matter of another's.
    assert_eq!(guarded.execute("b", "one", "echo hi").await.expect("it runs").output, "hi");
    two.send(trajectory_request::Message::Cancel(Cancel::default())).await;
    two.result().await;
    assert_eq!(two.bash("c", "echo room").await.output, "room");
}
