//! What stands in the fields of messages: what is usual, what is the limit, and what makes no sense.

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

pub(super) fn number() -> BoxedStrategy<u64> {
    prop_oneof![
        6 => 0..4_u64,
        1 => any::<u64>(),
        1 => Just(u64::MAX),
        1 => Just(u64::MAX - 1),
        1 => Just(1 << 63),
    ]
    .boxed()
}

pub(super) fn small() -> BoxedStrategy<u32> {
    prop_oneof![6 => 0..4_u32, 2 => Just(65_536), 1 => any::<u32>(), 1 => Just(u32::MAX)].boxed()
}

pub(super) fn integer() -> BoxedStrategy<i32> {
    prop_oneof![4 => 0..300_i32, 1 => any::<i32>(), 1 => Just(i32::MAX), 1 => Just(i32::MIN)].boxed()
}

pub(super) fn text() -> BoxedStrategy<String> {
    prop_oneof![
        3 => "[a-c]{0,3}",
        2 => "\\PC{0,20}",
        1 => Just("a\0b".to_owned()),
        1 => Just("../../etc/passwd".to_owned()),
        1 => Just("x".repeat(5_000)),
        1 => Just("\u{fffd}\n".repeat(100)),
    ]
    .boxed()
}

pub(super) fn data() -> BoxedStrategy<Bytes> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..40).prop_map(Bytes::from),
        1 => Just(Bytes::from(vec![0xff; 100_000])),
    ]
    .boxed()
}

pub(super) fn duration() -> BoxedStrategy<Option<prost_types::Duration>> {
    let seconds = prop_oneof![4 => 0..2_i64, 1 => any::<i64>(), 1 => Just(i64::MAX), 1 => Just(i64::MIN)];
    let nanos = prop_oneof![3 => Just(0), 1 => any::<i32>()];
    prop::option::of((seconds, nanos).prop_map(|(seconds, nanos)| prost_types::Duration { seconds, nanos })).boxed()
}

/// Of which none does any harm, even where it is run.
pub(super) fn script() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "true",
        "echo out; echo err >&2; exit 3",
        "cat",
        "sleep 0.1",
        "sleep 60 & echo left",
        "printf '\\377\\376'",
        "head -c 300000 /dev/zero",
        "kill -9 $$",
        "",
        "'",
    ])
    .prop_map(str::to_owned)
}

pub(super) fn arguments() -> impl Strategy<Value = Vec<String>> {
    let echo = text().prop_map(|text| vec!["echo".to_owned(), text]);
    prop_oneof![4 => echo, 1 => Just(vec!["/nowhere".to_owned()]), 1 => vec(Just(String::new()), 0..3)]
}
