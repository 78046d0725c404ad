//! How a source does, for people: from what it has answered last, to whatever it was asked.

use std::{sync::Arc, time::SystemTime};

use serde_json::Value;

use super::config::Protocol;
use crate::tool::{ExternalEnd, Failure};

/// A source, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceStatus {
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub health: Health,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// The last answer that it owed has come, and made sense.
    pub is_reachable: bool,
    /// That it had when it last said so, whether or not all of them are offered.
    pub tools: usize,
    /// It stays when all is well again: it may be the answer to why an episode went wrong.
    pub last_error: Option<LastError>,
}

/// What went wrong last, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    pub cause: String,
    pub at: SystemTime,
}

impl Health {
    /// It was asked what tools it has.
    pub(super) fn listed(&mut self, answer: &Result<Vec<Value>, String>, at: SystemTime) {
        self.is_reachable = answer.is_ok();
        match answer {
            Ok(tools) => self.tools = tools.len(),
            Err(cause) => self.failed(cause, at),
        }
    }

    /// It was given a call.
    pub(super) fn called(&mut self, end: &ExternalEnd, at: SystemTime) {
        match end {
            ExternalEnd::Answered { .. } => self.is_reachable = true,
            ExternalEnd::Unavailable { failure, cause, .. } => {
                // One call that is late or makes no sense may be its tool's doing.
                self.is_reachable &= *failure != Failure::Unreachable;
                self.failed(cause, at);
            }
        }
    }

    fn failed(&mut self, cause: &str, at: SystemTime) {
        self.last_error = Some(LastError { cause: cause.to_owned(), at });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn failed(failure: Failure) -> ExternalEnd {
        ExternalEnd::Unavailable { failure, unsent: false, cause: format!("{failure:?}") }
    }

    #[test]
    fn it_is_reachable_by_its_last_answer_and_keeps_its_last_error() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut health = Health::default();
        health.listed(&Err("refused".to_owned()), at(1));
        assert!(!health.is_reachable && health.tools == 0);
        health.listed(&Ok(vec![Value::Null; 3]), at(2));
        let error = |cause: &str, seconds| Some(LastError { cause: cause.to_owned(), at: at(seconds) });
        assert_eq!(health, Health { is_reachable: true, tools: 3, last_error: error("refused", 1) });
        health.called(&failed(Failure::Timeout), at(3));
        assert_eq!((health.is_reachable, health.last_error.clone()), (true, error("Timeout", 3)));
        health.called(&failed(Failure::Unreachable), at(4));
        health.called(&failed(Failure::Protocol), at(5));
        assert_eq!((health.is_reachable, health.tools), (false, 3), "what it had is still offered");
        let good =
            ExternalEnd::Answered { success: false, output: String::new(), error: String::new(), metadata: vec![] };
        health.called(&good, at(6));
        assert_eq!((health.is_reachable, health.last_error), (true, error("Protocol", 5)));
    }
}
