//! Records in the words of the file, and back.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    outcome,
    record::{AcceptedCall, CallHash, Options, Record, Workspace},
};
use crate::{
    id::{CallId, CallNumber, ContainerId, Generation, PoolName, Sequence},
    pb::journal as pb,
    tool::{
        ActionHash, CallResult, Evidence, Fault, Kind, Location, Metadata, Stream, Timings,
        job::{Captured, Exit, Job, Order, OutputLimits, Process, Program, Usage},
        session::Request,
    },
};

/// The file says something that no version up to this one has written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is missing or makes no sense")]
pub(super) struct Senseless(pub(super) &'static str);

pub(super) fn write(record: &Record) -> pb::Record {
    use pb::record::Record as Wire;
    let wire = match record {
        Record::Opened { options, at } => Wire::Opened(write_opened(options, *at)),
        Record::Accepted(call) => Wire::Accepted(write_accepted(call)),
        Record::Input { call, data, end_of_file } => {
            Wire::Input(pb::Input { call: call.0, data: data.clone(), end_of_file: *end_of_file })
        }
        Record::HandedOver(call) => Wire::HandedOver(call.0),
        Record::TakenBack(call) => Wire::TakenBack(call.0),
        Record::Ended { call, result } => {
            Wire::Ended(pb::Ended { call: write_hash(call.0), result: Some(write_result(result)) })
        }
        Record::Sent { through } => Wire::SentThrough(through.0),
        Record::Dropped { through } => Wire::DroppedThrough(through.0),
        Record::Past { calls, last_number, last_sequence, generation } => Wire::Past(pb::Past {
            calls: calls
                .iter()
                .map(|(call, action)| pb::PastCall { call: write_hash(call.0), action: write_hash(action.0) })
                .collect(),
            last_number: last_number.0,
            last_sequence: last_sequence.0,
            generation: generation.0,
        }),
        Record::Placed(location) => Wire::Placed(write_location(location)),
        Record::Workspace(workspace) => Wire::Workspace(pb::Workspace {
            workspace: Some(match workspace {
                Workspace::None => pb::workspace::Workspace::None(pb::Nothing {}),
                Workspace::Present(generation) => pb::workspace::Workspace::Present(generation.0),
                Workspace::Gone(generation) => pb::workspace::Workspace::Gone(generation.0),
                Workspace::Empty(generation) => pb::workspace::Workspace::Empty(generation.0),
            }),
        }),
        Record::Released => Wire::Phase(pb::Phase::Released.into()),
        Record::LeaseEnded => Wire::Phase(pb::Phase::LeaseEnded.into()),
        Record::Reopened => Wire::Phase(pb::Phase::Reopened.into()),
    };
    pb::Record { record: Some(wire) }
}

pub(super) fn read(record: pb::Record) -> Result<Record, Senseless> {
    use pb::record::Record as Wire;
    Ok(match record.record.ok_or(Senseless("a record"))? {
        Wire::Opened(opened) => read_opened(opened)?,
        Wire::Accepted(call) => Record::Accepted(Arc::new(read_accepted(call)?)),
        Wire::Input(pb::Input { call, data, end_of_file }) => {
            Record::Input { call: CallNumber(call), data, end_of_file }
        }
        Wire::HandedOver(call) => Record::HandedOver(CallNumber(call)),
        Wire::TakenBack(call) => Record::TakenBack(CallNumber(call)),
        Wire::Ended(pb::Ended { call, result }) => Record::Ended {
            call: CallHash(read_hash(&call)?),
            result: Arc::new(read_result(result.ok_or(Senseless("a result"))?)?),
        },
        Wire::SentThrough(through) => Record::Sent { through: Sequence(through) },
        Wire::DroppedThrough(through) => Record::Dropped { through: Sequence(through) },
        Wire::Past(past) => Record::Past {
            calls: past
                .calls
                .into_iter()
                .map(|past| Ok((CallHash(read_hash(&past.call)?), ActionHash(read_hash(&past.action)?))))
                .collect::<Result<_, Senseless>>()?,
            last_number: CallNumber(past.last_number),
            last_sequence: Sequence(past.last_sequence),
            generation: Generation(past.generation),
        },
        Wire::Placed(location) => Record::Placed(Arc::new(read_location(location))),
        Wire::Workspace(workspace) => Record::Workspace(match workspace.workspace.ok_or(Senseless("a workspace"))? {
            pb::workspace::Workspace::None(_) => Workspace::None,
            pb::workspace::Workspace::Present(generation) => Workspace::Present(Generation(generation)),
            pb::workspace::Workspace::Gone(generation) => Workspace::Gone(Generation(generation)),
            pb::workspace::Workspace::Empty(generation) => Workspace::Empty(Generation(generation)),
        }),
        Wire::Phase(phase) => match pb::Phase::try_from(phase).unwrap_or_default() {
            pb::Phase::Released => Record::Released,
            pb::Phase::LeaseEnded => Record::LeaseEnded,
            pb::Phase::Reopened => Record::Reopened,
            pb::Phase::Unspecified => return Err(Senseless("a phase")),
        },
    })
}

fn write_opened(options: &Options, at: SystemTime) -> pb::Opened {
    pb::Opened {
        at: Some(at.into()),
        lease: Some(write_duration(options.lease)),
        labels: options.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        pool: options.pool.to_string(),
        acquire_slot: options.acquire_slot,
        output_limits: Some(write_limits(options.output_limits)),
        default_timeout: Some(write_duration(options.default_timeout)),
    }
}

fn read_opened(opened: pb::Opened) -> Result<Record, Senseless> {
    let options = Options {
        lease: read_duration(opened.lease)?,
        labels: opened.labels.into_iter().collect(),
        pool: PoolName::new(&opened.pool),
        acquire_slot: opened.acquire_slot,
        output_limits: read_limits(opened.output_limits)?,
        default_timeout: read_duration(opened.default_timeout)?,
    };
    Ok(Record::Opened { options: Arc::new(options), at: read_time(opened.at)? })
}

fn write_accepted(call: &AcceptedCall) -> pb::Accepted {
    let order = &call.order;
    let kind = match &call.kind {
        Kind::Shell => pb::kind::Kind::Shell(pb::Nothing {}),
        Kind::ReadFile { path } => pb::kind::Kind::ReadFile(path.clone()),
        Kind::WriteFile { path } => pb::kind::Kind::WriteFile(path.clone()),
        Kind::Command => pb::kind::Kind::Command(pb::Nothing {}),
        Kind::Session => pb::kind::Kind::Session(pb::Nothing {}),
    };
    pb::Accepted {
        call_id: call.id.to_string(),
        number: call.number.0,
        action: write_hash(call.action.0),
        kind: Some(pb::Kind { kind: Some(kind) }),
        concurrent: call.concurrent,
        received_at: Some(call.received_at.into()),
        job: Some(match &order.job {
            Job::Process(process) => pb::accepted::Job::Process(write_process(process)),
            Job::ReadFile { path, max_bytes } => {
                pb::accepted::Job::ReadFile(pb::ReadFile { path: path.clone(), max_bytes: *max_bytes })
            }
            Job::WriteFile { path, content } => {
                pb::accepted::Job::WriteFile(pb::WriteFile { path: path.clone(), content: content.clone() })
            }
            Job::Session(request) => pb::accepted::Job::Session(request.to_json()),
        }),
        timeout: Some(write_duration(order.timeout)),
        limits: Some(write_limits(order.limits)),
        stream_output: order.stream_output,
        max_pending_input: order.max_pending_input,
    }
}

fn read_accepted(call: pb::Accepted) -> Result<AcceptedCall, Senseless> {
    let kind = match call.kind.and_then(|kind| kind.kind).ok_or(Senseless("a kind"))? {
        pb::kind::Kind::Shell(_) => Kind::Shell,
        pb::kind::Kind::ReadFile(path) => Kind::ReadFile { path },
        pb::kind::Kind::WriteFile(path) => Kind::WriteFile { path },
        pb::kind::Kind::Command(_) => Kind::Command,
        pb::kind::Kind::Session(_) => Kind::Session,
    };
    let job = match call.job.ok_or(Senseless("a job"))? {
        pb::accepted::Job::Process(process) => Job::Process(read_process(process)?),
        pb::accepted::Job::ReadFile(pb::ReadFile { path, max_bytes }) => Job::ReadFile { path, max_bytes },
        pb::accepted::Job::WriteFile(pb::WriteFile { path, content }) => Job::WriteFile { path, content },
        pb::accepted::Job::Session(json) => {
            Job::Session(Request::from_json(&json).map_err(|_| Senseless("a session"))?)
        }
    };
    Ok(AcceptedCall {
        id: read_call_id(&call.call_id)?,
        number: CallNumber(call.number),
        action: ActionHash(read_hash(&call.action)?),
        kind,
        order: Order {
            job,
            timeout: read_duration(call.timeout)?,
            limits: read_limits(call.limits)?,
            stream_output: call.stream_output,
            max_pending_input: call.max_pending_input,
        },
        concurrent: call.concurrent,
        received_at: read_time(call.received_at)?,
    })
}

fn write_process(process: &Process) -> pb::Process {
    let variable = |(name, value): &(String, String)| pb::Variable { name: name.clone(), value: value.clone() };
    pb::Process {
        program: Some(match &process.program {
            Program::Shell(script) => pb::process::Program::Shell(script.clone()),
            Program::Argv(arguments) => pb::process::Program::Argv(pb::Argv { arguments: arguments.clone() }),
        }),
        working_directory: process.working_directory.clone(),
        environment: process.environment.iter().map(variable).collect(),
        stdin: process.stdin.clone(),
        interactive: process.interactive,
    }
}

fn read_process(process: pb::Process) -> Result<Process, Senseless> {
    Ok(Process {
        program: match process.program.ok_or(Senseless("a program"))? {
            pb::process::Program::Shell(script) => Program::Shell(script),
            pb::process::Program::Argv(pb::Argv { arguments }) => Program::Argv(arguments),
        },
        working_directory: process.working_directory,
        environment: process.environment.into_iter().map(|variable| (variable.name, variable.value)).collect(),
        stdin: process.stdin,
        interactive: process.interactive,
    })
}

fn write_result(result: &CallResult) -> pb::Result {
    pb::Result {
        call_id: result.call_id.to_string(),
        sequence: result.sequence.0,
        generation: result.generation.0,
        outcome: outcome::write_outcome(result.outcome),
        reason: result.reason.map_or(0, outcome::write_reason),
        executed: outcome::write_executed(result.executed),
        attribution: result.attribution.map_or(0, outcome::write_attribution),
        output: result.output.clone(),
        error: result.error.clone(),
        stdout: result.stdout.as_ref().map(write_stream),
        stderr: result.stderr.as_ref().map(write_stream),
        exit: result.exit.map(|exit| match exit {
            Exit::Code(code) => pb::result::Exit::ExitCode(code),
            Exit::Signal(signal) => pb::result::Exit::Signal(signal),
        }),
        fault: result.fault.as_ref().map(write_fault),
        timings: Some(pb::Timings {
            received_at: Some(result.timings.received_at.into()),
            queued: Some(write_duration(result.timings.queued)),
            slot_wait: Some(write_duration(result.timings.slot_wait)),
            dispatch: Some(write_duration(result.timings.dispatch)),
            execution: Some(write_duration(result.timings.execution)),
            collection: Some(write_duration(result.timings.collection)),
        }),
        usage: result.usage.map(|usage| pb::Usage {
            user_cpu: Some(write_duration(usage.user_cpu)),
            system_cpu: Some(write_duration(usage.system_cpu)),
            max_rss_bytes: usage.max_rss_bytes,
        }),
        metadata: result
            .metadata
            .iter()
            .map(|(name, value)| pb::Fact { name: name.to_owned(), value: value.to_string() })
            .collect(),
    }
}

fn read_result(result: pb::Result) -> Result<CallResult, Senseless> {
    let timings = result.timings.ok_or(Senseless("a result's timings"))?;
    let usage = |usage: pb::Usage| -> Result<Usage, Senseless> {
        Ok(Usage {
            user_cpu: read_duration(usage.user_cpu)?,
            system_cpu: read_duration(usage.system_cpu)?,
            max_rss_bytes: usage.max_rss_bytes,
        })
    };
    let mut metadata = Metadata::default();
    for pb::Fact { name, value } in result.metadata {
        metadata =
            metadata.with(name, serde_json::from_str::<serde_json::Value>(&value).map_err(|_| Senseless("metadata"))?);
    }
    Ok(CallResult {
        call_id: read_call_id(&result.call_id)?,
        sequence: Sequence(result.sequence),
        generation: Generation(result.generation),
        outcome: outcome::read_outcome(result.outcome)?,
        reason: if result.reason == 0 { None } else { Some(outcome::read_reason(result.reason)?) },
        executed: outcome::read_executed(result.executed)?,
        attribution: match result.attribution {
            0 => None,
            attribution => Some(outcome::read_attribution(attribution)?),
        },
        output: result.output,
        error: result.error,
        stdout: result.stdout.map(read_stream),
        stderr: result.stderr.map(read_stream),
        exit: result.exit.map(|exit| match exit {
            pb::result::Exit::ExitCode(code) => Exit::Code(code),
            pb::result::Exit::Signal(signal) => Exit::Signal(signal),
        }),
        fault: result.fault.map(read_fault).transpose()?,
        timings: Timings {
            received_at: read_time(timings.received_at)?,
            queued: read_duration(timings.queued)?,
            slot_wait: read_duration(timings.slot_wait)?,
            dispatch: read_duration(timings.dispatch)?,
            execution: read_duration(timings.execution)?,
            collection: read_duration(timings.collection)?,
        },
        usage: result.usage.map(usage).transpose()?,
        metadata,
    })
}

fn write_stream(stream: &Stream) -> pb::Stream {
    match stream {
        Stream::Counted { total, truncated } => {
            pb::Stream { total: *total, counted: true, truncated: *truncated, ..pb::Stream::default() }
        }
        Stream::Whole(Captured { head, tail, total }) => {
            pb::Stream { total: *total, head: head.clone(), tail: tail.clone(), ..pb::Stream::default() }
        }
    }
}

fn read_stream(stream: pb::Stream) -> Stream {
    match stream.counted {
        true => Stream::Counted { total: stream.total, truncated: stream.truncated },
        false => Stream::Whole(Captured { head: stream.head, tail: stream.tail, total: stream.total }),
    }
}

fn write_fault(fault: &Fault) -> pb::Fault {
    pb::Fault {
        retryable: fault.retryable,
        retry_after: fault.retry_after.map(write_duration),
        evidence: fault.evidence.as_ref().map(|evidence| pb::Evidence {
            location: evidence.location.as_ref().map(write_location),
            cause: evidence.cause.clone(),
            events: evidence.events.clone(),
            stderr_tail: evidence.stderr_tail.clone(),
        }),
    }
}

fn read_fault(fault: pb::Fault) -> Result<Fault, Senseless> {
    Ok(Fault {
        retryable: fault.retryable,
        retry_after: fault.retry_after.map(|after| read_duration(Some(after))).transpose()?,
        evidence: fault.evidence.map(|evidence| {
            Arc::new(Evidence {
                location: evidence.location.map(read_location),
                cause: evidence.cause,
                events: evidence.events,
                stderr_tail: evidence.stderr_tail,
            })
        }),
    })
}

fn write_location(location: &Location) -> pb::Location {
    pb::Location { container: location.container.to_string(), node: location.node.clone(), slot: location.slot }
}

fn read_location(location: pb::Location) -> Location {
    Location { container: ContainerId::new(&location.container), node: location.node, slot: location.slot }
}

fn write_limits(limits: OutputLimits) -> pb::OutputLimits {
    pb::OutputLimits { head: limits.head, tail: limits.tail }
}

fn read_limits(limits: Option<pb::OutputLimits>) -> Result<OutputLimits, Senseless> {
    let pb::OutputLimits { head, tail } = limits.ok_or(Senseless("output limits"))?;
    Ok(OutputLimits { head, tail })
}

fn write_hash(hash: [u8; 16]) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&hash)
}

fn read_hash(bytes: &[u8]) -> Result<[u8; 16], Senseless> {
    bytes.try_into().map_err(|_| Senseless("a digest"))
}

fn read_call_id(text: &str) -> Result<CallId, Senseless> {
    CallId::parse(text).map_err(|_| Senseless("a call_id"))
}

fn read_time(time: Option<prost_types::Timestamp>) -> Result<SystemTime, Senseless> {
    time.and_then(|time| time.try_into().ok()).ok_or(Senseless("a time"))
}

/// Beyond what the wire can say: 584 years are enough.
fn write_duration(duration: Duration) -> prost_types::Duration {
    duration.try_into().unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

fn read_duration(duration: Option<prost_types::Duration>) -> Result<Duration, Senseless> {
    duration.and_then(|duration| duration.try_into().ok()).ok_or(Senseless("a duration"))
}
