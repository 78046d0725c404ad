//! A file of this machine into a trajectory's workspace.

use std::{path::PathBuf, pin::pin};

use bytes::Bytes;
use indicatif::ProgressBar;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Failure, connect, json, progress, run::print};
use crate::pb::toolexecutor::{
    ArtifactFormat, TransferSummary, WriteArtifactHeader, WriteArtifactRequest, write_artifact_request::Message,
};

/// Of the file, sent at a time.
const CHUNK: usize = 256 << 10;
/// That wait to be sent.
const CHUNKS: usize = 4;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The trajectory whose workspace it is
    #[arg(long, value_name = "ID")]
    trajectory: String,
    /// Unpack it there: it is a .tar, .tar.gz or .tar.zst archive
    #[arg(long)]
    unpack: bool,
    /// The file; - is standard input
    file: PathBuf,
    /// Its path in the workspace; with --unpack, the directory. Without, the file's own name, or the workspace
    path: Option<String>,
    #[command(flatten)]
    server: connect::Server,
}

pub(super) async fn put(arguments: Arguments) -> Result<(), Failure> {
    let format = if arguments.unpack { format_of(&arguments.file)? } else { ArtifactFormat::Raw };
    let name = arguments.file.file_name().and_then(|name| name.to_str()).filter(|name| *name != "-");
    let path = match (&arguments.path, arguments.unpack) {
        (Some(path), _) => path.clone(),
        (None, true) => String::new(),
        (None, false) => name.ok_or(Failure::NoPath)?.to_owned(),
    };
    let failed = |source| Failure::Read { path: arguments.file.display().to_string(), source };
    let (source, size): (Box<dyn AsyncRead + Send + Unpin>, _) = if arguments.file.as_os_str() == "-" {
        (Box::new(tokio::io::stdin()), None)
    } else {
        let file = tokio::fs::File::open(&arguments.file).await.map_err(failed)?;
        let metadata = file.metadata().await.map_err(failed)?;
        if metadata.is_dir() {
            return Err(Failure::Directory(arguments.file.display().to_string()));
        }
        (Box::new(file), Some(metadata.len()))
    };
    let mut client = arguments.server.connect().await?;
    let header = WriteArtifactHeader {
        trajectory_id: arguments.trajectory.clone(),
        path,
        format: format.into(),
        ..WriteArtifactHeader::default()
    };
    let (requests, receiver) = mpsc::channel(CHUNKS);
    let bar = if arguments.server.json { ProgressBar::hidden() } else { progress::bar(size) };
    let mut answered = pin!(client.write_artifact(ReceiverStream::new(receiver)));
    // An answer before all is sent is a refusal.
    let sent = tokio::select! {
        sent = send(source, bar, header, &requests) => sent.map_err(failed)?,
        answer = &mut answered => {
            return Err(answer.map_or_else(|status| Failure::of_file(&status), |_| Failure::NoAnswer));
        }
    };
    drop(requests);
    let answer = answered.await.map_err(|status| Failure::of_file(&status))?;
    let summary = answer.into_inner().summary.unwrap_or_default();
    if !summary.sha256.is_empty() && summary.sha256 != sent {
        return Err(Failure::Different);
    }
    tell(&summary, arguments.server.json)
}

pub(super) fn tell(summary: &TransferSummary, as_json: bool) -> Result<(), Failure> {
    if as_json { print((json::line(summary)? + "\n").as_bytes()) } else { Ok(()) }
}

/// The digest of what was sent. The stream is left open: its end makes a file of what was sent, so that only who knows
/// that it is whole may end it.
async fn send(
    mut source: Box<dyn AsyncRead + Send + Unpin>,
    bar: ProgressBar,
    header: WriteArtifactHeader,
    requests: &mpsc::Sender<WriteArtifactRequest>,
) -> std::io::Result<String> {
    let mut digest = Sha256::new();
    let mut message = Message::Header(header);
    loop {
        // Nobody takes it any more: the answer says why.
        if requests.send(WriteArtifactRequest { message: Some(message) }).await.is_err() {
            break;
        }
        let mut chunk = vec![0; CHUNK];
        let length = source.read(&mut chunk).await?;
        if length == 0 {
            break;
        }
        chunk.truncate(length);
        digest.update(&chunk);
        bar.inc(length as u64);
        message = Message::Chunk(Bytes::from(chunk));
    }
    bar.finish_and_clear();
    Ok(hexadecimal(&digest.finalize()))
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// By its name.
fn format_of(file: &std::path::Path) -> Result<ArtifactFormat, Failure> {
    let name = file.to_string_lossy();
    let formats = [
        (".tar", ArtifactFormat::Tar),
        (".tar.gz", ArtifactFormat::TarGz),
        (".tgz", ArtifactFormat::TarGz),
        (".tar.zst", ArtifactFormat::TarZst),
    ];
    let found = formats.into_iter().find(|(end, _)| name.ends_with(end));
    found.map(|(_, format)| format).ok_or_else(|| Failure::NoArchive(name.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_known_by_its_name() {
        assert_eq!(format_of("a/b.tar.gz".as_ref()).unwrap(), ArtifactFormat::TarGz);
        assert_eq!(format_of("b.tar".as_ref()).unwrap(), ArtifactFormat::Tar);
        assert_eq!(format_of("b.tar.zst".as_ref()).unwrap(), ArtifactFormat::TarZst);
        assert!(format_of("b.zip".as_ref()).is_err());
        assert_eq!(hexadecimal(&[0, 255]), "00ff");
    }
}
