//! Nonsense is answered clearly, and the server lives on.

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tool_executor::pb::toolexecutor::{
    Batch, Call, Command, ExecuteRequest, Open, OutputLimits, Reason, Reset, TrajectoryOptions, TrajectoryRequest,
    trajectory_request::Message,
};

use crate::support::{
    client::{Stream, argv, bash, command, execute, open, shell, tool, try_execute},
    raw,
    server::Server,
};

fn field(status: &Status) -> String {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_details_bad_request().expect("it says which field");
    details.field_violations[0].field.clone()
}

async fn refusal(server: &Server, open: Open) -> Status {
    Stream::try_open(server, open).await.err().expect("it is refused")
}

#[tokio::test]
async fn a_malformed_open_names_its_field() {
    let server = Server::start();
    for id in ["", "a b", &"x".repeat(257)] {
        assert_eq!(field(&refusal(&server, open(id)).await), "open.trajectory_id", "{id}");
    }
    let with = |options| Open { options: Some(options), ..open("ok") };
    let pool = TrajectoryOptions { pool: "nope".to_owned(), ..TrajectoryOptions::default() };
    assert_eq!(field(&refusal(&server, with(pool)).await), "open.options.pool");
    let negative = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let lease = TrajectoryOptions { lease: negative, ..TrajectoryOptions::default() };
    assert_eq!(field(&refusal(&server, with(lease)).await), "open.options.lease");
    let limits = OutputLimits { head_bytes: Some(u32::MAX), tail_bytes: Some(u32::MAX) };
    let limits = TrajectoryOptions { output_limits: Some(limits), ..TrajectoryOptions::default() };
    assert_eq!(field(&refusal(&server, with(limits)).await), "open.options.output_limits");
    assert!(execute(&server, "ok", bash("a", "true")).await.success);
}

#[tokio::test]
async fn a_stream_begins_with_one_open() {
    let server = Server::start();
    let begin = async |messages: Vec<TrajectoryRequest>| {
        let mut client = server.client().await;
        client.trajectory(tokio_stream::iter(messages)).await.expect_err("it is refused")
    };
    assert_eq!(field(&begin(Vec::new()).await), "open");
    assert_eq!(field(&begin(vec![TrajectoryRequest { message: None }]).await), "open");
    let batch = TrajectoryRequest { message: Some(Message::Batch(Batch::default())) };
    assert_eq!(field(&begin(vec![batch]).await), "open");
    let mut stream = Stream::open(&server, "twice").await;
    stream.send(Message::Open(open("twice"))).await;
    assert_eq!(field(&stream.end().await.expect_err("it ends")), "open");
}

#[tokio::test]
async fn a_malformed_batch_ends_the_stream_and_not_the_trajectory() {
    let server = Server::start();
    let nothing = Call { call_id: "a".to_owned(), ..Call::default() };
    let no_program = command("a", Command::default());
    let negative = Call { timeout: Some(prost_types::Duration { seconds: -5, nanos: 0 }), ..bash("a", "true") };
    for (index, (call, path)) in [
        (bash("", "true"), "batch.calls[1].call_id"),
        (bash(&"x".repeat(257), "true"), "batch.calls[1].call_id"),
        (nothing, "batch.calls[1].action"),
        (no_program, "batch.calls[1].command.program"),
        (negative, "batch.calls[1].timeout"),
        (command("a", argv(&[])), "batch.calls[1].command.argv.arguments"),
        (command("a", shell("a\0b")), "batch.calls[1].command.shell"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("malformed-{index}");
        let mut stream = Stream::open(&server, &id).await;
        assert!(stream.bash("before", "touch file").await.success);
        stream.batch(vec![bash("fine", "echo never >> ran"), call]).await;
        assert_eq!(field(&stream.end().await.expect_err("it ends")), path);
        let mut stream = Stream::open(&server, &id).await;
        assert!(stream.opened.resumed);
        stream.result().await;
        assert_eq!(stream.bash("after", "ls").await.output, "file", "nothing of the batch was run");
    }
}

#[tokio::test]
async fn a_reset_of_a_generation_to_come_is_refused() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "future").await;
    stream.send(Message::Reset(Reset { generation: 9 })).await;
    assert_eq!(field(&stream.end().await.expect_err("it ends")), "reset.generation");
}

#[tokio::test]
async fn a_batch_of_100_000_calls_is_answered_call_by_call() {
    let server = Server::with(&[("MAX_CALLS_IN_FLIGHT", "100")]);
    let mut stream = Stream::open(&server, "flood").await;
    let calls = (0..100_000).map(|n| bash(&n.to_string(), "sleep 60")).collect();
    stream.batch(calls).await;
    for n in 100..100_000 {
        let result = stream.result().await;
        assert_eq!((result.call_id, result.reason), (n.to_string(), i32::from(Reason::QueueFull)));
        assert!(result.fault.expect("it has a fault").retry_after.is_some());
    }
    stream.batch((0..100_001).map(|n| bash(&n.to_string(), "true")).collect()).await;
    assert_eq!(field(&stream.end().await.expect_err("it ends")), "batch.calls");
    assert!(execute(&server, "other", bash("a", "true")).await.success);
}

#[tokio::test]
async fn a_message_that_is_too_large_gets_tonics_own_status() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "large").await;
    stream
        .batch(vec![tool("a", "write_file", serde_json::json!({"path": "f", "content": "x".repeat(20 << 20)}))])
        .await;
    assert_eq!(stream.end().await.expect_err("it ends").code(), Code::OutOfRange);
    assert!(execute(&server, "large", bash("b", "true")).await.success);
}

#[tokio::test]
async fn text_that_is_no_text_names_its_field() {
    let server = Server::start();
    // The generated types cannot hold such a string, so the bytes are spoiled where they are known to be.
    let request = ExecuteRequest {
        trajectory_id: "spoiled".to_owned(),
        call: Some(tool("a", "read_file", serde_json::json!({"path": "PATHPATH"}))),
        ..ExecuteRequest::default()
    };
    let mut bytes = request.encode_to_vec();
    let at = bytes.windows(8).position(|window| window == b"PATHPATH").expect("the path is in the message");
    bytes[at] = 0xff;
    let status = raw::unary(server.channel().await, raw::EXECUTE, bytes).await.expect_err("it is refused");
    assert_eq!(field(&status), "call.action.arguments");
}

#[tokio::test]
async fn unknown_services_and_methods_are_unimplemented() {
    let server = Server::start();
    for path in ["/toolexecutor.v1.ToolExecutor/Nope", "/nope.v1.Nope/Nope"] {
        let status = raw::unary(server.channel().await, path, Vec::new()).await.expect_err("there is none");
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
    }
}

#[tokio::test]
async fn an_execute_without_a_call_names_it() {
    let server = Server::start();
    let request = ExecuteRequest { trajectory_id: "x".to_owned(), ..ExecuteRequest::default() };
    assert_eq!(field(&try_execute(&server, request).await.expect_err("it is refused")), "call");
    let mut stream = Stream::open(&server, "empty").await;
    stream.batch(Vec::new()).await;
    assert!(stream.bash("a", "true").await.success, "an empty batch is no mistake");
}
