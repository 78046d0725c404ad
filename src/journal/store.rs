//! The log as a whole: where the next frame goes, what room is left, what is on the disk, and what may go.
//!
//! Room is made ahead: beside the segment that is written to there is a spare. A disk that has no room for another one
//! is full for whoever would be new, while those who are there use up what has been set aside.

use std::{
    collections::HashMap,
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use prost::Message as _;
use tracing::{error, info, warn};

use super::{
    disk::Disk,
    lives::Lives,
    recovery::{Found, JournalError},
    segment::{self, Boot, Segment},
    wanted::Wanted,
};
use crate::pb::journal as pb;

/// How often what could not be done is tried again.
pub(super) const AGAIN: Duration = Duration::from_millis(100);

pub(super) struct Shared {
    pub(super) directory: PathBuf,
    boot: Boot,
    pub(super) synced: bool,
    log: Mutex<Log>,
    /// There is no spare segment, and none to be had.
    full: AtomicBool,
    /// The last write or sync has failed.
    failing: AtomicBool,
    /// The number of the last life.
    life: AtomicU64,
    /// One waits for a sync, and those who come meanwhile wait for the next.
    syncing: tokio::sync::Mutex<()>,
    disk: Arc<Disk>,
}

struct Log {
    current: Segment,
    spare: Option<Segment>,
    lives: Lives,
    wanted: HashMap<u64, Arc<Wanted>>,
    /// Lives whose end could not be written yet.
    late: Vec<u64>,
    /// Since the start, in bytes.
    written: u64,
    /// What of it is not known to be on the disk; always empty where nobody waits for that.
    unsynced: Vec<u8>,
    /// Not needed any more once what has been written is on the disk.
    needless: Vec<u64>,
    /// When room was last looked for in vain.
    tried: Option<Instant>,
}

/// What a sync is for.
struct Sync {
    file: Arc<fs::File>,
    /// In bytes since the start.
    through: u64,
    needless: Vec<u64>,
}

impl Shared {
    /// Goes on with what was found.
    pub(super) fn new(directory: PathBuf, boot: Boot, synced: bool, found: Found) -> Result<Self, JournalError> {
        let failed = |step| {
            let path = directory.clone();
            move |source| JournalError::Io { step, path, source }
        };
        let Found { lives: _, forgotten, accounts, last_life, tip, header, spares, needless, is_complete: _ } = found;
        let mut spares = spares.into_iter();
        let taken = needless.iter().copied().max().unwrap_or(0);
        let mut next_spare = |after: u64| match spares.next() {
            Some(number) => Segment::reuse(&directory, number),
            None => create(&directory, synced, after.max(taken) + 1, 0),
        };
        let mut lives = accounts;
        let current = match header {
            Some(header) => Segment::resume(&directory, segment::Header { boot, ..header }, tip.at),
            None => next_spare(tip.segment).and_then(|mut segment| {
                let oldest = lives.oldest_segment().unwrap_or(segment.number);
                segment.begin(tip, boot, oldest).map(|()| segment)
            }),
        };
        let current = current.map_err(failed("write to"))?;
        lives.add_segment(current.number, current.capacity());
        let spare = next_spare(current.number);
        for number in needless.iter().copied().chain(spares) {
            fs::remove_file(segment::path(&directory, number)).map_err(failed("clear"))?;
        }
        let shared = Self {
            log: Mutex::new(Log {
                current,
                spare: None,
                lives,
                wanted: HashMap::new(),
                late: forgotten,
                written: 0,
                unsynced: Vec::new(),
                needless: Vec::new(),
                tried: None,
            }),
            directory,
            boot,
            synced,
            full: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            life: AtomicU64::new(last_life),
            syncing: tokio::sync::Mutex::default(),
            disk: Arc::default(),
        };
        let mut log = shared.log();
        shared.take_spare(&mut log, spare);
        shared.write_late_ends(&mut log);
        drop(log);
        Ok(shared)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // What could fail halfway leaves a torn frame at most, which is overwritten by the next.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a life that begins.
    pub(super) fn next_life(&self) -> u64 {
        self.life.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn wanted(&self, life: u64) -> Arc<Wanted> {
        self.log().wanted.entry(life).or_default().clone()
    }

    /// What was kept before the start may be too much already. To be called once somebody can hear of it.
    pub(super) fn tidy(&self) {
        let mut log = self.log();
        self.remove_needless(&mut log);
        log.lives.ask_anew();
        log.ask_for_less();
    }

    pub(super) fn is_full(&self) -> bool {
        if self.full.load(Ordering::Relaxed) {
            self.look_for_room(&mut self.log());
        }
        self.full.load(Ordering::Relaxed) || self.failing.load(Ordering::Relaxed)
    }

    /// How much has been written with it, in bytes since the start.
    pub(super) fn append(&self, life: u64, frame: &[u8], restated: bool) -> io::Result<u64> {
        let mut log = self.log();
        let before = log.current.number;
        let put = self.put(&mut log, frame);
        if put.is_err() || !self.synced {
            self.failing.store(put.is_err(), Ordering::Relaxed);
        }
        put?;
        let segment = log.current.number;
        if log.lives.wrote(life, segment, frame.len() as u64, restated) {
            log.ask(&[life]);
        }
        self.write_late_ends(&mut log);
        if restated || before != segment {
            self.remove_needless(&mut log);
            log.ask_for_less();
        }
        Ok(log.written)
    }

    /// It needs nothing any more; `written`: there is something of it.
    pub(super) fn end(&self, life: u64, written: bool) {
        let mut log = self.log();
        log.wanted.remove(&life);
        if written {
            log.late.push(life);
            self.write_late_ends(&mut log);
        }
    }

    /// They need their segments until their end is written: else a segment could go without which nobody knows whose
    /// the rest is.
    fn write_late_ends(&self, log: &mut Log) {
        while let Some(life) = log.late.pop() {
            let over = pb::Entry { life, over: true, ..pb::Entry::default() };
            let mut frame = Vec::new();
            segment::frame(&mut frame, |buffer| over.encode_raw(buffer));
            if self.put(log, &frame).is_err() {
                log.late.push(life);
                return;
            }
            log.lives.end(life);
        }
    }

    fn put(&self, log: &mut Log, frame: &[u8]) -> io::Result<()> {
        if !log.current.has_room(segment::payload_length(frame)) {
            self.roll(log, segment::payload_length(frame))?;
        }
        log.current.write(frame)?;
        log.written += frame.len() as u64;
        if self.synced {
            log.unsynced.extend_from_slice(frame);
        }
        Ok(())
    }

    /// Goes on in the next segment.
    fn roll(&self, log: &mut Log, payload: usize) -> io::Result<()> {
        self.look_for_room(log);
        if self.synced {
            let _turn = self.disk.turn();
            self.disk.rewrite_doubtful(&log.current, &log.unsynced)?;
            self.disk.sync(&log.current.file)?;
            log.unsynced.clear();
        }
        let tip = log.current.tip();
        let oldest = log.lives.oldest_segment().unwrap_or(tip.segment);
        let mut spare = log.spare.take().ok_or(io::ErrorKind::StorageFull)?;
        if spare.has_room(payload) {
            if let Err(error) = spare.begin(tip, self.boot, oldest) {
                log.spare = Some(spare);
                return Err(error);
            }
            log.current = spare;
        } else {
            // Whoever is as large has a segment of its own; the spare stays.
            let large = self.create_before(&mut spare, tip.segment + 1, payload);
            log.spare = Some(spare);
            let mut large = large?;
            large.begin(tip, self.boot, oldest).inspect_err(|_| remove_empty(&self.directory, large.number))?;
            log.current = large;
        }
        log.lives.add_segment(log.current.number, log.current.capacity());
        log.tried = None;
        self.look_for_room(log);
        Ok(())
    }

    fn create_before(&self, spare: &mut Segment, number: u64, payload: usize) -> io::Result<Segment> {
        if spare.number == number {
            spare.renumber(&self.directory, number + 1)?;
        }
        create(&self.directory, self.synced, number, payload)
    }

    /// Sees to it that there is a spare segment, if it can be had.
    fn look_for_room(&self, log: &mut Log) {
        if log.spare.is_none() && log.tried.is_none_or(|tried| tried.elapsed() >= AGAIN) {
            let spare = create(&self.directory, self.synced, log.current.number + 1, 0);
            self.take_spare(log, spare);
        }
    }

    fn take_spare(&self, log: &mut Log, spare: io::Result<Segment>) {
        match spare {
            Ok(spare) => {
                log.spare = Some(spare);
                if self.full.swap(false, Ordering::Relaxed) {
                    info!("the journal has room again");
                }
            }
            Err(error) => {
                log.tried = Some(Instant::now());
                log.ask_for_less();
                if !self.full.swap(true, Ordering::Relaxed) {
                    let error = &error as &dyn Error;
                    warn!(directory = %self.directory.display(), error, "the journal has no room: new calls are refused");
                }
            }
        }
    }

    /// Removes what nobody needs; where a sync is waited for, once what stands in its place is on the disk.
    fn remove_needless(&self, log: &mut Log) {
        let current = log.current.number;
        let needless = log.lives.take_needless(current);
        log.needless.extend(needless);
        if !self.synced {
            let needless = std::mem::take(&mut log.needless);
            self.remove(log, needless);
        }
    }

    fn remove(&self, log: &mut Log, needless: Vec<u64>) {
        let Some(last) = needless.last() else { return };
        let removed = log.current.set_oldest(last + 1).and_then(|()| {
            needless.iter().try_for_each(|number| fs::remove_file(segment::path(&self.directory, *number)))
        });
        if let Err(error) = removed {
            let error = &error as &dyn Error;
            warn!(directory = %self.directory.display(), error, "segments of the journal could not be removed");
        }
    }

    /// Returns once so much of what was written is on the disk.
    pub(super) async fn sync(&self, written: u64) {
        let mut told = false;
        loop {
            let turn = self.syncing.lock().await;
            let Some(sync) = self.plan_sync(written) else { return };
            let (disk, file) = (self.disk.clone(), sync.file.clone());
            let synced = tokio::task::spawn_blocking(move || {
                let _turn = disk.turn();
                disk.sync(&file)
            });
            // A task that is cut off with its runtime has not told.
            match synced.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(()) => return self.is_on_disk(sync),
                Err(error) => self.is_not_on_disk(sync, &error, &mut told),
            }
            drop(turn);
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// None if so much is on the disk already.
    fn plan_sync(&self, written: u64) -> Option<Sync> {
        let mut log = self.log();
        if log.on_disk() >= written {
            self.failing.store(false, Ordering::Relaxed);
            return None;
        }
        // Where that fails, the sync does.
        let _ = self.disk.rewrite_doubtful(&log.current, &log.unsynced);
        let needless = std::mem::take(&mut log.needless);
        Some(Sync { file: log.current.file.clone(), through: log.written, needless })
    }

    fn is_on_disk(&self, Sync { through, needless, .. }: Sync) {
        let mut log = self.log();
        let known = through.saturating_sub(log.on_disk()) as usize;
        log.unsynced.drain(..known);
        self.failing.store(false, Ordering::Relaxed);
        self.remove(&mut log, needless);
    }

    fn is_not_on_disk(&self, Sync { needless, .. }: Sync, error: &io::Error, told: &mut bool) {
        self.log().needless.splice(..0, needless);
        self.failing.store(true, Ordering::Relaxed);
        if !std::mem::replace(told, true) {
            let error = error as &dyn Error;
            error!(directory = %self.directory.display(), error, "the journal is not on the disk: what follows from it waits");
        }
    }
}

impl Log {
    /// In bytes since the start.
    fn on_disk(&self) -> u64 {
        self.written - self.unsynced.len() as u64
    }

    /// Whoever holds up what may go is to state himself anew.
    fn ask_for_less(&mut self) {
        let current = self.current.number;
        let mut asked = self.lives.ask(current);
        if self.spare.is_none() {
            asked.extend(self.lives.ask_for_room(current, self.current.room()));
        }
        self.ask(&asked);
    }

    /// These lives are to state themselves anew.
    fn ask(&self, lives: &[u64]) {
        lives.iter().filter_map(|life| self.wanted.get(life)).for_each(|wanted| wanted.ask());
    }
}

/// Makes a spare segment; `synced`: for good.
fn create(directory: &Path, synced: bool, number: u64, payload: usize) -> io::Result<Segment> {
    let segment = Segment::create(directory, number, payload)?;
    if synced {
        let synced = fs::File::open(directory).and_then(|directory| directory.sync_all());
        synced.inspect_err(|_| remove_empty(directory, number))?;
    }
    Ok(segment)
}

/// Removes a file that has just been made. If it cannot be, the next that is to have its number cannot be made.
fn remove_empty(directory: &Path, number: u64) {
    let _ = fs::remove_file(segment::path(directory, number));
}
