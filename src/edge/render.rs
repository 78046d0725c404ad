//! What the program says, in the words of the public protocol.

use std::time::{Duration, Instant, SystemTime};

use prost_types::Timestamp;

use super::json;
use crate::{
    external::{Protocol, SourceStatus},
    pb::toolexecutor as pb,
    scheduler::{ContainerState, ContainerStatus, PoolStatus},
    tool::{
        self, Attribution, CallResult, Evidence, Executed, Fault, Location, Outcome, Reason, Route, Stream, Timings,
        job::{Exit, Usage},
        limit::SlotLimit,
    },
    trajectory::{Listed, Notice, Output, OutputStream, ReleaseCause, Response},
};

/// The service's bounds, as every `opened` states them.
#[derive(Debug, Clone)]
pub struct PublicLimits {
    pub max_calls_in_flight: u32,
    pub max_request_bytes: u32,
    pub max_timeout: Duration,
    pub max_kept_results: u32,
    pub max_kept_result_bytes: u64,
    pub max_output_bytes: u32,
    pub max_pending_input_bytes: u32,
    pub max_call_bytes_in_flight: u64,
}

pub(super) fn response(response: Response, trajectory_id: &str, limits: &PublicLimits) -> pb::TrajectoryResponse {
    use pb::trajectory_response::Message;
    let message = match response {
        Response::Opened(opened) => Message::Opened(pb::Opened {
            trajectory_id: trajectory_id.to_owned(),
            resumed: opened.resumed,
            generation: opened.generation.0,
            lease: Some(duration(opened.lease)),
            limits: Some(pb::Limits {
                max_calls_in_flight: limits.max_calls_in_flight,
                max_request_bytes: limits.max_request_bytes,
                max_timeout: Some(duration(limits.max_timeout)),
                max_kept_results: limits.max_kept_results,
                max_kept_result_bytes: limits.max_kept_result_bytes,
                max_output_bytes: limits.max_output_bytes,
                max_pending_input_bytes: limits.max_pending_input_bytes,
                max_call_bytes_in_flight: limits.max_call_bytes_in_flight,
            }),
            oldest_sequence: opened.oldest_sequence.0,
        }),
        Response::Output(output) => {
            let Output { call, stream, offset, data } = *output;
            let stream = match stream {
                OutputStream::Stdout => pb::OutputStream::Stdout,
                OutputStream::Stderr => pb::OutputStream::Stderr,
                OutputStream::Terminal => pb::OutputStream::Terminal,
            };
            Message::Output(pb::Output { call_id: call.to_string(), stream: stream.into(), offset, data })
        }
        Response::Result { result, replayed } => Message::Result(call_result(&result, replayed)),
        Response::Notice(notice) => Message::Notice(pb::Notice { event: Some(notice_event(notice)) }),
        Response::WorkspaceReset(generation) => {
            Message::WorkspaceReset(pb::WorkspaceReset { generation: generation.0 })
        }
        Response::Released(cause) => {
            let cause = match cause {
                ReleaseCause::Client => pb::ReleaseCause::Client,
                ReleaseCause::CancelledByLabel => pb::ReleaseCause::CancelledByLabel,
                ReleaseCause::Drained => pb::ReleaseCause::Drained,
            };
            Message::Released(pb::Released { cause: cause.into() })
        }
    };
    pb::TrajectoryResponse { message: Some(message) }
}

fn notice_event(notice: Notice) -> pb::notice::Event {
    use pb::notice::Event;
    match notice {
        Notice::WaitingForSlot { position, reason } => {
            Event::WaitingForSlot(pb::WaitingForSlot { position, reason: reason.unwrap_or_default() })
        }
        Notice::SlotAssigned { generation, location: place, isolation } => Event::SlotAssigned(pb::SlotAssigned {
            generation: generation.0,
            location: Some(location(&place)),
            isolation: isolation.to_string(),
        }),
        Notice::SandboxLost { generation, evidence: known } => {
            Event::SandboxLost(pb::SandboxLost { generation: generation.0, evidence: Some(evidence(&known)) })
        }
        Notice::SandboxDraining { location: place, cause } => {
            Event::SandboxDraining(pb::SandboxDraining { location: Some(location(&place)), cause })
        }
        Notice::Draining { remaining } => {
            Event::Draining(pb::Draining { deadline: Some(timestamp(SystemTime::now() + remaining)) })
        }
        Notice::TakenOver => Event::TakenOver(pb::TakenOver {}),
    }
}

