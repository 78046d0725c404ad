//! A file, or a directory as an archive, out of a trajectory's workspace.

use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use indicatif::ProgressBar;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use super::{
    Failure, connect, progress,
    put::{hexadecimal, tell},
};
use crate::pb::toolexecutor::{
    ArchiveArtifactsRequest, ArchiveArtifactsResponse, ArtifactFormat, ReadArtifactRequest, ReadArtifactResponse,
    TransferSummary, archive_artifacts_response, read_artifact_response,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The trajectory whose workspace it is
    #[arg(long, value_name = "ID")]
    trajectory: String,
    /// Fetch a directory, as an archive of this kind
    #[arg(long, value_enum)]
    archive: Option<Kind>,
    /// The path in the workspace
    path: String,
    /// Where to write it; - is standard output. Without, its own name here
    file: Option<PathBuf>,
    #[command(flatten)]
    server: connect::Server,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    Tar,
    #[value(name = "tar.gz")]
    TarGz,
    #[value(name = "tar.zst")]
    TarZst,
}

impl Kind {
    fn format(self) -> ArtifactFormat {
        match self {
            Self::Tar => ArtifactFormat::Tar,
            Self::TarGz => ArtifactFormat::TarGz,
            Self::TarZst => ArtifactFormat::TarZst,
        }
    }

    fn ending(self) -> &'static str {
        match self {
            Self::Tar => ".tar",
            Self::TarGz => ".tar.gz",
            Self::TarZst => ".tar.zst",
        }
    }
}

/// What comes, of either kind of transfer.
enum Piece {
    Size(u64),
    Chunk(Bytes),
    Summary(TransferSummary),
}

pub(super) async fn get(arguments: Arguments) -> Result<(), Failure> {
    let target = target(&arguments)?;
    // A bar amid what is fetched would spoil both.
    let spoils = target.as_os_str() == "-" && io::stdout().is_terminal();
    let bar = if arguments.server.json || spoils { ProgressBar::hidden() } else { progress::bar(None) };
    let mut client = arguments.server.connect().await?;
    let Arguments { trajectory: trajectory_id, path, .. } = arguments;
    let summary = match arguments.archive {
        None => {
            let request = ReadArtifactRequest { trajectory_id, path, ..ReadArtifactRequest::default() };
            let pieces = client.read_artifact(request).await.map_err(|status| Failure::of_file(&status))?.into_inner();
            receive(pieces.filter_map(of_file), &target, &bar).await?
        }
        Some(kind) => {
            let format = kind.format().into();
            let request = ArchiveArtifactsRequest { trajectory_id, path, format, max_bytes: 0 };
            let pieces =
                client.archive_artifacts(request).await.map_err(|status| Failure::of_file(&status))?.into_inner();
            receive(pieces.filter_map(of_archive), &target, &bar).await?
        }
    };
    if target.as_os_str() == "-" { Ok(()) } else { tell(&summary, arguments.server.json) }
}

fn target(arguments: &Arguments) -> Result<PathBuf, Failure> {
    if let Some(file) = &arguments.file {
        return Ok(file.clone());
    }
    let name = Path::new(&arguments.path).file_name().and_then(|name| name.to_str());
    match (name, arguments.archive) {
        (Some(name), None) => Ok(name.into()),
        (name, Some(kind)) => Ok(format!("{}{}", name.unwrap_or("workspace"), kind.ending()).into()),
        (None, None) => Err(Failure::NoPath),
    }
}

fn of_file(answer: Result<ReadArtifactResponse, Status>) -> Option<Result<Piece, Status>> {
    use read_artifact_response::Message;
    let piece = |message| match message {
        Message::Artifact(artifact) => Piece::Size(artifact.size),
        Message::Chunk(chunk) => Piece::Chunk(chunk),
        Message::Summary(summary) => Piece::Summary(summary),
    };
    answer.map(|answer| answer.message.map(piece)).transpose()
}

fn of_archive(answer: Result<ArchiveArtifactsResponse, Status>) -> Option<Result<Piece, Status>> {
    use archive_artifacts_response::Message;
    let piece = |message| match message {
        Message::Chunk(chunk) => Piece::Chunk(chunk),
        Message::Summary(summary) => Piece::Summary(summary),
    };
    answer.map(|answer| answer.message.map(piece)).transpose()
}

/// Under another name until it is whole.
async fn receive(
    pieces: impl Stream<Item = Result<Piece, Status>> + Unpin,
    target: &Path,
    bar: &ProgressBar,
) -> Result<TransferSummary, Failure> {
    if target.as_os_str() == "-" {
        return copy(pieces, &mut tokio::io::stdout(), bar, Failure::Output).await;
    }
    let failed = |source| Failure::Write { path: target.display().to_string(), source };
    let mut name = target.file_name().ok_or(Failure::NoPath)?.to_owned();
    name.push(".part");
    let part = target.with_file_name(name);
    let mut file = tokio::fs::File::create(&part).await.map_err(failed)?;
    let copied = copy(pieces, &mut file, bar, failed).await;
    let done = match copied {
        Ok(summary) => tokio::fs::rename(&part, target).await.map_err(failed).map(|()| summary),
        Err(error) => Err(error),
    };
    if done.is_err() {
        // The error says what has gone wrong; this would say nothing more.
        let _ = tokio::fs::remove_file(&part).await;
    }
    done
}

async fn copy(
    mut pieces: impl Stream<Item = Result<Piece, Status>> + Unpin,
    to: &mut (impl AsyncWrite + Unpin),
    bar: &ProgressBar,
    failed: impl Fn(io::Error) -> Failure,
) -> Result<TransferSummary, Failure> {
    let mut digest = Sha256::new();
    while let Some(piece) = pieces.next().await {
        match piece.map_err(|status| Failure::of_file(&status))? {
            Piece::Size(size) => progress::known(bar, size),
            Piece::Chunk(chunk) => {
                digest.update(&chunk);
                to.write_all(&chunk).await.map_err(&failed)?;
                bar.inc(chunk.len() as u64);
            }
            Piece::Summary(summary) => {
                to.flush().await.map_err(&failed)?;
                bar.finish_and_clear();
                let whole = summary.sha256.is_empty() || summary.sha256 == hexadecimal(&digest.finalize());
                return if whole { Ok(summary) } else { Err(Failure::Different) };
            }
        }
    }
    Err(Failure::NoAnswer)
}
