//! That what was written is on the disk, also after a sync has failed.

use std::{
    fs, io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::segment::Segment;

/// One sync at a time, since a failure is told to one only.
#[derive(Debug, Default)]
pub(super) struct Disk {
    turn: Mutex<()>,
    /// A sync has failed: whether what was written since the one before it is on the disk is not known, and another sync
    /// would not tell. It has to be written again.
    in_doubt: AtomicBool,
}

impl Disk {
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `unsynced`: what was written last, and is not known to be on the disk.
    pub(super) fn rewrite_doubtful(&self, current: &Segment, unsynced: &[u8]) -> io::Result<()> {
        if self.in_doubt.load(Ordering::Relaxed) {
            current.rewrite(unsynced)?;
            self.in_doubt.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn sync(&self, file: &fs::File) -> io::Result<()> {
        if self.in_doubt.load(Ordering::Relaxed) {
            return Err(io::Error::other("an earlier part of it is in doubt"));
        }
        file.sync_data().inspect_err(|_| self.in_doubt.store(true, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::journal::segment::{self, Tip};

    #[test]
    fn what_a_failed_sync_may_have_lost_is_written_again() {
        let home = tempfile::tempdir().unwrap();
        let mut current = Segment::create(home.path(), 1, 0).unwrap();
        current.begin(Tip::default(), [7; 16], 1).unwrap();
        let mut frame = Vec::new();
        segment::frame(&mut frame, |buffer| buffer.extend_from_slice(b"one"));
        current.write(&frame).unwrap();
        let disk = Disk::default();
        disk.sync(&current.file).unwrap();
        segment::frame(&mut frame, |buffer| buffer.extend_from_slice(b"two"));
        current.write(&frame).unwrap();
        // A device that has failed, as the kernel tells it: once, and what was to be written is gone.
        disk.in_doubt.store(true, Ordering::Relaxed);
        current.file.write_all_at(&[0; 4096], current.tip().at - frame.len() as u64).unwrap();
        assert!(disk.sync(&current.file).is_err(), "another sync would not tell");
        disk.rewrite_doubtful(&current, &frame).unwrap();
        disk.sync(&current.file).unwrap();
        let bytes = fs::read(segment::path(home.path(), 1)).unwrap();
        let contents = segment::read(1, &bytes).unwrap();
        let payloads: Vec<_> = contents.payloads.into_iter().map(|range| &bytes[range]).collect();
        assert_eq!(payloads, [b"one", b"two"]);
    }
}
