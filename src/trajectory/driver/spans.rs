//! What the log has of calls: their ids and how they ended, never what they were asked for or what they printed.
//!
//! A call's span is from its acceptance to its end, within its trajectory's. There are more calls than anybody reads:
//! they are told of at the level of debugging, except for those whose end is this program's own fault.

use std::collections::HashMap;

use tracing::{Span, debug, debug_span, field::Empty, warn};

use crate::{id::CallId, journal::Record, tool::Outcome, trajectory::observer::Answered};

/// Of the calls that were accepted and have not ended; none where nobody listens.
#[derive(Default)]
pub(super) struct CallSpans(HashMap<CallId, Span>);

impl CallSpans {
    pub(super) fn begin(&mut self, records: &[Record]) {
        for record in records {
            if let Record::Accepted(call) = record {
                let span = span(&call.id);
                if !span.is_disabled() {
                    self.0.insert(call.id.clone(), span);
                }
            }
        }
    }

    pub(super) fn end(&mut self, answered: &Answered) {
        let Answered { call, tool, outcome, reason, timings, failure: _ } = answered;
        // A call that was refused has no other, and one from before a restart has a new one.
        let span = timings.and_then(|_| self.0.remove(call)).unwrap_or_else(|| span(call));
        let reason = reason.map(|reason| reason.label());
        span.record("tool", tool.as_str()).record("outcome", outcome.label()).record("reason", reason);
        span.in_scope(|| {
            if *outcome == Outcome::Internal {
                warn!(%call, "a call could not be run for a fault of the executor's own");
            }
            match timings {
                Some(timings) => debug!(
                    queued = ?timings.queued,
                    slot_wait = ?timings.slot_wait,
                    dispatch = ?timings.dispatch,
                    execution = ?timings.execution,
                    collection = ?timings.collection,
                    "answered"
                ),
                None => debug!("refused"),
            }
        });
    }
}

fn span(call: &CallId) -> Span {
    debug_span!("call", %call, tool = Empty, outcome = Empty, reason = Empty)
}
