//! Nodes that go and return, are drained and closed, and what is done to single allocations by hand.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Nomad,
    schedule::group_name,
    tables::Alloc,
    world::{World, nanos, rfc3339, uuid},
};

const LOST: &str = "alloc is lost since its node is down";
const UNKNOWN: &str = "alloc is unknown since its node is disconnected";

/// How long the server waits for a disconnected client before the allocation is lost; `None`: not at all.
fn lost_after(alloc: &Alloc) -> Option<Duration> {
    let group = alloc.group();
    let after = group["Disconnect"]["LostAfter"].as_u64().or_else(|| group["MaxClientDisconnect"].as_u64());
    after.filter(|after| *after > 0).map(Duration::from_nanos)
}

impl World {
    fn node_changed(&mut self, name: &str, kind: &str) {
        let index = self.step();
        self.node_mut(name).modify_index = index;
        self.tables.at.nodes = index;
        let event = self.node_event(index, kind, name);
        self.publish(index, event.into_iter().collect());
    }

    fn on_node(&self, name: &str, wanted: impl Fn(&Alloc) -> bool) -> Vec<Alloc> {
        let here = |alloc: &&Alloc| alloc.node_name == name && wanted(alloc);
        self.tables.allocs.iter().filter(here).cloned().collect()
    }

    fn lose(&mut self, name: &str) {
        let alive = self.on_node(name, |alloc| !alloc.is_terminal());
        let waits = alive.iter().any(|alloc| lost_after(alloc).is_some());
        self.node_mut(name).status = if waits { "disconnected" } else { "down" };
        self.node_changed(name, "NodeStreamEvent");
        for alloc in alive {
            let Some(after) = lost_after(&alloc) else {
                self.lose_alloc(&alloc.id);
                continue;
            };
            let index = self.step();
            let eval = self.make_eval(index, &alloc.job_id, "node-update", "EvaluationUpdated");
            let followup = uuid();
            if let Some(alloc) = self.alloc_mut(&alloc.id) {
                (alloc.client_status, alloc.client_description) = ("unknown", UNKNOWN);
                alloc.states.push(json!({ "Field": 0, "Time": rfc3339(), "Value": "unknown" }));
                alloc.followup = followup;
            }
            let index = self.plan(&alloc.id, &eval);
            self.finish_eval(&eval, "complete", json!({}));
            if alloc.group()["Disconnect"]["Replace"] != json!(false) && alloc.desired_status == "run" {
                self.replace(&alloc, index);
            }
            let id = alloc.id.clone();
            self.later(after, move |world| {
                if world.alloc(&id).is_some_and(|alloc| alloc.client_status == "unknown") {
                    world.lose_alloc(&id);
                }
            });
        }
    }

    /// Tells a change of an allocation as the plan of an evaluation.
    fn plan(&mut self, id: &str, eval: &str) -> u64 {
        let index = self.step();
        self.touch(id, index, true);
        let mut events: Vec<Value> = self.eval_event(index, "PlanResult", eval).into_iter().collect();
        events.extend(self.alloc_event(index, "PlanResult", id));
        self.publish(index, events);
        index
    }

    /// Lost for good; the job wants another one.
    fn lose_alloc(&mut self, id: &str) {
        let Some(alloc) = self.alloc(id).cloned() else { return };
        let index = self.step();
        let eval = self.make_eval(index, &alloc.job_id, "node-update", "EvaluationUpdated");
        if let Some(alloc) = self.alloc_mut(id) {
            alloc.client_status = "lost";
            if alloc.desired_status == "run" {
                alloc.desired_status = "stop";
                alloc.desired_description = LOST.to_owned();
            }
        }
        self.plan(id, &eval);
        self.place(&eval);
    }

    /// Another allocation beside or instead of this one, where there is room for it.
    fn replace(&mut self, alloc: &Alloc, index: u64) -> Option<String> {
        let job = self.tables.jobs.get(&alloc.job_id)?.doc.clone();
        let node = self.choose(&job).ok()?;
        let id = self.make_alloc(index, &alloc.eval_id, &job, &node, Some(&alloc.id));
        if let Some(alloc) = self.alloc_mut(&alloc.id) {
            alloc.next = id.clone();
        }
        let event = self.alloc_event(index, "PlanResult", &id);
        self.publish(index, event.into_iter().collect());
        self.start(&id);
        Some(id)
    }

    fn come_back(&mut self, name: &str) {
        self.node_changed(name, "NodeRegistration");
        self.node_mut(name).status = "initializing";
        self.node_changed(name, "NodeStreamEvent");
        let node_id = self.node_mut(name).id.clone();
        self.node_mut(name).status = "ready";
        let here = self.locals.iter().filter(|(_, local)| local.node_id == node_id);
        let ids: Vec<String> = here.map(|(id, _)| id.clone()).collect();
        for id in ids {
            match self.alloc(&id).cloned() {
                // The server has forgotten it, or wants it no more.
                None => self.stop_task(&id),
                Some(alloc) if alloc.desired_status != "run" => {
                    self.stop_task(&id);
                    self.sync(&id);
                }
                Some(alloc) => self.reconnect(&alloc),
            }
        }
        self.node_changed(name, "NodeStreamEvent");
        self.unblock();
    }

