//! Jobs: registered, dispatched, stopped and purged, with the refusals of the real server.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    ChildView,
    defaults::{canonical, faults, listed},
    shape,
    tables::Job,
    world::{World, nanos, uuid},
};

/// A status that is not 200, and its text.
pub(super) type Refusal = (u16, String);

/// From the write of an evaluation to the plan that it leads to.
const PLANNING: Duration = Duration::from_millis(5);
const LARGEST_PAYLOAD: usize = 16 * 1024;

/// What a dispatch is asked with.
#[derive(Debug, Clone, Default)]
pub(super) struct Dispatch {
    pub(super) token: String,
    pub(super) meta: serde_json::Map<String, Value>,
    pub(super) payload: Vec<u8>,
    pub(super) prefix: String,
}

impl World {
    pub(super) fn validate(&self, body: &Value) -> Result<Value, Refusal> {
        let job = submitted(body)?;
        let faults = faults(&canonical(job));
        let error = if faults.is_empty() { String::new() } else { listed(&faults) };
        let faults = if faults.is_empty() { Value::Null } else { json!(faults) };
        Ok(json!({ "DriverConfigValidated": true, "Error": error, "ValidationErrors": faults, "Warnings": "" }))
    }

    /// The answer and its index.
    pub(super) fn register(&mut self, body: &Value) -> Result<(u64, Value), Refusal> {
        let spec = canonical(submitted(body)?);
        let id = spec["ID"].as_str().unwrap_or_default().to_owned();
        let faults = faults(&spec);
        if !faults.is_empty() {
            return Err((500, listed(&faults)));
        }
        let old = self.tables.jobs.get(&id);
        if body["EnforceIndex"] == json!(true) {
            let wanted = body["JobModifyIndex"].as_u64().unwrap_or(0);
            let found = old.and_then(|job| job.doc["JobModifyIndex"].as_u64());
            match found {
                None if wanted != 0 => {
                    return Err((500, format!("Enforcing job modify index {wanted}: job does not exist")));
                }
                Some(_) if wanted == 0 => {
                    return Err((500, "Enforcing job modify index 0: job already exists".to_owned()));
                }
                Some(found) if found != wanted => {
                    let text = format!("job exists with conflicting job modify index: {found}");
                    return Err((500, format!("Enforcing job modify index {wanted}: {text}")));
                }
                _ => {}
            }
        }
        let unchanged = old.is_some_and(|job| job.spec == spec && job.doc["Stop"] == json!(false));
        let index = match old {
            Some(job) if unchanged => job.doc["JobModifyIndex"].as_u64().unwrap_or(0),
            _ => {
                let (created, version) = old.map_or((None, 0), |job| {
                    (job.doc["CreateIndex"].as_u64(), job.doc["Version"].as_u64().unwrap_or(0) + 1)
                });
                let index = self.step();
                let mut doc = spec.clone();
                let status = if doc["ParameterizedJob"].is_null() { "pending" } else { "running" };
                stamp(&mut doc, created.unwrap_or(index), index, version, status);
                self.tables.jobs.insert(id.clone(), Job { doc, spec });
                self.tables.at.jobs = index;
                let event = self.job_event(index, "JobRegistered", &id);
                self.publish(index, event.into_iter().collect());
                index
            }
        };
        let answer = json!({
            "EvalCreateIndex": 0, "EvalID": "", "Index": index, "JobModifyIndex": index, "KnownLeader": false,
            "LastContact": 0, "NextToken": "", "Warnings": "",
        });
        Ok((index, answer))
    }

