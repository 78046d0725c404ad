//! The generated protocols. Seen by the edges of the program only: everything inside uses its own types.

pub mod codec;
mod weight;

use std::time::Duration;

/// None of one that is negative or not well-formed. The library's own conversion overflows for some of those.
pub fn duration(sent: prost_types::Duration) -> Option<Duration> {
    let nanos = u32::try_from(sent.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(sent.seconds).ok()?, nanos))
}

/// The public protocol, `proto/toolexecutor/v1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod toolexecutor {
    tonic::include_proto!("toolexecutor.v1");

    /// For the reflection service.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tool_executor.bin"));
}

/// What a journal's file holds, `proto/journal/v1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod journal {
    tonic::include_proto!("journal.v1");
}

/// The private protocol between executor and agent, `proto/sandbox/v1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod sandbox {
    tonic::include_proto!("sandbox.v1");

    /// What a message of it may be made of.
    pub(super) const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sandbox.bin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_durations_are_durations() {
        let of = |seconds, nanos| duration(prost_types::Duration { seconds, nanos });
        assert_eq!(of(1, 500_000_000), Some(Duration::from_millis(1_500)));
        assert_eq!(of(i64::MAX, 999_999_999), Some(Duration::new(i64::MAX.unsigned_abs(), 999_999_999)));
        for (seconds, nanos) in
            [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MIN, 0), (0, i32::MIN), (i64::MAX, i32::MAX)]
        {
            assert_eq!(of(seconds, nanos), None, "{seconds} {nanos}");
        }
    }
}
