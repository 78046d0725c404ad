//! How much a workspace on a disk holds. To count costs as much as there are files, so it is done only when calls have
//! written, or the file system as a whole has taken, so much since the last time that the workspace may have passed its
//! limit; and now and then while a call runs, since what others delete meanwhile hides what it takes.
//!
//! What this does not see: a file that has no name any more and is still open, which ends with its call; and what lies
//! deeper than [`MAX_DEPTH`] directories, or in one that an agent without rights of its own may not read.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use tokio::sync::Mutex as AsyncMutex;

use crate::sandbox::slot::GENERATION;

/// Directories that are open at once while it is counted.
const MAX_DEPTH: usize = 64;
/// Counting takes at most this part of the time while a call runs.
const SHARE: u32 = 20;
/// How often it is counted at most without a reason.
const ROUTINE: Duration = Duration::from_secs(2);

/// Bytes on the disk, and files and directories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

impl Use {
    pub(super) fn limits(bytes: Option<u64>, inodes: Option<u64>) -> Self {
        Self { bytes: bytes.unwrap_or(u64::MAX), inodes: inodes.unwrap_or(u64::MAX) }
    }

    fn is_within(self, limits: Self) -> bool {
        self.bytes <= limits.bytes && self.inodes <= limits.inodes
    }

    fn since(self, earlier: Self) -> Self {
        Self { bytes: self.bytes.saturating_sub(earlier.bytes), inodes: self.inodes.saturating_sub(earlier.inodes) }
    }

    fn and(self, more: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(more.bytes), inodes: self.inodes.saturating_add(more.inodes) }
    }
}

/// Of one generation of a slot. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    limits: Use,
    known: Mutex<Known>,
    /// Whoever counts has it.
    counting: AsyncMutex<()>,
}

#[derive(Debug)]
struct Known {
    used: Use,
    /// All of the file system, as it was before this was counted.
    everybody: Use,
    /// By calls that have ended since, in bytes.
    written: u64,
    /// Not before this again, while a call runs.
    next: Instant,
    /// Then again in any case, while a call runs.
    routine: Instant,
}

impl Known {
    fn new(used: Use, everybody: Use, took: Duration) -> Self {
        let (now, pause) = (Instant::now(), took * SHARE);
        Self { used, everybody, written: 0, next: now + pause, routine: now + pause.max(ROUTINE) }
    }
}

impl Meter {
    /// `directory`: the slot's. What its workspace begins with counts, once there is reason to count.
    pub(super) fn new(directory: PathBuf, limits: Use) -> Self {
        let known = Known::new(Use::default(), used_by_everybody(&directory), Duration::ZERO);
        Self { shared: Arc::new(Shared { directory, limits, known: Mutex::new(known), counting: AsyncMutex::new(()) }) }
    }

    /// As it was last counted.
    pub(super) fn last(&self) -> Use {
        self.known().used
    }

    /// Begins to count, if there is reason to and nobody does. `routinely`: now and then in any case.
    pub(super) fn measure_if_need_be(&self, routinely: bool) {
        let now = Instant::now();
        let is_due = |known: &Known| (now >= known.next, now >= known.routine);
        let (may_count, must_count) = is_due(&self.known());
        if ((must_count && routinely) || (may_count && self.may_be_over())) && self.shared.counting.try_lock().is_ok() {
            let meter = self.clone();
            tokio::spawn(async move { meter.count().await });
        }
    }

    /// A call has ended that has written so many bytes: counts now, if there is reason to. Where it is not known how
    /// many, the file system alone would not do, since what others delete hides what it took: it counts then as often as
    /// while a call runs.
    pub(super) async fn settle(&self, written: Option<u64>) {
        self.known().written += written.unwrap_or(0);
        let is_due = written.is_none() && Instant::now() >= self.known().next;
        if is_due || self.may_be_over() {
            self.count().await;
        }
    }

    /// A few microseconds.
    fn may_be_over(&self) -> bool {
        let everybody = used_by_everybody(&self.shared.directory);
        let known = self.known();
        let mut taken = everybody.since(known.everybody);
        taken.bytes = taken.bytes.max(known.written);
        !known.used.and(taken).is_within(self.shared.limits)
    }