    /// The answer and its index.
    pub(super) fn dispatch(&mut self, parent: &str, asked: &Dispatch) -> Result<(u64, Value), Refusal> {
        let refuse = |text: String| Err((500, text));
        let Some(job) = self.tables.jobs.get(parent) else {
            return refuse("parameterized job not found".to_owned());
        };
        let template = job.doc.clone();
        if template["ParameterizedJob"].is_null() || template["Dispatched"] == json!(true) {
            return refuse(format!("Specified job {parent:?} is not a parameterized job"));
        }
        if template["Stop"] == json!(true) {
            return refuse(format!("Specified job {parent:?} is stopped"));
        }
        let names = |of: &str| -> Vec<String> {
            let names = template["ParameterizedJob"][of].as_array().into_iter().flatten();
            names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
        };
        let (required, optional) = (names("MetaRequired"), names("MetaOptional"));
        let unknown: Vec<&str> = asked
            .meta
            .keys()
            .filter(|name| !required.contains(name) && !optional.contains(name))
            .map(|n| &**n)
            .collect();
        if !unknown.is_empty() {
            return refuse(format!("Dispatch request included unpermitted metadata keys: [{}]", unknown.join(" ")));
        }
        let missing: Vec<&str> = required.iter().filter(|name| !asked.meta.contains_key(*name)).map(|n| &**n).collect();
        if !missing.is_empty() {
            return refuse(format!("Dispatch did not provide required meta keys: [{}]", missing.join(" ")));
        }
        match template["ParameterizedJob"]["Payload"].as_str() {
            Some("required") if asked.payload.is_empty() => {
                return refuse("Payload is not provided but required".to_owned());
            }
            Some("forbidden") if !asked.payload.is_empty() => {
                return refuse("Payload provided but forbidden".to_owned());
            }
            _ => {}
        }
        if asked.payload.len() > LARGEST_PAYLOAD {
            let text = format!("Payload exceeds maximum size; {} > {LARGEST_PAYLOAD}", asked.payload.len());
            return refuse(text);
        }
        if let Some(known) = self.child_with_token(parent, &asked.token) {
            let index = known["ModifyIndex"].as_u64().unwrap_or(0);
            let answer = json!({
                "DispatchedJobID": known["ID"], "EvalCreateIndex": 0, "EvalID": "", "Index": index,
                "JobCreateIndex": known["CreateIndex"],
            });
            return Ok((index, answer));
        }
        let answer = self.make_child(&template, asked);
        if self.cues.double_dispatches > 0 {
            // As if a second request with the token had been in flight: it was looked for before either was written.
            self.cues.double_dispatches -= 1;
            self.make_child(&template, asked);
        }
        Ok(answer)
    }

    fn child_with_token(&self, parent: &str, token: &str) -> Option<Value> {
        let is_it = |job: &&Job| {
            job.doc["ParentID"].as_str() == Some(parent) && job.doc["DispatchIdempotencyToken"].as_str() == Some(token)
        };
        self.tables.jobs.values().filter(|_| !token.is_empty()).find(is_it).map(|job| job.doc.clone())
    }

    fn make_child(&mut self, template: &Value, asked: &Dispatch) -> (u64, Value) {
        use base64::Engine as _;
        let parent = template["ID"].as_str().unwrap_or_default();
        let prefix = if asked.prefix.is_empty() { String::new() } else { format!("{}-", asked.prefix) };
        let seconds = nanos() / 1_000_000_000;
        let id = format!("{parent}/dispatch-{prefix}{seconds}-{:08x}", fastrand::u32(..));
        let mut doc = template.clone();
        let mut meta = template["Meta"].as_object().cloned().unwrap_or_default();
        meta.extend(asked.meta.clone());
        let index = self.step();
        let version = template["Version"].as_u64().unwrap_or(0);
        stamp(&mut doc, index, index, version, "pending");
        doc["ID"] = id.clone().into();
        doc["Name"] = id.clone().into();
        doc["ParentID"] = parent.into();
        doc["Dispatched"] = true.into();
        doc["DispatchIdempotencyToken"] = asked.token.clone().into();
        doc["Meta"] = Value::Object(meta.clone());
        if !asked.payload.is_empty() {
            doc["Payload"] = base64::engine::general_purpose::STANDARD.encode(&asked.payload).into();
        }
        let text = |(name, value): (&String, &Value)| (name.clone(), value.as_str().unwrap_or_default().to_owned());
        self.children.push(ChildView {
            id: id.clone(),
            parent: parent.to_owned(),
            meta: meta.iter().map(text).collect(),
            stopped: false,
            purged: false,
        });
        self.tables.jobs.insert(id.clone(), Job { spec: doc.clone(), doc });
        self.tables.at.jobs = index;
        let event = self.job_event(index, "JobRegistered", &id);
        self.publish(index, event.into_iter().collect());
        let eval = self.make_eval(index, &id, "job-register", "JobRegistered");
        let planned = eval.clone();
        self.later(PLANNING, move |world| world.place(&planned));
        let answer = json!({
            "DispatchedJobID": id, "EvalCreateIndex": index, "EvalID": eval, "Index": index, "JobCreateIndex": index,
        });
        (index, answer)
    }

