//! Transfers of files in the words of the private protocol, and back.

use std::time::{Duration, SystemTime};

use super::Senseless;
use crate::{
    pb::sandbox::{self as pb, TransferFailureKind as WireKind, begin_transfer::Action, transfer_response::Message},
    tool::artifact::{Artifact, Failure, FailureKind, Format, Packing, Piece, Request, Summary},
};

/// Of the years 1 to 9999, which is what `google.protobuf.Timestamp` has; in seconds from 1970.
const FIRST_SECOND: i64 = -62_135_596_800;
const LAST_SECOND: i64 = 253_402_300_799;

pub(in crate::sandbox) fn from_request(request: Request) -> Action {
    match request {
        Request::Read { path, offset, max_bytes } => {
            Action::Read(pb::ReadArtifact { path, offset, max_bytes: max_bytes.unwrap_or(0) })
        }
        Request::Write { path, format, mode } => {
            let format = match format {
                Format::Raw => pb::ArtifactFormat::Raw,
                Format::Packed(packing) => from_packing(packing),
            };
            Action::Write(pb::WriteArtifact { path, format: format.into(), mode })
        }
        Request::List { path, recursive, include_hidden, page_size, after } => {
            Action::List(pb::ListArtifacts { path, recursive, include_hidden, page_size, after: after.into() })
        }
        Request::Archive { path, format, max_bytes } => {
            Action::Archive(pb::ArchiveArtifacts { path, format: from_packing(format).into(), max_bytes })
        }
    }
}

pub(in crate::sandbox) fn to_request(action: Option<Action>) -> Result<Request, Senseless> {
    Ok(match action.ok_or(Senseless("what a transfer is to do"))? {
        Action::Read(pb::ReadArtifact { path, offset, max_bytes }) => {
            Request::Read { path, offset, max_bytes: (max_bytes > 0).then_some(max_bytes) }
        }
        Action::Write(write) => {
            let format = match write.format() {
                pb::ArtifactFormat::Raw => Format::Raw,
                packed => Format::Packed(to_packing(packed)?),
            };
            Request::Write { path: write.path, format, mode: write.mode }
        }
        Action::List(pb::ListArtifacts { path, recursive, include_hidden, page_size, after }) => {
            Request::List { path, recursive, include_hidden, page_size, after: after.into() }
        }
        Action::Archive(archive) => {
            let format = to_packing(archive.format())?;
            Request::Archive { path: archive.path, format, max_bytes: archive.max_bytes }
        }
    })
}

fn from_packing(packing: Packing) -> pb::ArtifactFormat {
    match packing {
        Packing::Tar => pb::ArtifactFormat::Tar,
        Packing::TarGz => pb::ArtifactFormat::TarGz,
        Packing::TarZst => pb::ArtifactFormat::TarZst,
    }
}

fn to_packing(format: pb::ArtifactFormat) -> Result<Packing, Senseless> {
    match format {
        pb::ArtifactFormat::Tar => Ok(Packing::Tar),
        pb::ArtifactFormat::TarGz => Ok(Packing::TarGz),
        pb::ArtifactFormat::TarZst => Ok(Packing::TarZst),
        pb::ArtifactFormat::Raw | pb::ArtifactFormat::Unspecified => Err(Senseless("an archive's format")),
    }
}

pub(in crate::sandbox) fn from_answer(answer: Result<Piece, Failure>) -> pb::TransferResponse {
    let message = match answer {
        Ok(Piece::Artifact(artifact)) => Message::Artifact(from_artifact(artifact)),
        Ok(Piece::Chunk(chunk)) => Message::Chunk(chunk),
        Ok(Piece::Page { artifacts, more }) => {
            Message::Page(pb::ArtifactPage { artifacts: artifacts.into_iter().map(from_artifact).collect(), more })
        }
        Ok(Piece::Summary(Summary { bytes, entries, sha256, truncated })) => {
            Message::Summary(pb::TransferSummary { bytes, entries, sha256, truncated })
        }
        Err(Failure { kind, message }) => {
            Message::Failure(pb::TransferFailure { kind: from_kind(kind).into(), message })
        }
    };
    pb::TransferResponse { message: Some(message) }
}

