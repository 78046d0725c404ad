//! What calls are asked for and what they answer, in the log. Models' commands and what they print may hold anything, so
//! this is only where somebody has asked for it, and no more of each than the bound that was set.

use std::fmt::{self, Write as _};

use tracing::info;

use crate::{
    journal::{Errand, Record},
    tool::{CallResult, Stream, job::Job},
};

/// `max`: of each text, in bytes; 0 logs nothing.
pub(super) fn log(records: &[Record], max: usize) {
    if max == 0 {
        return;
    }
    for record in records {
        match record {
            Record::Accepted(call) => {
                let arguments = match &call.errand {
                    Errand::Slot { order, .. } => match &order.job {
                        // Not its environment, nor its input.
                        Job::Process(process) => shortened(format_args!("{:?}", process.program), max),
                        job => shortened(format_args!("{job:?}"), max),
                    },
                    Errand::External { call, .. } => shortened(format_args!("{} {}", call.tool, call.arguments), max),
                };
                info!(call = %call.id, arguments, "accepted");
            }
            Record::Ended { result, .. } => {
                let CallResult { call_id, outcome, output, error, stdout, stderr, .. } = &**result;
                let stream = |stream: &Option<Stream>| match stream {
                    Some(Stream::Whole(captured)) => {
                        Some(shortened(format_args!("{}", String::from_utf8_lossy(&captured.head)), max))
                    }
                    _ => None,
                };
                info!(
                    call = %call_id,
                    outcome = outcome.label(),
                    output = shortened(format_args!("{output}"), max),
                    stdout = stream(stdout),
                    stderr = stream(stderr),
                    error = shortened(format_args!("{error}"), max),
                    "ended"
                );
            }
            _ => {}
        }
    }
}

/// Its first `max` bytes at most, and no part of a character; says so if that is not all.
fn shortened(text: fmt::Arguments<'_>, max: usize) -> String {
    let mut short = Short { text: String::new(), left: max };
    if short.write_fmt(text).is_err() {
        short.text.push_str("...");
    }
    short.text
}

/// Takes so much, and then no more.
struct Short {
    text: String,
    left: usize,
}

impl fmt::Write for Short {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let taken = part.floor_char_boundary(self.left);
        self.text.push_str(&part[..taken]);
        self.left -= taken;
        if taken < part.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters_and_say_so() {
        let text = "aé€";
        for (max, short) in [(0, "..."), (1, "a..."), (2, "a..."), (3, "aé..."), (5, "aé..."), (6, text), (7, text)] {
            assert_eq!(shortened(format_args!("{text}"), max), short, "{max}");
        }
    }
}
