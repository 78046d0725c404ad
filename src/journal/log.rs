//! The journal as its users have it: each trajectory's part is an [`Entry`], whose records are kept in the order in
//! which they are appended.
//!
//! Whoever appends writes: one system call into room that was reserved ahead. With [`Durability::Synced`] one sync of the
//! file serves all who wait for it.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use prost::Message as _;
use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::{
    codec,
    lives::Lives,
    record::Record,
    recovery::{self, Found, FoundLife, JournalError},
    segment::{self, Boot, Segment},
};
use crate::{id::TrajectoryKey, pb::journal as pb};

/// How often room is looked for that was not there.
const AGAIN: Duration = Duration::from_millis(100);

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

/// Where records are kept. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    /// None where they are not.
    shared: Option<Arc<Shared>>,
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
}

#[derive(Debug, Default)]
struct Wanted {
    now: AtomicBool,
    wake: Notify,
}

struct Shared {
    directory: PathBuf,
    boot: Boot,
    synced: bool,
    log: Mutex<Log>,
    full: AtomicBool,
    /// The number of the last life.
    life: AtomicU64,
    /// One sync at a time.
    syncing: tokio::sync::Mutex<()>,
    /// How much of what was written is on the disk, in bytes since the start.
    on_disk: AtomicU64,
}

