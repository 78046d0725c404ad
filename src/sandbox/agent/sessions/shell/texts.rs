//! What is said to the shell, what it says, and what is said of it.

use bytes::Bytes;

use crate::{
    sandbox::slot::{RunnerEnd, SlotError},
    tool::{
        chain,
        job::{Captured, End, Exit, ProcessEnd, Stop, Usage},
    },
};

/// The script as one word of a command, whatever is in it.
pub(super) fn quoted(script: &str) -> String {
    format!("'{}'", script.replace('\'', r"'\''"))
}

/// A line of the shell's: the number of a script, and its status.
pub(super) fn parse(line: &[u8]) -> Option<(u64, i32)> {
    let (sequence, code) = std::str::from_utf8(line).ok()?.trim_end().split_once(' ')?;
    Some((sequence.parse().ok()?, code.parse().ok()?))
}

pub(super) fn process_end(exit: Exit, stop: Option<Stop>, stdout: Captured) -> End {
    let (stderr, usage) = (Captured::default(), Usage::default());
    End::Process(ProcessEnd { exit, stop, stdout, stderr, usage, exceeded: None })
}

/// After what was kept, so that it is seen.
pub(super) fn with_end(captured: Captured, notice: &str) -> Captured {
    if captured.truncated() {
        return captured;
    }
    let head = [&captured.head, &captured.tail, notice.as_bytes()].concat();
    Captured { total: head.len() as u64, head: head.into(), tail: Bytes::new() }
}

pub(super) fn how(ended: &Result<RunnerEnd, SlotError>) -> String {
    match ended {
        Ok(RunnerEnd::Ended { exit: Exit::Code(code), limit: None, .. }) => format!("has exited with code {code}"),
        Ok(RunnerEnd::Ended { limit: Some(_), .. }) => "has been ended at a limit".to_owned(),
        Ok(RunnerEnd::Ended { .. }) => "has been killed".to_owned(),
        Ok(RunnerEnd::NotStarted { message, .. }) => format!("could not be started: {message}"),
        Err(error) => format!("has been lost: {}", chain(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_one_word() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("'"), r"''\'''");
        assert_eq!(quoted("a\n$b `c`"), "'a\n$b `c`'");
    }

    #[test]
    fn only_a_status_is_one() {
        assert_eq!(parse(b"3 127\n"), Some((3, 127)));
        for line in [&b"3\n"[..], b"x 1\n", b"1 x\n", b"\xff 1\n", b"\n"] {
            assert_eq!(parse(line), None);
        }
    }
}
