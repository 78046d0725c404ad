//! Files of a workspace, in the words of the public protocol.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{parse::Violation, render, status};
use crate::{
    pb::toolexecutor::{self as pb, archive_artifacts_response, read_artifact_response, write_artifact_request},
    tool::{
        MAX_PATH_BYTES,
        artifact::{Artifact, Failure, FailureKind, Format, Packing, Piece, Request, Summary},
    },
    trajectory::Workspace,
};

/// Pieces that wait for a client to read: more of them wait where they come from.
const PIECES: usize = 2;
const DEFAULT_PAGE: u32 = 1000;
/// So that a page stays below what a client receives by default, 4 MiB, however long the paths are.
const MAX_PAGE: u32 = 5000;
const MAX_PAGE_BYTES: usize = 3 << 20;
/// Of an archive that is asked for without a bound of its own, in bytes.
const MAX_ARCHIVE: u64 = 64 << 30;
const DEFAULT_MODE: u32 = 0o644;

pub(super) type Answers<T> = ReceiverStream<Result<T, Status>>;

pub(super) fn read(request: pb::ReadArtifactRequest) -> Result<Request, Violation> {
    let max_bytes = (request.max_bytes > 0).then_some(request.max_bytes);
    Ok(Request::Read { path: path(request.path, "path")?, offset: request.offset, max_bytes })
}

pub(super) fn archive(request: pb::ArchiveArtifactsRequest) -> Result<Request, Violation> {
    let format = match format(request.format(), "format")? {
        Format::Packed(packing) => packing,
        Format::Raw => return Err(Violation::new("format", "must be a kind of tar")),
    };
    let max_bytes = if request.max_bytes == 0 { MAX_ARCHIVE } else { request.max_bytes };
    Ok(Request::Archive { path: directory(request.path)?, format, max_bytes })
}

pub(super) fn list(request: pb::ListArtifactsRequest) -> Result<Request, Violation> {
    let after = URL_SAFE_NO_PAD.decode(&request.page_token);
    Ok(Request::List {
        path: directory(request.path)?,
        recursive: request.recursive,
        include_hidden: request.include_hidden,
        page_size: match request.page_size {
            0 => DEFAULT_PAGE,
            size => size.min(MAX_PAGE),
        },
        after: after.map_err(|_| Violation::new("page_token", "is none that a page came with"))?,
    })
}

/// Of the first message, and the trajectory that it names.
pub(super) fn write(header: pb::WriteArtifactHeader) -> Result<Request, Violation> {
    let format = format(header.format(), "header.format")?;
    let mode = match header.mode {
        0 => DEFAULT_MODE,
        mode @ 1..=0o777 => mode,
        _ => return Err(Violation::new("header.mode", "must be permissions alone: at most 0777")),
    };
    let path = match format {
        Format::Raw => path(header.path, "header.path")?,
        Format::Packed(_) => directory(header.path)?,
    };
    Ok(Request::Write { path, format, mode })
}

fn format(format: pb::ArtifactFormat, field: &str) -> Result<Format, Violation> {
    match format {
        pb::ArtifactFormat::Unspecified => Err(Violation::new(field, "must be set")),
        pb::ArtifactFormat::Raw => Ok(Format::Raw),
        pb::ArtifactFormat::Tar => Ok(Format::Packed(Packing::Tar)),
        pb::ArtifactFormat::TarGz => Ok(Format::Packed(Packing::TarGz)),
        pb::ArtifactFormat::TarZst => Ok(Format::Packed(Packing::TarZst)),
    }
}

fn path(path: String, field: &str) -> Result<String, Violation> {
    if path.is_empty() {
        return Err(Violation::new(field, "must be set"));
    }
    checked(path, field)
}

/// Empty is the workspace itself.
fn directory(path: String) -> Result<String, Violation> {
    checked(if path.is_empty() { ".".to_owned() } else { path }, "path")
}

fn checked(path: String, field: &str) -> Result<String, Violation> {
    if path.contains('\0') {
        return Err(Violation::new(field, "must not have a NUL character"));
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(Violation::new(field, format!("may have at most {MAX_PATH_BYTES} bytes")));
    }
    Ok(path)
}

/// Sends what a transfer gives on, at the pace of the client. The first answer is waited for, so that what fails at once
/// fails as a whole.
pub(super) async fn stream<T: Send + 'static>(
    workspace: Workspace,
    request: Request,
    translate: impl Fn(Piece) -> Option<T> + Send + 'static,
) -> Result<Answers<T>, Status> {
    let mut transfer = workspace.begin(request).await.map_err(|failure| failed(&failure))?;
    let mut piece = transfer.next().await.map_err(|failure| failed(&failure))?;
    let (answers, receiver) = mpsc::channel(PIECES);
    // Ends with the transfer, or with its client.
    tokio::spawn(async move {
        let _workspace = workspace;
        while let Some(answer) = piece.take() {
            let is_last = matches!(answer, Piece::Summary(_));
            if let Some(answer) = translate(answer)
                && answers.send(Ok(answer)).await.is_err()
            {
                return;
            }
            if is_last {
                return;
            }
            let next = tokio::select! {
                next = transfer.next() => next,
                () = answers.closed() => return,
            };
            match next {
                Ok(next) => piece = next,
                Err(failure) => return drop(answers.send(Err(failed(&failure))).await),
            }
        }
        drop(answers.send(Err(ended_early())).await);
    });
    Ok(ReceiverStream::new(receiver))
}

