//! The agent's side of a runner: one call at a time.

use std::{
    io::Write,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    process::ExitStatus,
    sync::Arc,
    time::Duration,
};

use prost::Message;
use rustix::fs::MemfdFlags;

use super::{
    error::{At as _, SlotError, Step},
    socket::Socket,
    wire::{self, MAX_DATAGRAM, Nothing, ReplyKind, Request, RequestKind, Start, StartFault, Variable},
};
use crate::tool::job::{Exit, Process, Program, StartFailure, Usage};

/// A call's standard streams. The runner gives them to the call's process; no copy stays with the agent.
#[derive(Debug)]
pub struct Stdio {
    /// `None` is /dev/null.
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// A call's terminal, seen from the agent.
#[derive(Debug)]
pub struct Terminal {
    /// What is read from it is what was printed, and what is written to it was typed. It blocks.
    pub master: OwnedFd,
    /// The side of the call's processes, to write to. It does not block.
    pub slave: OwnedFd,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunnerEnd {
    /// No process came to be.
    NotStarted { kind: StartFailure, message: String },
    /// Its process ended, and all that it had left behind has been killed and reaped.
    Ended {
        exit: Exit,
        /// Of all of the call's processes.
        usage: Usage,
        /// From the start of the process until its own end.
        execution: Duration,
        /// That its runner has seen it run into.
        limit: Option<LimitHit>,
        /// To file systems on disks, in bytes; what was preallocated or never reached a page is not in it.
        written: u64,
    },
}

/// A limit that a runner sees a call run into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitHit {
    /// All of its processes together have used as much, or more.
    CpuTime,
    /// Its slot could make no process more.
    Processes,
    /// Its process was ended for a file as large.
    FileSize,
}

/// Runs calls in its slot, one at a time. Dropping it ends the call that runs.
#[derive(Debug)]
pub struct Runner {
    socket: Socket,
    /// The slot's keeper.
    keeper: Arc<Socket>,
}

impl Runner {
    pub(super) fn new(socket: Socket, keeper: Arc<Socket>) -> Self {
        Self { socket, keeper }
    }

    /// Waits until it can be given a call.
    pub(super) async fn ready(&self) -> Result<(), SlotError> {
        match self.socket.ready("runner").await {
            Err(SlotError::Gone(_)) => Err(self.gone()),
            other => other.map(drop),
        }
    }

    /// Whether it can be given a call. One that dies alone leaves the slot as it was.
    pub fn is_alive(&self) -> bool {
        !self.socket.is_closed()
    }

    /// Hands a call over. [`Self::ended`] must have answered the one before.
    ///
    /// # Errors
    /// The runner is gone, and has started nothing that still runs.
    pub fn start(&mut self, process: &Process, stdio: Stdio) -> Result<(), SlotError> {
        self.hand_over(to_wire(process, stdio.stdin.is_some()), stdio)
    }

    /// Hands over a call that gets a terminal of its own, which is its stderr. No call before may have had one, and none
    /// is to follow. The process is started once this has answered `Ok(Ok(_))`, and its end arrives as usual.
    ///
    /// # Errors
    /// As [`Self::start`]; inside, why there is no terminal.
    pub async fn start_in_terminal(
        &mut self,
        process: &Process,
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
    ) -> Result<Result<Terminal, String>, SlotError> {
        let start = Start { terminal: true, ..to_wire(process, stdin.is_some()) };
        let stderr = stdout.try_clone().at(Step::StartCall)?;
        self.hand_over(start, Stdio { stdin, stdout, stderr })?;
        let (reply, descriptors) = match self.socket.receive("runner").await {
            Err(SlotError::Gone(_)) => return Err(self.gone()),
            other => other?,
        };
        match (reply, <[OwnedFd; 2]>::try_from(descriptors)) {
            (ReplyKind::Terminal(_), Ok([master, slave])) => Ok(Ok(Terminal { master, slave })),
            (ReplyKind::NotStarted(refusal), _) => Ok(Err(refusal.message)),
            _ => Err(SlotError::Senseless("runner")),
        }
    }

