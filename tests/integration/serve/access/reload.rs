//! Tenants come and go with a SIGHUP, and no stream is dropped.

use std::time::Duration;

use rustix::process::Signal;
use tonic::{Code, Status};
use tool_executor::pb::toolexecutor::CallResult;

use super::{Guarded, put};
use crate::support::client::{PATIENCE, open};

/// What comes of a call, once it is as the test waits for it to be.
async fn until(
    guarded: &Guarded,
    token: &str,
    trajectory: &str,
    done: impl Fn(&Result<CallResult, Status>) -> bool,
) -> Result<CallResult, Status> {
    let asked = std::time::Instant::now();
    loop {
        let answer = guarded.execute(token, trajectory, "echo hi").await;
        if done(&answer) {
            return answer;
        }
        assert!(asked.elapsed() < PATIENCE, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn code(answer: &Result<CallResult, Status>) -> Code {
    answer.as_ref().map_or_else(Status::code, |_| Code::Ok)
}

#[tokio::test]
async fn tenants_are_read_again_and_no_stream_is_dropped() {
    let guarded = Guarded::with("[red]\ntoken = \"old\"\n[blue]\ntoken = \"b\"\n", &[]);
    let mut red = guarded.open("old", open("lasting")).await.expect("it opens");
    let mut blue = guarded.open("b", open("lasting")).await.expect("it opens");
    assert_eq!(code(&guarded.execute("new", "t", "true").await), Code::Unauthenticated);

    put(&guarded.file(), "[red]\ntoken = \"new\"\nmax_trajectories = 1\n[green]\ntoken = \"g\"\n");
    assert_eq!(code(&guarded.execute("old", "lasting", "true").await), Code::Ok, "nobody has told it yet");
    guarded.server.signal(Signal::HUP);
    until(&guarded, "green-not", "t", |answer| code(answer) == Code::Unauthenticated).await.expect_err("it is unknown");
    until(&guarded, "new", "lasting", |answer| code(answer) == Code::Ok).await.expect("it has a new token");
    for gone in ["old", "b"] {
        assert_eq!(code(&guarded.execute(gone, "lasting", "true").await), Code::Unauthenticated, "{gone}");
    }
    assert_eq!(code(&guarded.execute("new", "another", "true").await), Code::ResourceExhausted, "it has a quota now");
    assert_eq!(guarded.execute("g", "lasting", "echo green").await.expect("it is new").output, "green");
    for stream in [&mut red, &mut blue] {
        assert_eq!(stream.bash("a", "echo on").await.output, "on", "streams from before go on");
    }

    // What is wrong changes nothing.
    for wrong in ["[red]\ntoken = new\n", "[red]\ntoken = \"\"\n", "[red]\ntoken = \"x\"\n[green]\ntoken = \"x\"\n"] {
        put(&guarded.file(), wrong);
        guarded.server.signal(Signal::HUP);
        assert_eq!(code(&guarded.execute("new", "lasting", "true").await), Code::Ok, "{wrong}");
    }
    std::fs::remove_file(guarded.file()).expect("it is there");
    guarded.server.signal(Signal::HUP);
    assert_eq!(code(&guarded.execute("new", "lasting", "true").await), Code::Ok);
    put(&guarded.file(), "[red]\ntoken = \"new\"\n");
    guarded.server.signal(Signal::HUP);
    until(&guarded, "new", "another", |answer| code(answer) == Code::Ok).await.expect("its quota is gone");
    assert_eq!(code(&guarded.execute("g", "lasting", "true").await), Code::Unauthenticated);
    assert_eq!(red.bash("b", "echo still").await.output, "still");
}
