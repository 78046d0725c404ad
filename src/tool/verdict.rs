//! What is answered to a call, whoever knows it: the parts of a result that follow from how the call ended.
//!
//! [`judge`](super::judge) makes the verdicts of calls that reached a slot; the constructors here make those of calls
//! that did not, or whose end nobody saw. Every verdict keeps to the table of [`ruling`].

use std::{sync::Arc, time::Duration};

use super::{
    Attribution, CallResult, CancelCause, Chooser, Evidence, Executed, Failure, Fault, Metadata, Outcome, Reason,
    Rejection, Stream, Timings,
    job::{Exit, Usage},
    ruling,
    text::{self, MAX_ERROR_BYTES},
};
use crate::id::{CallId, Generation, Sequence};

/// The parts of a [`CallResult`] that follow from how the call ended. Bounded: with any call_id it makes a result of
/// less than [`MAX_RESULT_BYTES`](super::MAX_RESULT_BYTES).
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
    pub metadata: Metadata,
}

impl Verdict {
    /// A verdict that keeps to the table: of more than one possible answer to whether it ran, `executed` chooses.
    pub(super) fn new(outcome: Outcome, reason: Option<Reason>, executed: Executed, chooser: Chooser) -> Self {
        let row = ruling(outcome, reason, chooser);
        debug_assert!(row.executed.contains(&executed), "{outcome:?} {reason:?} cannot be {executed:?}");
        let faulty = match outcome {
            Outcome::Succeeded
            | Outcome::Failed
            | Outcome::TimedOut
            | Outcome::Cancelled
            | Outcome::OutOfMemory
            | Outcome::LimitExceeded
            | Outcome::Rejected => false,
            Outcome::NoCapacity | Outcome::SandboxLost | Outcome::ExternalUnavailable | Outcome::Internal => true,
        };
        Self {
            outcome,
            reason,
            executed: if row.executed.contains(&executed) { executed } else { row.executed[0] },
            attribution: row.attribution,
            output: String::new(),
            error: String::new(),
            stdout: None,
            stderr: None,
            exit: None,
            fault: faulty.then(Fault::default),
            usage: None,
            metadata: Metadata::default(),
        }
    }

    pub(super) fn with_error(mut self, error: &str) -> Self {
        self.error = text::one_line(error, MAX_ERROR_BYTES);
        self
    }

    pub(super) fn with_fault(
        mut self,
        retryable: bool,
        retry_after: Option<Duration>,
        evidence: Option<Arc<Evidence>>,
    ) -> Self {
        self.fault = Some(Fault { retryable, retry_after, evidence: evidence.map(Evidence::bounded) });
        self
    }

    /// Refused: the call itself is at fault.
    pub fn rejected(rejection: &Rejection, chooser: Chooser) -> Self {
        // Nobody knows that there is no such tool.
        if rejection.reason == Reason::ToolServerUnreachable {
            return Self::external_unavailable(Failure::Unreachable, Executed::No, &rejection.message);
        }
        Self::new(Outcome::Rejected, Some(rejection.reason), Executed::No, chooser).with_error(&rejection.message)
    }

    /// Refused: another action has this call_id.
    pub fn call_id_reused() -> Self {
        Self::new(Outcome::Rejected, Some(Reason::CallIdReused), Executed::No, Chooser::Client)
            .with_error("call_id was used for another action: send this one under a new call_id")
    }

    /// Refused: the call has ended, and its result is no longer kept.
    pub fn result_dropped() -> Self {
        Self::new(Outcome::Rejected, Some(Reason::ResultDropped), Executed::Unknown, Chooser::Client)
            .with_error("this call has ended before, and its result is no longer kept: it is not run again")
    }

    /// Refused, or given up: too much waits already. `what` is full; without a `retry_after` for good.
    pub fn queue_full(what: &str, retry_after: Option<Duration>) -> Self {
        let error = format!("No capacity: {what}");
        Self::no_capacity(Reason::QueueFull, &error, retry_after, None).with_fault(
            retry_after.is_some(),
            retry_after,
            None,
        )
    }

    /// No slot came free in time.
    pub fn slot_timeout(waited: Duration, evidence: Option<Arc<Evidence>>) -> Self {
        let error = format!("No slot was free within {}", seconds(waited));
        Self::no_capacity(Reason::SlotTimeout, &error, None, evidence)
    }

    /// No container can be started.
    pub fn container_start_failed(retry_after: Duration, evidence: Arc<Evidence>) -> Self {
        let error = format!("No container could be started: {}", evidence.cause);
        Self::no_capacity(Reason::ContainerStartFailed, &error, Some(retry_after), Some(evidence))
    }

    /// The service is about to end, and takes nothing new.
    pub fn draining(retry_after: Option<Duration>) -> Self {
        Self::no_capacity(Reason::Draining, "The service is draining and takes no new calls", retry_after, None)
    }

    /// All that these calls need is time: under the same call_id, since none of them ran.
    fn no_capacity(
        reason: Reason,
        error: &str,
        retry_after: Option<Duration>,
        evidence: Option<Arc<Evidence>>,
    ) -> Self {
        Self::new(Outcome::NoCapacity, Some(reason), Executed::No, Chooser::Model).with_error(error).with_fault(
            true,
            retry_after,
            evidence,
        )
    }

    /// Refused: the trajectory's workspace is gone, and it has not asked for a new one. Sending it again is of no use
    /// until it has.
    pub fn workspace_gone(evidence: Option<Arc<Evidence>>) -> Self {
        Self::new(Outcome::SandboxLost, Some(Reason::WorkspaceGone), Executed::No, Chooser::Model)
            .with_error("The workspace is gone: reset or release the trajectory to go on in an empty one")
            .with_fault(false, None, evidence)
    }

