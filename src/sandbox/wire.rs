//! Orders and endings in the words of the private protocol, and back.

pub(super) mod transfer;

use std::time::Duration;

use crate::{
    pb::{duration as pb_duration, sandbox as pb},
    tool::{
        Executed,
        job::{
            Captured, End, Ending, Exceeded, Exit, FileFailure, Job, LimitKind, Order, OutputLimits, Phases, Process,
            ProcessEnd, Program, StartFailure, Stop, Usage,
        },
        limit::SlotLimit,
        session,
    },
};

/// The other side said something that this build never says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is missing or makes no sense")]
pub(super) struct Senseless(&'static str);

pub(super) fn from_order(slot: u32, call: u64, order: Order) -> pb::RunCall {
    let job = match order.job {
        Job::Process(process) => pb::run_call::Job::Process(from_process(process)),
        Job::ReadFile { path, max_bytes } => pb::run_call::Job::ReadFile(pb::ReadFile { path, max_bytes }),
        Job::WriteFile { path, content } => pb::run_call::Job::WriteFile(pb::WriteFile { path, content }),
        Job::Session(request) => pb::run_call::Job::Session(request.to_json()),
    };
    pb::RunCall {
        slot,
        call,
        job: Some(job),
        timeout: Some(from_duration(order.timeout)),
        head_bytes: order.limits.head,
        tail_bytes: order.limits.tail,
        stream_output: order.stream_output,
        max_pending_input_bytes: order.max_pending_input,
    }
}

pub(super) fn to_order(run: pb::RunCall) -> Result<Order, Senseless> {
    let job = match run.job.ok_or(Senseless("a job"))? {
        pb::run_call::Job::Process(process) => Job::Process(to_process(process)?),
        pb::run_call::Job::ReadFile(pb::ReadFile { path, max_bytes }) => Job::ReadFile { path, max_bytes },
        pb::run_call::Job::WriteFile(pb::WriteFile { path, content }) => Job::WriteFile { path, content },
        pb::run_call::Job::Session(json) => {
            Job::Session(session::Request::from_json(&json).map_err(|_| Senseless("a session's request"))?)
        }
    };
    Ok(Order {
        job,
        timeout: to_duration(run.timeout)?,
        limits: OutputLimits { head: run.head_bytes, tail: run.tail_bytes },
        stream_output: run.stream_output,
        max_pending_input: run.max_pending_input_bytes,
    })
}

fn from_process(process: Process) -> pb::Process {
    let program = match process.program {
        Program::Shell(script) => pb::process::Program::Shell(script),
        Program::Argv(arguments) => pb::process::Program::Argv(pb::Argv { arguments }),
    };
    pb::Process {
        program: Some(program),
        working_directory: process.working_directory,
        environment: process.environment.into_iter().collect(),
        stdin: process.stdin,
        interactive: process.interactive,
    }
}

fn to_process(process: pb::Process) -> Result<Process, Senseless> {
    let program = match process.program.ok_or(Senseless("a program"))? {
        pb::process::Program::Shell(script) => Program::Shell(script),
        pb::process::Program::Argv(argv) => Program::Argv(argv.arguments),
    };
    Ok(Process {
        program,
        working_directory: process.working_directory,
        environment: process.environment.into_iter().collect(),
        stdin: process.stdin,
        interactive: process.interactive,
    })
}

pub(super) fn from_ending(slot: u32, call: u64, ending: Ending) -> pb::CallEnded {
    use pb::call_ended::End as Wire;
    let end = match ending.end {
        End::Process(end) => Wire::Process(from_process_end(end)),
        End::NotStarted { kind, message } => {
            Wire::StartFailure(pb::StartFailure { kind: from_start_failure(kind).into(), message })
        }
        End::Read(content) => Wire::Content(content),
        End::Wrote(bytes) => Wire::Written(bytes),
        End::FileFailed(failure) => Wire::FileFailure(from_file_failure(failure)),
        End::Told(told) => Wire::Told(told.to_json()),
        End::NotRun(cause) => Wire::NotRun(cause),
        End::CancelledEarly => Wire::CancelledEarly(pb::CancelledEarly {}),
        End::InputLimitEarly { max } => Wire::InputLimitEarly(pb::InputLimitEarly { max_bytes: max }),
        End::SlotLost { cause, ran } => Wire::SlotLost(pb::CallLost { cause, ran }),
        End::AgentFailed { cause, executed } => {
            Wire::AgentFailure(pb::AgentFailure { cause, executed: from_executed(executed).into() })
        }
    };
    let Phases { dispatch, execution, collection } = ending.phases;
    pb::CallEnded {
        slot,
        call,
        end: Some(end),
        dispatch: Some(from_duration(dispatch)),
        execution: Some(from_duration(execution)),
        collection: Some(from_duration(collection)),
    }
}

pub(super) fn to_ending(ended: pb::CallEnded) -> Result<Ending, Senseless> {
    use pb::call_ended::End as Wire;
    let end = match ended.end.ok_or(Senseless("an end"))? {
        Wire::Process(end) => End::Process(to_process_end(end)?),
        Wire::StartFailure(failure) => {
            End::NotStarted { kind: to_start_failure(failure.kind())?, message: failure.message }
        }
        Wire::Content(content) => End::Read(content),
        Wire::Written(bytes) => End::Wrote(bytes),
        Wire::FileFailure(failure) => End::FileFailed(to_file_failure(failure)?),
        Wire::Told(json) => End::Told(session::Told::from_json(&json).map_err(|_| Senseless("a session's answer"))?),
        Wire::NotRun(cause) => End::NotRun(cause),
        Wire::CancelledEarly(pb::CancelledEarly {}) => End::CancelledEarly,
        Wire::InputLimitEarly(pb::InputLimitEarly { max_bytes }) => End::InputLimitEarly { max: max_bytes },
        Wire::SlotLost(pb::CallLost { cause, ran }) => End::SlotLost { cause, ran },
        Wire::AgentFailure(failure) => {
            End::AgentFailed { executed: to_executed(failure.executed()), cause: failure.cause }
        }
    };
    let phases = Phases {
        dispatch: to_duration(ended.dispatch)?,
        execution: to_duration(ended.execution)?,
        collection: to_duration(ended.collection)?,
    };
    Ok(Ending { end, phases })
}

fn from_process_end(end: ProcessEnd) -> pb::ProcessEnd {
    let stop = match end.stop {
        None => pb::StopCause::Unspecified,
        Some(Stop::TimedOut) => pb::StopCause::TimedOut,
        Some(Stop::Cancelled) => pb::StopCause::Cancelled,
        Some(Stop::InputLimit) => pb::StopCause::InputLimit,
        Some(Stop::Exceeded) => pb::StopCause::Exceeded,
    };
    pb::ProcessEnd {
        exit: Some(match end.exit {
            Exit::Code(code) => pb::process_end::Exit::ExitCode(code),
            Exit::Signal(signal) => pb::process_end::Exit::Signal(signal),
        }),
        stop: stop.into(),
        stdout: Some(from_captured(end.stdout)),
        stderr: Some(from_captured(end.stderr)),
        user_cpu: end.usage.map(|usage| from_duration(usage.user_cpu)),
        system_cpu: end.usage.map(|usage| from_duration(usage.system_cpu)),
        max_rss_bytes: end.usage.and_then(|usage| usage.max_rss_bytes),
        exceeded: end.exceeded.map(|exceeded| from_exceeded(*exceeded)),
    }
}

fn to_process_end(end: pb::ProcessEnd) -> Result<ProcessEnd, Senseless> {
    let stop = match end.stop() {
        pb::StopCause::Unspecified => None,
        pb::StopCause::TimedOut => Some(Stop::TimedOut),
        pb::StopCause::Cancelled => Some(Stop::Cancelled),
        pb::StopCause::InputLimit => Some(Stop::InputLimit),
        pb::StopCause::Exceeded => Some(Stop::Exceeded),
    };
    let usage = |user_cpu, system_cpu, max_rss_bytes| -> Result<Usage, Senseless> {
        let [user_cpu, system_cpu] = [to_duration(user_cpu)?, to_duration(system_cpu)?];
        Ok(Usage { user_cpu, system_cpu, max_rss_bytes })
    };
    Ok(ProcessEnd {
        exit: match end.exit.ok_or(Senseless("an exit"))? {
            pb::process_end::Exit::ExitCode(code) => Exit::Code(code),
            pb::process_end::Exit::Signal(signal) => Exit::Signal(signal),
        },
        stop,
        stdout: to_captured(end.stdout),
        stderr: to_captured(end.stderr),
        usage: match end.user_cpu {
            Some(_) => Some(usage(end.user_cpu, end.system_cpu, end.max_rss_bytes)?),
            None => None,
        },
        exceeded: end.exceeded.map(to_exceeded).transpose()?.map(Box::new),
    })
}

fn from_exceeded(exceeded: Exceeded) -> pb::Exceeded {
    let kind = match exceeded.kind {
        LimitKind::Memory => pb::LimitKind::Memory,
        LimitKind::MachineMemory => pb::LimitKind::MachineMemory,
        LimitKind::Processes => pb::LimitKind::Processes,
        LimitKind::Disk => pb::LimitKind::Disk,
        LimitKind::Cpu => pb::LimitKind::Cpu,
    };
    let Exceeded { setting, value, evidence, .. } = exceeded;
    pb::Exceeded { kind: kind.into(), setting, value, evidence }
}

fn to_exceeded(exceeded: pb::Exceeded) -> Result<Exceeded, Senseless> {
    let kind = match exceeded.kind() {
        pb::LimitKind::Unspecified => return Err(Senseless("the kind of a limit")),
        pb::LimitKind::Memory => LimitKind::Memory,
        pb::LimitKind::MachineMemory => LimitKind::MachineMemory,
        pb::LimitKind::Processes => LimitKind::Processes,
        pb::LimitKind::Disk => LimitKind::Disk,
        pb::LimitKind::Cpu => LimitKind::Cpu,
    };
    let pb::Exceeded { setting, value, evidence, .. } = exceeded;
    Ok(Exceeded { kind, setting, value, evidence })
}

/// What an agent holds its slots to.
pub(super) fn from_limits(limits: &[SlotLimit]) -> Vec<pb::SlotLimit> {
    let one = |limit: SlotLimit| pb::SlotLimit { name: limit.name, value: limit.value, mechanism: limit.mechanism };
    limits.iter().cloned().map(one).collect()
}

pub(super) fn to_limits(limits: Vec<pb::SlotLimit>) -> Vec<SlotLimit> {
    let one = |limit: pb::SlotLimit| SlotLimit { name: limit.name, value: limit.value, mechanism: limit.mechanism };
    limits.into_iter().map(one).collect()
}

fn from_captured(captured: Captured) -> pb::Captured {
    pb::Captured { head: captured.head, tail: captured.tail, total_bytes: captured.total }
}

/// A stream that nothing was written to may be left out.
fn to_captured(captured: Option<pb::Captured>) -> Captured {
    let captured = captured.unwrap_or_default();
    Captured { head: captured.head, tail: captured.tail, total: captured.total_bytes }
}

fn from_executed(executed: Executed) -> pb::Executed {
    match executed {
        Executed::No => pb::Executed::No,
        Executed::Yes => pb::Executed::Yes,
        Executed::Unknown => pb::Executed::Unspecified,
    }
}

fn to_executed(executed: pb::Executed) -> Executed {
    match executed {
        pb::Executed::No => Executed::No,
        pb::Executed::Yes => Executed::Yes,
        pb::Executed::Unspecified => Executed::Unknown,
    }
}

fn from_start_failure(kind: StartFailure) -> pb::StartFailureKind {
    match kind {
        StartFailure::NotFound => pb::StartFailureKind::NotFound,
        StartFailure::OutsideWorkspace => pb::StartFailureKind::OutsideWorkspace,
        StartFailure::Refused => pb::StartFailureKind::Refused,
        StartFailure::TooLarge => pb::StartFailureKind::TooLarge,
    }
}

fn to_start_failure(kind: pb::StartFailureKind) -> Result<StartFailure, Senseless> {
    match kind {
        pb::StartFailureKind::Unspecified => Err(Senseless("the kind of a failed start")),
        pb::StartFailureKind::NotFound => Ok(StartFailure::NotFound),
        pb::StartFailureKind::OutsideWorkspace => Ok(StartFailure::OutsideWorkspace),
        pb::StartFailureKind::Refused => Ok(StartFailure::Refused),
        pb::StartFailureKind::TooLarge => Ok(StartFailure::TooLarge),
    }
}

fn from_file_failure(failure: FileFailure) -> pb::FileFailure {
    let (kind, size, message) = match failure {
        FileFailure::NotFound => (pb::FileFailureKind::NotFound, 0, String::new()),
        FileFailure::NotAFile => (pb::FileFailureKind::NotAFile, 0, String::new()),
        FileFailure::TooLarge { size } => (pb::FileFailureKind::TooLarge, size, String::new()),
        FileFailure::OutsideWorkspace => (pb::FileFailureKind::OutsideWorkspace, 0, String::new()),
        FileFailure::Other(message) => (pb::FileFailureKind::Other, 0, message),
    };
    pb::FileFailure { kind: kind.into(), size, message }
}

fn to_file_failure(failure: pb::FileFailure) -> Result<FileFailure, Senseless> {
    match failure.kind() {
        pb::FileFailureKind::Unspecified => Err(Senseless("the kind of a file's failure")),
        pb::FileFailureKind::NotFound => Ok(FileFailure::NotFound),
        pb::FileFailureKind::NotAFile => Ok(FileFailure::NotAFile),
        pb::FileFailureKind::TooLarge => Ok(FileFailure::TooLarge { size: failure.size }),
        pb::FileFailureKind::OutsideWorkspace => Ok(FileFailure::OutsideWorkspace),
        pb::FileFailureKind::Other => Ok(FileFailure::Other(failure.message)),
    }
}

fn from_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// One that is left out is none.
fn to_duration(duration: Option<prost_types::Duration>) -> Result<Duration, Senseless> {
    pb_duration(duration.unwrap_or_default()).ok_or(Senseless("a duration"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_the_way() {
        let process = Process {
            program: Program::Argv(vec!["a".to_owned(), "b".to_owned()]),
            working_directory: "dir".to_owned(),
            environment: vec![("A".to_owned(), "b".to_owned())],
            stdin: "input".into(),
            interactive: true,
        };
        for job in [
            Job::Process(process),
            Job::Process(Process { program: Program::Shell("true".to_owned()), ..Process::default() }),
            Job::ReadFile { path: "p".to_owned(), max_bytes: 7 },
            Job::WriteFile { path: "p".to_owned(), content: "c".into() },
            Job::Session(session::Request::Background { command: "a".to_owned() }),
        ] {
            let order = Order {
                job,
                timeout: Duration::from_millis(1500),
                limits: OutputLimits { head: 3, tail: 4 },
                stream_output: true,
                max_pending_input: 5,
            };
            assert_eq!(to_order(from_order(1, 2, order.clone())), Ok(order));
        }
        assert!(to_order(pb::RunCall::default()).is_err());
    }

    #[test]
    fn endings_survive_the_way() {
        let phases = Phases {
            dispatch: Duration::from_nanos(1),
            execution: Duration::from_nanos(2),
            collection: Duration::from_nanos(3),
        };
        let process = |exit, stop| {
            let stdout = Captured { head: "h".into(), tail: "t".into(), total: 9 };
            let usage =
                Usage { user_cpu: Duration::from_micros(5), system_cpu: Duration::ZERO, max_rss_bytes: Some(6) };
            End::Process(ProcessEnd {
                exit,
                stop,
                stdout,
                stderr: Captured::default(),
                usage: Some(usage),
                exceeded: None,
            })
        };
        let over = |kind| match process(Exit::Signal(9), Some(Stop::Exceeded)) {
            End::Process(end) => {
                let text = |text: &str| text.to_owned();
                let exceeded = Exceeded { kind, setting: text("s"), value: text("v"), evidence: text("e") };
                End::Process(ProcessEnd { exceeded: Some(exceeded.into()), ..end })
            }
            other => other,
        };
        let message = || "why".to_owned();
        let mut ends = vec![
            process(Exit::Code(0), None),
            process(Exit::Signal(9), Some(Stop::TimedOut)),
            process(Exit::Code(1), Some(Stop::Cancelled)),
            process(Exit::Code(1), Some(Stop::InputLimit)),
            End::Read("c".into()),
            End::Wrote(4),
            End::Told(session::Told::new("said").with("id", 1)),
            End::Told(session::Told::failed("why")),
            End::NotRun(message()),
            End::CancelledEarly,
            End::InputLimitEarly { max: 7 },
            End::SlotLost { cause: message(), ran: true },
            End::AgentFailed { cause: message(), executed: Executed::No },
            End::AgentFailed { cause: message(), executed: Executed::Yes },
            End::AgentFailed { cause: message(), executed: Executed::Unknown },
        ];
        use LimitKind::{Cpu, Disk, MachineMemory, Memory, Processes};
        ends.extend([Memory, MachineMemory, Processes, Disk, Cpu].map(over));
        ends.extend(
            [StartFailure::NotFound, StartFailure::OutsideWorkspace, StartFailure::Refused, StartFailure::TooLarge]
                .map(|kind| End::NotStarted { kind, message: message() }),
        );
        ends.extend(
            [
                FileFailure::NotFound,
                FileFailure::NotAFile,
                FileFailure::TooLarge { size: 3 },
                FileFailure::OutsideWorkspace,
                FileFailure::Other(message()),
            ]
            .map(End::FileFailed),
        );
        for end in ends {
            let ending = Ending { end, phases };
            assert_eq!(to_ending(from_ending(1, 2, ending.clone())), Ok(ending));
        }
        assert!(to_ending(pb::CallEnded::default()).is_err());
    }
}
