//! The journal as its users have it: each trajectory's part is an [`Entry`], whose records are kept in the order in
//! which they are appended.
//!
//! Whoever appends writes: one system call into room that was reserved ahead. With [`Durability::Synced`] one sync of the
//! file serves all who wait for it.

use std::{error::Error, fs, os::unix::fs::DirBuilderExt, path::Path, sync::Arc};

use prost::Message as _;
use tracing::error;

use super::{
    codec,
    record::Record,
    recovery::{self, FoundLife, JournalError},
    segment::{self, Boot},
    store::{AGAIN, Shared},
    wanted::Wanted,
};
use crate::{id::TrajectoryKey, pb::journal as pb};

/// What records outlive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// Nothing: they are not kept.
    Memory,
    /// The process. What the machine's end takes with it is its last seconds.
    #[default]
    File,
    /// The machine: they are on its disk before anything follows from them.
    Synced,
}

/// A file beside the segments as long as they may not tell of all.
const INCOMPLETE: &str = "incomplete";

/// Where records are kept. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    /// None where they are not.
    shared: Option<Arc<Shared>>,
    was_complete: bool,
}

/// A trajectory's part of it. Dropped, what it has written stays.
pub struct Entry {
    shared: Option<Arc<Shared>>,
    life: u64,
    key: TrajectoryKey,
    /// Nothing of it has been written.
    new: bool,
    wanted: Arc<Wanted>,
}

/// A trajectory that was not over when the journal was closed.
pub struct Recovered {
    pub key: TrajectoryKey,
    pub entry: Entry,
    /// Since its last checkpoint, in the order in which they were kept.
    pub records: Vec<Record>,
    /// They are all that were written: no machine has ended since that could have taken the last of them with it.
    pub is_complete: bool,
}

impl Journal {
    /// Opens the journal in `directory`, which is made if need be, and reads what it holds.
    ///
    /// # Errors
    /// If it cannot be read, or not be written to; if a later version of this program has written it, or it is damaged.
    /// Then nothing of it is changed.
    pub fn open(directory: &Path, durability: Durability) -> Result<(Self, Vec<Recovered>), JournalError> {
        let failed = |step| {
            let path = directory.to_owned();
            move |source| JournalError::Io { step, path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("create"))?;
        let boot = boot();
        let mut found = recovery::read(directory, &boot)?;
        let is_complete = found.is_complete;
        let was_complete = is_complete && !directory.join(INCOMPLETE).exists();
        if durability == Durability::Memory {
            // From here on what is there would be out of date.
            let segments = segment::list(directory).map_err(failed("list"))?;
            let remove = |number| fs::remove_file(segment::path(directory, number));
            segments.into_iter().try_for_each(remove).map_err(failed("clear"))?;
            let journal = Self { shared: None, was_complete };
            let recovered = found.lives.into_values().map(|life| journal.recovered(0, life, is_complete));
            return Ok((journal.clone(), recovered.collect()));
        }
        if !was_complete {
            fs::File::create(directory.join(INCOMPLETE)).map_err(failed("write to"))?;
        }
        let lives = std::mem::take(&mut found.lives);
        let shared = Arc::new(Shared::new(directory.to_owned(), boot, durability == Durability::Synced, found)?);
        let journal = Self { shared: Some(shared.clone()), was_complete };
        let recovered = lives.into_iter().map(|(number, life)| journal.recovered(number, life, is_complete)).collect();
        shared.tidy();
        Ok((journal, recovered))
    }

    fn recovered(&self, life: u64, FoundLife { key, records }: FoundLife, is_complete: bool) -> Recovered {
        Recovered { entry: self.entry(life, key.clone(), false), key, records, is_complete }
    }

    /// A trajectory begins. Each life of a key has an entry of its own, so that the late end of one is not another's.
    pub fn begin(&self, key: TrajectoryKey) -> Entry {
        let life = self.shared.as_ref().map_or(0, |shared| shared.next_life());
        self.entry(life, key, true)
    }

    fn entry(&self, life: u64, key: TrajectoryKey, new: bool) -> Entry {
        let wanted = self.shared.as_ref().map(|shared| shared.wanted(life)).unwrap_or_default();
        Entry { shared: self.shared.clone(), life, key, new, wanted }
    }

    /// When it was opened, it was there, with all that was written to it: whoever is not in it is not open.
    pub fn was_complete(&self) -> bool {
        self.was_complete
    }

    /// What it did not tell has been written to it, as far as it can be known: from now on it is complete.
    pub fn complete(&self) {
        if let Some(shared) = &self.shared {
            // If it cannot be removed, the next executor asks once more.
            let _ = fs::remove_file(shared.directory.join(INCOMPLETE));
        }
    }

    /// New calls and trajectories must be refused: what room is left is for what becomes of those that were accepted.
    pub fn is_full(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.is_full())
    }
}

impl Entry {
    /// Returns once they are kept, as the durability says; they are when this is dropped, unless the disk is full. Waits
    /// for the disk only: for its sync, and where it is full until it is not.
    pub async fn append(&mut self, records: &[Record]) {
        self.write(records.iter().map(codec::write).collect(), false).await;
    }

    /// These stand for all before. Either all of them do, or none.
    pub async fn checkpoint(&mut self, records: &[Record]) {
        self.wanted.is_met();
        self.write(records.iter().map(codec::write).collect(), true).await;
    }

    /// Returns once the journal wants a checkpoint, so that what it keeps stays in proportion. Cancel-safe.
    pub async fn checkpoint_wanted(&self) {
        self.wanted.asked().await;
    }

    /// The trajectory is over: nothing of it is kept. Where that cannot be written, it is once it can be; if the process
    /// ends before, the trajectory is found once more.
    pub fn end(self) {
        if let Some(shared) = &self.shared {
            shared.end(self.life, !self.new);
        }
    }

    async fn write(&mut self, records: Vec<pb::Record>, restated: bool) {
        let Some(shared) = self.shared.clone() else { return };
        let named = self.new || restated;
        let key =
            named.then(|| pb::Key { tenant: self.key.tenant.to_string(), trajectory_id: self.key.id.to_string() });
        let entry = pb::Entry { life: self.life, key, records, restated, over: false };
        let mut frame = Vec::with_capacity(entry.encoded_len() + 16);
        segment::frame(&mut frame, |buffer| entry.encode_raw(buffer));
        drop(entry);
        let mut told = false;
        let written = loop {
            match shared.append(self.life, &frame, restated) {
                Ok(written) => break written,
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        let error = &error as &dyn Error;
                        error!(trajectory = %self.key, error, "the journal cannot be written: what follows from it waits");
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        self.new = false;
        if shared.synced {
            shared.sync(written).await;
        }
    }
}

fn boot() -> Boot {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    uuid::Uuid::parse_str(text.trim()).map(uuid::Uuid::into_bytes).unwrap_or_default()
}
