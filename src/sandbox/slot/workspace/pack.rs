//! Sends a directory out of a workspace as one archive, while it is made.
//!
//! Files, directories and links go into it, in the order of their names, with no owner; links as links, so that nothing
//! from elsewhere does. FIFOs, sockets and devices have no content, and are left out.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::{
    fs::{FileType, Mode, OFlags, Stat},
    io::Errno,
};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::{
    AsUser, Workspace,
    fetch::{CHUNK, Sink, cut, hex},
    transfer::{MAX_DEPTH, broken, enter, file_failed, join, kind, look, names, refused, shown, too_deep},
};
use crate::{
    sandbox::slot::{ARCHIVE_ENTRIES, TransferLimits},
    tool::artifact::{Failure, FailureKind, Packing, Piece, Summary},
};

/// Fast: what is fetched is rarely kept for long.
const GZIP_LEVEL: flate2::Compression = flate2::Compression::new(3);
const ZSTD_LEVEL: i32 = 1;

impl Workspace {
    /// The directory at `path` as an archive of at most `most` bytes; or a file, as an archive of it alone.
    pub fn pack(
        &self,
        path: &str,
        packing: Packing,
        most: u64,
        limits: &TransferLimits,
        sink: &mut Sink<'_>,
    ) -> Result<(), Failure> {
        let max_entries = limits.archive_entries;
        let place = self.directory_path(path)?;
        let _user = AsUser::user(self.host_id).map_err(|failure| file_failed(path, failure))?;
        let mut out = Out { sink, buffer: Vec::with_capacity(CHUNK), hash: Sha256::new(), bytes: 0, most };
        let entries = match packing {
            Packing::Tar => self.fill(path, &place, max_entries, &mut out)?,
            Packing::TarGz => {
                let mut packed = flate2::write::GzEncoder::new(&mut out, GZIP_LEVEL);
                let entries = self.fill(path, &place, max_entries, &mut packed)?;
                packed.finish().map_err(|error| broken(path, &error))?;
                entries
            }
            Packing::TarZst => {
                let mut packed =
                    zstd::stream::Encoder::new(&mut out, ZSTD_LEVEL).map_err(|error| broken(path, &error))?;
                let entries = self.fill(path, &place, max_entries, &mut packed)?;
                packed.finish().map_err(|error| broken(path, &error))?;
                entries
            }
        };
        out.flush().map_err(|error| broken(path, &error))?;
        let Out { sink, hash, bytes, .. } = out;
        let sha256 = hex(&hash.finalize());
        sink(Piece::Summary(Summary { bytes, entries, sha256, truncated: false }))
    }

    fn fill(&self, path: &str, place: &Path, max_entries: u64, out: &mut dyn Write) -> Result<u64, Failure> {
        let mut packer = Packer { archive: Builder::new(out), entries: 0, max_entries };
        match self.open_directory(place) {
            Ok(directory) => packer.directory(&directory, &[], 0)?,
            Err(Errno::NOTDIR) => {
                use std::os::unix::ffi::OsStrExt;
                let (file, _) =
                    self.open_regular(place, OFlags::RDONLY).map_err(|failure| file_failed(path, failure))?;
                let name = place.file_name().unwrap_or(place.as_os_str()).as_bytes();
                packer.file(&file, name)?;
            }
            Err(error) => return Err(refused(path, error)),
        }
        packer.archive.finish().map_err(|error| broken(path, &error))?;
        Ok(packer.entries)
    }
}

struct Packer<'a> {
    archive: Builder<&'a mut dyn Write>,
    entries: u64,
    max_entries: u64,
}

