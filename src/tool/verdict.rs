//! A verdict: everything in a result that follows from how a call ended. The constructors here are for calls that
//! never reached a slot, or whose slot could not answer; [`super::judge`] is for the others.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};

use super::{
    Attribution, CallResult, Chooser, Evidence, Executed, Fault, Outcome, Reason, Rejection, Stream, Timings,
    job::{Exit, Usage},
    ruling, text,
};
use crate::id::{CallId, Generation, Sequence};

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub outcome: Outcome,
    pub reason: Option<Reason>,
    pub executed: Executed,
    pub attribution: Option<Attribution>,
    pub output: String,
    pub error: String,
    pub stdout: Option<Stream>,
    pub stderr: Option<Stream>,
    pub exit: Option<Exit>,
    pub fault: Option<Fault>,
    pub usage: Option<Usage>,
    pub metadata: Map<String, Value>,
}

impl Verdict {
    /// The row of the outcome table. `executed` must be one that the row allows.
    pub(super) fn new(
        outcome: Outcome,
        reason: Option<Reason>,
        executed: Executed,
        chooser: Chooser,
        error: &str,
    ) -> Self {
        let row = ruling(outcome, reason, chooser);
        debug_assert!(row.executed.contains(&executed), "{outcome:?} {reason:?} {executed:?}");
        Self {
            outcome,
            reason,
            executed,
            attribution: row.attribution,
            output: String::new(),
            error: text::one_line(error, text::MAX_ERROR_BYTES),
            stdout: None,
            stderr: None,
            exit: None,
            fault: None,
            usage: None,
            metadata: Map::new(),
        }
    }

    /// Of an outcome that is never the chooser's doing.
    fn unchosen(outcome: Outcome, reason: Option<Reason>, executed: Executed, error: &str) -> Self {
        Self::new(outcome, reason, executed, Chooser::Client, error)
    }

    fn with_fault(mut self, retryable: bool, retry_after: Option<Duration>, evidence: Option<Arc<Evidence>>) -> Self {
        self.fault = Some(Fault { retryable, retry_after, evidence });
        self
    }

    /// The call itself is at fault.
    pub fn rejected(rejection: &Rejection, chooser: Chooser) -> Self {
        Self::new(Outcome::Rejected, Some(rejection.reason), Executed::No, chooser, &rejection.message)
    }

    /// The call_id stands for another action.
    pub fn call_id_reused() -> Self {
        let error = "the call_id has been used for another action";
        Self::unchosen(Outcome::Rejected, Some(Reason::CallIdReused), Executed::No, error)
    }

    /// The call has ended, and its result is no longer kept.
    pub fn result_dropped() -> Self {
        let error = "the call has ended and its result is no longer kept";
        Self::unchosen(Outcome::Rejected, Some(Reason::ResultDropped), Executed::Unknown, error)
    }

    /// Too much waits already; `retry_after` is none where waiting does not help.
    pub fn queue_full(why: &str, retry_after: Option<Duration>) -> Self {
        Self::unchosen(Outcome::NoCapacity, Some(Reason::QueueFull), Executed::No, why).with_fault(
            retry_after.is_some(),
            retry_after,
            None,
        )
    }

    /// No slot in time.
    pub fn slot_timeout(evidence: Option<Arc<Evidence>>) -> Self {
        let error = match &evidence {
            Some(evidence) => format!("no slot was free in time; the last container failed: {}", evidence.cause),
            None => "no slot was free in time".to_owned(),
        };
        Self::unchosen(Outcome::NoCapacity, Some(Reason::SlotTimeout), Executed::No, &error)
            .with_fault(true, None, evidence)
    }

    /// No container can be started.
    pub fn container_start_failed(evidence: Arc<Evidence>, retry_after: Duration) -> Self {
        let error = format!("no container could be started: {}", evidence.cause);
        Self::unchosen(Outcome::NoCapacity, Some(Reason::ContainerStartFailed), Executed::No, &error).with_fault(
            true,
            Some(retry_after),
            Some(evidence),
        )
    }

    /// The service is stopping.
    pub fn draining(retry_after: Option<Duration>) -> Self {
        Self::unchosen(Outcome::NoCapacity, Some(Reason::Draining), Executed::No, "the service is draining")
            .with_fault(true, retry_after, None)
    }

    /// What was in the workspace is lost, and the client has not asked for another.
    pub fn workspace_gone() -> Self {
        let error = "the workspace is gone: reset the trajectory, or open it again, to go on in an empty one";
        Self::unchosen(Outcome::SandboxLost, Some(Reason::WorkspaceGone), Executed::No, error)
            .with_fault(true, None, None)
    }

    /// The container or slot died (CONTAINER_LOST, SLOT_LOST).
    pub fn sandbox_lost(reason: Reason, executed: Executed, evidence: Arc<Evidence>) -> Self {
        let error = format!("the sandbox was lost: {}", evidence.cause);
        Self::unchosen(Outcome::SandboxLost, Some(reason), executed, &error).with_fault(
            executed == Executed::No,
            None,
            Some(evidence),
        )
    }

    /// Stopped before it was handed over (CANCELLED_BY_CLIENT, RELEASED, DRAINED).
    pub fn cancelled_before_start(reason: Reason) -> Self {
        Self::unchosen(Outcome::Cancelled, Some(reason), Executed::No, "cancelled before it was started")
            .with_fault_if_drained()
    }

    pub(super) fn with_fault_if_drained(self) -> Self {
        if self.reason == Some(Reason::Drained) {
            let retryable = self.executed == Executed::No;
            return self.with_fault(retryable, None, None);
        }
        self
    }

    /// More input came for a waiting command than it may have.
    pub fn input_limit_before_start(max: usize) -> Self {
        let error = format!("more than {max} bytes of input wait to be read");
        let mut verdict = Self::unchosen(Outcome::LimitExceeded, Some(Reason::InputLimit), Executed::Yes, &error);
        verdict.executed = Executed::No;
        verdict
    }

    /// A fault of the executor or its agent.
    pub fn internal(executed: Executed, error: &str) -> Self {
        Self::unchosen(Outcome::Internal, None, executed, error).with_fault(executed == Executed::No, None, None)
    }

    /// The answer to a call, numbered and timed.
    pub fn into_result(
        self,
        call_id: CallId,
        sequence: Sequence,
        generation: Generation,
        timings: Timings,
    ) -> CallResult {
        CallResult {
            call_id,
            sequence,
            generation,
            outcome: self.outcome,
            reason: self.reason,
            executed: self.executed,
            attribution: self.attribution,
            output: self.output,
            error: self.error,
            stdout: self.stdout,
            stderr: self.stderr,
            exit: self.exit,
            fault: self.fault,
            timings,
            usage: self.usage,
            metadata: self.metadata,
        }
    }
}
