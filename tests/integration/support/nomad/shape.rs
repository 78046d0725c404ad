//! The JSON that a real server gives: by ID, in lists, in events.

use serde_json::{Map, Value, json};

use super::{
    tables::{Alloc, Node, Port},
    world::nanos,
};

/// One event of the stream.
pub(super) fn event(index: u64, topic: &str, kind: &str, key: &str, filter_keys: Value, payload: Value) -> Value {
    let namespace = if topic == "Node" { "" } else { "default" };
    json!({
        "FilterKeys": filter_keys, "Index": index, "Key": key, "Namespace": namespace,
        "Payload": payload, "Topic": topic, "Type": kind,
    })
}

/// One event of a task; `fields` are those that are not empty beside the usual.
pub(super) fn task_event(kind: &str, display: &str, details: Value, fields: Value) -> Value {
    let mut event = json!({
        "Details": details, "DiskLimit": 0, "DisplayMessage": display, "DownloadError": "", "DriverError": "",
        "DriverMessage": "", "ExitCode": 0, "FailedSibling": "", "FailsTask": false, "GenericSource": "",
        "KillError": "", "KillReason": "", "KillTimeout": 0, "Message": "", "RestartReason": "", "SetupError": "",
        "Signal": 0, "StartDelay": 0, "TaskSignal": "", "TaskSignalReason": "", "Time": nanos(), "Type": kind,
        "ValidationError": "", "VaultError": "",
    });
    for (name, value) in fields.as_object().into_iter().flatten() {
        event[name] = value.clone();
    }
    event
}

fn resources(alloc: &Alloc) -> Value {
    let task = &alloc.task()["Resources"];
    let port = |port: &Port, with_ip: bool| {
        let mut shape = json!({ "Label": port.label, "Value": port.value });
        if port.to != 0 {
            shape["To"] = port.to.into();
        }
        let (name, value) = if with_ip { ("HostIP", "127.0.0.1") } else { ("HostNetwork", "default") };
        shape[name] = value.into();
        shape
    };
    let networks: Vec<Value> = alloc.ports.iter().map(|of| port(of, false)).collect();
    let ports: Vec<Value> = alloc.ports.iter().map(|of| port(of, true)).collect();
    let mode = alloc.group()["Networks"][0]["Mode"].clone();
    let mut shared = json!({ "DiskMB": alloc.group()["EphemeralDisk"]["SizeMB"] });
    shared["Networks"] = json!([{ "DynamicPorts": networks, "IP": "127.0.0.1", "Mode": mode }]);
    shared["Ports"] = json!(ports);
    let name = alloc.task_name();
    json!({
        "Shared": shared,
        "TaskLifecycles": { &name: null },
        "Tasks": { &name: {
            "Cpu": { "CpuShares": task["CPU"], "ReservedCores": null },
            "Devices": null,
            "Memory": { "MemoryMB": task["MemoryMB"], "MemoryMaxMB": task["MemoryMaxMB"] },
            "Networks": null,
        } },
    })
}

/// Of `GET /v1/allocation/:id` (with its job) and of events (without): what is empty is left out.
pub(super) fn alloc(alloc: &Alloc, with_job: bool) -> Value {
    let mut shape = json!({
        "AllocModifyIndex": alloc.alloc_modify_index, "AllocatedResources": resources(alloc),
        "ClientStatus": alloc.client_status, "CreateIndex": alloc.create_index, "CreateTime": alloc.create_time,
        "DesiredStatus": alloc.desired_status, "EvalID": alloc.eval_id, "ID": alloc.id, "JobID": alloc.job_id,
        "Metrics": metrics(Map::from_iter([("dc1".to_owned(), json!(1))]), Map::new(), Map::new()),
        "ModifyIndex": alloc.modify_index, "ModifyTime": alloc.modify_time, "Name": name(alloc),
        "Namespace": "default", "NodeID": alloc.node_id, "NodeName": alloc.node_name,
        "Resources": alloc.task()["Resources"], "SharedResources": {
            "CPU": 0, "Cores": 0, "Devices": null, "DiskMB": alloc.group()["EphemeralDisk"]["SizeMB"], "IOPS": 0,
            "MemoryMB": 0, "MemoryMaxMB": 0, "NUMA": null, "Networks": null, "SecretsMB": 0,
        },
        "SigningKeyID": "525855fd-25ed-4a68-5943-4acf377d9f6f", "TaskGroup": alloc.group()["Name"],
        "TaskResources": { alloc.task_name(): alloc.task()["Resources"] },
    });
    let texts = [
        ("ClientDescription", alloc.client_description),
        ("DesiredDescription", &alloc.desired_description),
        ("NextAllocation", &alloc.next),
        ("PreviousAllocation", &alloc.previous),
        ("PreemptedByAllocation", &alloc.preempted_by),
        ("FollowupEvalID", &alloc.followup),
    ];
    for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        shape[name] = text.into();
    }
    if !alloc.transition.is_null() {
        shape["DesiredTransition"] = alloc.transition.clone();
    }
    if !alloc.states.is_empty() {
        shape["AllocStates"] = json!(alloc.states);
    }
    if !alloc.task_states.is_null() {
        shape["TaskStates"] = alloc.task_states.clone();
        shape["NetworkStatus"] = json!({ "Address": "", "AddressIPv6": "", "DNS": null, "InterfaceName": "" });
    }
    if with_job {
        shape["Job"] = alloc.job.clone();
    }
    shape
}

