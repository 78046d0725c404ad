//! From how an order ended in its slot to what is answered: outcome, texts, streams and metadata.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Executed, Kind, MAX_FILE_BYTES, Metadata, Outcome, Reason, Stream, Verdict,
    job::{Captured, End, Exceeded, Exit, FileFailure, LimitKind, ProcessEnd, StartFailure, Stop},
    session,
    text::{self, MAX_CAPTURED_BYTES},
    verdict::seconds,
};

/// What the trajectory knows of a call beside how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Circumstances<'a> {
    /// The execution timeout that the call had.
    pub timeout: Duration,
    /// The name of the slot's level of isolation.
    pub isolation: &'a str,
    pub network_isolated: bool,
    /// Why the trajectory cancelled it, if it did.
    pub cancelled: CancelCause,
}

/// Why a call was cancelled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CancelCause {
    /// The client asked, by a cancel or a reset.
    #[default]
    Client,
    /// The client asked, by the labels of the trajectory.
    Label,
    /// The trajectory was released.
    Released,
    /// The service ends.
    Drained,
}

impl CancelCause {
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::Client => Reason::CancelledByClient,
            Self::Label => Reason::CancelledByLabel,
            Self::Released => Reason::Released,
            Self::Drained => Reason::Drained,
        }
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Client => "Cancelled",
            Self::Label => "Cancelled, with all that has its labels",
            Self::Released => "Cancelled: the trajectory was released",
            Self::Drained => "Cancelled: the service ends",
        }
    }
}

/// What is answered to a call that ended so in its slot.
pub fn judge(kind: &Kind, end: End, about: &Circumstances<'_>) -> Verdict {
    let verdict = match (end, kind) {
        (End::Process(end), Kind::Shell | Kind::Command | Kind::Session) => return process(kind, end, about),
        (End::Process(_), Kind::ReadFile { .. } | Kind::WriteFile { .. }) => mismatch("a process"),

        (End::Read(content), Kind::ReadFile { path }) => read(path, &content),
        (End::Read(_), _) => mismatch("a file's content"),
        (End::Wrote(bytes), Kind::WriteFile { path }) => wrote(path, bytes),
        (End::Wrote(_), _) => mismatch("a written file"),
        (End::FileFailed(failure), Kind::ReadFile { path }) => file_failed(kind, path, "read", failure),
        (End::FileFailed(failure), Kind::WriteFile { path }) => file_failed(kind, path, "write", failure),
        (End::FileFailed(_), Kind::Shell | Kind::Command | Kind::Session) => mismatch("a file's failure"),

        (End::Told(told), Kind::Session) => say(told),
        (End::Told(_), _) => mismatch("a session's words"),

        (End::NotStarted { kind: failure, message }, Kind::Shell | Kind::Command | Kind::Session) => {
            not_started(kind, failure, &message)
        }
        (End::NotStarted { .. }, Kind::ReadFile { .. } | Kind::WriteFile { .. }) => mismatch("a process"),

        (End::NotRun(cause), _) => Verdict::slot_lost(Executed::No, &cause),
        (End::SlotLost { cause, ran: true }, _) => Verdict::slot_lost(Executed::Yes, &cause),
        (End::SlotLost { cause, ran: false }, _) => Verdict::slot_lost(Executed::Unknown, &cause),
        (End::AgentFailed { cause, executed }, _) => Verdict::internal(executed, &cause),
        (End::CancelledEarly, _) => Verdict::cancelled(about.cancelled, Executed::No),
        (End::InputLimitEarly { max }, _) => Verdict::input_limit_waiting(max, kind.chooser()),
    };
    isolated(verdict, about)
}

fn isolated(verdict: Verdict, about: &Circumstances<'_>) -> Verdict {
    Verdict { metadata: with_isolation(verdict.metadata.with("sandboxed", true), about), ..verdict }
}

fn with_isolation(metadata: Metadata, about: &Circumstances<'_>) -> Metadata {
    metadata.with("isolation", about.isolation)
}

/// The agent answered something else than it was asked.
fn mismatch(what: &str) -> Verdict {
    Verdict::internal(Executed::Unknown, &format!("the sandbox answered with {what}, which was not asked for"))
}

