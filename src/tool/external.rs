//! Calls of tools that run elsewhere, and what is made of how they end. Plain data and rules, no I/O.

use std::sync::Arc;

use super::{CancelCause, Chooser, Evidence, Executed, Metadata, Outcome, Reason, Stream, Verdict, job::Phases, text};

/// What is kept of what a tool tells beside its output, in bytes of JSON.
const MAX_METADATA_BYTES: usize = 64 << 10;
/// How deep that may be nested. A level is three messages of protobuf, and a client that reads no more than 100 could not
/// read the result, nor what comes after it.
const MAX_METADATA_DEPTH: usize = 16;

/// One call of a tool that runs elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalCall {
    /// Who has the tool.
    pub source: Arc<str>,
    pub tool: String,
    /// A JSON object, as text.
    pub arguments: String,
}

impl ExternalCall {
    /// Of what its sender has put into it, in bytes.
    pub fn size(&self) -> usize {
        self.tool.len() + self.arguments.len()
    }
}

/// How such a call ended, and where the time went.
#[derive(Debug, Clone, PartialEq)]
pub struct ExternalEnding {
    pub end: ExternalEnd,
    pub phases: Phases,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ExternalEnd {
    /// The tool ran and says so.
    Answered { success: bool, output: String, error: String, metadata: Vec<(String, serde_json::Value)> },
    /// There is no answer that can be made sense of.
    Unavailable {
        failure: Failure,
        /// It surely did not run.
        unsent: bool,
        cause: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    Unreachable,
    Timeout,
    Protocol,
}

impl ExternalEnd {
    /// What is answered to the call.
    pub fn judge(self) -> Verdict {
        match self {
            Self::Answered { success, output, error, metadata } => answered(success, &output, &error, metadata),
            Self::Unavailable { failure, unsent, cause } => {
                Verdict::external_unavailable(failure, if unsent { Executed::No } else { Executed::Unknown }, &cause)
            }
        }
    }
}

fn answered(success: bool, output: &str, error: &str, metadata: Vec<(String, serde_json::Value)>) -> Verdict {
    let mut verdict = if success {
        Verdict::new(Outcome::Succeeded, None, Executed::Yes, Chooser::Model)
    } else {
        let error = if error.trim().is_empty() { "The tool failed and did not say why" } else { error };
        Verdict::new(Outcome::Failed, Some(Reason::ExternalToolFailed), Executed::Yes, Chooser::Model).with_error(error)
    };
    let (text, truncated) = text::bounded(output);
    verdict.stdout = truncated.then_some(Stream::Counted { total: output.len() as u64, truncated });
    verdict.output = text;
    let bytes: usize = metadata.iter().map(|(name, value)| name.len() + value.to_string().len()).sum();
    let too_deep = metadata.iter().any(|(_, value)| !fits(value, MAX_METADATA_DEPTH));
    verdict.metadata = if bytes > MAX_METADATA_BYTES || too_deep {
        Metadata::default().with("metadata_dropped_bytes", bytes as u64)
    } else {
        metadata.into_iter().fold(Metadata::default(), |kept, (name, value)| kept.with(name, value))
    };
    verdict
}

/// Whether a value is nested at most so deep.
fn fits(value: &serde_json::Value, depth: usize) -> bool {
    use serde_json::Value;
    match (value, depth.checked_sub(1)) {
        (Value::Array(items), Some(left)) => items.iter().all(|item| fits(item, left)),
        (Value::Object(fields), Some(left)) => fields.values().all(|field| fits(field, left)),
        (Value::Array(_) | Value::Object(_), None) => false,
        _ => true,
    }
}

impl Verdict {
    /// Nobody who runs the tool could be reached, or made sense of.
    pub fn external_unavailable(failure: Failure, executed: Executed, cause: &str) -> Self {
        let (reason, what) = match failure {
            Failure::Unreachable => (Reason::ToolServerUnreachable, "The tool's server could not be reached"),
            Failure::Timeout => (Reason::ToolServerTimeout, "The tool's server did not answer in time"),
            Failure::Protocol => (Reason::ToolServerProtocol, "The tool's server gave no valid answer"),
        };
        let evidence = Evidence { cause: cause.to_owned(), ..Evidence::default() };
        Self::new(Outcome::ExternalUnavailable, Some(reason), executed, Chooser::Model)
            .with_error(&format!("{what}: {cause}"))
            .with_fault(executed == Executed::No, None, Some(Arc::new(evidence)))
    }

    /// Cancelled while it ran elsewhere: what became of it there, nobody knows.
    pub fn cancelled_outside(cause: CancelCause) -> Self {
        Self::cancelled(cause, Executed::Unknown)
    }

    /// The executor ended while the call was under way.
    pub fn external_forgotten() -> Self {
        Self::external_broken(Executed::Unknown, "the executor ended before it heard how the external call did")
    }

    /// A fault of the executor while it had the call.
    pub fn external_broken(executed: Executed, cause: &str) -> Self {
        let evidence = Evidence { cause: cause.to_owned(), ..Evidence::default() };
        Self::internal(executed, cause).with_fault(executed == Executed::No, None, Some(Arc::new(evidence)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tool::Attribution;

    fn answer(success: bool, output: &str, error: &str) -> Verdict {
        let (output, error) = (output.to_owned(), error.to_owned());
        ExternalEnd::Answered { success, output, error, metadata: vec![("n".to_owned(), json!(1))] }.judge()
    }

    #[test]
    fn what_a_tool_says_is_its_own_and_the_models() {
        let good = answer(true, "out\n", "ignored");
        assert_eq!(
            (good.outcome, good.executed, &*good.output, &*good.error),
            (Outcome::Succeeded, Executed::Yes, "out\n", "")
        );
        assert_eq!(good.metadata["n"], 1);
        let bad = answer(false, "partial", "no such page");
        assert_eq!((bad.outcome, bad.reason), (Outcome::Failed, Some(Reason::ExternalToolFailed)));
        assert_eq!((bad.attribution, &*bad.output, &*bad.error), (Some(Attribution::Model), "partial", "no such page"));
        assert!(!answer(false, "", " ").error.is_empty());
    }

    #[test]
    fn answers_are_held_to_what_a_result_may_have() {
        let long = answer(true, &"x".repeat(4 << 20), "");
        assert!(long.output.len() <= text::MAX_CAPTURED_BYTES + 64 && long.output.ends_with("(output truncated)"));
        assert_eq!(long.stdout, Some(Stream::Counted { total: 4 << 20, truncated: true }));
        let metadata = vec![("a".to_owned(), json!("x".repeat(MAX_METADATA_BYTES)))];
        let judged = |metadata| {
            let (output, error) = (String::new(), String::new());
            ExternalEnd::Answered { success: true, output, error, metadata }.judge().metadata
        };
        assert!(judged(metadata)["metadata_dropped_bytes"].is_u64());
        let nested = |depth| (0..depth).fold(json!(1), |inner, _| json!([inner]));
        let told = |depth| judged(vec![("a".to_owned(), nested(depth))])["a"].is_array();
        assert!(told(MAX_METADATA_DEPTH) && !told(MAX_METADATA_DEPTH + 1));
    }

    #[test]
    fn only_what_was_not_sent_may_be_sent_again() {
        for (unsent, executed) in [(true, Executed::No), (false, Executed::Unknown)] {
            let end = ExternalEnd::Unavailable { failure: Failure::Unreachable, unsent, cause: "refused".into() };
            let verdict = end.judge();
            assert_eq!((verdict.executed, verdict.attribution), (executed, Some(Attribution::Infrastructure)));
            let fault = verdict.fault.unwrap();
            assert_eq!((fault.retryable, &*fault.evidence.unwrap().cause), (unsent, "refused"));
        }
    }
}
