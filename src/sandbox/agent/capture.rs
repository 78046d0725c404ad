//! What is kept of a stream: its first bytes, its last bytes, and how many there were. Never more memory than that,
//! and the writer is never held up.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::tool::job::{Captured, OutputLimits};

/// See the module.
#[derive(Debug)]
pub(super) struct Capture {
    limits: OutputLimits,
    head: BytesMut,
    tail: VecDeque<u8>,
    total: u64,
}

impl Capture {
    pub(super) fn new(limits: OutputLimits) -> Self {
        Self { limits, head: BytesMut::new(), tail: VecDeque::new(), total: 0 }
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.total += data.len() as u64;
        let room = self.limits.head as usize - self.head.len();
        let (head, rest) = data.split_at(room.min(data.len()));
        self.head.extend_from_slice(head);
        let tail = self.limits.tail as usize;
        let rest = &rest[rest.len().saturating_sub(tail)..];
        let surplus = (self.tail.len() + rest.len()).saturating_sub(tail);
        self.tail.drain(..surplus);
        self.tail.extend(rest);
    }

    /// All that was written so far, in bytes.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn finish(self) -> Captured {
        Captured { head: self.head.freeze(), tail: Bytes::from(Vec::from(self.tail)), total: self.total }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn head_and_tail_are_kept_whatever_the_pieces(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..20),
            head in 0..50_u32,
            tail in 0..50_u32,
        ) {
            let mut capture = Capture::new(OutputLimits { head, tail });
            pieces.iter().for_each(|piece| capture.push(piece));
            let all = pieces.concat();
            let kept = capture.finish();
            let (first, rest) = all.split_at(all.len().min(head as usize));
            prop_assert_eq!(&kept.head[..], first);
            prop_assert_eq!(&kept.tail[..], &rest[rest.len().saturating_sub(tail as usize)..]);
            prop_assert_eq!(kept.total, all.len() as u64);
            prop_assert_eq!(kept.truncated(), all.len() > (head + tail) as usize);
        }
    }
}