    /// The container is gone. A call that had not been handed over did not run; of one that had, nobody knows.
    pub fn container_lost(executed: Executed, evidence: Arc<Evidence>) -> Self {
        Self::new(Outcome::SandboxLost, Some(Reason::ContainerLost), executed, Chooser::Model)
            .with_error(&format!("The sandbox was lost: {}", evidence.cause))
            .with_fault(false, None, Some(evidence))
    }

    /// The slot is gone, its container is not.
    pub fn slot_lost(executed: Executed, cause: &str) -> Self {
        let evidence = Evidence { cause: cause.to_owned(), ..Evidence::default() };
        Self::new(Outcome::SandboxLost, Some(Reason::SlotLost), executed, Chooser::Model)
            .with_error(&format!("The slot was lost: {cause}"))
            .with_fault(false, None, Some(Arc::new(evidence)))
    }

    /// Cancelled while it waited.
    pub fn cancelled_waiting(cause: CancelCause) -> Self {
        Self::cancelled(cause, Executed::No)
    }

    /// More input came for a waiting command than it may have, in bytes.
    pub fn input_limit_waiting(max: u64, chooser: Chooser) -> Self {
        Self::new(Outcome::LimitExceeded, Some(Reason::InputLimit), Executed::No, chooser).with_error(&format!(
            "More input was sent than a command may have waiting: max_pending_input_bytes is {max}"
        ))
    }

    pub(super) fn cancelled(cause: CancelCause, executed: Executed) -> Self {
        Self::new(Outcome::Cancelled, Some(cause.reason()), executed, Chooser::Client).with_error(cause.text())
    }

    /// A fault of the executor or its agent. One that is known not to have run may be sent again.
    pub fn internal(executed: Executed, error: &str) -> Self {
        Self::new(Outcome::Internal, None, executed, Chooser::Model)
            .with_error(&format!("Internal error: {error}"))
            .with_fault(executed == Executed::No, None, None)
    }

    /// The result, once it has its place and times.
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

/// Seconds as the old system wrote them: `1.0s`, `0.25s`.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{:?}s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> Arc<Evidence> {
        Arc::new(Evidence { cause: "exit status 1".into(), ..Evidence::default() })
    }

    fn unslotted() -> Vec<Verdict> {
        let rejection = Rejection { reason: Reason::UnknownTool, message: "Unknown tool: x".into() };
        let mut all = vec![
            Verdict::rejected(&rejection, Chooser::Model),
            Verdict::call_id_reused(),
            Verdict::result_dropped(),
            Verdict::queue_full("64 calls wait already", Some(Duration::from_secs(1))),
            Verdict::slot_timeout(Duration::from_secs(30), None),
            Verdict::container_start_failed(Duration::from_secs(2), evidence()),
            Verdict::draining(None),
            Verdict::workspace_gone(Some(evidence())),
            Verdict::cancelled_waiting(CancelCause::Client),
            Verdict::cancelled_waiting(CancelCause::Label),
            Verdict::cancelled_waiting(CancelCause::Released),
            Verdict::cancelled_waiting(CancelCause::Drained),
        ];
        for executed in [Executed::No, Executed::Yes, Executed::Unknown] {
            all.push(Verdict::container_lost(executed, evidence()));
            all.push(Verdict::slot_lost(executed, "its first process died"));
            all.push(Verdict::internal(executed, "agent: broken"));
        }
        all
    }

    /// `Verdict::new` asserts the table; here: the fault's place, the one-line error and the empty metadata.
    #[test]
    fn verdicts_without_a_slot_are_sound() {
        for verdict in unslotted() {
            assert!(!verdict.error.is_empty() && !verdict.error.contains('\n'), "{verdict:?}");
            assert!(verdict.metadata == Metadata::default() && verdict.output.is_empty());
            assert!(verdict.attribution.is_some());
            let at_fault = matches!(
                verdict.outcome,
                Outcome::NoCapacity | Outcome::SandboxLost | Outcome::ExternalUnavailable | Outcome::Internal
            );
            assert_eq!(verdict.fault.is_some(), at_fault, "{verdict:?}");
            if let Some(fault) = verdict.fault
                && fault.retryable
            {
                assert_eq!(verdict.executed, Executed::No, "only what did not run is offered to be sent again");
            }
        }
    }

    #[test]
    fn a_drain_is_not_the_clients_doing() {
        assert_eq!(Verdict::cancelled_waiting(CancelCause::Drained).attribution, Some(Attribution::Infrastructure));
        assert_eq!(Verdict::cancelled_waiting(CancelCause::Released).attribution, Some(Attribution::Client));
    }

    #[test]
    fn words() {
        assert_eq!(Verdict::slot_timeout(Duration::from_secs(30), None).error, "No slot was free within 30.0s");
        let lost = Verdict::container_lost(Executed::Unknown, evidence());
        assert_eq!(lost.error, "The sandbox was lost: exit status 1");
        assert_eq!(lost.fault.unwrap().evidence, Some(evidence()));
    }

    #[test]
    fn seconds_read_as_they_did() {
        assert_eq!(seconds(Duration::from_secs(1)), "1.0s");
        assert_eq!(seconds(Duration::from_millis(2_500)), "2.5s");
        assert_eq!(seconds(Duration::from_secs(3_600)), "3600.0s");
    }
}
