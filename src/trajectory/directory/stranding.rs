//! Trajectories of which nothing is known any more but that they had a slot: the journal that told of them was lost.

use std::{
    collections::{BTreeMap, hash_map},
    time::{Duration, SystemTime},
};

use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tracing::warn;

use super::Directory;
use crate::{
    id::{CallNumber, Sequence, TrajectoryKey},
    journal::{Options, Record},
    scheduler::{FormerOwner, FormerOwners},
    trajectory::{request::Defaults, start::Start, state::State, totals::Part},
};

/// How long whoever is not known waits for agents to say whose slots they had. Longer than an agent that can be reached takes
/// for it, which waits for its slots.
const PATIENCE: Duration = Duration::from_secs(15);

impl Directory {
    /// To be called before anybody asks for a trajectory, if the journal may not tell of all. An executor before this one
    /// has given these slots, which are about to be emptied: of whom nothing is known, nothing runs until his client says
    /// that he begins anew. Until everybody has been told of, nobody begins who may be among them.
    pub fn strand(self, mut told: mpsc::UnboundedReceiver<FormerOwners>) -> impl Future<Output = ()> + Send {
        self.shared.all_are_known.send_replace(false);
        async move {
            while let Some(FormerOwners { owners, heard }) = told.recv().await {
                // At once, so that one sync of the journal serves them all.
                let all: JoinSet<()> = owners.into_iter().map(|owner| self.clone().strand_one(owner)).collect();
                all.join_all().await;
                // A container that is gone needs no answer.
                let _ = heard.send(());
            }
            self.shared.journal.complete();
            self.shared.all_are_known.send_replace(true);
        }
    }

    async fn strand_one(self, owner: FormerOwner) {
        let key = owner.key.clone();
        if self.shared.lock().contains_key(&key) {
            return;
        }
        warn!(trajectory = %key, "nothing is known of a trajectory but that it had a slot: its workspace is gone");
        let at = self.shared.moment(&self.shared.accounts.of(&key.tenant), &Part::default());
        let records = records(owner, &self.shared.limits.default_options, at.wall);
        let mut journal = self.shared.journal.begin(key.clone());
        journal.append(&records).await;
        match (self.shared.lock().entry(key.clone()), State::restore(self.shared.limits.clone(), records, at)) {
            (hash_map::Entry::Vacant(entry), Some(state)) => {
                entry.insert(self.start(Start { key, state, journal, trace: None, reclaim: None }));
            }
            // It had two slots; or somebody did not wait any longer.
            _ => journal.end(),
        }
    }

    /// Returns once it is known whether this is somebody's.
    pub(super) async fn recognize(&self, key: &TrajectoryKey) {
        if *self.shared.all_are_known.borrow() || self.shared.lock().contains_key(key) {
            return;
        }
        let mut all_are_known = self.shared.all_are_known.subscribe();
        // Whoever does not hear in time begins.
        let _ = timeout(PATIENCE, all_are_known.wait_for(|known| *known)).await;
    }
}

/// Records of a trajectory that had this slot, and of which nothing else is known: as if its lease had ended, so that
/// nothing goes on in an empty workspace that its client takes for the one it had.
fn records(FormerOwner { pool, generation, .. }: FormerOwner, defaults: &Defaults, at: SystemTime) -> Vec<Record> {
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
        Record::Opened { options: options.into(), at },
        Record::Past { calls: Vec::new(), last_number, last_sequence, generation },
        Record::LeaseEnded,
    ]
}
