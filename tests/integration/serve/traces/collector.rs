//! A collector that keeps what it is sent, and what that is.

use std::{
    fs::File,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, status::StatusCode},
};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, transport};
use tool_executor::pb::toolexecutor::{
    Batch, ReleaseRequest, TrajectoryRequest, trajectory_request::Message, trajectory_response,
};

use super::{OTHER, SPAN, TRACE, parent, part_of};
use crate::support::{
    client::{PATIENCE, bash, open, tool},
    server::Server,
};

/// In what is asked for and printed, and in no span.
const SECRET: &str = "xyzzy-7402";

#[derive(Clone, Default)]
struct Collector {
    sent: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.sent.lock().expect("no panic").push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// With its address.
    async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let collector = Self::default();
        let service = TraceServiceServer::new(collector.clone());
        let server = transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, address)
    }

    fn spans(&self) -> Vec<Span> {
        let sent = self.sent.lock().expect("no panic");
        let scopes = sent.iter().flat_map(|request| &request.resource_spans).flat_map(|spans| &spans.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }
}

fn text<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a str> {
    let attribute = attributes.iter().find(|attribute| attribute.key == name)?;
    match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs these calls in a stream whose opener says that it is a part of this.
async fn stream(server: &Server, traceparent: &str, calls: Vec<tool_executor::pb::toolexecutor::Call>) {
    let (sender, receiver) = mpsc::channel(2);
    let count = calls.len();
    for message in [Message::Open(open("streamed")), Message::Batch(Batch { calls })] {
        sender.send(TrajectoryRequest { message: Some(message) }).await.expect("it has room");
    }
    let mut request = Request::new(ReceiverStream::new(receiver));
    request.metadata_mut().insert("traceparent", traceparent.parse().expect("a value"));
    request.metadata_mut().insert("tracestate", "vendor=1".parse().expect("a value"));
    let mut responses = server.client().await.trajectory(request).await.expect("it opens").into_inner();
    let mut results = 0;
    while results < count {
        let next = tokio::time::timeout(PATIENCE, responses.message()).await.expect("in time");
        let message = next.expect("no error").and_then(|response| response.message);
        results += usize::from(matches!(message, Some(trajectory_response::Message::Result(_))));
    }
}

// The collector answers while the test waits for the program's end.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_sent_the_callers_trace_with_each_call_and_its_phases() {
    let (collector, address) = Collector::start().await;
    let mut server = Server::with(&[("TRACES_ENDPOINT", &address), ("EXECUTOR_ID", "traced-1")]);
    let calls =
        vec![bash("fails", &format!("echo {SECRET}; exit 3")), tool("refused", "no_tool", serde_json::json!({}))];
    stream(&server, &parent(TRACE, "01"), calls).await;
    let mut client = server.client().await;
    for request in [
        part_of(&parent(OTHER, "01"), "streamed", "elsewhere", "true"),
        part_of(&parent(TRACE, "00"), "unsampled", "unsampled", "true"),
        part_of("nonsense", "own", "own", "true"),
    ] {
        client.execute(request).await.expect("it answers");
    }
    for trajectory_id in ["streamed", "own"] {
        let request = ReleaseRequest { trajectory_id: trajectory_id.to_owned(), ..ReleaseRequest::default() };
        client.release(request).await.expect("it is released");
    }
    // What was not sent yet is sent at the end.
    server.signal(Signal::TERM);
    assert!(server.wait().success());

    let spans = collector.spans();
    let all = format!("{spans:?}");
    assert!(!all.contains(SECRET), "{all}");
    let trajectory = |id: &str| {
        let of = |span: &&Span| {
            span.name == "trajectory" && text(&span.attributes, "tool_executor.trajectory.id") == Some(id)
        };
        spans.iter().find(of).unwrap_or_else(|| panic!("no {id} in {all}"))
    };
    let call = |id: &str| {
        let of = |span: &&Span| span.name == "call" && text(&span.attributes, "gen_ai.tool.call.id") == Some(id);
        spans.iter().find(of).unwrap_or_else(|| panic!("no {id} in {all}"))
    };

    let streamed = trajectory("streamed");
    assert_eq!((hex(&streamed.trace_id), hex(&streamed.parent_span_id)), (TRACE.to_owned(), SPAN.to_owned()));
    assert_eq!(streamed.trace_state, "vendor=1");
    let fails = call("fails");
    assert_eq!((&fails.trace_id, &fails.parent_span_id), (&streamed.trace_id, &streamed.span_id));
    let attribute = |name| text(&fails.attributes, name);
    assert_eq!(attribute("gen_ai.operation.name"), Some("execute_tool"));
    assert_eq!(attribute("gen_ai.tool.name"), Some("bash"));
    assert_eq!(attribute("tool_executor.trajectory.id"), Some("streamed"));
    assert_eq!(attribute("tool_executor.outcome"), Some("failed"));
    assert_eq!(attribute("tool_executor.reason"), Some("exit_status"));
    assert_eq!(attribute("error.type"), Some("exit_status"));
    assert_eq!(fails.status.as_ref().map(|status| status.code), Some(StatusCode::Error as i32));
    assert!(streamed.start_time_unix_nano <= fails.start_time_unix_nano + 1_000_000_000, "{all}");
    assert!(fails.end_time_unix_nano <= streamed.end_time_unix_nano, "{all}");

    let phases: Vec<&Span> = spans.iter().filter(|span| span.parent_span_id == fails.span_id).collect();
    assert!(phases.iter().any(|phase| phase.name == "execution"), "{phases:?}");
    assert!(phases.iter().any(|phase| phase.name == "dispatch"), "{phases:?}");
    let took = |span: &Span| span.end_time_unix_nano - span.start_time_unix_nano;
    assert_eq!(phases.iter().map(|phase| took(phase)).sum::<u64>(), took(fails), "they follow one another");

    let elsewhere = call("elsewhere");
    assert_eq!((hex(&elsewhere.trace_id), hex(&elsewhere.parent_span_id)), (OTHER.to_owned(), SPAN.to_owned()));
    assert_eq!(elsewhere.status.as_ref().map_or(0, |status| status.code), StatusCode::Unset as i32);
    let own = trajectory("own");
    assert!(own.parent_span_id.is_empty(), "a malformed one is none: {own:?}");
    assert_eq!(call("own").parent_span_id, own.span_id);
    assert!(!all.contains("\"unsampled\""), "its caller does not keep it: {all}");

    let sent = collector.sent.lock().expect("no panic");
    let resource = sent[0].resource_spans[0].resource.as_ref().expect("a resource");
    assert_eq!(text(&resource.attributes, "service.name"), Some("tool-executor"));
    assert_eq!(text(&resource.attributes, "service.instance.id"), Some("traced-1"));
}

