//! Lists what is in a workspace, a page at a time, in memory that a page bounds.
//!
//! A directory comes before what is in it, and names come in the order of their bytes, so that a page begins where the
//! one before it ended, whatever has come or gone between them. Links are named and never followed.

use std::{
    os::fd::OwnedFd,
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{FileType, Stat},
    io::Errno,
};

use super::{
    AsUser, Workspace,
    transfer::{MAX_DEPTH, enter, file_failed, join, kind, look, names, refused, too_deep},
};
use crate::tool::artifact::{Artifact, Failure};

/// What is wanted of a directory.
#[derive(Debug, Clone, Copy)]
pub struct Listing<'a> {
    pub recursive: bool,
    /// Names that begin with a dot, too.
    pub include_hidden: bool,
    /// At most so many.
    pub most: usize,
    /// Goes on after this path; empty: from the beginning.
    pub after: &'a [u8],
}

impl Workspace {
    /// What is in the directory, by paths relative to it; and whether there is more.
    pub fn list(&self, path: &str, listing: Listing<'_>) -> Result<(Vec<Artifact>, bool), Failure> {
        let place = self.directory_path(path)?;
        let _user = AsUser::user(self.host_id).map_err(|failure| file_failed(path, failure))?;
        let directory = self.open_directory(&place).map_err(|error| refused(path, error))?;
        let after: Vec<&[u8]> = match listing.after {
            [] => Vec::new(),
            after => after.split(|byte| *byte == b'/').collect(),
        };
        // One more tells whether there is more.
        let mut lister = Lister { listing, most: listing.most.saturating_add(1), found: Vec::new() };
        lister.visit(&directory, &[], &after, 0)?;
        let more = lister.found.len() > listing.most;
        lister.found.truncate(listing.most);
        Ok((lister.found, more))
    }
}

struct Lister<'a> {
    listing: Listing<'a>,
    most: usize,
    found: Vec<Artifact>,
}

impl Lister<'_> {
    /// `after`: what of the path to go on after lies in this directory.
    fn visit(&mut self, directory: &OwnedFd, above: &[u8], after: &[&[u8]], depth: usize) -> Result<(), Failure> {
        if depth > MAX_DEPTH {
            return Err(too_deep(above));
        }
        let hidden = self.listing.include_hidden;
        let wanted =
            |name: &[u8]| (hidden || !name.starts_with(b".")) && after.first().is_none_or(|first| name >= *first);
        // The first one may be on an earlier page.
        let room = self.most - self.found.len() + 1;
        let names = match names(directory, room, wanted) {
            Ok(names) => names,
            // The slot's user took it away, or the right to read it.
            Err(Errno::NOENT | Errno::ACCESS) if depth > 0 => return Ok(()),
            Err(error) => return Err(refused(&super::transfer::shown(above), error)),
        };
        for name in names {
            if self.found.len() >= self.most {
                break;
            }
            // It went meanwhile.
            let Ok(Some(found)) = look(directory, &name) else { continue };
            let path = join(above, &name);
            let told = after.first() == Some(&&*name);
            if !told {
                self.found.push(artifact(path.clone(), &found));
            }
            if self.listing.recursive
                && kind(&found) == FileType::Directory
                && let Ok(below) = enter(directory, &name)
            {
                self.visit(&below, &path, if told { &after[1..] } else { &[] }, depth + 1)?;
            }
        }
        Ok(())
    }
}

pub(super) fn artifact(path: Vec<u8>, found: &Stat) -> Artifact {
    Artifact {
        path,
        is_directory: kind(found) == FileType::Directory,
        size: u64::try_from(found.st_size).unwrap_or(0),
        modified: modified(found),
        mode: found.st_mode & 0o7777,
        media_type: String::new(),
    }
}

/// Whoever made the file may have given it any time, one before 1970 too.
fn modified(found: &Stat) -> SystemTime {
    let seconds = Duration::from_secs(found.st_mtime.unsigned_abs());
    let nanos = Duration::from_nanos(found.st_mtime_nsec);
    let whole = match found.st_mtime {
        0.. => SystemTime::UNIX_EPOCH.checked_add(seconds),
        _ => SystemTime::UNIX_EPOCH.checked_sub(seconds),
    };
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(SystemTime::UNIX_EPOCH)
}
