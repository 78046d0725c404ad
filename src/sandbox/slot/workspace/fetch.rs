//! Sends a file out of a workspace, a chunk at a time.
//!
//! A file may change while it is read. What is announced is sent: bytes that are added later are not, and a file that is
//! cut below that makes the transfer fail.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::{
    AsUser, Workspace,
    list::artifact,
    transfer::{broken, file_failed, refused},
};
use crate::tool::artifact::{Failure, FailureKind, Piece, Summary};

/// In bytes. Of these a few are on their way at a time.
pub(super) const CHUNK: usize = 256 << 10;
/// What of a file is looked at to tell text from anything else.
const SNIFFED: usize = 4096;

/// Takes pieces at the pace of whoever wants them; an error ends the transfer.
pub type Sink<'a> = dyn FnMut(Piece) -> Result<(), Failure> + 'a;

impl Workspace {
    /// The file from `offset` on, at most `most` bytes of it.
    pub fn fetch(&self, path: &str, offset: u64, most: Option<u64>, sink: &mut Sink<'_>) -> Result<(), Failure> {
        let place = self.relative(path).map_err(|failure| file_failed(path, failure))?;
        let (file, size) = {
            let _user = AsUser::user(self.host_id).map_err(|failure| file_failed(path, failure))?;
            self.open_regular(&place, OFlags::RDONLY).map_err(|failure| file_failed(path, failure))?
        };
        if offset > size {
            let message = format!("{path}: has {size} bytes, and {offset} are to be passed over");
            return Err(Failure::new(FailureKind::OutOfRange, message));
        }
        let found = rustix::fs::fstat(&file).map_err(|error| refused(path, error))?;
        let mut described = artifact(path.as_bytes().to_owned(), &found);
        described.size = size;
        described.media_type = media_type(&place, &file);
        sink(Piece::Artifact(described))?;

        let end = most.map_or(size, |most| size.min(offset.saturating_add(most)));
        let mut hash = Sha256::new();
        let mut at = offset;
        while at < end {
            let mut chunk = vec![0; usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK)];
            let read = match file.read_at(&mut chunk, at) {
                Ok(0) => return Err(cut(path)),
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(path, &error)),
            };
            chunk.truncate(read);
            hash.update(&chunk);
            at += read as u64;
            sink(Piece::Chunk(chunk.into()))?;
        }
        let sha256 = hex(&hash.finalize());
        sink(Piece::Summary(Summary { bytes: at - offset, entries: 1, sha256, truncated: end < size }))
    }
}

pub(super) fn cut(path: &str) -> Failure {
    Failure::new(FailureKind::Aborted, format!("{path}: was cut while it was read"))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// By its name; else by whether it begins as text does.
fn media_type(path: &Path, file: &File) -> String {
    if let Some(known) = mime_guess::from_path(path).first_raw() {
        return known.to_owned();
    }
    let mut start = [0; SNIFFED];
    let start = match file.read_at(&mut start, 0) {
        Ok(read) => &start[..read],
        Err(_) => &[],
    };
    let is_text = match std::str::from_utf8(start) {
        Ok(text) => !text.contains('\0'),
        // The last character may have been cut.
        Err(error) => error.error_len().is_none() && !start.contains(&0),
    };
    if is_text { "text/plain" } else { "application/octet-stream" }.to_owned()
}
