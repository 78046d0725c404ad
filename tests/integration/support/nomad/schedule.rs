//! The scheduler: a pending evaluation becomes an allocation, or waits as a blocked one.

use std::{net::TcpListener, time::Duration};

use serde_json::{Value, json};

use super::{
    tables::{Alloc, Node, Port},
    world::{World, nanos, uuid},
};

/// From room that comes to the placement of what waits for it.
const UNBLOCKING: Duration = Duration::from_millis(100);

impl World {
    /// Carries out a pending or blocked evaluation of a job that wants one allocation.
    pub(super) fn place(&mut self, eval: &str) {
        let Some(job_id) = self.eval_text(eval, "JobID") else { return };
        let Some(job) = self.tables.jobs.get(&job_id).map(|job| job.doc.clone()) else { return };
        let wants = job["Stop"] == json!(false)
            && !self.tables.allocs.iter().any(|alloc| alloc.job_id == job_id && alloc.desired_status == "run");
        if !wants {
            self.finish_eval(eval, "complete", json!({}));
            return;
        }
        match self.choose(&job) {
            Ok(node) => {
                let index = self.step();
                let id = self.make_alloc(index, eval, &job, &node, None);
                self.set_job_status(&job_id, index, "running");
                let mut events: Vec<Value> = self.eval_event(index, "PlanResult", eval).into_iter().collect();
                events.extend(self.alloc_event(index, "PlanResult", &id));
                events.extend(self.job_event(index, "PlanResult", &job_id));
                self.publish(index, events);
                self.finish_eval(eval, "complete", json!({ "QueuedAllocations": { group_name(&job): 0 } }));
                self.start(&id);
            }
            Err(metrics) if self.eval_text(eval, "Status").as_deref() != Some("blocked") => {
                self.block(eval, &job_id, &group_name(&job), metrics);
            }
            Err(_) => {}
        }
    }

    /// The evaluation is complete, and another one waits for room.
    fn block(&mut self, eval: &str, job_id: &str, group: &str, metrics: Value) {
        let index = self.step();
        let failed = json!({ group: metrics });
        let blocked = uuid();
        let entry = json!({
            "ClassEligibility": { "v1:2277523565024013759": true }, "CreateIndex": index, "CreateTime": nanos(),
            "FailedTGAllocs": failed, "ID": blocked, "JobID": job_id,
            "JobModifyIndex": self.tables.evals[eval]["JobModifyIndex"], "ModifyIndex": index, "ModifyTime": nanos(),
            "Namespace": "default", "PreviousEval": eval, "Priority": 50, "SnapshotIndex": index, "Status": "blocked",
            "StatusDescription": "created to place remaining allocations", "TriggeredBy": "queued-allocs",
            "Type": "batch",
        });
        self.tables.evals.insert(blocked.clone(), entry);
        self.tables.at.evals = index;
        let event = self.eval_event(index, "EvaluationUpdated", &blocked);
        self.publish(index, event.into_iter().collect());
        let more = json!({ "BlockedEval": blocked, "FailedTGAllocs": failed, "QueuedAllocations": { group: 1 } });
        self.finish_eval(eval, "complete", more);
        self.set_job_status(job_id, self.tables.index, "pending");
    }

    /// Ends an evaluation; the job's status follows with the same index.
    pub(super) fn finish_eval(&mut self, eval: &str, status: &str, more: Value) {
        let index = self.step();
        let Some(entry) = self.tables.evals.get_mut(eval) else { return };
        let placed = u64::from(entry["TriggeredBy"] != json!("job-deregister"));
        entry["ModifyIndex"] = index.into();
        entry["ModifyTime"] = nanos().into();
        entry["Status"] = status.into();
        entry["SnapshotIndex"] = (index - 1).into();
        entry["PlanAnnotations"] = json!({ "DesiredTGUpdates": { "sandbox": {
            "Canary": 0, "DestructiveUpdate": 0, "Disconnect": 0, "Ignore": 0, "InPlaceUpdate": 0, "Migrate": 0,
            "Place": placed, "Preemptions": 0, "Reconnect": 0, "RescheduleLater": 0, "RescheduleNow": 0,
            "Stop": 1 - placed,
        } }, "PreemptedAllocs": null });
        for (name, value) in more.as_object().into_iter().flatten() {
            entry[name] = value.clone();
        }
        self.tables.at.evals = index;
        let event = self.eval_event(index, "EvaluationUpdated", eval);
        self.publish(index, event.into_iter().collect());
    }

    pub(super) fn eval_text(&self, eval: &str, field: &str) -> Option<String> {
        self.tables.evals.get(eval)?[field].as_str().map(str::to_owned)
    }

    /// Tries what is blocked again, soon.
    pub(super) fn unblock(&self) {
        self.later(UNBLOCKING, |world| {
            let blocked = |eval: &&Value| eval["Status"] == json!("blocked");
            let ids: Vec<String> = world.tables.evals.values().filter(blocked).map(|eval| text(&eval["ID"])).collect();
            for id in ids {
                world.place(&id);
            }
        });
    }