fn process(kind: &Kind, end: ProcessEnd, about: &Circumstances<'_>) -> Verdict {
    let chooser = kind.chooser();
    let code = match end.exit {
        Exit::Code(code) => code,
        // As a shell says it.
        Exit::Signal(signal) => signal.saturating_add(128),
    };
    // Whoever stopped it for something else has ended it.
    let exceeded = end.exceeded.filter(|_| matches!(end.stop, None | Some(Stop::Exceeded)));
    let verdict = match end.stop {
        None | Some(Stop::Exceeded) if let Some(exceeded) = &exceeded => over_limit(exceeded, chooser),
        None if end.exit == Exit::Code(0) => Verdict::new(Outcome::Succeeded, None, Executed::Yes, chooser),
        None => {
            let reason = match end.exit {
                Exit::Code(_) => Reason::ExitStatus,
                Exit::Signal(_) => Reason::Signalled,
            };
            Verdict::new(Outcome::Failed, Some(reason), Executed::Yes, chooser)
                .with_error(&format!("Exit code: {code}"))
        }
        Some(Stop::TimedOut) => Verdict::new(Outcome::TimedOut, None, Executed::Yes, chooser)
            .with_error(&format!("Command timed out after {}", seconds(about.timeout))),
        Some(Stop::Cancelled) => Verdict::cancelled(about.cancelled, Executed::Yes),
        Some(Stop::InputLimit) => {
            Verdict::new(Outcome::LimitExceeded, Some(Reason::InputLimit), Executed::Yes, chooser)
                .with_error("More input was sent than the process read")
        }
        Some(Stop::Exceeded) => return isolated(mismatch("a process that was stopped for no limit"), about),
    };
    // A process that was stopped has no exit code of its own.
    let metadata = Metadata::default().with("exit_code", if end.stop.is_some() { -1 } else { code });
    let metadata = match end.stop {
        Some(Stop::TimedOut) => metadata.with("timeout", true),
        Some(Stop::Cancelled) => metadata.with("cancelled", true),
        Some(Stop::InputLimit | Stop::Exceeded) | None => metadata,
    };
    let named = exceeded.iter().flat_map(|exceeded| exceeded.named());
    let metadata = named.fold(metadata, |all, (name, value)| all.with(name, value));
    let metadata = metadata.with("sandboxed", true).with("network_isolated", about.network_isolated);

    let (output, stdout, stderr) = streams(kind, end.stdout, end.stderr);
    Verdict {
        output,
        stdout: Some(stdout),
        stderr: Some(stderr),
        exit: Some(end.exit),
        usage: end.usage,
        metadata: with_isolation(metadata, about),
        ..verdict
    }
}

/// A call that ran into a limit: which, and where it stands, are told whoever set it.
fn over_limit(exceeded: &Exceeded, chooser: super::Chooser) -> Verdict {
    let (outcome, reason) = match exceeded.kind {
        LimitKind::Memory => (Outcome::OutOfMemory, None),
        LimitKind::MachineMemory => (Outcome::OutOfMemory, Some(Reason::MachineMemory)),
        LimitKind::Processes => (Outcome::LimitExceeded, Some(Reason::ProcessLimit)),
        LimitKind::Disk => (Outcome::LimitExceeded, Some(Reason::DiskLimit)),
        LimitKind::Cpu => (Outcome::LimitExceeded, Some(Reason::CpuLimit)),
    };
    Verdict::new(outcome, reason, Executed::Yes, chooser).with_error(&exceeded.to_string())
}

/// A tool's streams are merged into text for the model; a command's are handed on as bytes.
fn streams(kind: &Kind, stdout: Captured, stderr: Captured) -> (String, Stream, Stream) {
    if *kind == Kind::Command {
        return (String::new(), Stream::Whole(bounded(stdout)), Stream::Whole(bounded(stderr)));
    }
    let ((out, out_cut), (err, err_cut)) = (text::stream(&stdout), text::stream(&stderr));
    (
        text::merged(&out, &err),
        Stream::Counted { total: stdout.total, truncated: out_cut },
        Stream::Counted { total: stderr.total, truncated: err_cut },
    )
}

/// Holds a stream to what a result may have, whatever the agent sent.
fn bounded(captured: Captured) -> Captured {
    let tail_start = captured.tail.len().saturating_sub(MAX_CAPTURED_BYTES / 2);
    let tail = captured.tail.slice(tail_start..);
    let head = captured.head.slice(..captured.head.len().min(MAX_CAPTURED_BYTES - tail.len()));
    Captured { head, tail, total: captured.total }
}

