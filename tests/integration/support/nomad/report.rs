//! What clients tell the server: a while after it was so, and several things together, as real clients batch their
//! updates. A client that cannot be reached tells nothing until it returns.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{client::Local, tables::Alloc, world::World};

/// What is due within this time is told together.
const BATCH: Duration = Duration::from_millis(20);

impl World {
    /// The client tells the server what it knows by then, if it can.
    pub(super) fn report(&mut self, id: &str, after: Duration) {
        if let Some(local) = self.locals.get_mut(id) {
            local.due.push(Instant::now() + after);
        }
        let id = id.to_owned();
        self.later(after, move |world| world.sync(&id));
    }

    /// What it knows now, and with it whatever is due soon of other tasks: a client batches.
    pub(super) fn sync(&mut self, id: &str) {
        let soon = Instant::now() + BATCH;
        let mut ids = vec![id.to_owned()];
        let is_due = |(other, local): &(&String, &Local)| *other != id && local.due.iter().any(|due| *due <= soon);
        ids.extend(self.locals.iter().filter(is_due).map(|(id, _)| id.clone()));
        let updates: Vec<(String, Alloc)> =
            ids.into_iter().filter_map(|id| Some((id.clone(), self.news(&id)?))).collect();
        if updates.is_empty() {
            return;
        }
        let index = self.step();
        let mut nodes = BTreeSet::new();
        let mut events = Vec::new();
        for (id, update) in updates {
            let (job, over) = (update.job_id.clone(), update.is_terminal());
            nodes.insert(update.node_id.clone());
            if let Some(alloc) = self.alloc_mut(&id) {
                *alloc = update;
            }
            self.touch(&id, index, false);
            if over {
                self.settle(&job, index);
            }
            events.extend(self.alloc_event(index, "AllocationUpdated", &id));
        }
        events.extend(nodes.iter().filter_map(|node| self.node_event(index, "AllocationUpdated", node)));
        self.publish(index, events);
    }

    /// The allocation as the server will have it, if that is news and can be told.
    fn news(&mut self, id: &str) -> Option<Alloc> {
        let local = self.locals.get(id).filter(|local| self.is_reachable(&local.node_id))?;
        let mut alloc = self.alloc(id)?.clone();
        let states = local.task_states();
        let is_old = alloc.client_status == local.status && alloc.task_states == states;
        (alloc.client_status, alloc.client_description, alloc.task_states) = (local.status, local.description, states);
        if let Some(local) = self.locals.get_mut(id) {
            let soon = Instant::now() + BATCH;
            local.due.retain(|due| *due > soon);
        }
        (!is_old).then_some(alloc)
    }

    /// A job of which nothing lives or waits is dead; what has ended makes room.
    fn settle(&mut self, job: &str, index: u64) {
        let lives = self.tables.allocs.iter().any(|alloc| alloc.job_id == job && !alloc.is_terminal());
        let waits = self.tables.evals.values().any(|eval| {
            eval["JobID"] == json!(job) && ["pending", "blocked"].iter().any(|status| eval["Status"] == *status)
        });
        if !lives && !waits {
            self.set_job_status(job, index, "dead");
        }
        self.unblock();
    }
}