    fn reconnect(&mut self, alloc: &Alloc) {
        if alloc.client_status == "unknown" {
            if let Some(local) = self.locals.get_mut(&alloc.id).filter(|local| local.pid.is_some()) {
                local.tell("Reconnected", "Client reconnected", json!({}), json!({}));
            }
            if let Some(alloc) = self.alloc_mut(&alloc.id) {
                alloc.followup = String::new();
                alloc.states.push(json!({ "Field": 0, "Time": rfc3339(), "Value": "running" }));
            }
            // Of two, the one that came first stays.
            if !alloc.next.is_empty() {
                let index = self.step();
                self.desire(&alloc.next, index, "stop", "alloc not needed due to job update");
            }
        }
        self.sync(&alloc.id);
    }

    /// Wishes it away, with or without another in its place.
    fn migrate(&mut self, id: &str, trigger: &str, transition: Value, replaced: bool) -> Option<(u64, String)> {
        let job = self.alloc(id)?.job_id.clone();
        let index = self.step();
        self.alloc_mut(id)?.transition = transition;
        self.touch(id, index, true);
        let event = self.alloc_event(index, "AllocationUpdateDesiredStatus", id);
        self.publish(index, event.into_iter().collect());
        let eval = self.make_eval(index, &job, trigger, "AllocationUpdateDesiredStatus");
        let next = self.step();
        let alloc = self.alloc(id).cloned()?;
        let has_successor = replaced && self.replace(&alloc, next).is_some();
        self.desire(id, next, "stop", "alloc is being migrated");
        let event = self.alloc_event(next, "PlanResult", id);
        self.publish(next, event.into_iter().collect());
        if replaced && !has_successor {
            // It waits for room.
            self.place(&eval);
        } else {
            self.finish_eval(&eval, "complete", json!({ "QueuedAllocations": { group_name(&alloc.job): 0 } }));
        }
        Some((index, eval))
    }

    pub(super) fn stop_by_hand(&mut self, id: &str) -> Option<(u64, String)> {
        let transition = json!({
            "ForceReschedule": null, "Migrate": true, "MigrateDisablePlacement": null, "NoShutdownDelay": false,
            "Reschedule": false,
        });
        self.migrate(id, "alloc-stop", transition, true)
    }

    fn end_drain(&mut self, name: &str) {
        if self.node_mut(name).drain.is_null() {
            return;
        }
        let transition = json!({
            "ForceReschedule": null, "Migrate": true, "MigrateDisablePlacement": true, "NoShutdownDelay": null,
            "Reschedule": null,
        });
        for alloc in self.on_node(name, |alloc| !alloc.is_terminal() && alloc.desired_status == "run") {
            self.migrate(&alloc.id, "node-drain", transition.clone(), false);
        }
        // Drained, and closed all the same.
        self.node_mut(name).drain = Value::Null;
        self.node_changed(name, "NodeDrain");
    }

    fn evict(&mut self, id: &str) {
        let Some(alloc) = self.alloc(id).cloned() else { return };
        let (index, by) = (self.step(), uuid());
        if let Some(alloc) = self.alloc_mut(id) {
            alloc.preempted_by = by.clone();
        }
        self.desire(id, index, "evict", &format!("Preempted by alloc ID {by}"));
        let event = self.alloc_event(index, "PlanResult", id);
        self.publish(index, event.into_iter().collect());
        let eval = self.make_eval(index, &alloc.job_id, "preemption", "PlanResult");
        self.place(&eval);
    }
}

/// Nodes are named as in the options.
impl Nomad {
    /// Its client is gone, and what it runs goes on running.
    pub(crate) fn lose_node(&self, name: &str) {
        self.shared.world().lose(name);
    }

    pub(crate) fn return_node(&self, name: &str) {
        self.shared.world().come_back(name);
    }

    /// Lifted by [`Nomad::set_eligible`].
    pub(crate) fn drain_node(&self, name: &str, deadline: Duration) {
        let mut world = self.shared.world();
        let nanos = u64::try_from(deadline.as_nanos()).unwrap_or(nanos());
        let node = world.node_mut(name);
        node.eligible = false;
        node.drain = json!({
            "Deadline": nanos, "ForceDeadline": rfc3339(), "IgnoreSystemJobs": true, "StartedAt": rfc3339(),
        });
        world.node_changed(name, "NodeDrain");
        let name = name.to_owned();
        world.later(deadline, move |world| world.end_drain(&name));
    }

    pub(crate) fn set_eligible(&self, name: &str, eligible: bool) {
        let mut world = self.shared.world();
        let node = world.node_mut(name);
        node.eligible = eligible;
        if eligible {
            node.drain = Value::Null;
        }
        world.node_changed(name, "NodeEligibility");
        if eligible {
            world.unblock();
        }
    }

    /// By hand: another one takes its place.
    pub(crate) fn stop_allocation(&self, alloc: &str) {
        let stopped = self.shared.world().stop_by_hand(alloc);
        assert!(stopped.is_some(), "there is no allocation {alloc}");
    }

    pub(crate) fn preempt(&self, alloc: &str) {
        self.shared.world().evict(alloc);
    }
}