impl Packer<'_> {
    fn directory(&mut self, directory: &OwnedFd, above: &[u8], depth: usize) -> Result<(), Failure> {
        if depth > MAX_DEPTH {
            return Err(too_deep(above));
        }
        let most = usize::try_from(self.max_entries).unwrap_or(usize::MAX).saturating_add(1);
        let names = names(directory, most, |_| true).map_err(|error| refused(&shown(above), error))?;
        for name in names {
            let path = join(above, &name);
            let shown = shown(&path);
            // It went meanwhile.
            let Some(found) = look(directory, &name).map_err(|error| refused(&shown, error))? else { continue };
            match kind(&found) {
                FileType::Directory => match enter(directory, &name) {
                    Ok(below) => {
                        self.append(&path, &header(&found, EntryType::Directory, 0), io::empty())?;
                        self.directory(&below, &path, depth + 1)?;
                    }
                    Err(error) if is_other(error) => {}
                    Err(error) => return Err(refused(&shown, error)),
                },
                FileType::RegularFile => match open(directory, &name) {
                    Ok(file) => self.file(&file, &path)?,
                    Err(error) if is_other(error) => {}
                    Err(error) => return Err(refused(&shown, error)),
                },
                FileType::Symlink => match rustix::fs::readlinkat(directory, &*name, Vec::new()) {
                    Ok(target) => self.link(&path, &found, target.as_bytes())?,
                    Err(error) if is_other(error) => {}
                    Err(error) => return Err(refused(&shown, error)),
                },
                _ => {}
            }
        }
        Ok(())
    }

    /// As large as it is now: what is added meanwhile is not in it. The holes of a sparse file go as the zeros that they
    /// read as, which any tar can unpack.
    fn file(&mut self, file: &File, path: &[u8]) -> Result<(), Failure> {
        let found = rustix::fs::fstat(file).map_err(|error| refused(&shown(path), error))?;
        if kind(&found) != FileType::RegularFile {
            return Ok(());
        }
        let size = u64::try_from(found.st_size).unwrap_or(0);
        let content = Whole { file, left: size, path };
        self.append(path, &header(&found, EntryType::Regular, size), content)
    }

    fn link(&mut self, path: &[u8], found: &Stat, target: &[u8]) -> Result<(), Failure> {
        self.count()?;
        let mut header = header(found, EntryType::Symlink, 0);
        let appended = self.archive.append_link(&mut header, as_path(path), as_path(target));
        appended.map_err(|error| broken(&shown(path), &error))
    }

    fn append(&mut self, path: &[u8], header: &Header, content: impl Read) -> Result<(), Failure> {
        self.count()?;
        let appended = self.archive.append_data(&mut header.clone(), as_path(path), content);
        appended.map_err(|error| broken(&shown(path), &error))
    }

    fn count(&mut self) -> Result<(), Failure> {
        self.entries += 1;
        if self.entries > self.max_entries {
            let message = format!("Archive too large: over {} entries ({ARCHIVE_ENTRIES})", self.max_entries);
            return Err(Failure::new(FailureKind::Exhausted, message));
        }
        Ok(())
    }
}

/// Something else was put in its place, or nothing.
fn is_other(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::INVAL)
}

fn open(directory: &OwnedFd, name: &[u8]) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty()).map(File::from)
}

fn header(found: &Stat, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(found.st_mode & 0o777);
    header.set_mtime(u64::try_from(found.st_mtime).unwrap_or(0));
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header
}

pub(super) fn as_path(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// Exactly so much of a file: less would shift all that follows in the archive.
struct Whole<'a> {
    file: &'a File,
    left: u64,
    path: &'a [u8],
}

impl Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(buffer.len()).min(buffer.len());
        let read = self.file.read(&mut buffer[..most])?;
        if read == 0 && most > 0 {
            return Err(io::Error::other(cut(&shown(self.path))));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Gathers what is written into chunks.
struct Out<'a, 'b> {
    sink: &'a mut Sink<'b>,
    buffer: Vec<u8>,
    hash: Sha256,
    bytes: u64,
    most: u64,
}

impl Write for Out<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.bytes += taken as u64;
        if self.bytes > self.most {
            let message = format!("Archive too large: over {} bytes", self.most);
            return Err(io::Error::other(Failure::new(FailureKind::Exhausted, message)));
        }
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.hash.update(&chunk);
        (self.sink)(Piece::Chunk(chunk.into())).map_err(io::Error::other)
    }
}