    fn hand_over(&mut self, start: Start, stdio: Stdio) -> Result<(), SlotError> {
        let mut descriptors: Vec<BorrowedFd<'_>> = vec![stdio.stdout.as_fd(), stdio.stderr.as_fd()];
        descriptors.extend(stdio.stdin.as_ref().map(AsFd::as_fd));
        // A few bytes are the envelope's.
        if start.encoded_len() + 16 <= MAX_DATAGRAM {
            self.send(RequestKind::Start(start), &descriptors)
        } else {
            let memory = in_memory(&start).at(Step::StartCall)?;
            descriptors.push(memory.as_fd());
            self.send(RequestKind::StartInMemory(Nothing {}), &descriptors)
        }
    }

    fn send(&self, request: RequestKind, descriptors: &[BorrowedFd<'_>]) -> Result<(), SlotError> {
        match self.socket.send(&Request::from(request), descriptors) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(self.gone()),
            other => other.at(Step::StartCall),
        }
    }

    /// Who has died: this runner alone, or the keeper and all else with it. A process that dies closes what it has open
    /// before its children are killed.
    fn gone(&self) -> SlotError {
        SlotError::Gone(if self.keeper.is_closed() { "keeper" } else { "runner" })
    }

    /// Kills all of the running call's processes; its end then arrives as usual. Never blocks, may be said again, and
    /// means nothing to a call that has ended: the next call is not touched.
    pub fn cancel(&self) {
        // It fails only if the runner is gone, which the waiter for the end hears anyway, or if so many words wait
        // unread that a cancel must be among them.
        let _ = self.socket.send(&Request::from(RequestKind::Cancel(Nothing {})), &[]);
    }

    /// Waits until the call has ended and nothing of it is left. Cancel-safe.
    ///
    /// # Errors
    /// The runner, or the whole slot, has died under the call: [`SlotError::Gone`] says which.
    pub async fn ended(&self) -> Result<RunnerEnd, SlotError> {
        let reply = match self.socket.receive("runner").await {
            Err(SlotError::Gone(_)) => return Err(self.gone()),
            other => other?.0,
        };
        match reply {
            ReplyKind::NotStarted(refusal) => {
                let kind = match refusal.fault() {
                    StartFault::NotFound => StartFailure::NotFound,
                    StartFault::Refused => StartFailure::Refused,
                    StartFault::TooLarge => StartFailure::TooLarge,
                };
                Ok(RunnerEnd::NotStarted { kind, message: refusal.message })
            }
            ReplyKind::Ended(ended) => Ok(RunnerEnd::Ended {
                exit: exit(ended.status),
                usage: Usage {
                    user_cpu: Duration::from_micros(ended.user_cpu_us),
                    system_cpu: Duration::from_micros(ended.system_cpu_us),
                    max_rss_bytes: Some(ended.max_rss_bytes),
                },
                execution: Duration::from_micros(ended.execution_us),
                written: ended.written_bytes,
                limit: match ended.limit() {
                    wire::LimitHit::None => None,
                    wire::LimitHit::CpuTime => Some(LimitHit::CpuTime),
                    wire::LimitHit::Processes => Some(LimitHit::Processes),
                    wire::LimitHit::FileSize => Some(LimitHit::FileSize),
                },
            }),
            ReplyKind::Ready(_) | ReplyKind::Failed(_) | ReplyKind::Terminal(_) => Err(SlotError::Senseless("runner")),
        }
    }
}

fn to_wire(process: &Process, stdin: bool) -> Start {
    let (script, arguments) = match &process.program {
        Program::Shell(script) => (Some(script.clone()), Vec::new()),
        Program::Argv(arguments) => (None, arguments.clone()),
    };
    let variable = |(name, value): &(String, String)| Variable { name: name.clone(), value: value.clone() };
    Start {
        script,
        arguments,
        working_directory: process.working_directory.clone(),
        environment: process.environment.iter().map(variable).collect(),
        stdin,
        terminal: false,
    }
}

fn in_memory(start: &Start) -> std::io::Result<OwnedFd> {
    let mut memory = std::fs::File::from(rustix::fs::memfd_create("call", MemfdFlags::CLOEXEC)?);
    memory.write_all(&wire::encode(start))?;
    std::io::Seek::rewind(&mut memory)?;
    Ok(memory.into())
}

fn exit(status: i32) -> Exit {
    let status = ExitStatus::from_raw(status);
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or(0)),
    }
}
