//! What an ending means: outcome, texts and metadata, in the old system's words where it had any.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value, json};

use super::{
    Evidence, Executed, Kind, MAX_FILE_BYTES, Outcome, Reason, Stream, Verdict,
    job::{Captured, End, Exit, FileFailure, ProcessEnd, StartFailure, Stop},
    text,
};

/// What is known beside the ending itself.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// The level of isolation that the slot has.
    pub isolation: &'a str,
    pub network_isolated: bool,
    /// The call's own, as it was given to the slot.
    pub timeout: Duration,
    /// Why the executor cancelled it, if it did: CANCELLED_BY_CLIENT, RELEASED or DRAINED.
    pub cancelled: Option<Reason>,
}

/// Judges the end of an action that was handed to a slot.
pub fn judge(kind: &Kind, end: End, circumstances: Circumstances<'_>) -> Verdict {
    let chooser = kind.chooser();
    let failed = |reason, error: &str| Verdict::new(Outcome::Failed, Some(reason), Executed::Yes, chooser, error);
    let cancelled = circumstances.cancelled.unwrap_or(Reason::CancelledByClient);
    match end {
        End::Process(end) => process(kind, end, circumstances),
        End::NotStarted { kind: failure, message } => {
            let (outcome, reason, executed) = match failure {
                StartFailure::NotFound => (Outcome::Failed, Reason::FileNotFound, Executed::Yes),
                StartFailure::OutsideWorkspace => (Outcome::Failed, Reason::PathOutsideWorkspace, Executed::Yes),
                StartFailure::Refused => (Outcome::Failed, Reason::FileError, Executed::Yes),
                StartFailure::TooLarge => (Outcome::Rejected, Reason::RequestTooLarge, Executed::No),
            };
            Verdict::new(outcome, Some(reason), executed, chooser, &message)
        }
        End::Read(content) => {
            let size = content.len();
            let output = String::from_utf8_lossy(&content).into_owned();
            file(kind, output, size as u64, circumstances)
        }
        End::Wrote(size) => {
            let output = format!("Successfully wrote {size} bytes to {}", path(kind));
            file(kind, output, size, circumstances)
        }
        End::FileFailed(failure) => {
            let path = path(kind);
            match failure {
                FileFailure::NotFound => failed(Reason::FileNotFound, &format!("File not found: {path}")),
                FileFailure::NotAFile => failed(Reason::NotAFile, &format!("Not a file: {path}")),
                FileFailure::TooLarge { size } => {
                    failed(Reason::FileTooLarge, &format!("File too large: {size} bytes (max {MAX_FILE_BYTES})"))
                }
                FileFailure::OutsideWorkspace => {
                    failed(Reason::PathOutsideWorkspace, "Access denied: path outside workspace")
                }
                FileFailure::Other(error) => {
                    let verb = if matches!(kind, Kind::WriteFile { .. }) { "write" } else { "read" };
                    failed(Reason::FileError, &format!("Failed to {verb} file: {error}: {path}"))
                }
            }
        }
        End::CancelledEarly => Verdict::cancelled_before_start(cancelled),
        End::NotRun(cause) => lost(Executed::No, cause),
        End::SlotLost(cause) => lost(Executed::Yes, cause),
        End::AgentFailed(error) => Verdict::internal(Executed::Unknown, &error),
    }
}

fn lost(executed: Executed, cause: String) -> Verdict {
    Verdict::sandbox_lost(Reason::SlotLost, executed, Arc::new(Evidence { cause, ..Evidence::default() }))
}

fn process(kind: &Kind, end: ProcessEnd, circumstances: Circumstances<'_>) -> Verdict {
    let chooser = kind.chooser();
    let of = |outcome, reason, error: &str| Verdict::new(outcome, reason, Executed::Yes, chooser, error);
    let code = shell_code(end.exit);
    let mut verdict = match (end.stop, end.exit) {
        (None, Exit::Code(0)) => of(Outcome::Succeeded, None, ""),
        (None, Exit::Code(_)) => of(Outcome::Failed, Some(Reason::ExitStatus), &format!("Exit code: {code}")),
        (None, Exit::Signal(_)) => of(Outcome::Failed, Some(Reason::Signalled), &format!("Exit code: {code}")),
        (Some(Stop::TimedOut), _) => {
            let error = format!("Command timed out after {:?}s", circumstances.timeout.as_secs_f64());
            of(Outcome::TimedOut, None, &error)
        }
        (Some(Stop::Cancelled), _) => {
            let reason = circumstances.cancelled.unwrap_or(Reason::CancelledByClient);
            of(Outcome::Cancelled, Some(reason), "cancelled while it ran").with_fault_if_drained()
        }
        (Some(Stop::InputLimit), _) => {
            of(Outcome::LimitExceeded, Some(Reason::InputLimit), "more input came than the process has read")
        }
    };
    if *kind == Kind::Command {
        verdict.stdout = Some(Stream::Whole(end.stdout));
        verdict.stderr = Some(Stream::Whole(end.stderr));
    } else {
        verdict.output = text::of_streams(&end.stdout, &end.stderr);
        verdict.stdout = Some(counted(&end.stdout));
        verdict.stderr = Some(counted(&end.stderr));
    }
    verdict.exit = Some(end.exit);
    verdict.usage = Some(end.usage);
    let mut metadata = Map::new();
    let stopped = end.stop.is_some();
    metadata.insert("exit_code".to_owned(), if stopped { json!(-1) } else { json!(code) });
    if end.stop == Some(Stop::TimedOut) {
        metadata.insert("timeout".to_owned(), Value::Bool(true));
    }
    surroundings(&mut metadata, circumstances);
    verdict.metadata = metadata;
    verdict
}

