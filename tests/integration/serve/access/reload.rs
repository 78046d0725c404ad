//! Tenants come and go with a SIGHUP, and no stream is dropped.

use tonic::{Code, Status};
use tool_executor::pb::toolexecutor::CallResult;

use super::Guarded;
use crate::support::client::{Stream, bash, open};

fn code(answer: &Result<CallResult, Status>) -> Code {
    answer.as_ref().map_or_else(Status::code, |_| Code::Ok)
}

/// What it prints: the stream hears of calls that came another way, too.
async fn echo(stream: &mut Stream, text: &str) -> String {
    stream.batch(vec![bash(text, &format!("echo {text}"))]).await;
    loop {
        let result = stream.result().await;
        if result.call_id == text {
            return result.output;
        }
    }
}

#[tokio::test]
async fn tenants_are_read_again_and_no_stream_is_dropped() {
    let guarded = Guarded::with("[red]\ntoken = \"old\"\n[blue]\ntoken = \"b\"\n", &[]);
    let mut red = guarded.open("old", open("lasting")).await.expect("it opens");
    let mut blue = guarded.open("b", open("lasting")).await.expect("it opens");
    assert_eq!(code(&guarded.execute("new", "t", "true").await), Code::Unauthenticated);

    let tenants = "[red]\ntoken = [\"new\", \"newer\"]\nmax_trajectories = 1\n[green]\ntoken = \"g\"\n";
    guarded.reload(tenants, "tenants: 2, tokens: 3").await;
    for gone in ["old", "b"] {
        assert_eq!(code(&guarded.execute(gone, "lasting", "true").await), Code::Unauthenticated, "{gone}");
    }
    assert_eq!(code(&guarded.execute("new", "lasting", "true").await), Code::Ok);
    assert_eq!(code(&guarded.execute("new", "another", "true").await), Code::ResourceExhausted, "it has a quota now");
    assert_eq!(guarded.execute("g", "lasting", "echo green").await.expect("it is new").output, "green");
    for stream in [&mut red, &mut blue] {
        assert_eq!(echo(stream, "on").await, "on", "streams from before go on");
    }

    for (wrong, told) in [
        ("[red]\ntoken = new\n", "is not TOML: see line 2"),
        ("[red]\ntoken = \"\"\n", "red: token must be"),
        ("[red]\ntoken = \"x\"\n[green]\ntoken = \"x\"\n", "red: has a token of green"),
    ] {
        guarded.reload(wrong, told).await;
        assert_eq!(code(&guarded.execute("new", "lasting", "true").await), Code::Ok, "what is wrong changes nothing");
        assert_eq!(code(&guarded.execute("x", "lasting", "true").await), Code::Unauthenticated);
    }
    guarded.reload("[red]\ntoken = \"new\"\n", "tenants: 1, tokens: 1").await;
    assert_eq!(code(&guarded.execute("new", "another", "true").await), Code::Ok, "its quota is gone");
    assert_eq!(code(&guarded.execute("g", "lasting", "true").await), Code::Unauthenticated);
    assert_eq!(echo(&mut red, "still").await, "still");
}
