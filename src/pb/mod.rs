//! The generated protocols. Seen by the edges of the program only: everything inside uses its own types.

pub mod codec;

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
}