pub(super) fn read_piece(piece: Piece) -> Option<pb::ReadArtifactResponse> {
    use read_artifact_response::Message;
    let message = match piece {
        Piece::Artifact(artifact) => Message::Artifact(rendered(artifact, "")),
        Piece::Chunk(chunk) => Message::Chunk(chunk),
        Piece::Summary(summary) => Message::Summary(summed(summary)),
        Piece::Page { .. } => return None,
    };
    Some(pb::ReadArtifactResponse { message: Some(message) })
}

pub(super) fn archive_piece(piece: Piece) -> Option<pb::ArchiveArtifactsResponse> {
    use archive_artifacts_response::Message;
    let message = match piece {
        Piece::Chunk(chunk) => Message::Chunk(chunk),
        Piece::Summary(summary) => Message::Summary(summed(summary)),
        Piece::Artifact(_) | Piece::Page { .. } => return None,
    };
    Some(pb::ArchiveArtifactsResponse { message: Some(message) })
}

pub(super) async fn page(
    workspace: Workspace,
    request: Request,
    path: &str,
) -> Result<pb::ListArtifactsResponse, Status> {
    let mut transfer = workspace.begin(request).await.map_err(|failure| failed(&failure))?;
    let piece = transfer.next().await.map_err(|failure| failed(&failure))?;
    let Some(Piece::Page { mut artifacts, mut more }) = piece else { return Err(ended_early()) };
    let mut bytes = 0;
    let fit = artifacts.iter().take_while(|artifact| {
        bytes += 2 * (artifact.path.len() + path.len()) + 64;
        bytes <= MAX_PAGE_BYTES
    });
    let fit = fit.count().max(1);
    more |= artifacts.len() > fit;
    artifacts.truncate(fit);
    let last = artifacts.last().filter(|_| more);
    let next_page_token = last.map_or_else(String::new, |last| URL_SAFE_NO_PAD.encode(&last.path));
    let artifacts = artifacts.into_iter().map(|artifact| rendered(artifact, path)).collect();
    Ok(pb::ListArtifactsResponse { artifacts, next_page_token })
}

/// Brings what the client sends.
pub(super) async fn bring(
    workspace: Workspace,
    request: Request,
    mut requests: Streaming<pb::WriteArtifactRequest>,
) -> Result<pb::WriteArtifactResponse, Status> {
    let mut transfer = workspace.begin(request).await.map_err(|failure| failed(&failure))?;
    loop {
        let message = tokio::select! {
            message = requests.message() => message?,
            // It fails before all of it has come.
            answer = transfer.next() => return concluded(answer),
        };
        let taken = match message.map(|message| message.message) {
            Some(Some(write_artifact_request::Message::Chunk(chunk))) => transfer.send(chunk).await,
            Some(_) => {
                return Err(status::violation(&Violation::new("chunk", "must follow the header, and only once that")));
            }
            None => {
                transfer.finish().await;
                false
            }
        };
        if !taken {
            return concluded(transfer.next().await);
        }
    }
}

fn concluded(answer: Result<Option<Piece>, Failure>) -> Result<pb::WriteArtifactResponse, Status> {
    match answer.map_err(|failure| failed(&failure))? {
        Some(Piece::Summary(summary)) => Ok(pb::WriteArtifactResponse { summary: Some(summed(summary)) }),
        _ => Err(ended_early()),
    }
}

fn rendered(artifact: Artifact, below: &str) -> pb::Artifact {
    let name = String::from_utf8_lossy(&artifact.path);
    let path = match below {
        "" | "." => name.into_owned(),
        below => format!("{}/{name}", below.trim_end_matches('/')),
    };
    pb::Artifact {
        path,
        is_directory: artifact.is_directory,
        size: artifact.size,
        modified_at: Some(render::timestamp(artifact.modified)),
        mode: artifact.mode,
        media_type: artifact.media_type,
    }
}

fn summed(summary: Summary) -> pb::TransferSummary {
    let Summary { bytes, entries, sha256, truncated } = summary;
    pb::TransferSummary { bytes, entries, sha256, truncated }
}

fn ended_early() -> Status {
    failed(&Failure::new(FailureKind::Aborted, "the transfer ended before it was whole"))
}

fn failed(failure: &Failure) -> Status {
    status::transfer(failure)
}
