//! The client: trajectories that send one call after another.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};
use tool_executor::pb::toolexecutor::{
    Batch, Call, CallResult, Command, Open, ReleaseTrajectory, Reset, ToolCall, TrajectoryRequest, TrajectoryResponse,
    call::Action, command::Program, tool_call::Arguments, tool_executor_client::ToolExecutorClient, trajectory_request,
    trajectory_response,
};

use crate::Result;

/// Of calls one after another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Latency {
    pub(crate) median: Duration,
    pub(crate) p99: Duration,
    /// Where the time went, as the executor says; of a floor, nothing.
    pub(crate) phases: Phases,
}

/// Means.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Phases {
    pub(crate) dispatch: Duration,
    pub(crate) execution: Duration,
    pub(crate) collection: Duration,
}

/// Of many at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) p99: Duration,
    /// Calls a second.
    pub(crate) rate: f64,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    True,
    Read,
    Write,
    Sleep,
    /// Ten small programs, one after another.
    Script,
}

impl Kind {
    fn tool(self) -> ToolCall {
        let (name, arguments) = match self {
            Self::True => ("bash", r#"{"command":"true"}"#.to_owned()),
            Self::Sleep => ("bash", r#"{"command":"sleep 5"}"#.to_owned()),
            Self::Script => {
                ("bash", r#"{"command":"for n in 1 2 3 4 5 6 7 8 9 10; do grep -c . /etc/passwd; done"}"#.to_owned())
            }
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
    generation: u64,
}

impl Trajectory {
    pub(crate) async fn open(channel: Channel, name: String) -> Result<Self> {
        let (requests, receiver) = mpsc::channel(4);
        let open = Open { trajectory_id: name, ..Open::default() };
        requests.send(message(trajectory_request::Message::Open(open))).await?;
        let mut client = ToolExecutorClient::new(channel);
        let responses = client.trajectory(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { requests, responses, calls: 0, generation: 0 })
    }

    /// Sends one call and waits for its result.
    pub(crate) async fn call(&mut self, kind: Kind) -> Result<CallResult> {
        self.send(Call { action: Some(Action::Tool(kind.tool())), ..Call::default() }).await
    }

    /// Calls a tool of the model's.
    pub(crate) async fn tool(&mut self, name: &str, arguments: &str) -> Result<CallResult> {
        let arguments = Some(Arguments::ArgumentsJson(arguments.to_owned()));
        let tool = ToolCall { name: name.to_owned(), arguments };
        self.send(Call { action: Some(Action::Tool(tool)), ..Call::default() }).await
    }

    async fn send(&mut self, call: Call) -> Result<CallResult> {
        let result = self.try_send(call).await?;
        if result.success { Ok(result) } else { Err(format!("the call failed: {}", result.error).into()) }
    }

    /// Runs a script, and says how it ended.
    pub(crate) async fn try_shell(&mut self, script: &str) -> Result<String> {
        let command = Command { program: Some(Program::Shell(script.to_owned())), ..Command::default() };
        let result = self.try_send(Call { action: Some(Action::Command(command)), ..Call::default() }).await?;
        Ok(format!("{:?}, {:?}", result.outcome(), result.reason()))
    }

    async fn try_send(&mut self, call: Call) -> Result<CallResult> {
        self.calls += 1;
        let call = Call { call_id: self.calls.to_string(), ..call };
        self.requests.send(message(trajectory_request::Message::Batch(Batch { calls: vec![call] }))).await?;
        loop {
            let response = self.responses.message().await?.ok_or("the stream ended")?;
            if let Some(trajectory_response::Message::Result(result)) = response.message {
                return Ok(result);
            }
        }
    }
}

impl Trajectory {
    /// Prints so many bytes, and reads what is sent of it meanwhile.
    pub(crate) async fn print(&mut self, bytes: u64, stream_output: bool) -> Result<()> {
        let command =
            Command { program: Some(Program::Shell(format!("head -c {bytes} /dev/zero"))), ..Command::default() };
        let call = Call { action: Some(Action::Command(command)), stream_output, ..Call::default() };
        let printed = self.send(call).await?.stdout.map_or(0, |stdout| stdout.total_bytes);
        if printed == bytes { Ok(()) } else { Err(format!("{printed} bytes were printed").into()) }
    }

    /// Makes so many files in each of so many directories.
    pub(crate) async fn fill(&mut self, files: usize, directories: usize) -> Result<()> {
        let script = format!("for d in $(seq {directories}); do mkdir $d; (cd $d; touch $(seq {files})); done");
        let command = Command { program: Some(Program::Shell(script)), ..Command::default() };
        self.send(Call { action: Some(Action::Command(command)), ..Call::default() }).await.map(drop)
    }

    /// Runs a script.
    pub(crate) async fn shell(&mut self, script: String) -> Result<()> {
        let command = Command { program: Some(Program::Shell(script)), ..Command::default() };
        self.send(Call { action: Some(Action::Command(command)), ..Call::default() }).await.map(drop)
    }

    /// Asks for an empty workspace, and waits until it is there.
    pub(crate) async fn reset(&mut self) -> Result<()> {
        self.generation += 1;
        let reset = Reset { generation: self.generation };
        self.requests.send(message(trajectory_request::Message::Reset(reset))).await?;
        loop {
            let response = self.responses.message().await?.ok_or("the stream ended")?;
            if let Some(trajectory_response::Message::WorkspaceReset(_)) = response.message {
                return Ok(());
            }
        }
    }

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

/// Calls one after another.
pub(crate) async fn one_trajectory(address: &str, kind: Kind, calls: usize) -> Result<Latency> {
    let mut trajectory = Trajectory::open(connect(address).await?, format!("one-{}", kind as u8)).await?;
    trajectory.call(Kind::Write).await?;
    for _ in 0..50 {
        trajectory.call(kind).await?;
    }
    let mut times = Vec::with_capacity(calls);
    let mut sums = Phases::default();
    for _ in 0..calls {
        let start = Instant::now();
        let result = trajectory.call(kind).await?;
        times.push(start.elapsed());
        if let Some(timings) = result.timings {
            sums.dispatch += duration(timings.dispatch);
            sums.execution += duration(timings.execution);
            sums.collection += duration(timings.collection);
        }
    }
    trajectory.release().await?;
    let mean = |sum: Duration| sum / u32::try_from(calls).unwrap_or(1);
    let (median, p99) = percentiles(times);
    let phases =
        Phases { dispatch: mean(sums.dispatch), execution: mean(sums.execution), collection: mean(sums.collection) };
    Ok(Latency { median, p99, phases })
}

fn duration(duration: Option<prost_types::Duration>) -> Duration {
    duration.and_then(|duration| duration.try_into().ok()).unwrap_or_default()
}

/// So many trajectories, each of which sends one call after another.
pub(crate) async fn many_trajectories(address: &str, kind: Kind, trajectories: usize, time: Duration) -> Result<Load> {
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
                let mut times = Vec::new();
                while start.elapsed() < time {
                    let begun = Instant::now();
                    trajectory.call(kind).await?;
                    times.push(begun.elapsed());
                }
                let time = start.elapsed();
                trajectory.release().await?;
                Result::Ok((times, time))
            })
        })
        .collect();
    let (mut times, mut time) = (Vec::new(), Duration::ZERO);
    for task in tasks {
        let (more, until) = task.await??;
        times.extend(more);
        time = time.max(until);
    }
    let rate = times.len() as f64 / time.as_secs_f64();
    Ok(Load { p99: percentiles(times).1, rate })
}

pub(crate) fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
