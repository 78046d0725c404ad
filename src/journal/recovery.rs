//! What a journal's directory holds, read once, when it is opened. Nothing is changed here.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use prost::Message as _;
use tracing::warn;

use super::{
    codec,
    lives::Lives,
    record::Record,
    segment::{self, Boot, Contents, End, FORMAT, Header, NotASegment, Tip},
};
use crate::{
    id::{Tenant, TrajectoryId, TrajectoryKey},
    pb::journal as pb,
};

/// Why a journal cannot be used. Nothing of it has been changed.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("could not {step} {path}")]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{path} has format {found}, and this program knows formats up to {FORMAT}: start the version that wrote it"
    )]
    Newer { path: PathBuf, found: u32 },
    #[error(
        "the journal is damaged: {path}: {what}. To start without what it remembers, move its directory away: \
         trajectories that were open are then unknown, and their slots are wiped"
    )]
    Damaged { path: PathBuf, what: String },
}

/// All that there is.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Those that are not over, by number.
    pub(super) lives: BTreeMap<u64, FoundLife>,
    /// Lives that are over though nobody has said so: another one of their key has begun since, or their beginning went
    /// with the machine.
    pub(super) forgotten: Vec<u64>,
    pub(super) accounts: Lives,
    /// Of the last life; 0 if there is none.
    pub(super) last_life: u64,
    /// Where writing ended.
    pub(super) tip: Tip,
    /// Of the tip's segment, if writing can go on there.
    pub(super) header: Option<Header>,
    /// Segments that are there and not begun.
    pub(super) spares: Vec<u64>,
    /// Segments that nobody needs: what was about to be removed, and what a machine's end has made of no use.
    pub(super) needless: Vec<u64>,
    /// No end of a machine can have taken any of what was written.
    pub(super) is_complete: bool,
}

#[derive(Debug)]
pub(super) struct FoundLife {
    pub(super) key: TrajectoryKey,
    pub(super) records: Vec<Record>,
}

pub(super) fn read(directory: &Path, boot: &Boot) -> Result<Found, JournalError> {
    let failed = |step, path: &Path| {
        let path = path.to_owned();
        move |source| JournalError::Io { step, path, source }
    };
    let mut reading = Reading { boot, found: Found::default(), unnamed: HashSet::new(), oldest: 0, lost: None };
    for number in segment::list(directory).map_err(failed("list", directory))? {
        let path = segment::path(directory, number);
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        let taken = match segment::read(number, &bytes) {
            Ok(contents) => reading.take_segment(&contents, &bytes, &path),
            Err(NotASegment::Spare) => {
                reading.found.spares.push(number);
                Ok(())
            }
            Err(NotASegment::Newer(found)) => return Err(JournalError::Newer { path, found }),
            Err(NotASegment::Foreign) => {
                Err("it is not a segment of a journal, or its beginning is damaged".to_owned())
            }
        };
        taken.map_err(|what| JournalError::Damaged { path, what })?;
    }
    reading.finish().map_err(|what| JournalError::Damaged { path: directory.to_owned(), what })
}

/// What has been read so far, the oldest segment first.
struct Reading<'a> {
    boot: &'a Boot,
    found: Found,
    /// Lives whose beginning was in a segment that is gone: their next statement, or their end, comes later.
    unnamed: HashSet<u64>,
    /// By the last header.
    oldest: u64,
    /// After damage that the end of a machine has done, the rest of what it wrote is left out.
    lost: Option<Boot>,
}

