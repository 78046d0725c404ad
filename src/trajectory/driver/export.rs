//! Spans for a collector, by OpenTelemetry's conventions: a trajectory's, within it one for each of its calls, and within
//! that one for each phase. Without a collector all of this is nothing.
//!
//! A call's spans are made when it has ended, from the times that its result has: no call waits for them, and what they
//! say is what the caller is told. Never arguments, output, or texts of errors, which may have either.

use std::{
    str::FromStr as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId,
    global::{self, BoxedTracer},
    trace::{Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, TraceState, Tracer as _},
};

use crate::{
    id::{TraceParent, TrajectoryKey},
    tool::{Outcome, Timings},
    trajectory::observer::Answered,
};

/// The span of a trajectory, which ends with this.
pub(super) struct Exported {
    tracer: BoxedTracer,
    /// Has the span.
    context: Context,
    parent: Option<Arc<TraceParent>>,
    trajectory: String,
}

impl Exported {
    /// A part of the caller's trace, if there is one.
    pub(super) fn begin(key: &TrajectoryKey, parent: Option<Arc<TraceParent>>, at: SystemTime) -> Self {
        let tracer = global::tracer("tool-executor");
        let trajectory = key.id.as_str().to_owned();
        let tenant = key.tenant.name().map(|tenant| KeyValue::new("tool_executor.tenant", tenant.to_owned()));
        let attributes = tenant.into_iter().chain([KeyValue::new("tool_executor.trajectory.id", trajectory.clone())]);
        let span = tracer
            .span_builder("trajectory")
            .with_kind(if parent.is_some() { SpanKind::Server } else { SpanKind::Internal })
            .with_start_time(at)
            .with_attributes(attributes)
            .start_with_context(&tracer, &parent.as_deref().map(remote).unwrap_or_default());
        Self { tracer, context: Context::new().with_span(span), parent, trajectory }
    }

    /// A call that has ended: within its caller's span, or within the trajectory's if that is in the same one.
    pub(super) fn call(&self, answered: &Answered, timings: &Timings, parent: Option<&TraceParent>) {
        let parent = parent.filter(|parent| Some(*parent) != self.parent.as_deref());
        let context = match parent {
            Some(parent) => remote(parent),
            None => self.context.clone(),
        };
        let mut attributes = vec![
            KeyValue::new("gen_ai.operation.name", "execute_tool"),
            KeyValue::new("gen_ai.tool.name", answered.tool.as_str().to_owned()),
            KeyValue::new("gen_ai.tool.call.id", answered.call.as_str().to_owned()),
            KeyValue::new("tool_executor.trajectory.id", self.trajectory.clone()),
            KeyValue::new("tool_executor.outcome", answered.outcome.label()),
        ];
        attributes.extend(answered.reason.map(|reason| KeyValue::new("tool_executor.reason", reason.label())));
        let mut span = self
            .tracer
            .span_builder("call")
            .with_kind(if parent.is_some() { SpanKind::Server } else { SpanKind::Internal })
            .with_start_time(timings.received_at)
            .with_attributes(attributes)
            .start_with_context(&self.tracer, &context);
        if answered.outcome != Outcome::Succeeded {
            let kind = answered.reason.map_or(answered.outcome.label(), |reason| reason.label());
            span.set_attribute(KeyValue::new("error.type", kind));
            span.set_status(Status::error(kind));
        }
        let recording = span.is_recording();
        let context = context.with_span(span);
        let mut at = timings.received_at;
        let phases = [
            ("queued", timings.queued),
            ("slot_wait", timings.slot_wait),
            ("dispatch", timings.dispatch),
            ("execution", timings.execution),
            ("collection", timings.collection),
        ];
        for (phase, took) in phases {
            let end = at + took;
            if recording && took > Duration::ZERO {
                let builder = self.tracer.span_builder(phase).with_start_time(at);
                builder.start_with_context(&self.tracer, &context).end_with_timestamp(end);
            }
            at = end;
        }
        context.span().end_with_timestamp(at);
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        self.context.span().end();
    }
}

fn remote(parent: &TraceParent) -> Context {
    let flags = TraceFlags::default().with_sampled(parent.is_sampled());
    // The standard has it that a malformed state does no harm to the rest.
    let state = TraceState::from_str(parent.state()).unwrap_or_default();
    let trace = TraceId::from_bytes(parent.trace_id().to_bytes());
    let context = SpanContext::new(trace, SpanId::from_bytes(parent.span_id()), flags, true, state);
    Context::new().with_remote_span_context(context)
}