fn name(alloc: &Alloc) -> String {
    format!("{}.{}[0]", alloc.job_id, alloc.group()["Name"].as_str().unwrap_or_default())
}

/// A list's entry: what is empty is there, as `""` or `null`.
pub(super) fn alloc_stub(alloc: &Alloc, with_resources: bool, with_task_states: bool) -> Value {
    let transition = if alloc.transition.is_null() { no_transition() } else { alloc.transition.clone() };
    let mut shape = json!({
        "ClientDescription": alloc.client_description, "ClientStatus": alloc.client_status,
        "CreateIndex": alloc.create_index, "CreateTime": alloc.create_time, "DeploymentStatus": null,
        "DesiredDescription": alloc.desired_description, "DesiredStatus": alloc.desired_status,
        "DesiredTransition": transition, "EvalID": alloc.eval_id, "FollowupEvalID": alloc.followup, "ID": alloc.id,
        "JobID": alloc.job_id, "JobType": "batch", "JobVersion": alloc.job["Version"],
        "ModifyIndex": alloc.modify_index, "ModifyTime": alloc.modify_time, "Name": name(alloc),
        "Namespace": "default", "NextAllocation": alloc.next, "NodeID": alloc.node_id, "NodeName": alloc.node_name,
        "PreemptedAllocations": null, "PreemptedByAllocation": alloc.preempted_by, "RescheduleTracker": null,
        "TaskGroup": alloc.group()["Name"],
    });
    if with_resources {
        shape["AllocatedResources"] = resources(alloc);
    }
    if with_task_states {
        shape["TaskStates"] = alloc.task_states.clone();
    }
    shape
}

fn no_transition() -> Value {
    json!({
        "ForceReschedule": null, "Migrate": null, "MigrateDisablePlacement": null, "NoShutdownDelay": null,
        "Reschedule": null,
    })
}

/// Why a placement went as it did, each with the number of nodes.
pub(super) fn metrics(
    available: Map<String, Value>,
    exhausted: Map<String, Value>,
    filtered: Map<String, Value>,
) -> Value {
    let total = |of: &Map<String, Value>| of.values().filter_map(Value::as_u64).sum::<u64>();
    let (in_pool, out, no) = (total(&available), total(&exhausted), total(&filtered));
    let or_null = |of: Map<String, Value>| if of.is_empty() { Value::Null } else { Value::Object(of) };
    json!({
        "AllocationTime": 47981, "ClassExhausted": null, "ClassFiltered": null, "CoalescedFailures": 0,
        "ConstraintFiltered": or_null(filtered), "DimensionExhausted": or_null(exhausted), "NodePool": "default",
        "NodesAvailable": available, "NodesEvaluated": in_pool, "NodesExhausted": out, "NodesFiltered": no,
        "NodesInPool": in_pool, "QuotaExhausted": null, "ResourcesExhausted": null, "ScoreMetaData": null,
        "Scores": null,
    })
}

/// Of `GET /v1/node/:id` and of events.
pub(super) fn node(node: &Node) -> Value {
    let driver = |name: &String| {
        let attributes = json!({ format!("driver.{name}"): "true" });
        let driver = json!({
            "Attributes": attributes, "Detected": true, "HealthDescription": "Healthy", "Healthy": true,
            "UpdateTime": "2026-11-25T13:44:36.053557223Z",
        });
        (name.clone(), driver)
    };
    let drivers: Map<String, Value> = node.spec.drivers.iter().map(driver).collect();
    json!({
        "Address": "127.0.0.1", "CreateIndex": node.create_index, "Datacenter": node.spec.datacenter,
        "Drain": !node.drain.is_null(), "DrainStrategy": node.drain, "Drivers": drivers, "HostVolumes": {},
        "ID": node.id, "LastDrain": null, "ModifyIndex": node.modify_index, "Name": node.spec.name,
        "NodeClass": node.spec.class, "NodePool": "default",
        "NodeResources": { "Cpu": { "CpuShares": node.spec.cpu }, "Memory": { "MemoryMB": node.spec.memory_mb } },
        "SchedulingEligibility": if node.eligible { "eligible" } else { "ineligible" },
        "Status": node.status, "StatusDescription": "", "Version": "2.0.6-dev",
    })
}

/// The list's entry.
pub(super) fn node_stub(of: &Node, with_resources: bool) -> Value {
    let mut shape = node(of);
    if let Some(fields) = shape.as_object_mut() {
        fields.retain(|name, _| name != "DrainStrategy" && (with_resources || name != "NodeResources"));
    }
    shape
}
