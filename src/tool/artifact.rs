//! Files of a workspace as a trainer fetches and brings them: what is asked, what is answered, and why it fails.

use std::time::SystemTime;

/// What a transfer is to do. Paths are relative to the workspace, or absolute inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Read {
        path: String,
        /// In bytes, as the next.
        offset: u64,
        /// `None`: to the file's end.
        max_bytes: Option<u64>,
    },
    /// The content follows.
    Write {
        path: String,
        format: Format,
        /// Of a plain file.
        mode: u32,
    },
    List {
        path: String,
        recursive: bool,
        include_hidden: bool,
        page_size: u32,
        /// Goes on after this path, which is relative to `path`; empty: from the beginning.
        after: Vec<u8>,
    },
    Archive {
        path: String,
        format: Packing,
        /// Of the archive; more of it is a failure.
        max_bytes: u64,
    },
}

/// Of what is brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One file as it is.
    Raw,
    /// Unpacked into a directory.
    Packed(Packing),
}

/// How a directory is one stream of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Tar,
    TarGz,
    TarZst,
}

/// One file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Relative to the directory that is listed. Not always text.
    pub path: Vec<u8>,
    pub is_directory: bool,
    /// In bytes.
    pub size: u64,
    pub modified: SystemTime,
    /// Permissions alone.
    pub mode: u32,
    /// Of a file that is read.
    pub media_type: String,
}

/// What a transfer came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// That were sent or brought.
    pub bytes: u64,
    pub entries: u64,
    /// Of those bytes, in hexadecimal digits.
    pub sha256: String,
    /// A bound cut it short.
    pub truncated: bool,
}

/// One answer of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// The first of a read.
    Artifact(Artifact),
    Chunk(bytes::Bytes),
    /// The one answer to a list.
    Page {
        artifacts: Vec<Artifact>,
        more: bool,
    },
    /// The last of every other.
    Summary(Summary),
}

/// Why a transfer failed. Nothing half-written is left of one that did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: FailureKind,
    /// For people.
    pub message: String,
}

impl Failure {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The workspace ended in the middle of it.
    pub fn workspace_ended() -> Self {
        Self::new(FailureKind::Aborted, "the workspace was emptied, given back or lost: the transfer is void")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    NotFound,
    /// A directory where a file is needed, or the reverse.
    WrongKind,
    OutsideWorkspace,
    Denied,
    OutOfRange,
    /// A limit, or the disk.
    Exhausted,
    /// What was sent is not what it was said to be, or is hostile.
    Invalid,
    /// The workspace, the file or the content ended in the middle of it.
    Aborted,
    /// Too many at once.
    Busy,
    Other,
}
