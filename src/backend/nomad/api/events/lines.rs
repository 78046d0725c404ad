//! Lines out of pieces.

use bytes::{Bytes, BytesMut};

/// One line holds all events of one entry of Nomad's log: some kilobytes for each allocation.
const MAX_LINE_BYTES: usize = 16 << 20;

#[derive(Default)]
pub(super) struct Lines {
    buffer: BytesMut,
    /// No line ends before this.
    searched: usize,
}

impl Lines {
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next line that is whole and not blank.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, String> {
        while let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            let line = self.buffer.split_to(self.searched + end + 1).freeze();
            self.searched = 0;
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
        self.searched = self.buffer.len();
        if self.searched > MAX_LINE_BYTES {
            return Err(format!("a line of it is larger than {MAX_LINE_BYTES} bytes"));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lines_do_not_depend_on_the_pieces(text in "[a-c\n]{0,40}", sizes in prop::collection::vec(1_usize..5, 40)) {
            let mut rest = text.as_bytes();
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for size in sizes {
                let (piece, after) = rest.split_at(size.min(rest.len()));
                lines.push(piece);
                rest = after;
                while let Some(line) = lines.next().expect("short lines") {
                    seen.push(String::from_utf8(line.trim_ascii().to_vec()).expect("text"));
                }
            }
            let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
            let wanted: Vec<_> = whole.lines().filter(|line| !line.is_empty()).collect();
            prop_assert_eq!(seen, wanted);
        }
    }

    #[test]
    fn a_line_has_a_bound() {
        let mut lines = Lines::default();
        lines.push(&vec![b'a'; MAX_LINE_BYTES]);
        assert_eq!(lines.next(), Ok(None));
        lines.push(b"a");
        assert!(lines.next().is_err());
    }
}