#[tokio::test]
async fn a_collector_that_is_not_there_is_told_of_once_and_holds_nothing_up() {
    // A port that nobody listens on any more.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let state = TempDir::new().expect("a directory for the state");
    let log = state.path().join("log");
    let mut command = Server::command(&state);
    command.stderr(File::create(&log).expect("the log can be written"));
    // Batches that follow one another, so that several fail.
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{nobody}")).env("OTEL_BSP_SCHEDULE_DELAY", "50");
    let mut server = Server::run(command, state);
    let mut client = server.client().await;
    let lost = |log: &std::path::Path| std::fs::read_to_string(log).expect("a log").matches("spans are lost").count();
    let asked = Instant::now();
    let mut after = 0;
    for number in 0.. {
        let call = part_of(&parent(TRACE, "01"), "lost", &number.to_string(), "true");
        client.execute(call).await.expect("it answers");
        assert!(asked.elapsed() < PATIENCE, "nobody is told");
        after += usize::from(lost(&log) > 0);
        if after > 20 {
            break;
        }
    }
    server.signal(Signal::TERM);
    let ending = Instant::now();
    assert!(server.wait().success());
    assert!(ending.elapsed() < Duration::from_secs(10), "{:?}", ending.elapsed());
    assert_eq!(lost(&log), 1, "{}", std::fs::read_to_string(&log).expect("a log"));
}

#[test]
fn a_ratio_is_between_none_and_all() {
    let state = TempDir::new().expect("a directory for the state");
    let output = Server::command(&state).env("TOOL_EXECUTOR_TRACES_RATIO", "1.5").output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("TOOL_EXECUTOR_TRACES_RATIO"), "{said}");
}
