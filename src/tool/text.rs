//! Bytes into text: decoding, cutting and bounding of what is answered, in the old system's form.

use std::error::Error;

use super::job::Captured;

/// A result stays below this, in bytes, since a gRPC client takes 4 MiB unless told otherwise, and a result that it
/// cannot take would spoil every resume.
pub const MAX_RESULT_BYTES: usize = 3_670_016;

/// What is answered of each of stdout and stderr, as bytes or as text. Both and everything else that a result has
/// stay below [`MAX_RESULT_BYTES`].
pub const MAX_CAPTURED_BYTES: usize = 1_572_864;

/// The longest error text.
pub(super) const MAX_ERROR_BYTES: usize = 4_096;

/// Follows what was cut off. Not translated, not moved: models know it.
const MARK: &str = "\n... (output truncated)";

/// An error with all of its causes, in one line.
pub fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// A stream as text, and whether some of it is missing. Undecodable bytes become U+FFFD, and what is cut is cut at a
/// character's end.
pub(super) fn stream(captured: &Captured) -> (String, bool) {
    if !captured.truncated() {
        let text = if captured.tail.is_empty() {
            decode(&captured.head)
        } else {
            decode(&[captured.head.as_ref(), captured.tail.as_ref()].concat())
        };
        if text.len() <= MAX_CAPTURED_BYTES {
            return (text, false);
        }
        // Undecodable bytes are three times as long as text.
        if captured.tail.is_empty() {
            return (cut(&text, MAX_CAPTURED_BYTES) + MARK, true);
        }
    }
    let tail = decode(without_broken_start(&captured.tail));
    let tail = last(&tail, MAX_CAPTURED_BYTES / 2);
    let mut text = cut(&decode(without_broken_end(&captured.head)), MAX_CAPTURED_BYTES - tail.len());
    text.push_str(MARK);
    if !tail.is_empty() {
        text.push('\n');
        text.push_str(tail);
    }
    (text, true)
}

/// What a model is shown of both streams: stdout, then stderr under its heading, without white space at the ends.
pub(super) fn merged(stdout: &str, stderr: &str) -> String {
    let merged = match (stdout, stderr) {
        (stdout, "") => stdout.to_owned(),
        ("", stderr) => stderr.to_owned(),
        (stdout, stderr) => format!("{stdout}\n[stderr]\n{stderr}"),
    };
    // The separators 0x1c to 0x1f were white space to the old system too.
    let trimmed = merged.trim_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c));
    trimmed.to_owned()
}

/// A text of the agent's, held to what a result may have.
pub(super) fn bounded(text: String) -> String {
    if text.len() <= MAX_CAPTURED_BYTES { text } else { cut(&text, MAX_CAPTURED_BYTES) + MARK }
}

/// Bytes as text.
pub(super) fn decode(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// At most the first `max` bytes, at a character's end.
pub(super) fn cut(text: &str, max: usize) -> String {
    text[..text.floor_char_boundary(max)].to_owned()
}

/// At most the last `max` bytes, at a character's start.
fn last(text: &str, max: usize) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(max))..]
}

/// At most `max` bytes, on one line.
pub(super) fn one_line(text: &str, max: usize) -> String {
    cut(text, max).replace(['\n', '\r'], " ")
}

/// Without an unfinished character at the end.
fn without_broken_end(bytes: &[u8]) -> &[u8] {
    for back in 1..=bytes.len().min(3) {
        let needed = match bytes[bytes.len() - back] {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if needed > back { &bytes[..bytes.len() - back] } else { bytes };
    }
    bytes
}

/// Without the rest of a character at the start.
fn without_broken_start(bytes: &[u8]) -> &[u8] {
    let rest = bytes.iter().take(3).take_while(|byte| (0x80..=0xbf).contains(*byte)).count();
    &bytes[rest..]
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn captured(head: &'static [u8], tail: &'static [u8], dropped: u64) -> Captured {
        let total = (head.len() + tail.len()) as u64 + dropped;
        Captured { head: Bytes::from_static(head), tail: Bytes::from_static(tail), total }
    }

    #[test]
    fn a_cut_is_marked_and_made_at_a_characters_end() {
        assert_eq!(stream(&captured(b"abc", b"", 0)), ("abc".into(), false));
        assert_eq!(stream(&captured(b"abc", b"", 7)), ("abc\n... (output truncated)".into(), true));
        assert_eq!(stream(&captured(b"ab\xe6\xbc", b"", 1)).0, "ab\n... (output truncated)");
        assert_eq!(stream(&captured("ab漢".as_bytes(), b"", 1)).0, "ab漢\n... (output truncated)");
    }

    #[test]
    fn a_tail_follows_the_mark_or_joins_its_head() {
        assert_eq!(stream(&captured(b"ab", b"yz", 5)).0, "ab\n... (output truncated)\nyz");
        assert_eq!(stream(&captured(b"ab\xe6\xbc", b"\xa2z", 5)).0, "ab\n... (output truncated)\nz");
        assert_eq!(stream(&captured(b"ab\xe6\xbc", b"\xa2z", 0)), ("ab漢z".into(), false));
    }

    #[test]
    fn undecodable_bytes_are_replaced_and_their_growth_is_bounded() {
        assert_eq!(stream(&captured(b"a\xffb\xe6\xbc", b"", 0)).0, "a\u{fffd}b\u{fffd}");
        let bytes = Bytes::from(vec![0xff; MAX_CAPTURED_BYTES]);
        let half = bytes.slice(..bytes.len() / 2);
        for (head, tail) in [(bytes.clone(), Bytes::new()), (half.clone(), half), (Bytes::new(), bytes)] {
            let total = (head.len() + tail.len()) as u64;
            let (text, truncated) = stream(&Captured { head, tail, total });
            assert!(truncated && text.len() <= MAX_CAPTURED_BYTES + MARK.len() + 1, "{}", text.len());
        }
    }

    #[test]
    fn streams_merge_as_they_did() {
        assert_eq!(merged("out\n", "err\n"), "out\n\n[stderr]\nerr");
        assert_eq!(merged("", "err\n"), "err");
        assert_eq!(merged("  hi  \n\n", ""), "hi");
        assert_eq!(merged("a\r\nb", ""), "a\r\nb");
        assert_eq!(merged("", ""), "");
    }

    proptest! {
        #[test]
        fn a_cut_of_text_never_makes_a_replacement(text in "\\PC{0,40}", at in 0usize..80, tail in 0usize..80) {
            let bytes = Bytes::from(text.clone());
            let (at, tail) = (at.min(bytes.len()), tail.min(bytes.len()));
            let captured = Captured {
                head: bytes.slice(..at),
                tail: bytes.slice(bytes.len() - tail..),
                total: 1_000,
            };
            prop_assume!(!text.contains('\u{fffd}'));
            let replaced = stream(&captured).0.contains('\u{fffd}');
            prop_assert!(!replaced);
        }
    }
}