fn not_started(kind: &Kind, failure: StartFailure, message: &str) -> Verdict {
    let failed = |reason, error: &str| {
        Verdict::new(Outcome::Failed, Some(reason), Executed::Yes, kind.chooser()).with_error(error)
    };
    match failure {
        // A tool runs /bin/sh in the workspace, and chose neither.
        StartFailure::NotFound | StartFailure::OutsideWorkspace if matches!(kind, Kind::Shell | Kind::Session) => {
            Verdict::internal(Executed::No, &format!("the shell could not be started: {message}"))
        }
        StartFailure::NotFound => failed(Reason::FileNotFound, &format!("Could not be started: {message}")),
        StartFailure::OutsideWorkspace => failed(Reason::PathOutsideWorkspace, "Access denied: path outside workspace"),
        StartFailure::Refused => failed(Reason::FileError, &format!("Could not be started: {message}")),
        StartFailure::TooLarge => {
            failed(Reason::RequestTooLarge, "Arguments and environment are larger than the kernel takes")
        }
    }
}

fn read(path: &str, content: &Bytes) -> Verdict {
    // The agent was told the bound; a result must be held to it all the same.
    let content = content.slice(..content.len().min(MAX_FILE_BYTES));
    Verdict {
        output: text::decode(&content),
        metadata: file_metadata(path, content.len() as u64),
        ..Verdict::new(Outcome::Succeeded, None, Executed::Yes, super::Chooser::Model)
    }
}

fn wrote(path: &str, bytes: u64) -> Verdict {
    Verdict {
        output: format!("Successfully wrote {bytes} bytes to {path}"),
        metadata: file_metadata(path, bytes),
        ..Verdict::new(Outcome::Succeeded, None, Executed::Yes, super::Chooser::Model)
    }
}

/// What a session says is held to the bounds of a result, whatever the agent sent.
fn say(told: session::Told) -> Verdict {
    let session::Told { output, error, exceeded, metadata } = told;
    let chooser = super::Chooser::Model;
    let verdict = if let Some(exceeded) = &exceeded {
        over_limit(exceeded, chooser)
    } else if error.is_empty() {
        Verdict::new(Outcome::Succeeded, None, Executed::Yes, chooser)
    } else {
        Verdict::new(Outcome::Failed, Some(Reason::TerminalState), Executed::Yes, chooser).with_error(&error)
    };
    let metadata = metadata.into_iter().fold(Metadata::default(), |all, (name, value)| all.with(name, value));
    Verdict { output: text::bounded(&output).0, metadata, ..verdict }
}

fn file_metadata(path: &str, size: u64) -> Metadata {
    Metadata::default().with("path", seen_path(path)).with("size", size)
}

fn file_failed(kind: &Kind, path: &str, doing: &str, failure: FileFailure) -> Verdict {
    let (reason, error) = match failure {
        FileFailure::NotFound => (Reason::FileNotFound, format!("File not found: {path}")),
        FileFailure::NotAFile => (Reason::NotAFile, format!("Not a file: {path}")),
        FileFailure::TooLarge { size } => {
            (Reason::FileTooLarge, format!("File too large: {size} bytes (max {MAX_FILE_BYTES})"))
        }
        FileFailure::OutsideWorkspace => {
            (Reason::PathOutsideWorkspace, "Access denied: path outside workspace".to_owned())
        }
        FileFailure::Other(message) => {
            (Reason::FileError, format!("Failed to {doing} file: {}: '{}'", os_error(&message), seen_path(path)))
        }
    };
    Verdict::new(Outcome::Failed, Some(reason), Executed::Yes, kind.chooser()).with_error(&error)
}

/// `File name too long (os error 36)` in the old system's form, `[Errno 36] File name too long`.
fn os_error(message: &str) -> String {
    let parts = message.strip_suffix(')').and_then(|message| message.rsplit_once(" (os error "));
    match parts {
        Some((words, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("[Errno {number}] {words}")
        }
        _ => message.to_owned(),
    }
}

/// A path as a process in the slot would name it: absolute, without `.`, `..` and doubled slashes. Links are not
/// followed: they are the slot's.
fn seen_path(path: &str) -> String {
    let mut parts: Vec<&str> = if path.starts_with('/') { vec![] } else { vec!["workspace"] };
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests;
