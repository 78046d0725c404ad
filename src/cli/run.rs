//! One command in a slot, as if it ran here: its output as it comes, its exit status, Ctrl-C.

use std::{
    collections::HashMap,
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use tokio::{io::AsyncReadExt as _, sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::{Failure, connect, json};
use crate::pb::toolexecutor::{
    Argv, Batch, Call, CallResult, Cancel, CapturedStream, Command, Input, Notice, Open, Outcome, Output, OutputStream,
    ReleaseRequest, TrajectoryOptions, TrajectoryRequest, TrajectoryResponse, WaitingForSlot, call_result, command,
    notice, trajectory_request, trajectory_response,
};

/// Nobody need hear of a wait for a slot that is no longer than this.
const SHORT: Duration = Duration::from_secs(1);
/// Of standard input, sent at a time.
const CHUNK: usize = 64 << 10;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Run it in this trajectory's slot, which is opened if it is not open, and stays so; without, in a new one that is
    /// released afterwards
    #[arg(long, value_name = "ID")]
    trajectory: Option<String>,
    /// End the stream of another client that is attached to the trajectory
    #[arg(long, requires = "trajectory")]
    take_over: bool,
    /// The pool to take a slot from, where the trajectory is new
    #[arg(long, default_value = "")]
    pool: String,
    /// End the command after so long, as `30s` or `5m`
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// Where it begins, relative to the workspace
    #[arg(long, value_name = "DIRECTORY", default_value = "")]
    directory: String,
    /// A variable of its environment; may be given more than once
    #[arg(long = "env", short = 'e', value_name = "NAME=VALUE", value_parser = variable)]
    environment: Vec<(String, String)>,
    /// Give it this command's standard input
    #[arg(long, short = 'i')]
    stdin: bool,
    #[command(flatten)]
    server: connect::Server,
    /// One argument is a script for /bin/sh; several are a program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<humantime_serde::re::humantime::Duration>().map(Into::into).map_err(|error| error.to_string())
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// The exit status is the command's; 128 and the signal's number, if it died of one; and otherwise as [`status_of`]
/// has it.
pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let mut client = arguments.server.connect().await?;
    let call_id = format!("run-{}", uuid::Uuid::now_v7());
    let (trajectory_id, is_ours) = match &arguments.trajectory {
        Some(id) => (id.clone(), false),
        None => (call_id.clone(), true),
    };
    let mut session = Session::open(&mut client, &arguments, trajectory_id.clone()).await?;
    let result = session.call(&arguments, call_id).await;
    drop(session);
    if is_ours {
        // Its lease would end it otherwise.
        let _ = client.release(ReleaseRequest { trajectory_id, keep_workspace: false }).await;
    }
    let Some(result) = result? else { return Ok(ExitCode::from(INTERRUPTED)) };
    if arguments.server.json {
        print((json::line(&result)? + "\n").as_bytes())?;
    } else {
        explain(&result);
    }
    Ok(ExitCode::from(status_of(&result)))
}

/// One stream, attached to a trajectory.
struct Session {
    requests: mpsc::Sender<TrajectoryRequest>,
    responses: Streaming<TrajectoryResponse>,
}

impl Session {
    /// What the trajectory has answered to others before is not asked for, as far as that can be.
    async fn open(client: &mut connect::Client, arguments: &Arguments, trajectory_id: String) -> Result<Self, Failure> {
        let options = TrajectoryOptions { pool: arguments.pool.clone(), ..TrajectoryOptions::default() };
        let open = Open { trajectory_id, options: Some(options), take_over: arguments.take_over, ..Open::default() };
        let (requests, receiver) = mpsc::channel(4);
        let session = Self::attach(client, requests, receiver, open).await;
        session.map_err(|status| match status.code() {
            Code::OutOfRange => Failure::Refused(format!(
                "{}: results of this trajectory are gone that would have to be sent again; its own client alone can \
                 go on with it",
                status.message()
            )),
            _ => Failure::of(&status),
        })
    }

    async fn attach(
        client: &mut connect::Client,
        requests: mpsc::Sender<TrajectoryRequest>,
        receiver: mpsc::Receiver<TrajectoryRequest>,
        open: Open,
    ) -> Result<Self, tonic::Status> {
        // There is room, and the receiver is here.
        let _ = requests.try_send(message(trajectory_request::Message::Open(open)));
        let responses = client.trajectory(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    /// None if it was interrupted twice.
    async fn call(&mut self, arguments: &Arguments, call_id: String) -> Result<Option<CallResult>, Failure> {
        let call = call(arguments, call_id.clone());
        self.send(trajectory_request::Message::Batch(Batch { calls: vec![call] })).await;
        let mut shown = Shown { quiet: arguments.server.json, ..Shown::default() };
        let mut interrupted = false;
        let mut wait: Option<(Instant, WaitingForSlot)> = None;
        let feeding = arguments.stdin.then(|| tokio::spawn(feed(self.requests.clone(), call_id.clone())));
        loop {
            tokio::select! {
                response = self.responses.message() => {
                    let response = response.map_err(|status| Failure::of(&status))?.ok_or(Failure::NoAnswer)?;
                    match response.message {
                        Some(trajectory_response::Message::Output(output)) if output.call_id == call_id => {
                            shown.show(&output)?;
                        }
                        Some(trajectory_response::Message::Result(result)) if result.call_id == call_id => {
                            if let Some(feeding) = feeding {
                                feeding.abort();
                            }
                            shown.tell_gaps(&result);
                            return Ok(Some(result));
                        }
                        Some(trajectory_response::Message::Notice(Notice { event })) => {
                            wait = match event {
                                Some(notice::Event::WaitingForSlot(waiting)) => {
                                    Some((wait.map_or_else(|| Instant::now() + SHORT, |(at, _)| at), waiting))
                                }
                                event => {
                                    tell(event);
                                    None
                                }
                            };
                        }
                        _ => {}
                    }
                }
                () = async {
                    match &wait {
                        Some((at, _)) => tokio::time::sleep_until(*at).await,
                        None => std::future::pending().await,
                    }
                } => {
                    if let Some((_, WaitingForSlot { position, reason })) = wait.take() {
                        let reason = if reason.is_empty() { reason } else { format!(" ({reason})") };
                        eprintln!("tool-executor: waits for a slot, as number {position}{reason}");
                    }
                }
                _ = tokio::signal::ctrl_c() => {
                    if std::mem::replace(&mut interrupted, true) {
                        return Ok(None);
                    }
                    eprintln!("tool-executor: cancelled; once more ends without waiting for it");
                    self.send(trajectory_request::Message::Cancel(Cancel { call_ids: vec![call_id.clone()] })).await;
                }
            }
        }
    }

    /// If the stream is gone, its answer says so.
    async fn send(&self, request: trajectory_request::Message) {
        let _ = self.requests.send(message(request)).await;
    }
}

fn message(message: trajectory_request::Message) -> TrajectoryRequest {
    TrajectoryRequest { message: Some(message) }
}

fn call(arguments: &Arguments, call_id: String) -> Call {
    let program = match &*arguments.command {
        [script] => command::Program::Shell(script.clone()),
        several => command::Program::Argv(Argv { arguments: several.to_vec() }),
    };
    let command = Command {
        program: Some(program),
        working_directory: arguments.directory.clone(),
        environment: arguments.environment.iter().cloned().collect::<HashMap<_, _>>(),
        interactive: arguments.stdin,
        ..Command::default()
    };
    let timeout = arguments.timeout.and_then(|timeout| prost_types::Duration::try_from(timeout).ok());
    let action = Some(crate::pb::toolexecutor::call::Action::Command(command));
    Call { call_id, action, timeout, stream_output: !arguments.server.json, ..Call::default() }
}

/// Sends what comes on standard input, until there is no more.
async fn feed(requests: mpsc::Sender<TrajectoryRequest>, call_id: String) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; CHUNK];
    loop {
        // One that cannot be read has no more.
        let length = stdin.read(&mut buffer).await.unwrap_or(0);
        let input =
            Input { call_id: call_id.clone(), data: buffer[..length].to_vec().into(), end_of_file: length == 0 };
        if requests.send(message(trajectory_request::Message::Input(input))).await.is_err() || length == 0 {
            return;
        }
    }
}

/// How much of the command's output has been shown.
#[derive(Default)]
struct Shown {
    quiet: bool,
    stdout: u64,
    stderr: u64,
}

impl Shown {
    fn show(&mut self, output: &Output) -> Result<(), Failure> {
        if output.stream() == OutputStream::Stderr {
            self.stderr += output.data.len() as u64;
            // Nobody can be told that it cannot be told.
            let _ = io::stderr().write_all(&output.data);
            return Ok(());
        }
        self.stdout += output.data.len() as u64;
        print(&output.data)
    }

    /// Some may have been dropped on the way, if this was slow.
    fn tell_gaps(&self, result: &CallResult) {
        let total = |stream: &Option<_>| stream.as_ref().map_or(0, |stream: &CapturedStream| stream.total_bytes);
        let missing = (total(&result.stdout) + total(&result.stderr)).saturating_sub(self.stdout + self.stderr);
        if missing > 0 && !self.quiet {
            eprintln!("tool-executor: {missing} bytes of its output were dropped on the way");
        }
    }
}

fn tell(event: Option<notice::Event>) {
    match event {
        Some(notice::Event::SandboxLost(lost)) => {
            let cause = lost.evidence.map(|evidence| evidence.cause).unwrap_or_default();
            eprintln!("tool-executor: the slot is lost: {cause}");
        }
        Some(notice::Event::TakenOver(_)) => eprintln!("tool-executor: another client has taken the trajectory over"),
        _ => {}
    }
}

/// Why a command did not succeed, where its exit status does not say it.
fn explain(result: &CallResult) {
    if result.exit.is_none() || result.outcome() != Outcome::Failed {
        if !result.error.is_empty() {
            eprintln!("tool-executor: {}", result.error);
        }
        let evidence = result.fault.as_ref().and_then(|fault| fault.evidence.as_ref());
        if let Some(evidence) = evidence.filter(|evidence| !evidence.cause.is_empty()) {
            eprintln!("tool-executor: {}", evidence.cause);
        }
    }
}

/// As of a shell after Ctrl-C.
const INTERRUPTED: u8 = 130;
/// As timeout(1) has it.
const TIMED_OUT: u8 = 124;
/// The command was not run, or nobody knows: as env(1) and docker(1) have it.
const NOT_RUN: u8 = 125;
/// It could not be started.
const NOT_STARTED: u8 = 126;

fn status_of(result: &CallResult) -> u8 {
    match result.outcome() {
        Outcome::Succeeded => 0,
        Outcome::TimedOut => TIMED_OUT,
        Outcome::Cancelled => INTERRUPTED,
        Outcome::Failed | Outcome::OutOfMemory | Outcome::LimitExceeded => match result.exit {
            Some(call_result::Exit::ExitCode(code)) => u8::try_from(code).unwrap_or(u8::MAX).max(1),
            Some(call_result::Exit::Signal(signal)) => u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX),
            None => NOT_STARTED,
        },
        Outcome::Unspecified
        | Outcome::Rejected
        | Outcome::NoCapacity
        | Outcome::SandboxLost
        | Outcome::ExternalUnavailable
        | Outcome::Internal => NOT_RUN,
    }
}

/// On standard output, at once.
pub(super) fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Failure::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(outcome: Outcome, exit: Option<call_result::Exit>) -> u8 {
        status_of(&CallResult { outcome: outcome.into(), exit, ..CallResult::default() })
    }

    #[test]
    fn the_exit_status_is_the_commands() {
        use call_result::Exit::{ExitCode, Signal};
        assert_eq!(status(Outcome::Succeeded, Some(ExitCode(0))), 0);
        assert_eq!(status(Outcome::Failed, Some(ExitCode(7))), 7);
        assert_eq!(status(Outcome::Failed, Some(Signal(9))), 137);
        assert_eq!(status(Outcome::OutOfMemory, Some(ExitCode(0))), 1, "it did not succeed");
        assert_eq!(status(Outcome::TimedOut, Some(Signal(9))), 124);
        assert_eq!(status(Outcome::Rejected, None), 125);
        assert_eq!(status(Outcome::Failed, None), 126);
        assert_eq!(status(Outcome::Cancelled, Some(Signal(9))), 130);
    }

    #[test]
    fn variables_and_durations_are_read_as_people_write_them() {
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(variable("A").is_err());
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(duration("soon").is_err());
    }
}
