//! What comes in to a trajectory, parsed and valid, and what goes out of it.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio_stream::Stream;

use crate::{
    id::{CallId, Generation, Sequence, TraceParent},
    journal::Options,
    tool::{ActionHash, CallResult, Chooser, Evidence, Location, Rejection, Task, ToolLabel, job::OutputLimits},
};

/// Asks to be the stream of a trajectory, opening it if it is not open.
#[derive(Debug)]
pub struct Open {
    /// Of a trajectory that does not exist yet; ignored by one that does.
    pub options: Options,
    pub take_over: bool,
    /// Send again what came after this result.
    pub last_sequence: Sequence,
    pub require_existing: bool,
    /// The caller's own trace, of which the trajectory and the stream's calls are to be a part.
    pub trace: Option<Arc<TraceParent>>,
}

/// One message of an attached stream.
#[derive(Debug)]
pub enum Request {
    Batch(Vec<Call>),
    /// Empty: every call.
    Cancel(Vec<CallId>),
    Input {
        call: CallId,
        data: Bytes,
        end_of_file: bool,
    },
    Reset(Generation),
    Release {
        keep_workspace: bool,
    },
}

/// One call as it was sent.
#[derive(Debug)]
pub struct Call {
    pub id: CallId,
    /// What it counts as.
    pub tool: ToolLabel,
    /// What is to be done, or why the call itself is at fault.
    pub work: Result<Work, Unfit>,
    /// Of the execution; held to the service's bounds when it is accepted.
    pub timeout: Option<Duration>,
    pub stream_output: bool,
    pub concurrent: bool,
}

impl Call {
    /// None for a call that has no meaning.
    pub(super) fn action(&self) -> Option<ActionHash> {
        self.work.as_ref().ok().map(|work| work.action)
    }
}

#[derive(Debug)]
pub struct Work {
    pub action: ActionHash,
    pub task: Task,
}

/// A call that cannot be run as it is, and whose doing that is.
#[derive(Debug)]
pub struct Unfit {
    pub rejection: Rejection,
    pub chooser: Chooser,
}

/// The requests of a stream. It ends after the client's half-close, and after an error.
pub type Requests = Pin<Box<dyn Stream<Item = Result<Request, StreamFault>> + Send>>;

/// Why no more requests can be read from a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamFault {
    /// The client is gone.
    Lost,
    /// It sent something that has no meaning.
    Malformed { field: String, description: String },
    /// It sent a message that is larger than the service reads.
    TooLarge { description: String },
}

/// One message to an attached stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    Opened(Box<Opened>),
    Output(Box<Output>),
    Result { result: Arc<CallResult>, replayed: bool },
    Notice(Notice),
    WorkspaceReset(Generation),
    Released(ReleaseCause),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    pub resumed: bool,
    pub generation: Generation,
    pub lease: Duration,
    pub oldest_sequence: Sequence,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub call: CallId,
    pub stream: OutputStream,
    /// Of the first byte of `data` in the stream.
    pub offset: u64,
    pub data: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    Stdout,
    Stderr,
    /// What the screen or the shell of a session prints: both, as they came.
    Terminal,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    WaitingForSlot {
        position: u32,
        reason: Option<String>,
    },
    SlotAssigned {
        generation: Generation,
        location: Box<Location>,
        isolation: Arc<str>,
    },
    SandboxLost {
        generation: Generation,
        evidence: Arc<Evidence>,
    },
    /// The container will be taken away; until then all goes on.
    SandboxDraining {
        location: Box<Location>,
        cause: String,
    },
    /// What is accepted may finish for this long.
    Draining {
        remaining: Duration,
    },
    TakenOver,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseCause {
    Client,
    CancelledByLabel,
    Drained,
}

/// How a stream ends that did not simply finish.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    #[error("{field}: {description}")]
    Malformed { field: String, description: String },
    #[error("another stream has taken over the trajectory")]
    TakenOver,
    #[error("{description}")]
    TooLarge { description: String },
    #[error("the service restarts, and goes on with the trajectory: open it again")]
    HandedOver,
    #[error("the stream has {unread} answers that its client has not read")]
    NotReading { unread: usize },
}

/// Why a stream was not attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("the trajectory is not open")]
    NotFound,
    #[error("a stream is attached to the trajectory: set take_over to end it")]
    AlreadyAttached,
    #[error("results after {asked} are no longer kept: the oldest is {oldest}, the last {last}")]
    OutOfRange { asked: Sequence, oldest: Sequence, last: Sequence },
    #[error("the trajectory is being released")]
    Releasing,
    #[error("the service is draining")]
    Draining,
    #[error("the service restarts, and goes on with the trajectory")]
    HandedOver,
    #[error("the service has {max} trajectories, the most that it takes")]
    TooMany { max: usize },
    #[error("the tenant has {max} trajectories open, the most that it may have")]
    TooManyOfTenant { max: usize },
    #[error("the disk of the service's state directory is full, and what it accepts must be remembered there")]
    DiskFull,
}

/// Bounds of every trajectory; see the settings of the same names.
#[derive(Debug, Clone)]
pub struct Limits {
    pub max_calls_in_flight: usize,
    pub max_concurrent_calls: usize,
    pub max_kept_results: usize,
    pub max_kept_result_bytes: u64,
    /// Over all trajectories.
    pub max_total_result_bytes: u64,
    /// Over all trajectories.
    pub max_total_calls_in_flight: usize,
    /// Of what waiting and running calls carry.
    pub max_call_bytes_in_flight: u64,
    /// Over all trajectories.
    pub max_total_call_bytes_in_flight: u64,
    pub max_call_ids: u64,
    pub max_pending_input_bytes: u32,
    /// What the log has of a call's arguments, and of its output, in bytes; 0 is nothing.
    pub logged_payload_bytes: usize,
    pub max_timeout: Duration,
    /// How long a client that was refused for lack of room should wait.
    pub retry_after: Duration,
    pub default_options: Defaults,
}

impl Limits {
    /// So many kept bytes of all trajectories make them let go of results that have been sent. It is less than the bound, so
    /// that nobody is refused for what is about to go.
    pub(super) fn pressing_result_bytes(&self) -> u64 {
        self.max_total_result_bytes / 8 * 7
    }
}

/// What a trajectory gets that asks for nothing else.
#[derive(Debug, Clone)]
pub struct Defaults {
    pub lease: Duration,
    pub timeout: Duration,
    pub output_limits: OutputLimits,
}
