//! What a journal's directory holds, read once, when it is opened. Nothing is changed here but what is empty.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
};

use prost::Message as _;
use tracing::warn;

use super::{
    codec,
    lives::Lives,
    record::Record,
    segment::{self, Boot, End, FORMAT, NotASegment},
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
    pub(super) accounts: Lives,
    /// Of the last segment, and the last life; 0 if there is none.
    pub(super) last_segment: u64,
    pub(super) last_life: u64,
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
    let mut found = Found::default();
    let mut unnamed: HashMap<u64, Vec<Record>> = HashMap::new();
    // After damage that the end of a machine has done, the rest of what it wrote is left out.
    let mut lost_boot: Option<Boot> = None;
    for number in segment::list(directory).map_err(failed("list", directory))? {
        let path = segment::path(directory, number);
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        let damaged = |what: String| JournalError::Damaged { path: path.clone(), what };
        let contents = match segment::read(number, &bytes) {
            Ok(contents) => contents,
            Err(NotASegment::Unfinished) => {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
                continue;
            }
            Err(NotASegment::Newer(found)) => return Err(JournalError::Newer { path, found }),
            Err(NotASegment::Foreign) => return Err(damaged("it is not a segment of a journal".to_owned())),
        };
        if found.last_segment != 0 && contents.previous != found.last_segment {
            return Err(damaged(format!("it follows segment {}, which is not there", contents.previous)));
        }
        found.last_segment = number;
        found.accounts.add_segment(number, bytes.len() as u64);
        if lost_boot == Some(contents.boot) {
            continue;
        }
        for range in contents.payloads {
            let length = range.len() as u64;
            let entry = pb::Entry::decode(&bytes[range]).map_err(|error| damaged(error.to_string()))?;
            take(entry, number, length, &mut found, &mut unnamed).map_err(|error| damaged(error.to_string()))?;
        }
        match contents.end {
            End::Clean => {}
            End::Torn(at) => {
                warn!(path = %path.display(), at, "the journal's writer was ended in the middle of a write")
            }
            End::Damaged(at) if contents.boot != *boot => {
                warn!(path = %path.display(), at, "the machine ended before all of the journal was on its disk");
                lost_boot = Some(contents.boot);
            }
            End::Damaged(at) => return Err(damaged(format!("what is at byte {at} is not what was written"))),
        }
    }
    for life in unnamed.into_keys() {
        warn!(life, "the journal does not have the beginning of a trajectory: it is forgotten");
        found.accounts.end(life);
    }
    found.accounts.ask_anew();
    Ok(found)
}

fn take(
    entry: pb::Entry,
    segment: u64,
    length: u64,
    found: &mut Found,
    unnamed: &mut HashMap<u64, Vec<Record>>,
) -> Result<(), codec::Senseless> {
    let life = entry.life;
    found.last_life = found.last_life.max(life);
    if entry.over {
        found.lives.remove(&life);
        unnamed.remove(&life);
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
            unnamed.remove(&life);
            found.lives.insert(life, FoundLife { key, records });
        }
        // The segment where it began is gone: its statement comes later.
        (None, None) => unnamed.entry(life).or_default().extend(records),
    }
    Ok(())
}