impl Reading<'_> {
    fn take_segment(&mut self, contents: &Contents, bytes: &[u8], path: &Path) -> Result<(), String> {
        let Contents { header, payloads, at, end } = contents;
        let (number, previous) = (header.number, header.previous);
        let tip = self.found.tip;
        if let [spare, ..] = self.found.spares[..] {
            return Err(format!("it comes after segment {spare}, which is empty"));
        }
        if tip.segment != 0 && self.lost != Some(header.boot) && previous != tip {
            if previous.segment != tip.segment {
                return Err(format!("it follows segment {}, which is not there", previous.segment));
            }
            if header.boot == *self.boot || tip.at > previous.at {
                return Err(format!(
                    "segment {} should end at byte {} and ends at {}",
                    tip.segment, previous.at, tip.at
                ));
            }
            self.lose(header.boot, path);
        }
        if self.lost == Some(header.boot) {
            self.found.needless.push(number);
            return Ok(());
        }
        self.oldest = header.oldest;
        self.found.tip = Tip { segment: number, at: *at as u64 };
        self.found.header = Some(*header);
        self.found.accounts.add_segment(number, bytes.len() as u64);
        for range in payloads {
            let entry = pb::Entry::decode(&bytes[range.clone()]).map_err(|error| error.to_string())?;
            self.take_entry(entry, number, range.len() as u64).map_err(|error| error.to_string())?;
        }
        match end {
            End::Clean => Ok(()),
            End::Torn => {
                warn!(path = %path.display(), at, "the journal's writer was ended in the middle of a write");
                Ok(())
            }
            End::Damaged if header.boot != *self.boot => {
                self.lose(header.boot, path);
                Ok(())
            }
            End::Damaged => Err(format!("what is at byte {at} is not what was written")),
        }
    }

    fn lose(&mut self, boot: Boot, path: &Path) {
        warn!(path = %path.display(), "the machine ended before all of the journal was on its disk: the rest is left out");
        self.lost = Some(boot);
        self.found.header = None;
    }

    fn take_entry(&mut self, entry: pb::Entry, segment: u64, length: u64) -> Result<(), codec::Senseless> {
        let (life, found) = (entry.life, &mut self.found);
        found.last_life = found.last_life.max(life);
        if entry.over {
            found.lives.remove(&life);
            self.unnamed.remove(&life);
            found.accounts.end(life);
            return Ok(());
        }
        let records = entry.records.into_iter().map(codec::read).collect::<Result<Vec<_>, _>>()?;
        found.accounts.wrote(life, segment, length, entry.restated);
        match (entry.key, found.lives.get_mut(&life)) {
            (_, Some(known)) if entry.restated => known.records = records,
            (_, Some(known)) => known.records.extend(records),
            (Some(key), None) => {
                let id = TrajectoryId::parse(&key.trajectory_id).map_err(|_| codec::Senseless("a trajectory_id"))?;
                let key = TrajectoryKey { tenant: Tenant::new(&key.tenant), id };
                // Its statement stands for what came before.
                self.unnamed.remove(&life);
                found.lives.insert(life, FoundLife { key, records });
            }
            (None, None) => {
                self.unnamed.insert(life);
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Found, String> {
        // What another boot has written may be there in part only: then it is known what is missing, and not whose
        // fault that is.
        let whole = self.lost.is_none() && self.found.header.is_none_or(|header| header.boot == *self.boot);
        let first = self.found.accounts.oldest_segment();
        if whole && first.is_some_and(|first| first > self.oldest) {
            return Err(format!("segment {}, the oldest, is not there", self.oldest));
        }
        if let Some(life) = self.unnamed.iter().next().filter(|_| whole) {
            return Err(format!("the beginning of trajectory {life} is not there"));
        }
        // Where there is none, there may have been one.
        self.found.is_complete = whole && self.found.header.is_some();
        let removed = self.found.accounts.forget_before(self.oldest);
        self.found.needless.extend(removed);
        let mut latest = HashMap::new();
        for (life, FoundLife { key, .. }) in &self.found.lives {
            // Later lives have higher numbers.
            self.found.forgotten.extend(latest.insert(key.clone(), *life));
        }
        self.found.forgotten.extend(self.unnamed);
        for life in &self.found.forgotten {
            self.found.lives.remove(life);
            self.found.accounts.end(*life);
            warn!(life, "a trajectory whose beginning or end the journal does not have is forgotten");
        }
        self.found.accounts.ask_anew();
        Ok(self.found)
    }
}
