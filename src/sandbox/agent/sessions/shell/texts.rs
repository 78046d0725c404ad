//! What is said to the shell, what it says, and what is said of it.

use std::time::Duration;

use bytes::Bytes;
use rustix::process::Signal;

use crate::{
    sandbox::slot::{LimitHit, RunnerEnd, SlotError},
    tool::{
        chain,
        job::{Captured, End, Exit, ProcessEnd, Stop, Usage},
    },
};

/// The script as one word of a command, whatever is in it.
pub(super) fn quoted(script: &str) -> String {
    format!("'{}'", script.replace('\'', r"'\''"))
}

/// A line of the shell's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// The number of a script, and its status.
    Status { sequence: u64, code: i32 },
    /// User and system time, as `times` prints it: of the shell, and then of those that it has waited for.
    Times(Duration, Duration),
}

pub(super) fn parse(line: &[u8]) -> Option<Said> {
    let (first, second) = std::str::from_utf8(line).ok()?.trim_end().split_once(' ')?;
    if let (Some(user), Some(system)) = (time(first), time(second)) {
        return Some(Said::Times(user, system));
    }
    Some(Said::Status { sequence: first.parse().ok()?, code: second.parse().ok()? })
}

/// As in `1m2.034s`; some shells write the fraction as the language has it.
fn time(text: &str) -> Option<Duration> {
    let (minutes, seconds) = text.strip_suffix('s')?.split_once('m')?;
    let minutes = Duration::from_secs(minutes.parse::<u64>().ok()?.checked_mul(60)?);
    let seconds = Duration::try_from_secs_f64(seconds.replace(',', ".").parse().ok()?).ok()?;
    minutes.checked_add(seconds)
}

/// What a script has used, by all that `times` has printed: once before it, once after.
pub(super) fn used(times: &[(Duration, Duration)]) -> Option<Usage> {
    let [own, others, own_after, others_after] = times else { return None };
    let since = |part: fn(&(Duration, Duration)) -> Duration| {
        (part(own_after) + part(others_after)).saturating_sub(part(own) + part(others))
    };
    Some(Usage { user_cpu: since(|times| times.0), system_cpu: since(|times| times.1), max_rss_bytes: None })
}

pub(super) fn process_end(exit: Exit, stop: Option<Stop>, stdout: Captured, usage: Option<Usage>) -> End {
    End::Process(ProcessEnd { exit, stop, stdout, stderr: Captured::default(), usage, exceeded: None })
}

/// After what was kept, so that it is seen.
pub(super) fn with_end(captured: Captured, notice: &str) -> Captured {
    if captured.truncated() {
        return captured;
    }
    let head = [&captured.head, &captured.tail, notice.as_bytes()].concat();
    Captured { total: head.len() as u64, head: head.into(), tail: Bytes::new() }
}

/// What the status says that a shell gives for a process that the kernel has ended with SIGXFSZ, which few others do.
pub(super) fn seen_in(code: i32) -> Option<LimitHit> {
    (code == 128 + Signal::XFSZ.as_raw()).then_some(LimitHit::FileSize)
}

/// How a shell ended, after "the shell".
pub(in super::super) fn how(ended: &Result<RunnerEnd, SlotError>) -> String {
    match ended {
        Ok(RunnerEnd::Ended { exit: Exit::Code(code), limit: None, .. }) => format!("has exited with code {code}"),
        Ok(RunnerEnd::Ended { limit: Some(limit), .. }) => {
            let what = match limit {
                LimitHit::CpuTime => "processor time",
                LimitHit::Processes => "processes",
                LimitHit::FileSize => "a file's size",
            };
            format!("has been ended at its limit of {what}")
        }
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
    fn what_the_shell_says_is_understood_and_nothing_else() {
        assert_eq!(parse(b"3 127\n"), Some(Said::Status { sequence: 3, code: 127 }));
        let times = Said::Times(Duration::from_millis(62_034), Duration::from_millis(500));
        assert_eq!(parse(b"1m2.034s 0m0,500s\n"), Some(times));
        assert_eq!(parse(b"1m2.034000s 0m0.500000s\n"), Some(times));
        for line in [&b"3\n"[..], b"x 1\n", b"1 x\n", b"\xff 1\n", b"\n", b"1m2s 3\n", b"m1s 0m0s\n", b"0m-1s 0m1s\n"] {
            assert_eq!(parse(line), None);
        }
    }

    #[test]
    fn a_script_has_used_what_was_used_between() {
        let ms = |user, system| (Duration::from_millis(user), Duration::from_millis(system));
        let usage = used(&[ms(10, 1), ms(100, 2), ms(11, 1), ms(300, 7)]).expect("it is all there");
        assert_eq!((usage.user_cpu, usage.system_cpu), ms(201, 5));
        assert_eq!(usage.max_rss_bytes, None);
        assert_eq!(used(&[ms(10, 1), ms(100, 2)]), None);
    }
}
