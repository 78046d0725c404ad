//! Text for a model and for people: bounded, cut where a character ends.

use super::job::Captured;

/// The most of a captured stream that a result carries, in bytes: three bytes of text may stand for one that is no
/// UTF-8, and a result has two streams.
pub const MAX_CAPTURED_BYTES: u32 = 500_000;
/// The most that a result may have in all, in bytes: clients receive 4 MiB by default.
pub const MAX_RESULT_BYTES: usize = 3_670_016;
/// The longest error, in bytes.
pub(super) const MAX_ERROR_BYTES: usize = 2_000;

/// The old system's mark.
const TRUNCATED: &str = "\n... (output truncated)";

/// At most `max` bytes of the text, cut where a character ends.
pub(super) fn cut(text: &str, max: usize) -> String {
    text[..text.floor_char_boundary(max)].to_owned()
}

/// The text on one line, at most `max` bytes of it.
pub(super) fn one_line(text: &str, max: usize) -> String {
    cut(text, max).replace(|c: char| c.is_control(), " ")
}

/// What a model is shown of a process: stdout, then stderr under its own heading, without white space around it.
pub(super) fn of_streams(stdout: &Captured, stderr: &Captured) -> String {
    let (out, err) = (of_stream(stdout), of_stream(stderr));
    let both = match (out.is_empty(), err.is_empty()) {
        (_, true) => out,
        (true, false) => err,
        (false, false) => format!("{out}\n[stderr]\n{err}"),
    };
    both.trim().to_owned()
}

fn of_stream(captured: &Captured) -> String {
    let mut text = if captured.truncated() { decode_cut(&captured.head) } else { decode(&captured.head) };
    if captured.truncated() {
        text.push_str(TRUNCATED);
        if !captured.tail.is_empty() {
            text.push('\n');
        }
    }
    text.push_str(&decode(&captured.tail));
    text
}

fn decode(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// As [`decode`], without the part of a character that the cut has left at the end.
fn decode_cut(bytes: &[u8]) -> String {
    let whole = match bytes.utf8_chunks().last() {
        // At most three bytes that begin a character and do not end it.
        Some(last) if is_begun(last.invalid()) => &bytes[..bytes.len() - last.invalid().len()],
        _ => bytes,
    };
    decode(whole)
}

fn is_begun(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(head: &'static [u8], tail: &'static [u8], total: u64) -> Captured {
        Captured { head: head.into(), tail: tail.into(), total }
    }

    #[test]
    fn a_character_that_was_cut_is_left_out() {
        let cut = captured("aé".as_bytes().split_at(2).0, b"", 10);
        assert_eq!(of_streams(&cut, &Captured::default()), "a\n... (output truncated)");
        let broken = captured(b"a\xff", b"", 10);
        assert_eq!(of_streams(&broken, &Captured::default()), "a\u{fffd}\n... (output truncated)");
    }

    #[test]
    fn a_tail_follows_the_mark() {
        let both = captured(b"begin", b"end", 100);
        assert_eq!(of_streams(&both, &Captured::default()), "begin\n... (output truncated)\nend");
        let whole = captured(b"begin", b"end", 8);
        assert_eq!(of_streams(&whole, &Captured::default()), "beginend");
    }

    #[test]
    fn streams_are_told_apart_and_stripped() {
        let out = captured(b"out\n", b"", 4);
        let err = captured(b"err\n", b"", 4);
        assert_eq!(of_streams(&out, &err), "out\n\n[stderr]\nerr");
        assert_eq!(of_streams(&captured(b"  hi \n\n", b"", 7), &Captured::default()), "hi");
    }
}