pub(super) fn call_result(result: &CallResult, replayed: bool) -> pb::CallResult {
    pb::CallResult {
        call_id: result.call_id.to_string(),
        sequence: result.sequence.0,
        generation: result.generation.0,
        outcome: outcome(result.outcome).into(),
        reason: result.reason.map_or(pb::Reason::Unspecified, reason).into(),
        executed: executed(result.executed).into(),
        attribution: result.attribution.map_or(pb::Attribution::Unspecified, attribution).into(),
        success: result.outcome == Outcome::Succeeded,
        output: result.output.clone(),
        error: result.error.clone(),
        stdout: result.stdout.as_ref().map(stream),
        stderr: result.stderr.as_ref().map(stream),
        exit: result.exit.map(|exit| match exit {
            Exit::Code(code) => pb::call_result::Exit::ExitCode(code),
            Exit::Signal(signal) => pb::call_result::Exit::Signal(signal),
        }),
        fault: result.fault.as_ref().map(fault),
        timings: Some(timings(&result.timings)),
        usage: result.usage.map(usage),
        metadata: Some(json::fields(result.metadata.iter())),
        replayed,
    }
}

fn stream(stream: &Stream) -> pb::CapturedStream {
    match stream {
        Stream::Counted { total, truncated } => {
            pb::CapturedStream { data: Default::default(), total_bytes: *total, truncated: *truncated }
        }
        Stream::Whole(captured) => {
            let data = match (captured.head.is_empty(), captured.tail.is_empty()) {
                (_, true) => captured.head.clone(),
                (true, false) => captured.tail.clone(),
                (false, false) => [&captured.head[..], &captured.tail[..]].concat().into(),
            };
            pb::CapturedStream { data, total_bytes: captured.total, truncated: captured.truncated() }
        }
    }
}

fn outcome(outcome: Outcome) -> pb::Outcome {
    match outcome {
        Outcome::Succeeded => pb::Outcome::Succeeded,
        Outcome::Failed => pb::Outcome::Failed,
        Outcome::TimedOut => pb::Outcome::TimedOut,
        Outcome::Cancelled => pb::Outcome::Cancelled,
        Outcome::OutOfMemory => pb::Outcome::OutOfMemory,
        Outcome::LimitExceeded => pb::Outcome::LimitExceeded,
        Outcome::Rejected => pb::Outcome::Rejected,
        Outcome::NoCapacity => pb::Outcome::NoCapacity,
        Outcome::SandboxLost => pb::Outcome::SandboxLost,
        Outcome::ExternalUnavailable => pb::Outcome::ExternalUnavailable,
        Outcome::Internal => pb::Outcome::Internal,
    }
}

fn reason(reason: Reason) -> pb::Reason {
    match reason {
        Reason::ExitStatus => pb::Reason::ExitStatus,
        Reason::Signalled => pb::Reason::Signalled,
        Reason::FileNotFound => pb::Reason::FileNotFound,
        Reason::NotAFile => pb::Reason::NotAFile,
        Reason::FileTooLarge => pb::Reason::FileTooLarge,
        Reason::PathOutsideWorkspace => pb::Reason::PathOutsideWorkspace,
        Reason::FileError => pb::Reason::FileError,
        Reason::TerminalState => pb::Reason::TerminalState,
        Reason::ExternalToolFailed => pb::Reason::ExternalToolFailed,
        Reason::InputLimit => pb::Reason::InputLimit,
        Reason::ProcessLimit => pb::Reason::ProcessLimit,
        Reason::DiskLimit => pb::Reason::DiskLimit,
        Reason::CpuLimit => pb::Reason::CpuLimit,
        Reason::MachineMemory => pb::Reason::MachineMemory,
        Reason::UnknownTool => pb::Reason::UnknownTool,
        Reason::InvalidArguments => pb::Reason::InvalidArguments,
        Reason::CallIdReused => pb::Reason::CallIdReused,
        Reason::ResultDropped => pb::Reason::ResultDropped,
        Reason::RequestTooLarge => pb::Reason::RequestTooLarge,
        Reason::QueueFull => pb::Reason::QueueFull,
        Reason::SlotTimeout => pb::Reason::SlotTimeout,
        Reason::ContainerStartFailed => pb::Reason::ContainerStartFailed,
        Reason::Draining => pb::Reason::Draining,
        Reason::ContainerLost => pb::Reason::ContainerLost,
        Reason::SlotLost => pb::Reason::SlotLost,
        Reason::WorkspaceGone => pb::Reason::WorkspaceGone,
        Reason::ToolServerUnreachable => pb::Reason::ToolServerUnreachable,
        Reason::ToolServerTimeout => pb::Reason::ToolServerTimeout,
        Reason::ToolServerProtocol => pb::Reason::ToolServerProtocol,
        Reason::CancelledByClient => pb::Reason::CancelledByClient,
        Reason::CancelledByLabel => pb::Reason::CancelledByLabel,
        Reason::Released => pb::Reason::Released,
        Reason::Drained => pb::Reason::Drained,
    }
}

fn executed(executed: Executed) -> pb::Executed {
    match executed {
        Executed::No => pb::Executed::No,
        Executed::Yes => pb::Executed::Yes,
        Executed::Unknown => pb::Executed::Unknown,
    }
}

fn attribution(attribution: Attribution) -> pb::Attribution {
    match attribution {
        Attribution::Model => pb::Attribution::Model,
        Attribution::Infrastructure => pb::Attribution::Infrastructure,
        Attribution::Client => pb::Attribution::Client,
    }
}

