//! Reads of the state, each with its index: lists, and things by their ID.

use std::collections::HashMap;

use axum::response::Response;
use serde_json::{Value, json};

use super::{
    calls::{alloc_datum, filtered},
    http::{json as body, text},
    shape,
    tables::{Alloc, Job, Tables},
    world::World,
};

type Query = HashMap<String, String>;

fn get<'a>(query: &'a Query, name: &str) -> &'a str {
    query.get(name).map_or("", |value| value)
}

/// A namespace that does not exist reads as empty.
fn is_here(query: &Query) -> bool {
    matches!(get(query, "namespace"), "" | "default" | "*")
}

fn answered(index: u64, list: Result<Vec<Value>, String>) -> (u64, Response) {
    match list {
        Ok(list) => (index, body(&json!(list))),
        Err(message) => (index, text(400, &message)),
    }
}

fn tables(world: &World) -> &Tables {
    world.frozen.as_ref().unwrap_or(&world.tables)
}

pub(super) fn jobs(world: &World, query: &Query) -> (u64, Response) {
    let tables = tables(world);
    let prefix = get(query, "prefix");
    let with_meta = get(query, "meta") == "true";
    let found = tables.jobs.iter().filter(|(id, _)| is_here(query) && id.starts_with(prefix));
    let list = filtered(
        get(query, "filter"),
        found.map(|(_, job)| job),
        |job| job.doc.clone(),
        |job| job_stub(tables, job, with_meta),
    );
    answered(tables.at.jobs, list)
}

fn job_stub(tables: &Tables, job: &Job, with_meta: bool) -> Value {
    let doc = &job.doc;
    let id = &doc["ID"];
    let of_parent = |status: &str| {
        tables.jobs.values().filter(|job| job.doc["ParentID"] == *id && job.doc["Status"] == status).count()
    };
    let allocs = |status: &str| {
        tables.allocs.iter().filter(|alloc| *id == json!(alloc.job_id) && alloc.client_status == status).count()
    };
    let group = doc["TaskGroups"][0]["Name"].as_str().unwrap_or_default();
    let mut stub = json!({
        "CreateIndex": doc["CreateIndex"], "Datacenters": doc["Datacenters"], "ID": id,
        "JobModifyIndex": doc["JobModifyIndex"],
        "JobSummary": {
            "Children": { "Dead": of_parent("dead"), "Pending": of_parent("pending"), "Running": of_parent("running") },
            "CreateIndex": doc["CreateIndex"], "JobID": id, "ModifyIndex": doc["ModifyIndex"], "Namespace": "default",
            "Summary": { group: {
                "Complete": allocs("complete"), "Failed": allocs("failed"), "Lost": allocs("lost"), "Queued": 0,
                "Running": allocs("running"), "Starting": allocs("pending"), "Unknown": allocs("unknown"),
            } },
        },
        "ModifyIndex": doc["ModifyIndex"], "Multiregion": null, "Name": doc["Name"], "Namespace": "default",
        "NodePool": "default", "ParameterizedJob": doc["Dispatched"] == json!(false) && !doc["ParameterizedJob"].is_null(),
        "ParentID": doc["ParentID"], "Periodic": false, "Priority": 50, "Status": doc["Status"],
        "StatusDescription": "", "Stop": doc["Stop"], "SubmitTime": doc["SubmitTime"], "Type": doc["Type"],
    });
    if with_meta {
        stub["Meta"] = doc["Meta"].clone();
    }
    stub
}

pub(super) fn allocations(world: &World, query: &Query) -> (u64, Response) {
    let tables = tables(world);
    let prefix = get(query, "prefix");
    let with_resources = get(query, "resources") == "true";
    // Given unless it is asked not to.
    let with_task_states = get(query, "task_states") != "false";
    let found = tables.allocs.iter().filter(|alloc| is_here(query) && alloc.id.starts_with(prefix));
    let list = filtered(
        get(query, "filter"),
        found,
        |alloc| alloc_datum(alloc),
        |alloc| shape::alloc_stub(alloc, with_resources, with_task_states),
    );
    answered(tables.at.allocs, list)
}

pub(super) fn job_allocations(world: &World, query: &Query, job: &str) -> (u64, Response) {
    let tables = tables(world);
    let of_job = |alloc: &&Alloc| is_here(query) && alloc.job_id == job;
    let list = tables.allocs.iter().filter(of_job).map(|alloc| shape::alloc_stub(alloc, false, true)).collect();
    answered(tables.at.allocs, Ok(list))
}

pub(super) fn job_evaluations(world: &World, job: &str) -> (u64, Response) {
    let tables = tables(world);
    let list = tables.evals.values().filter(|eval| eval["JobID"] == json!(job)).cloned().collect();
    answered(tables.at.evals, Ok(list))
}

pub(super) fn nodes(world: &World, query: &Query) -> (u64, Response) {
    let tables = tables(world);
    let with_resources = get(query, "resources") == "true";
    let list = tables.nodes.iter().map(|node| shape::node_stub(node, with_resources)).collect();
    answered(tables.at.nodes, Ok(list))
}

pub(super) fn job(world: &World, id: &str) -> (u64, Response) {
    match world.tables.jobs.get(id) {
        Some(job) => (job.doc["ModifyIndex"].as_u64().unwrap_or(0), body(&job.doc)),
        None => (world.tables.at.jobs, text(404, "job not found")),
    }
}

pub(super) fn allocation(world: &World, id: &str) -> (u64, Response) {
    if id.len() != 36 {
        return (world.tables.at.allocs, text(500, "alloc lookup failed: index error: UUID must be 36 characters"));
    }
    match world.alloc(id) {
        Some(alloc) => (alloc.modify_index, body(&shape::alloc(alloc, true))),
        None => (world.tables.at.allocs, text(404, "alloc not found")),
    }
}

pub(super) fn evaluation(world: &World, id: &str) -> (u64, Response) {
    let at = world.tables.at.evals;
    if id.len() != 36 {
        return (at, text(500, "failed to lookup eval: eval lookup failed: index error: UUID must be 36 characters"));
    }
    match world.tables.evals.get(id) {
        Some(eval) => (eval["ModifyIndex"].as_u64().unwrap_or(0), body(eval)),
        None => (at, text(404, "eval not found")),
    }
}

pub(super) fn node(world: &World, id: &str) -> (u64, Response) {
    match world.tables.nodes.iter().find(|node| node.id == id) {
        Some(node) => (node.modify_index, body(&shape::node(node))),
        None => (world.tables.at.nodes, text(404, "node not found")),
    }
}
