//! The client: trajectories that send one call after another.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};
use tool_executor::pb::toolexecutor::{
    Batch, Call, CallResult, Open, ReleaseTrajectory, ToolCall, TrajectoryRequest, TrajectoryResponse, call::Action,
    tool_call::Arguments, tool_executor_client::ToolExecutorClient, trajectory_request, trajectory_response,
};

use crate::Result;

pub(crate) struct Figures {
    pub(crate) median: Duration,
    pub(crate) p99: Duration,
    /// Calls a second, many at once.
    pub(crate) rate: f64,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    True,
    Read,
    Write,
}

impl Kind {
    fn tool(self) -> ToolCall {
        let (name, arguments) = match self {
            Self::True => ("bash", r#"{"command":"true"}"#.to_owned()),
            Self::Read => ("read_file", r#"{"path":"file"}"#.to_owned()),
            Self::Write => ("write_file", format!(r#"{{"path":"file","content":"{}"}}"#, "x".repeat(1024))),
        };
        ToolCall { name: name.to_owned(), arguments: Some(Arguments::ArgumentsJson(arguments)) }
    }
}

/// One open stream.
pub(crate) struct Trajectory {
    requests: mpsc::Sender<TrajectoryRequest>,
    responses: Streaming<TrajectoryResponse>,
    calls: u64,
}

impl Trajectory {
    pub(crate) async fn open(channel: Channel, name: String) -> Result<Self> {
        let (requests, receiver) = mpsc::channel(4);
        let open = Open { trajectory_id: name, ..Open::default() };
        requests.send(message(trajectory_request::Message::Open(open))).await?;
        let mut client = ToolExecutorClient::new(channel);
        let responses = client.trajectory(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { requests, responses, calls: 0 })
    }

    /// Sends one call and waits for its result.
    pub(crate) async fn call(&mut self, kind: Kind) -> Result<CallResult> {
        self.calls += 1;
        let call = Call { call_id: self.calls.to_string(), action: Some(Action::Tool(kind.tool())), ..Call::default() };
        self.requests.send(message(trajectory_request::Message::Batch(Batch { calls: vec![call] }))).await?;
        loop {
            let response = self.responses.message().await?.ok_or("the stream ended")?;
            if let Some(trajectory_response::Message::Result(result)) = response.message {
                return if result.success {
                    Ok(result)
                } else {
                    Err(format!("the call failed: {}", result.error).into())
                };
            }
        }
    }
}

impl Trajectory {
    /// Gives its slot back, and waits until it has.
    pub(crate) async fn release(mut self) -> Result<()> {
        self.requests.send(message(trajectory_request::Message::Release(ReleaseTrajectory::default()))).await?;
        while self.responses.message().await?.is_some() {}
        Ok(())
    }
}

fn message(message: trajectory_request::Message) -> TrajectoryRequest {
    TrajectoryRequest { message: Some(message) }
}

pub(crate) async fn connect(address: &str) -> Result<Channel> {
    Ok(Channel::from_shared(format!("http://{address}"))?.connect().await?)
}

/// Median and 99th percentile of a call, one after another.
pub(crate) async fn one_trajectory(address: &str, kind: Kind, calls: usize) -> Result<(Duration, Duration)> {
    let mut trajectory = Trajectory::open(connect(address).await?, format!("one-{}", kind as u8)).await?;
    trajectory.call(Kind::Write).await?;
    for _ in 0..50 {
        trajectory.call(kind).await?;
    }
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let start = Instant::now();
        trajectory.call(kind).await?;
        times.push(start.elapsed());
    }
    trajectory.release().await?;
    Ok(percentiles(times))
}

/// Calls a second of so many trajectories, each of which sends one call after another.
pub(crate) async fn many_trajectories(address: &str, kind: Kind, trajectories: usize, time: Duration) -> Result<f64> {
    let channel = connect(address).await?;
    let mut open = Vec::new();
    for index in 0..trajectories {
        let mut trajectory = Trajectory::open(channel.clone(), format!("many-{}-{index}", kind as u8)).await?;
        trajectory.call(Kind::Write).await?;
        open.push(trajectory);
    }
    let start = Instant::now();
    let tasks: Vec<_> = open
        .into_iter()
        .map(|mut trajectory| {
            tokio::spawn(async move {
                let mut calls = 0_u64;
                while start.elapsed() < time {
                    trajectory.call(kind).await?;
                    calls += 1;
                }
                let time = start.elapsed();
                trajectory.release().await?;
                Result::Ok((calls, time))
            })
        })
        .collect();
    let (mut calls, mut time) = (0, Duration::ZERO);
    for task in tasks {
        let (more, until) = task.await??;
        calls += more;
        time = time.max(until);
    }
    Ok(calls as f64 / time.as_secs_f64())
}

pub(crate) fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
