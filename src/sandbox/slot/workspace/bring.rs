//! Brings a file into a workspace: written beside its place and renamed to it once it is whole, so that nobody ever finds
//! half of it.

use std::{
    ffi::OsString,
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    AsUser, Workspace,
    fetch::CHUNK,
    transfer::{Allowance, broken, file_failed, kind, look, refused, unfinished},
};
use crate::tool::artifact::Failure;

impl Workspace {
    /// Makes what `content` gives the content of the file at `path`, with its directories: its size. A link that is
    /// there is followed inside the workspace.
    pub fn bring(
        &self,
        path: &str,
        mode: u32,
        mut allowance: Allowance,
        content: &mut dyn Read,
    ) -> Result<u64, Failure> {
        let place = self.relative(path).map_err(|failure| file_failed(path, failure))?;
        let _user = AsUser::user_and_group(self.host_id).map_err(|failure| file_failed(path, failure))?;
        let (directory, name) = self.target(path, &place)?;
        allowance.take_entry()?;
        let beside = unfinished();
        let written = create(&directory, beside.as_bytes())
            .map_err(|error| refused(path, error))
            .and_then(|mut file| pour(path, content, &mut file, &mut allowance, mode))
            .and_then(|size| {
                // Looked at again: the content may have taken long to come.
                replaceable(path, &directory, &name)?;
                rustix::fs::renameat(&directory, &beside, &directory, &name).map_err(|error| refused(path, error))?;
                Ok(size)
            });
        if written.is_err() {
            // Where it was not made, there is nothing.
            let _ = rustix::fs::unlinkat(&directory, &beside, AtFlags::empty());
        }
        written
    }

    /// The directory of the file that `path` leads to, which is made, and its name there.
    fn target(&self, path: &str, place: &Path) -> Result<(OwnedFd, OsString), Failure> {
        let place = self.without_links(place).map_err(|error| refused(path, error))?;
        let name = place.file_name().ok_or_else(|| refused(path, Errno::ISDIR))?.to_owned();
        self.make_directories(&place).map_err(|failure| file_failed(path, failure))?;
        let above = place.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = self.resolve(above, OFlags::PATH | OFlags::DIRECTORY).map_err(|error| refused(path, error))?;
        replaceable(path, &directory, &name)?;
        Ok((directory, name))
    }
}

/// A file, or nothing: what else is there was not meant to be lost.
fn replaceable(path: &str, directory: &OwnedFd, name: &OsString) -> Result<(), Failure> {
    use std::os::unix::ffi::OsStrExt;
    let found = look(directory, name.as_bytes()).map_err(|error| refused(path, error))?;
    match found.as_ref().map(kind) {
        None | Some(FileType::RegularFile) => Ok(()),
        // One that was laid there meanwhile.
        Some(FileType::Symlink) => Err(refused(path, Errno::XDEV)),
        Some(_) => Err(refused(path, Errno::ISDIR)),
    }
}

/// A new file, its owner's alone until it is whole.
pub(super) fn create(directory: &OwnedFd, name: &[u8]) -> rustix::io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600)).map(File::from)
}

/// All of the content, and then the mode.
pub(super) fn pour(
    path: &str,
    content: &mut (impl Read + ?Sized),
    file: &mut File,
    allowance: &mut Allowance,
    mode: u32,
) -> Result<u64, Failure> {
    let mut buffer = vec![0; CHUNK];
    let mut size = 0;
    loop {
        let read = match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(broken(path, &error)),
        };
        size += read as u64;
        allowance.take_bytes(read as u64, size)?;
        file.write_all(&buffer[..read]).map_err(|error| broken(path, &error))?;
    }
    rustix::fs::fchmod(&*file, Mode::from_raw_mode(mode & 0o777)).map_err(|error| refused(path, error))?;
    Ok(size)
}