    /// What waits for room for this job waits no more.
    fn cancel_blocked(&mut self, job_id: &str, eval: &str, index: u64) {
        let description = format!("evaluation {eval:?} successful");
        for entry in self.tables.evals.values_mut() {
            if entry["JobID"] == json!(job_id) && entry["Status"] == json!("blocked") {
                entry["Status"] = "canceled".into();
                entry["StatusDescription"] = description.clone().into();
                entry["ModifyIndex"] = index.into();
            }
        }
    }

    /// Carries out the evaluation of a stop.
    pub(super) fn stop_job(&mut self, job_id: &str, eval: &str) {
        let of_job = |alloc: &&Alloc| alloc.job_id == job_id && alloc.desired_status == "run" && !alloc.is_terminal();
        let ids: Vec<String> = self.tables.allocs.iter().filter(of_job).map(|alloc| alloc.id.clone()).collect();
        if !ids.is_empty() {
            let index = self.step();
            let mut events: Vec<Value> = self.eval_event(index, "PlanResult", eval).into_iter().collect();
            for id in &ids {
                self.desire(id, index, "stop", "alloc not needed due to job update");
                events.extend(self.alloc_event(index, "PlanResult", id));
            }
            self.set_job_status(job_id, index, "pending");
            events.extend(self.job_event(index, "PlanResult", job_id));
            self.publish(index, events);
        }
        self.finish_eval(eval, "complete", json!({}));
        let index = self.tables.index;
        self.cancel_blocked(job_id, eval, index);
        self.set_job_status(job_id, index, "dead");
        let event = self.job_event(index, "EvaluationUpdated", job_id);
        self.publish(index, event.into_iter().collect());
    }

    /// What the server wants of an allocation; its client hears of it if it can.
    pub(super) fn desire(&mut self, id: &str, index: u64, status: &'static str, description: &str) {
        let Some(alloc) = self.alloc_mut(id) else { return };
        alloc.desired_status = status;
        alloc.desired_description = description.to_owned();
        let node = alloc.node_id.clone();
        self.touch(id, index, true);
        if status != "run" && self.is_reachable(&node) {
            self.stop_task(id);
        }
    }

    /// A purge: the allocations are gone from the server at once, and their clients kill what runs.
    pub(super) fn forget_allocs_of(&mut self, job_id: &str, index: u64) {
        let (gone, kept): (Vec<Alloc>, Vec<Alloc>) =
            self.tables.allocs.drain(..).partition(|alloc| alloc.job_id == job_id);
        self.tables.allocs = kept;
        self.tables.at.allocs = index;
        for alloc in gone {
            if self.is_reachable(&alloc.node_id) {
                self.stop_task(&alloc.id);
            }
        }
        self.wake();
    }

    pub(super) fn set_job_status(&mut self, job_id: &str, index: u64, status: &str) {
        if let Some(job) = self.tables.jobs.get_mut(job_id)
            && job.doc["Status"] != json!(status)
        {
            job.doc["Status"] = status.into();
            job.doc["ModifyIndex"] = index.into();
            self.tables.at.jobs = index;
        }
    }

    /// A new allocation; its client is not told yet.
    pub(super) fn make_alloc(
        &mut self,
        index: u64,
        eval: &str,
        job: &Value,
        node: &Node,
        previous: Option<&str>,
    ) -> String {
        let id = uuid();
        let wanted = job["TaskGroups"][0]["Networks"][0]["DynamicPorts"].as_array().cloned().unwrap_or_default();
        let port = |of: &Value| Port {
            label: text(&of["Label"]),
            value: self.free_port(),
            to: of["To"].as_u64().and_then(|to| to.try_into().ok()).unwrap_or(0),
        };
        let ports = wanted.iter().map(port).collect();
        self.tables.allocs.push(Alloc {
            id: id.clone(),
            eval_id: eval.to_owned(),
            job_id: text(&job["ID"]),
            job: job.clone(),
            node_id: node.id.clone(),
            node_name: node.spec.name.clone(),
            create_index: index,
            modify_index: index,
            alloc_modify_index: index,
            create_time: nanos(),
            modify_time: nanos(),
            client_status: "pending",
            client_description: "",
            desired_status: "run",
            desired_description: String::new(),
            transition: Value::Null,
            next: String::new(),
            previous: previous.unwrap_or_default().to_owned(),
            preempted_by: String::new(),
            followup: String::new(),
            states: Vec::new(),
            ports,
            task_states: Value::Null,
        });
        self.tables.at.allocs = index;
        id
    }

    /// Of Nomad's range, which is below that of outgoing connections.
    fn free_port(&self) -> u16 {
        let taken = |port: u16| self.tables.allocs.iter().flat_map(|alloc| &alloc.ports).any(|of| of.value == port);
        loop {
            let port = fastrand::u16(20_000..32_000);
            if !taken(port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return port;
            }
        }
    }
}

pub(super) fn group_name(job: &Value) -> String {
    text(&job["TaskGroups"][0]["Name"])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