/// As a shell reports it.
fn shell_code(exit: Exit) -> i32 {
    match exit {
        Exit::Code(code) => code,
        Exit::Signal(signal) => 128 + signal,
    }
}

fn counted(captured: &Captured) -> Stream {
    Stream::Counted { total: captured.total, truncated: captured.truncated() }
}

fn file(kind: &Kind, output: String, size: u64, circumstances: Circumstances<'_>) -> Verdict {
    let mut verdict = Verdict::new(Outcome::Succeeded, None, Executed::Yes, kind.chooser(), "");
    verdict.output = output;
    verdict.metadata.insert("path".to_owned(), Value::String(seen_path(path(kind))));
    verdict.metadata.insert("size".to_owned(), json!(size));
    surroundings(&mut verdict.metadata, circumstances);
    verdict
}

fn surroundings(metadata: &mut Map<String, Value>, circumstances: Circumstances<'_>) {
    metadata.insert("sandboxed".to_owned(), Value::Bool(true));
    metadata.insert("network_isolated".to_owned(), Value::Bool(circumstances.network_isolated));
    metadata.insert("isolation".to_owned(), Value::String(circumstances.isolation.to_owned()));
}

fn path(kind: &Kind) -> &str {
    match kind {
        Kind::ReadFile { path } | Kind::WriteFile { path } => path,
        Kind::Shell | Kind::Command => "",
    }
}

/// The file's place as a process in the slot sees it.
fn seen_path(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/workspace/{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::{Attribution, job::Usage};

    const CIRCUMSTANCES: Circumstances<'static> = Circumstances {
        isolation: "L0",
        network_isolated: true,
        timeout: Duration::from_secs(1),
        cancelled: None,
    };

    fn ended(exit: Exit, stop: Option<Stop>, stdout: &'static str) -> End {
        let stdout = Captured { head: stdout.into(), tail: Default::default(), total: stdout.len() as u64 };
        End::Process(ProcessEnd { exit, stop, stdout, stderr: Captured::default(), usage: Usage::default() })
    }

    #[test]
    fn a_tool_speaks_as_the_old_system_did() {
        let verdict = judge(&Kind::Shell, ended(Exit::Code(0), None, "hi\n"), CIRCUMSTANCES);
        assert_eq!((verdict.outcome, &*verdict.output, &*verdict.error), (Outcome::Succeeded, "hi", ""));
        let expected = json!({"exit_code": 0, "sandboxed": true, "network_isolated": true, "isolation": "L0"});
        assert_eq!(Value::Object(verdict.metadata), expected);
        let verdict = judge(&Kind::Shell, ended(Exit::Signal(9), None, ""), CIRCUMSTANCES);
        assert_eq!((verdict.reason, &*verdict.error), (Some(Reason::Signalled), "Exit code: 137"));
        assert_eq!(verdict.metadata["exit_code"], 137);
        let verdict = judge(&Kind::Shell, ended(Exit::Signal(9), Some(Stop::TimedOut), "partial"), CIRCUMSTANCES);
        assert_eq!((&*verdict.output, &*verdict.error), ("partial", "Command timed out after 1.0s"));
        assert_eq!((&verdict.metadata["exit_code"], &verdict.metadata["timeout"]), (&json!(-1), &json!(true)));
    }

    #[test]
    fn a_command_answers_with_bytes_and_is_the_clients() {
        let verdict = judge(&Kind::Command, ended(Exit::Code(1), None, "raw"), CIRCUMSTANCES);
        assert_eq!((&*verdict.output, verdict.attribution), ("", Some(Attribution::Client)));
        assert!(matches!(verdict.stdout, Some(Stream::Whole(captured)) if &captured.head[..] == b"raw"));
    }

    #[test]
    fn a_cancel_has_its_cause() {
        let drained = Circumstances { cancelled: Some(Reason::Drained), ..CIRCUMSTANCES };
        let verdict = judge(&Kind::Shell, ended(Exit::Signal(9), Some(Stop::Cancelled), ""), drained);
        assert_eq!((verdict.outcome, verdict.attribution), (Outcome::Cancelled, Some(Attribution::Infrastructure)));
        let verdict = judge(&Kind::Shell, End::CancelledEarly, CIRCUMSTANCES);
        assert_eq!((verdict.executed, verdict.attribution), (Executed::No, Some(Attribution::Client)));
    }

    #[test]
    fn a_file_that_fails_is_named_as_the_model_named_it() {
        let kind = Kind::ReadFile { path: "nope".to_owned() };
        assert_eq!(judge(&kind, End::FileFailed(FileFailure::NotFound), CIRCUMSTANCES).error, "File not found: nope");
        let verdict = judge(&kind, End::Read("text".into()), CIRCUMSTANCES);
        assert_eq!((&*verdict.output, &verdict.metadata["path"]), ("text", &json!("/workspace/nope")));
    }
}
