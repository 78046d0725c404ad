//! What is answered to a call: what happened, whether it ran, and whose doing it was.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Metadata,
    job::{Captured, Exit, Usage},
};
use crate::id::{CallId, ContainerId, Generation, Sequence};

/// The answer to one call. Shared, never changed once made: a log, a stream and a unary caller hold the same one.
#[derive(Debug, Clone, PartialEq)]
pub struct CallResult {
    pub call_id: CallId,
    /// 0 for a call that was refused at the door: it is in no log.
    pub sequence: Sequence,
    pub generation: Generation,
    pub outcome: Outcome,
    pub reason: Option<Reason>,
    pub executed: Executed,
    /// Set for every outcome but SUCCEEDED.
    pub attribution: Option<Attribution>,
    /// What a model is shown; of a tool only.
    pub output: String,
    /// Why it did not succeed, in one line.
    pub error: String,
    pub stdout: Option<Stream>,
    pub stderr: Option<Stream>,
    pub exit: Option<Exit>,
    pub fault: Option<Fault>,
    pub timings: Timings,
    pub usage: Option<Usage>,
    pub metadata: Metadata,
}

impl CallResult {
    /// About how much memory keeping it takes, in bytes.
    pub fn retained_bytes(&self) -> u64 {
        let streams = [&self.stdout, &self.stderr].into_iter().flatten().map(|stream| match stream {
            Stream::Counted { .. } => 0,
            Stream::Whole(captured) => captured.head.len() + captured.tail.len(),
        });
        let texts = self.output.len() + self.error.len() + self.call_id.as_str().len();
        (size_of::<Self>() + texts + streams.sum::<usize>() + self.metadata.retained_bytes()) as u64
    }
}

/// A captured stream as it is answered: a tool's carries counts alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stream {
    Counted { total: u64, truncated: bool },
    Whole(Captured),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    Succeeded,
    Failed,
    TimedOut,
    Cancelled,
    OutOfMemory,
    LimitExceeded,
    Rejected,
    NoCapacity,
    SandboxLost,
    ExternalUnavailable,
    Internal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    ExitStatus,
    Signalled,
    FileNotFound,
    NotAFile,
    FileTooLarge,
    PathOutsideWorkspace,
    FileError,
    /// There is no such process, session or terminal, or it is not in a state for what was asked.
    TerminalState,
    ExternalToolFailed,
    InputLimit,
    ProcessLimit,
    DiskLimit,
    CpuLimit,
    MachineMemory,
    UnknownTool,
    InvalidArguments,
    CallIdReused,
    ResultDropped,
    RequestTooLarge,
    QueueFull,
    SlotTimeout,
    ContainerStartFailed,
    Draining,
    ContainerLost,
    SlotLost,
    WorkspaceGone,
    ToolServerUnreachable,
    ToolServerTimeout,
    ToolServerProtocol,
    CancelledByClient,
    CancelledByLabel,
    Released,
    Drained,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Executed {
    No,
    Yes,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attribution {
    Model,
    Infrastructure,
    Client,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fault {
    /// Worth sending again: under the same call_id if the sequence is 0, else under a new one.
    pub retryable: bool,
    pub retry_after: Option<Duration>,
    pub evidence: Option<Arc<Evidence>>,
}

/// What is known of a container's end or failed start, in the words of whoever saw it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evidence {
    pub location: Option<Location>,
    pub cause: String,
    pub events: Vec<String>,
    pub stderr_tail: String,
}

impl Evidence {
    /// Kept of each text.
    const MAX_TEXT_BYTES: usize = 8_192;
    /// Events kept, the latest.
    const MAX_EVENTS: usize = 16;

    /// The same, held to 160 KiB: evidence comes from containers, and a result must stay small.
    pub fn bounded(self: Arc<Self>) -> Arc<Self> {
        let short = |text: &str| text.len() <= Self::MAX_TEXT_BYTES;
        let fits = short(&self.cause)
            && short(&self.stderr_tail)
            && self.events.len() <= Self::MAX_EVENTS
            && self.events.iter().all(|event| short(event));
        if fits {
            return self;
        }
        let start = |text: &str| text[..text.floor_char_boundary(Self::MAX_TEXT_BYTES)].to_owned();
        let end =
            |text: &str| text[text.ceil_char_boundary(text.len().saturating_sub(Self::MAX_TEXT_BYTES))..].to_owned();
        let dropped = self.events.len().saturating_sub(Self::MAX_EVENTS);
        Arc::new(Self {
            location: self.location.clone(),
            cause: start(&self.cause),
            events: self.events[dropped..].iter().map(|event| start(event)).collect(),
            stderr_tail: end(&self.stderr_tail),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub container: ContainerId,
    pub node: String,
    pub slot: u32,
}

/// The phases follow one another and sum to `total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    pub received_at: SystemTime,
    pub queued: Duration,
    pub slot_wait: Duration,
    pub dispatch: Duration,
    pub execution: Duration,
    pub collection: Duration,
}

impl Timings {
    /// Of a call that was answered on arrival.
    pub fn none(received_at: SystemTime) -> Self {
        Self {
            received_at,
            queued: Duration::ZERO,
            slot_wait: Duration::ZERO,
            dispatch: Duration::ZERO,
            execution: Duration::ZERO,
            collection: Duration::ZERO,
        }
    }

    pub fn total(&self) -> Duration {
        self.queued + self.slot_wait + self.dispatch + self.execution + self.collection
    }
}
