//! Bytes that are nearly right.

use proptest::{collection::vec, prelude::*, sample::Index};

/// One change.
#[derive(Debug, Clone)]
enum Edit {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
    CutAt(Index),
}

/// With up to five changes; none at all, now and then.
pub(crate) fn mutated(original: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (original, vec(edit(), 0..6)).prop_map(|(bytes, edits)| edits.iter().fold(bytes, |bytes, edit| edit.apply(bytes)))
}

fn edit() -> BoxedStrategy<Edit> {
    let place = any::<Index>;
    prop_oneof![
        4 => (place(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        4 => (place(), piece()).prop_map(|(at, piece)| Edit::Insert(at, piece)),
        2 => (place(), 1..9_usize).prop_map(|(at, count)| Edit::Remove(at, count)),
        2 => (place(), 1..64_usize).prop_map(|(at, count)| Edit::Repeat(at, count)),
        1 => place().prop_map(Edit::CutAt),
    ]
    .boxed()
}

/// Some are numbers that a length or a count must not be.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 1..9),
        Just(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01".to_vec()),
        Just(b"\xff\xff\xff\xff\x07".to_vec()),
        Just(vec![0; 9]),
    ]
}

impl Edit {
    fn apply(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let length = bytes.len();
        let until = |at: usize, count: usize| (at + count).min(length);
        match self {
            Self::Insert(at, piece) => {
                let at = at.index(length + 1);
                bytes.splice(at..at, piece.iter().copied());
            }
            _ if length == 0 => {}
            Self::Set(at, byte) => bytes[at.index(length)] = *byte,
            Self::Remove(at, count) => {
                let at = at.index(length);
                bytes.drain(at..until(at, *count));
            }
            Self::Repeat(at, count) => {
                let at = at.index(length);
                let again = bytes[at..until(at, *count)].to_vec();
                bytes.splice(at..at, again);
            }
            Self::CutAt(at) => bytes.truncate(at.index(length)),
        }
        bytes
    }
}
