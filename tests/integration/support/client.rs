//! A trainer's side of a trajectory, as small as tests need it.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming, metadata::MetadataValue, transport::Channel};
use tool_executor::pb::toolexecutor::{
    Argv, Batch, Call, CallResult, Command, ExecuteRequest, Open, Opened, ToolCall, TrajectoryRequest,
    TrajectoryResponse, call::Action, command::Program, tool_call::Arguments, tool_executor_client::ToolExecutorClient,
    trajectory_request, trajectory_response,
};

use super::server::Server;

/// Long enough for anything on a busy machine; a test that waits for it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// One open stream.
pub(crate) struct Stream {
    requests: Option<mpsc::Sender<TrajectoryRequest>>,
    responses: Streaming<TrajectoryResponse>,
    pub(crate) opened: Opened,
}

impl Stream {
    pub(crate) async fn open(server: &Server, id: &str) -> Self {
        Self::try_open(server, open(id)).await.expect("it opens")
    }

    pub(crate) async fn try_open(server: &Server, open: Open) -> Result<Self, Status> {
        Self::over(server.client().await, open).await
    }

    /// Over a connection of the caller's.
    pub(crate) async fn over(client: ToolExecutorClient<Channel>, open: Open) -> Result<Self, Status> {
        Self::bearing(client, None, open).await
    }

    /// The same, with a token.
    pub(crate) async fn bearing(
        mut client: ToolExecutorClient<Channel>,
        token: Option<&str>,
        open: Open,
    ) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(16);
        let id = MetadataValue::try_from(&open.trajectory_id).unwrap_or_else(|_| MetadataValue::from_static("odd"));
        let first = TrajectoryRequest { message: Some(trajectory_request::Message::Open(open)) };
        requests.send(first).await.expect("there is room");
        let mut request = Request::new(ReceiverStream::new(receiver));
        // By which a proxy finds the executor that has the trajectory.
        request.metadata_mut().insert("x-trajectory-id", id);
        if let Some(token) = token {
            bear(&mut request, token);
        }
        let responses = client.trajectory(request).await?.into_inner();
        let mut stream = Self { requests: Some(requests), responses, opened: Opened::default() };
        match stream.next().await? {
            Some(trajectory_response::Message::Opened(opened)) => stream.opened = opened,
            other => panic!("the first answer is {other:?}"),
        }
        Ok(stream)
    }

    pub(crate) async fn send(&self, message: trajectory_request::Message) {
        let requests = self.requests.as_ref().expect("the stream was not half-closed");
        requests.send(TrajectoryRequest { message: Some(message) }).await.expect("the stream is open");
    }

    /// Whether the stream took it: one that is broken does not.
    pub(crate) async fn try_batch(&self, calls: Vec<Call>) -> bool {
        let message = Some(trajectory_request::Message::Batch(Batch { calls }));
        match &self.requests {
            Some(requests) => requests.send(TrajectoryRequest { message }).await.is_ok(),
            None => false,
        }
    }

    pub(crate) async fn batch(&self, calls: Vec<Call>) {
        self.send(trajectory_request::Message::Batch(Batch { calls })).await;
    }

    /// The next message of any kind; `None` at the stream's good end.
    pub(crate) async fn next(&mut self) -> Result<Option<trajectory_response::Message>, Status> {
        let message = tokio::time::timeout(PATIENCE, self.responses.message()).await.expect("an answer in time")?;
        Ok(message.map(|message| message.message.expect("every answer has a message")))
    }

    /// The next result, whatever comes before it.
    pub(crate) async fn result(&mut self) -> CallResult {
        loop {
            match self.next().await.expect("the stream goes on") {
                Some(trajectory_response::Message::Result(result)) => return result,
                Some(_) => {}
                None => panic!("the stream ended"),
            }
        }
    }

    pub(crate) async fn results(&mut self, count: usize) -> Vec<CallResult> {
        let mut results = Vec::new();
        while results.len() < count {
            results.push(self.result().await);
        }
        results
    }

    /// The next message that `pick` wants, whatever comes before it.
    pub(crate) async fn until<T>(&mut self, pick: impl Fn(trajectory_response::Message) -> Option<T>) -> T {
        loop {
            let message = self.next().await.expect("the stream goes on").expect("the stream has not ended");
            if let Some(picked) = pick(message) {
                return picked;
            }
        }
    }

    /// How the stream ends, whatever comes before that.
    pub(crate) async fn end(&mut self) -> Result<(), Status> {
        while self.next().await?.is_some() {}
        Ok(())
    }

    /// Sends no more, and reads on.
    pub(crate) fn half_close(&mut self) {
        self.requests = None;
    }

    /// Runs one command through the shell tool.
    pub(crate) async fn bash(&mut self, id: &str, command: &str) -> CallResult {
        self.batch(vec![bash(id, command)]).await;
        self.result().await
    }
}

/// Sends the token with the request.
pub(crate) fn bear<T>(request: &mut Request<T>, token: &str) {
    let header = format!("Bearer {token}").parse().expect("it can be sent");
    request.metadata_mut().insert("authorization", header);
}

pub(crate) fn open(id: &str) -> Open {
    Open { trajectory_id: id.to_owned(), ..Open::default() }
}

pub(crate) fn tool(id: &str, name: &str, arguments: serde_json::Value) -> Call {
    let arguments = Some(Arguments::ArgumentsJson(arguments.to_string()));
    let action = Some(Action::Tool(ToolCall { name: name.to_owned(), arguments }));
    Call { call_id: id.to_owned(), action, ..Call::default() }
}

pub(crate) fn bash(id: &str, command: &str) -> Call {
    tool(id, "bash", serde_json::json!({ "command": command }))
}

pub(crate) fn command(id: &str, command: Command) -> Call {
    Call { call_id: id.to_owned(), action: Some(Action::Command(command)), ..Call::default() }
}

pub(crate) fn shell(script: &str) -> Command {
    Command { program: Some(Program::Shell(script.to_owned())), ..Command::default() }
}

pub(crate) fn argv(arguments: &[&str]) -> Command {
    let arguments = arguments.iter().map(ToString::to_string).collect();
    Command { program: Some(Program::Argv(Argv { arguments })), ..Command::default() }
}

pub(crate) fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

pub(crate) async fn execute(server: &Server, id: &str, call: Call) -> CallResult {
    try_execute(server, ExecuteRequest { trajectory_id: id.to_owned(), call: Some(call), ..ExecuteRequest::default() })
        .await
        .expect("it answers")
}

/// Until nothing is known of a trajectory that has ended, whose ledger has this call as long as there is one.
pub(crate) async fn until_forgotten(server: &Server, id: &str, known: Call) {
    let asked = Instant::now();
    let request = ExecuteRequest {
        trajectory_id: id.to_owned(),
        call: Some(known),
        require_existing: true,
        ..ExecuteRequest::default()
    };
    loop {
        match try_execute(server, request.clone()).await {
            Ok(result) => assert!(result.replayed && asked.elapsed() < PATIENCE, "{result:?}"),
            Err(status) => return assert_eq!(status.code(), Code::NotFound, "{status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn try_execute(server: &Server, request: ExecuteRequest) -> Result<CallResult, Status> {
    let answer = tokio::time::timeout(PATIENCE, async { server.client().await.execute(request).await });
    Ok(answer.await.expect("an answer in time")?.into_inner().result.expect("every answer has a result"))
}
