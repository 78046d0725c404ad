//! What a slot is asked to do, and what it says of how that ended. Plain data: executor and agent agree on it.

use std::{fmt, time::Duration};

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{Executed, session};

/// One thing to run in a slot.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    pub job: Job,
    /// Of a process's execution, from its start.
    pub timeout: Duration,
    pub limits: OutputLimits,
    /// Send output as it is produced.
    pub stream_output: bool,
    /// Of input that the process has not read yet, in bytes.
    pub max_pending_input: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Job {
    Process(Process),
    /// Relative to /workspace, or absolute inside it.
    ReadFile {
        path: String,
        max_bytes: u64,
    },
    WriteFile {
        path: String,
        content: Bytes,
    },
    /// Of what outlives its calls.
    Session(session::Request),
}

impl Job {
    /// What its sender has put into it, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Process(process) => {
                let program = match &process.program {
                    Program::Shell(script) => script.len(),
                    Program::Argv(argv) => argv.iter().map(String::len).sum(),
                };
                let environment = process.environment.iter().map(|(name, value)| name.len() + value.len());
                program + process.working_directory.len() + environment.sum::<usize>() + process.stdin.len()
            }
            Self::ReadFile { path, .. } => path.len(),
            Self::WriteFile { path, content } => path.len() + content.len(),
            Self::Session(request) => request.size(),
        }
    }

    /// How much input is kept for it until it begins, in bytes; nothing if it reads none, or no more.
    pub fn input_kept(&self) -> Option<usize> {
        match self {
            Self::Process(process) => process.interactive.then_some(process.stdin.len()),
            Self::Session(request) => request.input().map(|input| input.0.len()),
            Self::ReadFile { .. } | Self::WriteFile { .. } => None,
        }
    }

    /// More input to be kept until it begins, if it reads any.
    pub fn add_input(&mut self, data: &[u8], end_of_file: bool) {
        match self {
            Self::Process(process) if process.interactive => {
                let mut stdin = BytesMut::from(std::mem::take(&mut process.stdin));
                stdin.extend_from_slice(data);
                process.stdin = stdin.freeze();
                process.interactive = !end_of_file;
            }
            Self::Session(request) => {
                if let Some(input) = request.input_mut() {
                    input.0.extend(session::typed(data, end_of_file));
                }
            }
            Self::Process(_) | Self::ReadFile { .. } | Self::WriteFile { .. } => {}
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Process {
    pub program: Program,
    /// Relative to /workspace, which is the default; or absolute, as a process in the slot sees it.
    pub working_directory: String,
    /// Added to the slot's own environment.
    pub environment: Vec<(String, String)>,
    pub stdin: Bytes,
    /// Leave stdin open, after `stdin`, for more input.
    pub interactive: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Program {
    /// A script for `/bin/sh -c`.
    Shell(String),
    /// A program and its arguments; a bare name is looked for in the slot's PATH.
    Argv(Vec<String>),
}

impl Default for Program {
    fn default() -> Self {
        Self::Shell(String::new())
    }
}

/// What is kept of each of stdout and stderr: the first `head` bytes and the last `tail` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLimits {
    pub head: u32,
    pub tail: u32,
}

impl Default for OutputLimits {
    /// The old system's bound.
    fn default() -> Self {
        Self { head: 50_000, tail: 0 }
    }
}

/// How an order ended, in the agent's words.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    pub end: End,
    pub phases: Phases,
}

#[derive(Debug, Clone, PartialEq)]
pub enum End {
    Process(ProcessEnd),
    /// No process came to be.
    NotStarted {
        kind: StartFailure,
        message: String,
    },
    Read(Bytes),
    /// Bytes written.
    Wrote(u64),
    FileFailed(FileFailure),
    /// To a session's request, where no process of it has ended.
    Told(session::Told),
    /// The slot could not take it: nothing ran.
    NotRun(String),
    /// Cancelled before it was started.
    CancelledEarly,
    /// More input came for it before it was started than may wait for it, in bytes.
    InputLimitEarly {
        max: u64,
    },
    /// The slot's processes died under it. `ran`: it is known to have been started, by what it printed.
    SlotLost {
        cause: String,
        ran: bool,
    },
    /// Neither the slot nor the call itself is at fault: the slot is as it was, and takes other calls.
    AgentFailed {
        cause: String,
        executed: Executed,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct ProcessEnd {
    pub exit: Exit,
    /// Set where the agent stopped it.
    pub stop: Option<Stop>,
    pub stdout: Captured,
    pub stderr: Captured,
    /// Where it is known.
    pub usage: Option<Usage>,
    /// The limit that it ran into, which counts for more than how it ended.
    pub exceeded: Option<Box<Exceeded>>,
}

/// A limit of a call or its slot, and how it is known that the call ran into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exceeded {
    pub kind: LimitKind,
    /// The setting's name; empty where no setting of ours is the limit.
    pub setting: String,
    /// The limit, for people.
    pub value: String,
    /// What was seen, in one line.
    pub evidence: String,
}

impl Exceeded {
    /// As a result's metadata has it.
    pub fn named(&self) -> [(&'static str, &str); 3] {
        [("limit", &self.setting), ("limit_value", &self.value), ("limit_evidence", &self.evidence)]
    }
}

/// For people: which limit it is, where it stands, and how it is known.
impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, setting, value, evidence } = self;
        let what = match kind {
            LimitKind::Memory => "Out of memory",
            LimitKind::MachineMemory => return write!(f, "Out of memory, though not of the slot's own: {evidence}"),
            LimitKind::Processes => "Too many processes",
            LimitKind::Disk => "Too much was written",
            LimitKind::Cpu => "Too much processor time was used",
        };
        write!(f, "{what}: the limit is {value} ({setting}): {evidence}")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LimitKind {
    /// The slot's.
    Memory,
    /// The container's or the machine's, which the call's processes were the first to be killed for.
    MachineMemory,
    Processes,
    Disk,
    Cpu,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    TimedOut,
    Cancelled,
    /// More input came than `max_pending_input`.
    InputLimit,
    /// It ran into a limit, which its end names.
    Exceeded,
}

/// One captured stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captured {
    pub head: Bytes,
    /// What was kept of what came after `head`; it follows `head` directly if `total` says so.
    pub tail: Bytes,
    /// All that was written, in bytes.
    pub total: u64,
}

impl Captured {
    /// Whether some of it was not kept.
    pub fn truncated(&self) -> bool {
        self.total > (self.head.len() + self.tail.len()) as u64
    }
}

/// Of all processes of the call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub user_cpu: Duration,
    pub system_cpu: Duration,
    /// Of the largest process; at least what this program takes, as which a call begins. Not known of one call of a
    /// session.
    pub max_rss_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFailure {
    NotFound,
    /// The working directory leads out of what a slot may use.
    OutsideWorkspace,
    /// It is there and cannot be used.
    Refused,
    /// Arguments and environment are more than the kernel takes.
    TooLarge,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileFailure {
    NotFound,
    NotAFile,
    TooLarge {
        size: u64,
    },
    OutsideWorkspace,
    /// In the operating system's words.
    Other(String),
}

/// Where the time went at the agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases {
    /// From the order's arrival until the process started.
    pub dispatch: Duration,
    pub execution: Duration,
    /// From the end of the process until all of its output was read.
    pub collection: Duration,
}