    /// A pending evaluation, written together with what asks for it.
    pub(super) fn make_eval(&mut self, index: u64, job: &str, trigger: &str, event: &str) -> String {
        let id = uuid();
        let kind = if trigger == "job-deregister" { "service" } else { "batch" };
        let eval = json!({
            "CreateIndex": index, "CreateTime": nanos(), "ID": id, "JobID": job, "JobModifyIndex": index,
            "ModifyIndex": index, "ModifyTime": nanos(), "Namespace": "default", "Priority": 50, "Status": "pending",
            "TriggeredBy": trigger, "Type": kind,
        });
        self.tables.evals.insert(id.clone(), eval);
        self.tables.at.evals = index;
        let event = self.eval_event(index, event, &id);
        self.publish(index, event.into_iter().collect());
        id
    }

    /// Stops it, and with `purge` forgets it. The answer and its index.
    pub(super) fn deregister(&mut self, id: &str, purge: bool) -> (u64, Value) {
        let answer = |index: u64, eval: &str, eval_index: u64| {
            let answer = json!({
                "EvalCreateIndex": eval_index, "EvalID": eval, "Index": index, "JobModifyIndex": index,
                "KnownLeader": false, "LastContact": 0, "NextToken": "", "VolumeEvalID": "", "VolumeEvalIndex": 0,
            });
            (index, answer)
        };
        if !self.tables.jobs.contains_key(id) {
            return answer(0, "", 0);
        }
        let index = self.step();
        self.tables.at.jobs = index;
        for child in self.children.iter_mut().filter(|child| child.id == id) {
            child.stopped = true;
            child.purged |= purge;
        }
        let Some(job) = self.tables.jobs.get_mut(id) else { return answer(0, "", 0) };
        let is_parent = job.doc["Dispatched"] == json!(false) && !job.doc["ParameterizedJob"].is_null();
        if purge {
            let doc = job.doc.clone();
            self.tables.jobs.remove(id);
            let payload = json!({ "Deleted": true, "Job": doc });
            self.publish(index, vec![shape::event(index, "Job", "JobDeregistered", id, Value::Null, payload)]);
        } else {
            job.doc["Stop"] = true.into();
            job.doc["JobModifyIndex"] = index.into();
            job.doc["ModifyIndex"] = index.into();
            if is_parent {
                job.doc["Status"] = "dead".into();
            }
            let event = self.job_event(index, "JobDeregistered", id);
            self.publish(index, event.into_iter().collect());
        }
        if is_parent {
            return answer(index, "", index);
        }
        let eval = self.make_eval(index, id, "job-deregister", "JobDeregistered");
        if purge {
            self.forget_allocs_of(id, index);
        }
        let (job, planned) = (id.to_owned(), eval.clone());
        self.later(PLANNING, move |world| world.stop_job(&job, &planned));
        answer(index, &eval, index)
    }
}

fn submitted(body: &Value) -> Result<&Value, Refusal> {
    if body["Job"].is_object() { Ok(&body["Job"]) } else { Err((400, "Job must be specified".to_owned())) }
}

fn stamp(doc: &mut Value, created: u64, modified: u64, version: u64, status: &str) {
    let fields = json!({
        "CreateIndex": created, "DispatchIdempotencyToken": "", "Dispatched": false, "JobModifyIndex": modified,
        "ModifyIndex": modified, "ParentID": "", "Payload": null, "Stable": false, "Status": status,
        "StatusDescription": "", "Stop": false, "SubmitTime": nanos(), "Version": version,
    });
    for (name, value) in fields.as_object().into_iter().flatten() {
        doc[name] = value.clone();
    }
}