pub(in crate::sandbox) fn to_answer(response: pb::TransferResponse) -> Result<Piece, Failure> {
    let senseless = || Failure::new(FailureKind::Other, "the agent said something that makes no sense");
    Ok(match response.message.ok_or_else(senseless)? {
        Message::Artifact(artifact) => Piece::Artifact(to_artifact(artifact)),
        Message::Chunk(chunk) => Piece::Chunk(chunk),
        Message::Page(pb::ArtifactPage { artifacts, more }) => {
            Piece::Page { artifacts: artifacts.into_iter().map(to_artifact).collect(), more }
        }
        Message::Summary(pb::TransferSummary { bytes, entries, sha256, truncated }) => {
            Piece::Summary(Summary { bytes, entries, sha256, truncated })
        }
        Message::Failure(failure) => {
            let kind = to_kind(failure.kind());
            return Err(Failure { kind, message: failure.message });
        }
    })
}

fn from_artifact(artifact: Artifact) -> pb::Artifact {
    let Artifact { path, is_directory, size, modified, mode, media_type } = artifact;
    let (modified_seconds, modified_nanos) = match modified.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos()),
        Err(before) => (i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds), 0),
    };
    pb::Artifact { path: path.into(), is_directory, size, modified_seconds, modified_nanos, mode, media_type }
}

fn to_artifact(artifact: pb::Artifact) -> Artifact {
    let pb::Artifact { path, is_directory, size, modified_seconds, modified_nanos, mode, media_type } = artifact;
    // A file may have any time that fits into 64 bits, and clients can be told only these.
    let seconds = modified_seconds.clamp(FIRST_SECOND, LAST_SECOND);
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let modified = match seconds {
        0.. => SystemTime::UNIX_EPOCH + whole,
        _ => SystemTime::UNIX_EPOCH - whole,
    } + Duration::from_nanos(modified_nanos.min(999_999_999).into());
    Artifact { path: path.into(), is_directory, size, modified, mode, media_type }
}

fn from_kind(kind: FailureKind) -> WireKind {
    match kind {
        FailureKind::NotFound => WireKind::NotFound,
        FailureKind::WrongKind => WireKind::WrongKind,
        FailureKind::OutsideWorkspace => WireKind::OutsideWorkspace,
        FailureKind::Denied => WireKind::Denied,
        FailureKind::OutOfRange => WireKind::OutOfRange,
        FailureKind::Exhausted => WireKind::Exhausted,
        FailureKind::Invalid => WireKind::Invalid,
        FailureKind::Aborted => WireKind::Aborted,
        FailureKind::Busy => WireKind::Busy,
        FailureKind::Other => WireKind::Other,
    }
}

fn to_kind(kind: WireKind) -> FailureKind {
    match kind {
        WireKind::NotFound => FailureKind::NotFound,
        WireKind::WrongKind => FailureKind::WrongKind,
        WireKind::OutsideWorkspace => FailureKind::OutsideWorkspace,
        WireKind::Denied => FailureKind::Denied,
        WireKind::OutOfRange => FailureKind::OutOfRange,
        WireKind::Exhausted => FailureKind::Exhausted,
        WireKind::Invalid => FailureKind::Invalid,
        WireKind::Aborted => FailureKind::Aborted,
        WireKind::Busy => FailureKind::Busy,
        WireKind::Other | WireKind::Unspecified => FailureKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_of_a_file_can_be_told() {
        let told = |modified_seconds, modified_nanos| {
            let artifact = to_artifact(pb::Artifact { modified_seconds, modified_nanos, ..pb::Artifact::default() });
            let prost_types::Timestamp { seconds, nanos } = artifact.modified.into();
            (seconds, nanos)
        };
        assert_eq!(told(1_700_000_000, 5), (1_700_000_000, 5));
        assert_eq!(told(-1, 999_999_999), (-1, 999_999_999));
        assert_eq!(told(i64::MIN, 0), (FIRST_SECOND, 0));
        assert_eq!(told(i64::MAX, u32::MAX), (LAST_SECOND, 999_999_999));
    }
}