struct Log {
    current: Segment,
    /// The next one: once there is none, nothing new is accepted.
    spare: Option<Segment>,
    lives: Lives,
    wanted: HashMap<u64, Arc<Wanted>>,
    /// Since the start, in bytes.
    written: u64,
    /// When room was last looked for in vain.
    tried: Option<Instant>,
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
        let found = recovery::read(directory, &boot)?;
        let Found { lives, accounts, last_segment, last_life } = found;
        if durability == Durability::Memory {
            // From here on what is there would be out of date.
            let segments = segment::list(directory).map_err(failed("list"))?;
            let remove = |number| fs::remove_file(segment::path(directory, number));
            segments.into_iter().try_for_each(remove).map_err(failed("clear"))?;
            let journal = Self { shared: None };
            let recovered = lives.into_values().map(|life| journal.recovered(0, life));
            return Ok((journal.clone(), recovered.collect()));
        }
        let number = last_segment + 1;
        let current = Segment::create(directory, number, last_segment, &boot, 0).map_err(failed("write to"))?;
        let spare = Segment::create(directory, number + 1, number, &boot, 0).map_err(failed("write to"))?;
        let mut log = Log { current, spare: None, lives: accounts, wanted: HashMap::new(), written: 0, tried: None };
        log.lives.add_segment(number, log.current.capacity());
        log.spare = Some(spare);
        let synced = durability == Durability::Synced;
        if synced {
            sync_directory(directory).map_err(failed("sync"))?;
        }
        let shared = Shared {
            directory: directory.to_owned(),
            boot,
            synced,
            log: Mutex::new(log),
            full: AtomicBool::new(false),
            life: AtomicU64::new(last_life),
            syncing: tokio::sync::Mutex::default(),
            on_disk: AtomicU64::new(0),
        };
        let journal = Self { shared: Some(Arc::new(shared)) };
        let recovered = lives.into_iter().map(|(number, life)| journal.recovered(number, life)).collect();
        Ok((journal, recovered))
    }

    fn recovered(&self, life: u64, FoundLife { key, records }: FoundLife) -> Recovered {
        Recovered { entry: self.entry(life, key.clone(), false), key, records }
    }

    /// A trajectory begins. Each life of a key has an entry of its own, so that the late end of one is not another's.
    pub fn begin(&self, key: TrajectoryKey) -> Entry {
        let life = self.shared.as_ref().map_or(0, |shared| shared.life.fetch_add(1, Ordering::Relaxed) + 1);
        self.entry(life, key, true)
    }

    fn entry(&self, life: u64, key: TrajectoryKey, new: bool) -> Entry {
        let wanted = Arc::<Wanted>::default();
        if let Some(shared) = &self.shared {
            shared.log().wanted.insert(life, wanted.clone());
        }
        Entry { shared: self.shared.clone(), life, key, new, wanted }
    }

    /// New calls and trajectories must be refused: what room is left is for what becomes of those that were accepted.
    pub fn is_full(&self) -> bool {
        let Some(shared) = self.shared.as_ref().filter(|shared| shared.full.load(Ordering::Relaxed)) else {
            return false;
        };
        shared.look_for_room(&mut shared.log());
        shared.full.load(Ordering::Relaxed)
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
        self.wanted.now.store(false, Ordering::Relaxed);
        self.write(records.iter().map(codec::write).collect(), true).await;
    }

    /// Returns once the journal wants a checkpoint, so that what it keeps stays in proportion. Cancel-safe.
    pub async fn checkpoint_wanted(&self) {
        while !self.wanted.now.load(Ordering::Acquire) {
            self.wanted.wake.notified().await;
        }
    }

    /// The trajectory is over: nothing of it is kept. Where that cannot be written, it is found once more.
    pub fn end(self) {
        let Some(shared) = &self.shared else { return };
        let mut frame = Vec::new();
        let over = pb::Entry { life: self.life, over: true, ..pb::Entry::default() };
        segment::frame(&mut frame, |buffer| over.encode_raw(buffer));
        let mut log = shared.log();
        log.wanted.remove(&self.life);
        if !self.new && shared.put(&mut log, &frame).is_ok() {
            log.lives.end(self.life);
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
                        let error = &error as &dyn std::error::Error;
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

impl Log {
    /// These lives are to state themselves anew.
    fn ask(&self, lives: &[u64]) {
        for wanted in lives.iter().filter_map(|life| self.wanted.get(life)) {
            wanted.now.store(true, Ordering::Release);
            wanted.wake.notify_one();
        }
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        // What could fail halfway leaves a torn frame at most, which is overwritten by the next.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much has been written with it, in bytes since the start.
    fn append(&self, life: u64, frame: &[u8], restated: bool) -> io::Result<u64> {
        let mut log = self.log();
        let before = log.current.number;
        self.put(&mut log, frame)?;
        let segment = log.current.number;
        let mut asked = Vec::new();
        if log.lives.wrote(life, segment, frame.len() as u64, restated) {
            asked.push(life);
        }
        if restated || before != segment {
            self.remove_needless(&mut log);
            let no_room = log.spare.is_none();
            asked.extend(log.lives.ask(segment, no_room));
        }
        log.ask(&asked);
        Ok(log.written)
    }

    fn put(&self, log: &mut Log, frame: &[u8]) -> io::Result<()> {
        if !log.current.has_room(segment::payload_length(frame)) {
            self.roll(log, segment::payload_length(frame))?;
        }
        log.current.write(frame)?;
        log.written += frame.len() as u64;
        Ok(())
    }

    /// Goes on in the next segment.
    fn roll(&self, log: &mut Log, payload: usize) -> io::Result<()> {
        let previous = log.current.number;
        let next = match log.spare.take() {
            Some(spare) if spare.has_room(payload) => spare,
            unfit => {
                // Whoever is as large has a segment of its own, with the number of the one that did not fit.
                if unfit.is_some() {
                    fs::remove_file(segment::path(&self.directory, previous + 1))?;
                }
                Segment::create(&self.directory, previous + 1, previous, &self.boot, payload).inspect_err(|_| {
                    self.full.store(true, Ordering::Relaxed);
                })?
            }
        };
        if self.synced {
            log.current.file.sync_data()?;
            sync_directory(&self.directory)?;
        }
        log.lives.add_segment(next.number, next.capacity());
        log.current = next;
        log.tried = None;
        self.look_for_room(log);
        Ok(())
    }

    /// Sees to it that there is a spare segment, if it can be had.
    fn look_for_room(&self, log: &mut Log) {
        if log.spare.is_some() || log.tried.is_some_and(|tried| tried.elapsed() < AGAIN) {
            return;
        }
        let number = log.current.number;
        match Segment::create(&self.directory, number + 1, number, &self.boot, 0) {
            Ok(spare) => {
                log.spare = Some(spare);
                if self.full.swap(false, Ordering::Relaxed) {
                    info!("the journal has room again");
                }
            }
            Err(error) => {
                log.tried = Some(Instant::now());
                let asked = log.lives.ask(number, true);
                log.ask(&asked);
                if !self.full.swap(true, Ordering::Relaxed) {
                    let error = &error as &dyn std::error::Error;
                    warn!(directory = %self.directory.display(), error, "the journal has no room: new calls are refused");
                }
            }
        }
    }

    fn remove_needless(&self, log: &mut Log) {
        for number in log.lives.take_needless(log.current.number) {
            if let Err(error) = fs::remove_file(segment::path(&self.directory, number)) {
                warn!(
                    number,
                    error = &error as &dyn std::error::Error,
                    "a segment of the journal could not be removed"
                );
            }
        }
    }

    /// Returns once so much of what was written is on the disk.
    async fn sync(&self, written: u64) {
        let _turn = self.syncing.lock().await;
        if self.on_disk.load(Ordering::Relaxed) >= written {
            return;
        }
        let (file, through) = {
            let log = self.log();
            (log.current.file.try_clone(), log.written)
        };
        let synced = match file {
            Ok(file) => tokio::task::spawn_blocking(move || file.sync_data()).await.unwrap_or_else(|error| {
                // A task that is cut off with its runtime.
                Err(io::Error::other(error))
            }),
            Err(error) => Err(error),
        };
        match synced {
            Ok(()) => self.on_disk.store(through, Ordering::Relaxed),
            // Nobody knows what is on the disk then, and asking again would not tell.
            Err(error) => {
                self.full.store(true, Ordering::Relaxed);
                error!(error = &error as &dyn std::error::Error, "the journal could not be brought to the disk");
            }
        }
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

fn boot() -> Boot {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    uuid::Uuid::parse_str(text.trim()).map(uuid::Uuid::into_bytes).unwrap_or_default()
}
