//! What was printed, by offset: the last bytes of it. Never more memory than that, and the writer is never held up.

use std::collections::VecDeque;

/// See the module.
#[derive(Debug)]
pub(super) struct Log {
    kept: VecDeque<u8>,
    max: usize,
    /// All that was ever written, in bytes: the offset of what comes next.
    end: u64,
}

/// A part of a log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Of its first byte.
    pub(super) offset: u64,
    pub(super) data: Vec<u8>,
    /// Bytes between the offset that was asked for and this one, which are not kept any more.
    pub(super) dropped: u64,
}

impl Part {
    pub(super) fn next(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

impl Log {
    /// That keeps so many bytes.
    pub(super) fn new(max: usize) -> Self {
        Self { kept: VecDeque::new(), max, end: 0 }
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.end += data.len() as u64;
        let data = &data[data.len().saturating_sub(self.max)..];
        let surplus = (self.kept.len() + data.len()).saturating_sub(self.max);
        self.kept.drain(..surplus);
        self.kept.extend(data);
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// From an offset on, at most so many bytes. It does not end inside a character, unless nothing else is left.
    pub(super) fn read(&self, offset: u64, max: usize) -> Part {
        let start = self.end - self.kept.len() as u64;
        let from = offset.clamp(start, self.end);
        let mut data: Vec<u8> = self.kept.range((from - start) as usize..).take(max).copied().collect();
        let whole = data.len() - broken_end(&data);
        if whole > 0 {
            data.truncate(whole);
        }
        Part { offset: from, data, dropped: start.saturating_sub(offset) }
    }
}

/// How many bytes at the end begin a character that does not end there.
pub(super) fn broken_end(data: &[u8]) -> usize {
    let last = &data[data.len().saturating_sub(4)..];
    let Some(begin) = last.iter().rposition(|byte| byte & 0xc0 != 0x80) else { return 0 };
    match std::str::from_utf8(&last[begin..]) {
        Err(error) if error.error_len().is_none() => last.len() - begin,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn a_part_ends_with_a_character() {
        let mut log = Log::new(100);
        log.push("aé".as_bytes());
        assert_eq!(log.read(0, 2), Part { offset: 0, data: b"a".to_vec(), dropped: 0 });
        assert_eq!(log.read(1, 2).data, "é".as_bytes());
        // Else nobody could go on.
        assert_eq!(log.read(1, 1).data, [0xc3]);
        assert_eq!(log.read(99, 5), Part { offset: 3, data: vec![], dropped: 0 });
    }

    proptest! {
        #[test]
        fn the_last_bytes_are_kept(
            pieces in vec(vec(any::<u8>(), 0..20), 0..20),
            max in 1_usize..40,
            offset in 0_u64..200,
            size in 1_usize..60,
        ) {
            let all = pieces.concat();
            let mut log = Log::new(max);
            pieces.iter().for_each(|piece| log.push(piece));
            prop_assert!(log.kept.len() <= max);
            prop_assert_eq!(log.end(), all.len() as u64);
            let part = log.read(offset, size);
            let from = part.offset as usize;
            prop_assert_eq!(&part.data[..], &all[from..from + part.data.len()]);
            prop_assert!(part.data.len() <= size);
            let start = all.len().saturating_sub(max) as u64;
            prop_assert_eq!(part.dropped, start.saturating_sub(offset));
            // Whoever goes on reads all of it.
            prop_assert!(part.next() > part.offset || part.offset == log.end());
        }
    }
}
