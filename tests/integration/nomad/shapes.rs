//! The shape of the stand-in's answers: the names that clients read, as the real server has them.

use serde_json::{Value, json};

use super::bed::{Bed, Stream};

/// The names that a recorded answer of the real server has, as far as clients read them.
#[tokio::test]
async fn answers_have_the_recorded_names() {
    let bed = Bed::start().await;
    let mut stream = Stream::open(&bed, "").await;
    let (child, alloc) = bed.run_one().await;
    let has = |what: &str, shape: &Value, names: &[&str]| {
        let missing: Vec<_> = names.iter().filter(|name| shape.get(**name).is_none()).collect();
        assert!(missing.is_empty(), "{what} has no {missing:?}: {shape}");
    };
    let stub = [
        "ClientDescription",
        "ClientStatus",
        "CreateIndex",
        "CreateTime",
        "DeploymentStatus",
        "DesiredDescription",
        "DesiredStatus",
        "DesiredTransition",
        "EvalID",
        "FollowupEvalID",
        "ID",
        "JobID",
        "JobType",
        "JobVersion",
        "ModifyIndex",
        "ModifyTime",
        "Name",
        "Namespace",
        "NextAllocation",
        "NodeID",
        "NodeName",
        "PreemptedAllocations",
        "PreemptedByAllocation",
        "RescheduleTracker",
        "TaskGroup",
        "TaskStates",
    ];
    let list = bed.get("/v1/allocations?resources=true&task_states=true").await;
    assert_eq!(list.header("x-nomad-knownleader"), Some("true"));
    has("a list's entry", &list.json()[0], &[&stub[..], &["AllocatedResources"]].concat());
    let list = bed.get("/v1/allocations?task_states=false").await.json();
    assert!(list[0].get("TaskStates").is_none() && list[0].get("AllocatedResources").is_none());
    let list = bed.get(&format!("/v1/job/{child}/allocations")).await.json();
    has("a job's allocation", &list[0], &stub);
    assert!(list[0].get("AllocatedResources").is_none());

    let by_id = [
        "AllocModifyIndex",
        "AllocatedResources",
        "ClientStatus",
        "CreateIndex",
        "DesiredStatus",
        "EvalID",
        "ID",
        "Job",
        "JobID",
        "Metrics",
        "ModifyIndex",
        "Name",
        "NodeID",
        "NodeName",
        "TaskGroup",
        "TaskResources",
        "TaskStates",
    ];
    let whole = bed.allocation(&alloc).await;
    has("an allocation", &whole, &by_id);
    let task = &whole["TaskStates"]["sandbox"];
    has("a task", task, &["Events", "Failed", "FinishedAt", "LastRestart", "Restarts", "StartedAt", "State"]);
    has("an event", &task["Events"][0], &["Details", "DisplayMessage", "ExitCode", "Signal", "Time", "Type"]);
    assert!(["DesiredTransition", "DesiredDescription", "NextAllocation"].iter().all(|name| whole.get(name).is_none()));

    let job = [
        "CreateIndex",
        "Datacenters",
        "DispatchIdempotencyToken",
        "Dispatched",
        "ID",
        "JobModifyIndex",
        "Meta",
        "ModifyIndex",
        "Name",
        "Namespace",
        "ParameterizedJob",
        "ParentID",
        "Payload",
        "Status",
        "Stop",
        "TaskGroups",
        "Type",
        "Version",
    ];
    has("a job", &bed.get(&format!("/v1/job/{child}")).await.json(), &job);
    let stub = ["CreateIndex", "ID", "JobModifyIndex", "JobSummary", "ParameterizedJob", "ParentID", "Status", "Stop"];
    has("a job's stub", &bed.get("/v1/jobs").await.json()[0], &stub);
    let eval = [
        "CreateIndex",
        "ID",
        "JobID",
        "JobModifyIndex",
        "ModifyIndex",
        "PlanAnnotations",
        "QueuedAllocations",
        "Status",
        "TriggeredBy",
        "Type",
    ];
    let path = format!("/v1/evaluation/{}", whole["EvalID"].as_str().expect("an ID"));
    has("an evaluation", &bed.get(&path).await.json(), &eval);
    let node =
        ["Datacenter", "Drain", "Drivers", "ID", "Name", "NodeClass", "SchedulingEligibility", "Status", "Version"];
    has("a node", &bed.get("/v1/nodes").await.json()[0], &node);
    let event = stream.event(|event| event["Topic"] == "Allocation").await;
    has("a stream's event", &event, &["FilterKeys", "Index", "Key", "Namespace", "Payload", "Topic", "Type"]);
    assert_eq!((&event["FilterKeys"], &event["Key"]), (&json!([child, ""]), &json!(alloc)));
    let deleted = bed.delete(&format!("/v1/job/{child}")).await.json();
    has("a deletion", &deleted, &["EvalCreateIndex", "EvalID", "Index", "JobModifyIndex"]);
    let missing = bed.delete("/v1/job/never-was").await.json();
    assert_eq!((&missing["EvalID"], &missing["Index"]), (&json!(""), &json!(0)));
    let gone = bed.get("/v1/evaluation/00000000-0000-0000-0000-000000000000").await;
    assert_eq!((gone.status, &*gone.text()), (404, "eval not found"));
    let short = bed.get("/v1/allocation/f00573f4").await;
    let text = "alloc lookup failed: index error: UUID must be 36 characters";
    assert_eq!((short.status, &*short.text()), (500, text));
}
