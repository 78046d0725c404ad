//! Tokens and tenants come and go with a SIGHUP, and no stream is dropped.

use std::fs::File;

use rustix::process::Signal;
use tempfile::TempDir;
use tonic::{Code, Status};
use tool_executor::pb::toolexecutor::CallResult;

use super::{Guarded, said};
use crate::support::{
    client::{Stream, bash, open},
    server::Server,
};

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

#[tokio::test]
async fn the_services_own_token_is_read_again_from_its_file() {
    let directory = TempDir::new().expect("a directory");
    let (settings, log) = (directory.path().join("settings.toml"), directory.path().join("log"));
    let state = TempDir::new().expect("a directory for the state");
    std::fs::write(&settings, "token = \"old\"\n").expect("a file");
    let mut command = Server::command(&state);
    command.arg("--config").arg(&settings).stderr(File::create(&log).expect("a log"));
    let server = Server::run(command, state);
    let mut stream = Stream::bearing(server.client().await, Some("old"), open("lasting")).await.expect("it opens");
    let reload = async |text: &str, told: &str| {
        std::fs::write(&settings, text).expect("a file");
        server.signal(Signal::HUP);
        said(&log, told).await;
    };
    let opens = async |token: &str| {
        let opened = Stream::bearing(server.client().await, Some(token), open("another")).await;
        opened.map(drop).map_or_else(|status| status.code(), |()| Code::Ok)
    };
    reload("token = \"new\"\n", "the service's own token has been read again").await;
    assert_eq!((opens("old").await, opens("new").await), (Code::Unauthenticated, Code::Ok));
    assert_eq!(echo(&mut stream, "on").await, "on");
    // What is wrong, or cannot change without a restart, changes nothing.
    reload("token = \"newer\"\nslotz = 3\n", "slotz").await;
    reload("", "a token of its own changes with a restart alone").await;
    let tenants = directory.path().join("tenants.toml");
    std::fs::write(&tenants, "[red]\ntoken = \"r\"\n").expect("a file");
    let moved = format!("token = \"newer\"\ntokens_file = {tenants:?}\n");
    reload(&moved, "tokens_file changes with a restart alone").await;
    assert_eq!((opens("newer").await, opens("new").await), (Code::Unauthenticated, Code::Ok));
}
