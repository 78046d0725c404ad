//! Accepted calls in the words of the file, and back: with all that doing them takes.

use super::{
    codec::{
        Senseless, read_call_id, read_duration, read_hash, read_limits, read_time, write_duration, write_hash,
        write_limits,
    },
    record::{AcceptedCall, Errand},
};
use crate::{
    id::CallNumber,
    pb::journal as pb,
    tool::{
        ActionHash, ExternalCall, Kind,
        job::{Job, Order, Process, Program},
        session::Request,
    },
};

pub(super) fn write_accepted(call: &AcceptedCall) -> pb::Accepted {
    let accepted = pb::Accepted {
        call_id: call.id.to_string(),
        number: call.number.0,
        action: write_hash(call.action.0),
        concurrent: call.concurrent,
        received_at: Some(call.received_at.into()),
        ..pb::Accepted::default()
    };
    match &call.errand {
        Errand::Slot { kind, order } => pb::Accepted {
            kind: Some(write_kind(kind)),
            job: Some(write_job(&order.job)),
            timeout: Some(write_duration(order.timeout)),
            limits: Some(write_limits(order.limits)),
            stream_output: order.stream_output,
            max_pending_input: order.max_pending_input,
            ..accepted
        },
        Errand::External { call, timeout } => {
            let ExternalCall { source, tool, arguments } = call.clone();
            let external = pb::External { source: source.to_string(), tool, arguments };
            let job = Some(pb::accepted::Job::External(external));
            pb::Accepted { job, timeout: Some(write_duration(*timeout)), ..accepted }
        }
    }
}

fn write_kind(kind: &Kind) -> pb::Kind {
    let kind = match kind {
        Kind::Shell => pb::kind::Kind::Shell(pb::Nothing {}),
        Kind::ReadFile { path } => pb::kind::Kind::ReadFile(path.clone()),
        Kind::WriteFile { path } => pb::kind::Kind::WriteFile(path.clone()),
        Kind::Command => pb::kind::Kind::Command(pb::Nothing {}),
        Kind::Session => pb::kind::Kind::Session(pb::Nothing {}),
    };
    pb::Kind { kind: Some(kind) }
}

fn write_job(job: &Job) -> pb::accepted::Job {
    match job {
        Job::Process(process) => pb::accepted::Job::Process(write_process(process)),
        Job::ReadFile { path, max_bytes } => {
            pb::accepted::Job::ReadFile(pb::ReadFile { path: path.clone(), max_bytes: *max_bytes })
        }
        Job::WriteFile { path, content } => {
            pb::accepted::Job::WriteFile(pb::WriteFile { path: path.clone(), content: content.clone() })
        }
        Job::Session(request) => pb::accepted::Job::Session(request.to_json()),
    }
}

pub(super) fn read_accepted(call: pb::Accepted) -> Result<AcceptedCall, Senseless> {
    let timeout = read_duration(call.timeout)?;
    let slot = |job| -> Result<Errand, Senseless> {
        let kind = match call.kind.and_then(|kind| kind.kind).ok_or(Senseless("a kind"))? {
            pb::kind::Kind::Shell(_) => Kind::Shell,
            pb::kind::Kind::ReadFile(path) => Kind::ReadFile { path },
            pb::kind::Kind::WriteFile(path) => Kind::WriteFile { path },
            pb::kind::Kind::Command(_) => Kind::Command,
            pb::kind::Kind::Session(_) => Kind::Session,
        };
        let limits = read_limits(call.limits)?;
        let (stream_output, max_pending_input) = (call.stream_output, call.max_pending_input);
        Ok(Errand::Slot { kind, order: Order { job, timeout, limits, stream_output, max_pending_input } })
    };
    let errand = match call.job.ok_or(Senseless("a job"))? {
        pb::accepted::Job::Process(process) => slot(Job::Process(read_process(process)?))?,
        pb::accepted::Job::ReadFile(pb::ReadFile { path, max_bytes }) => slot(Job::ReadFile { path, max_bytes })?,
        pb::accepted::Job::WriteFile(pb::WriteFile { path, content }) => slot(Job::WriteFile { path, content })?,
        pb::accepted::Job::Session(json) => {
            slot(Job::Session(Request::from_json(&json).map_err(|_| Senseless("a session"))?))?
        }
        pb::accepted::Job::External(pb::External { source, tool, arguments }) => {
            Errand::External { call: ExternalCall { source: source.into(), tool, arguments }, timeout }
        }
    };
    Ok(AcceptedCall {
        id: read_call_id(&call.call_id)?,
        number: CallNumber(call.number),
        action: ActionHash(read_hash(&call.action)?),
        errand,
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