fn fault(fault: &Fault) -> pb::Fault {
    pb::Fault {
        retryable: fault.retryable,
        retry_after: fault.retry_after.map(duration),
        evidence: fault.evidence.as_deref().map(evidence),
    }
}

fn evidence(known: &Evidence) -> pb::Evidence {
    pb::Evidence {
        location: known.location.as_ref().map(location),
        cause: known.cause.clone(),
        events: known.events.clone(),
        stderr_tail: known.stderr_tail.clone(),
    }
}

fn location(location: &Location) -> pb::Location {
    pb::Location { container_id: location.container.to_string(), node: location.node.clone(), slot: location.slot }
}

fn timings(timings: &Timings) -> pb::Timings {
    pb::Timings {
        received_at: Some(timestamp(timings.received_at)),
        queued: Some(duration(timings.queued)),
        slot_wait: Some(duration(timings.slot_wait)),
        dispatch: Some(duration(timings.dispatch)),
        execution: Some(duration(timings.execution)),
        collection: Some(duration(timings.collection)),
        total: Some(duration(timings.total())),
    }
}

fn usage(usage: Usage) -> pb::Usage {
    pb::Usage {
        user_cpu: Some(duration(usage.user_cpu)),
        system_cpu: Some(duration(usage.system_cpu)),
        max_rss_bytes: usage.max_rss_bytes,
    }
}

pub(super) fn tool(info: tool::ToolInfo) -> pb::Tool {
    let route = match info.route {
        Route::Sandbox => pb::ToolRoute::Sandbox,
        Route::External => pb::ToolRoute::External,
    };
    pb::Tool {
        name: info.name,
        route: route.into(),
        toolsets: info.toolsets.into_iter().map(str::to_owned).collect(),
        schema_json: info.schema_json,
    }
}

pub(super) fn pool(pool: &PoolStatus) -> pb::PoolStatus {
    pb::PoolStatus {
        name: pool.name.to_string(),
        total_slots: pool.total_slots,
        available_slots: pool.available_slots,
        acquired_slots: pool.acquired_slots,
        starting_slots: pool.starting_slots,
        resetting_slots: pool.resetting_slots,
        quarantined_slots: pool.quarantined_slots,
        waiting_trajectories: pool.waiting_trajectories,
        min_containers: pool.min_containers,
        max_containers: pool.max_containers,
        containers: pool.containers.iter().map(container).collect(),
        last_start_failure: pool.last_start_failure.clone().unwrap_or_default(),
    }
}

pub(super) fn tool_source(source: SourceStatus) -> pb::ToolSourceStatus {
    let kind = match source.protocol {
        Protocol::ToolServer => pb::ToolSourceKind::ToolServer,
        Protocol::Mcp => pb::ToolSourceKind::Mcp,
    };
    let last_error_at = source.health.last_error.as_ref().map(|error| timestamp(error.at));
    pb::ToolSourceStatus {
        name: source.name.to_string(),
        kind: kind.into(),
        reachable: source.health.is_reachable,
        tools: count(source.health.tools),
        last_error: source.health.last_error.map(|error| error.cause).unwrap_or_default(),
        last_error_at,
    }
}

fn container(container: &ContainerStatus) -> pb::ContainerStatus {
    let state = match container.state {
        ContainerState::Starting => pb::ContainerState::Starting,
        ContainerState::Ready => pb::ContainerState::Ready,
        ContainerState::Draining => pb::ContainerState::Draining,
    };
    pb::ContainerStatus {
        container_id: container.id.as_ref().map(ToString::to_string).unwrap_or_default(),
        node: container.node.clone(),
        state: state.into(),
        isolation: container.isolation.clone(),
        total_slots: container.total_slots,
        available_slots: container.available_slots,
        since: Some(timestamp(container.since)),
        limits: container.limits.iter().map(limit).collect(),
    }
}

fn limit(limit: &SlotLimit) -> pb::SlotLimit {
    let SlotLimit { name, value, mechanism } = limit.clone();
    pb::SlotLimit { name, value, mechanism }
}

pub(super) fn trajectory(listed: Listed) -> pb::TrajectoryStatus {
    let Listed { id, description } = listed;
    pb::TrajectoryStatus {
        trajectory_id: id.to_string(),
        labels: description.options.labels.clone().into_iter().collect(),
        attached: description.attached,
        generation: description.generation.0,
        location: description.location.as_ref().map(location),
        waiting_calls: count(description.waiting),
        running_calls: count(description.running),
        finished_calls: description.finished,
        opened_at: Some(timestamp(description.opened_at)),
        lease_ends_at: description.lease_ends.map(|at| timestamp(wall(at))),
    }
}

/// Counts of the protocol have 32 bits.
pub(super) fn count(number: impl TryInto<u32>) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}

/// What the calendar will say at a moment to come.
fn wall(at: Instant) -> SystemTime {
    SystemTime::now() + at.saturating_duration_since(Instant::now())
}

pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

pub(super) fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::from(at)
}