    async fn count(&self) {
        let _counting = self.shared.counting.lock().await;
        let directory = self.shared.directory.clone();
        let counted = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let everybody = used_by_everybody(&directory);
            let mut count = Count::default();
            GENERATION.iter().for_each(|name| count.tree(&directory.join(name)));
            (count.used, everybody, begun.elapsed())
        });
        // An error means that the agent ends.
        if let Ok((used, everybody, took)) = counted.await {
            *self.known() = Known::new(used, everybody, took);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nothing where it cannot be asked.
fn used_by_everybody(directory: &Path) -> Use {
    rustix::fs::statvfs(directory).map_or_else(
        |_| Use::default(),
        |all| Use {
            bytes: all.f_blocks.saturating_sub(all.f_bfree).saturating_mul(all.f_frsize),
            inodes: all.f_files.saturating_sub(all.f_ffree),
        },
    )
}

/// Counts each file once, whatever its names, and follows no link.
#[derive(Default)]
struct Count {
    used: Use,
    /// Files of several names.
    seen: HashSet<(u64, u64)>,
}

impl Count {
    /// What is below a directory, which may change meanwhile. The directory itself is the slot's maker's.
    fn tree(&mut self, root: &Path) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(root) = rustix::fs::openat(CWD, root, flags, Mode::empty()).and_then(Dir::new) else { return };
        let mut open = vec![root];
        while let Some(directory) = open.last_mut() {
            let Some(entry) = directory.read() else {
                open.pop();
                continue;
            };
            let Ok(entry) = entry else { continue };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let Ok(parent) = directory.fd() else { continue };
            let Ok(file) = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let is_directory = FileType::from_raw_mode(file.st_mode).is_dir();
            if file.st_nlink == 1 || is_directory || self.seen.insert((file.st_dev, file.st_ino)) {
                self.used = self.used.and(Use { bytes: file.st_blocks.unsigned_abs() * 512, inodes: 1 });
            }
            if is_directory
                && open.len() < MAX_DEPTH
                && let Some(parent) = open.last()
                && let Ok(parent) = parent.fd()
                && let Ok(below) = rustix::fs::openat(parent, name, flags, Mode::empty()).and_then(Dir::new)
            {
                open.push(below);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use super::*;

    fn used(root: &Path) -> Use {
        let mut count = Count::default();
        count.tree(root);
        count.used
    }

    #[test]
    fn files_count_once_and_links_lead_nowhere() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("workspace");
        fs::create_dir_all(root.join("a/b")).unwrap();
        assert_eq!(used(&root).inodes, 2);
        fs::write(root.join("a/file"), vec![1; 1 << 20]).unwrap();
        let before = used(&root);
        let allocated = fs::metadata(root.join("a/file")).unwrap().blocks() * 512;
        assert!(before.bytes >= allocated && before.inodes == 3, "{before:?}");
        fs::hard_link(root.join("a/file"), root.join("again")).unwrap();
        std::os::unix::fs::symlink("/usr", root.join("link")).unwrap();
        let after = used(&root);
        assert_eq!(after.inodes, 4, "the link is one, the second name none");
        assert!(after.bytes < before.bytes + (1 << 20));
        // A hole takes no room.
        fs::File::create(root.join("hole")).unwrap().set_len(1 << 40).unwrap();
        assert!(used(&root).bytes < before.bytes + (1 << 20));
    }

    #[tokio::test]
    async fn it_counts_only_where_there_is_reason_to() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("workspace");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("file"), vec![1; 1 << 20]).unwrap();
        let roomy = Meter::new(home.path().to_owned(), Use::limits(Some(1 << 50), None));
        roomy.settle(Some(1 << 30)).await;
        assert_eq!(roomy.last(), Use::default());
        // Whatever others do to the file system meanwhile, this is over.
        let tight = Meter::new(home.path().to_owned(), Use::limits(Some(0), None));
        fs::write(root.join("more"), vec![1; 8 << 20]).unwrap();
        tight.settle(Some(8 << 20)).await;
        assert!(tight.last().bytes > 8 << 20 && tight.last().inodes == 2, "{:?}", tight.last());
        // Of what was written nothing is known.
        let unknown = Meter::new(home.path().to_owned(), Use::limits(Some(1 << 50), None));
        unknown.settle(None).await;
        assert_eq!(unknown.last(), tight.last());
    }
}
