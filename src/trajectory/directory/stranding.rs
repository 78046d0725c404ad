//! Trajectories of which nothing is known any more but that they had a slot: the journal that told of them was lost.

use std::{
    collections::{BTreeMap, hash_map},
    time::SystemTime,
};

use tracing::warn;

use super::Directory;
use crate::{
    id::{CallNumber, Sequence},
    journal::{Options, Record},
    scheduler::FormerOwner,
    trajectory::{request::Defaults, start::Start, state::State, totals::Part},
};

impl Directory {
    /// An executor before this one has given it a slot, which is about to be emptied. If nothing is known of the
    /// trajectory, because the journal was lost, nothing of it runs until its client says that it begins anew.
    pub async fn strand(&self, owner: FormerOwner) {
        let key = owner.key.clone();
        if self.shared.lock().contains_key(&key) {
            return;
        }
        warn!(trajectory = %key, "nothing is known of a trajectory but that it had a slot: its workspace is gone");
        let records = records(owner, &self.shared.limits.default_options);
        let mut journal = self.shared.journal.begin(key.clone());
        journal.append(&records).await;
        let at = self.shared.moment(&self.shared.accounts.of(&key.tenant), &Part::default());
        match (self.shared.lock().entry(key.clone()), State::restore(self.shared.limits.clone(), records, at)) {
            (hash_map::Entry::Vacant(entry), Some(state)) => {
                entry.insert(self.start(Start { key, state, journal, trace: None, reclaim: None }));
            }
            // Somebody has just begun it.
            _ => journal.end(),
        }
    }
}

/// Records of a trajectory that had this slot, and of which nothing else is known: as if its lease had ended, so that
/// nothing goes on in an empty workspace that its client takes for the one it had.
fn records(FormerOwner { pool, generation, .. }: FormerOwner, defaults: &Defaults) -> Vec<Record> {
    let options = Options {
        lease: defaults.lease,
        labels: BTreeMap::new(),
        pool,
        acquire_slot: false,
        output_limits: defaults.output_limits,
        default_timeout: defaults.timeout,
    };
    let (last_number, last_sequence) = (CallNumber(0), Sequence(0));
    vec![
        Record::Opened { options: options.into(), at: SystemTime::now() },
        Record::Past { calls: Vec::new(), last_number, last_sequence, generation },
        Record::LeaseEnded,
    ]
}
