//! What the log has of calls, and a collector of traces: their ids and how they ended, never what they were asked for or
//! what they printed.
//!
//! A call's span is from its acceptance to its end, within its trajectory's. There are more calls than anybody reads:
//! they are told of at the level of debugging, except for those whose end is this program's own fault. Where a caller
//! names its own trace, its id is in both spans, so that lines can be found by it.

#[cfg(feature = "otlp")]
use std::time::SystemTime;
use std::{collections::HashMap, sync::Arc};

use tracing::{Span, debug, debug_span, field::Empty, info_span, warn};

#[cfg(feature = "otlp")]
use super::export::Exported;
use crate::{
    id::{CallId, TraceParent, TrajectoryKey},
    journal::Record,
    tool::Outcome,
    trajectory::observer::Answered,
};

/// Of a trajectory's calls that were accepted and have not ended, where somebody listens.
pub(super) struct CallSpans {
    begun: HashMap<CallId, Begun>,
    /// What calls of the stream are a part of.
    stream: Option<Arc<TraceParent>>,
    /// The call that came last by itself, and what it is a part of.
    single: Option<(CallId, Option<Arc<TraceParent>>)>,
    /// Of whoever came last: it is who opens the trajectory, if it is opened.
    latest: Option<Arc<TraceParent>>,
    #[cfg(feature = "otlp")]
    exported: Life,
}

struct Begun {
    span: Span,
    parent: Option<Arc<TraceParent>>,
}

/// A trajectory's span ends when it is released, long before what is known of it is forgotten; it may be opened again.
#[cfg(feature = "otlp")]
struct Life {
    key: TrajectoryKey,
    now: Option<Exported>,
}

/// All that happens to a trajectory is within it.
pub(in crate::trajectory) fn trajectory_span(key: &TrajectoryKey, trace: Option<&TraceParent>) -> Span {
    let span = info_span!("trajectory", tenant = key.tenant.name(), trajectory = %key.id, trace_id = Empty);
    record(&span, trace);
    span
}

impl CallSpans {
    /// Of a trajectory that was asked for as a part of this trace.
    pub(super) fn new(key: &TrajectoryKey, trace: Option<Arc<TraceParent>>) -> Self {
        #[cfg(not(feature = "otlp"))]
        let _ = key;
        Self {
            begun: HashMap::new(),
            #[cfg(feature = "otlp")]
            exported: Life { key: key.clone(), now: None },
            stream: None,
            single: None,
            latest: trace,
        }
    }

    /// From now on calls come on another stream.
    pub(super) fn attached(&mut self, trace: Option<Arc<TraceParent>>) {
        self.latest.clone_from(&trace);
        self.stream = trace;
    }

    /// A call has come by itself, and may be accepted.
    pub(super) fn asked(&mut self, call: &CallId, trace: Option<Arc<TraceParent>>) {
        self.latest.clone_from(&trace);
        self.single = Some((call.clone(), trace));
    }

    pub(super) fn begin(&mut self, records: &[Record]) {
        for record in records {
            #[cfg(feature = "otlp")]
            if matches!(record, Record::Opened { .. } | Record::Reopened) {
                self.exported.begin(self.latest.clone(), SystemTime::now());
            }
            if let Record::Accepted(call) = record {
                let parent = self.parent(&call.id);
                let span = span(&call.id, parent.as_deref());
                if !span.is_disabled() || parent.is_some() {
                    self.begun.insert(call.id.clone(), Begun { span, parent });
                }
            }
        }
    }

    pub(super) fn end(&mut self, answered: &Answered) {
        let Answered { call, tool, outcome, reason, timings, failure: _ } = answered;
        // A call that was refused has no other, and one from before a restart has a new one.
        let begun = timings.and_then(|_| self.begun.remove(call)).unwrap_or_else(|| {
            let parent = self.parent(call);
            Begun { span: span(call, parent.as_deref()), parent }
        });
        let Begun { span, parent } = begun;
        #[cfg(feature = "otlp")]
        self.exported.call(answered, parent.as_deref(), self.latest.as_ref());
        let reason = reason.map(|reason| reason.label());
        span.record("tool", tool.as_str()).record("outcome", outcome.label()).record("reason", reason);
        span.in_scope(|| {
            if *outcome == Outcome::Internal {
                let trace_id = parent.map(|parent| tracing::field::display(parent.trace_id()));
                warn!(%call, trace_id, "a call could not be run for a fault of the executor's own");
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

    /// The trajectory has ended.
    pub(super) fn released(&mut self) {
        #[cfg(feature = "otlp")]
        drop(self.exported.now.take());
    }

    fn parent(&self, call: &CallId) -> Option<Arc<TraceParent>> {
        match &self.single {
            Some((single, parent)) if single == call => parent.clone(),
            _ => self.stream.clone(),
        }
    }
}

#[cfg(feature = "otlp")]
impl Life {
    fn begin(&mut self, trace: Option<Arc<TraceParent>>, at: SystemTime) {
        self.now = Some(Exported::begin(&self.key, trace, at));
    }

    fn call(&mut self, answered: &Answered, parent: Option<&TraceParent>, latest: Option<&Arc<TraceParent>>) {
        let Some(timings) = &answered.timings else { return };
        if self.now.is_none() {
            // It was open before a restart.
            self.begin(latest.cloned(), timings.received_at);
        }
        if let Some(exported) = &self.now {
            exported.call(answered, timings, parent);
        }
    }
}

fn span(call: &CallId, parent: Option<&TraceParent>) -> Span {
    let span = debug_span!("call", %call, trace_id = Empty, tool = Empty, outcome = Empty, reason = Empty);
    record(&span, parent);
    span
}

fn record(span: &Span, trace: Option<&TraceParent>) {
    if let Some(trace) = trace {
        span.record("trace_id", tracing::field::display(trace.trace_id()));
    }
}
