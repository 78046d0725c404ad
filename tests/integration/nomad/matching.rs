//! Whether what was decoded is what was said.

use serde_json::Value;
use tool_executor::backend::nomad::api::{Allocation, Evaluation, Job, JobStub, NodeStub};

/// Compares fields that Nomad gives by these names; a missing one is the type's default.
macro_rules! assert_fields {
    ($json:expr, $($name:literal: $value:expr),+ $(,)?) => {
        $(assert_eq!(
            $json.get($name).cloned().filter(|said| !said.is_null()).unwrap_or_else(|| Value::from(default(&$value))),
            Value::from($value.clone()),
            "{} of {}", $name, $json["ID"],
        );)+
    };
}

fn default<T: Default>(_: &T) -> T {
    T::default()
}

fn length(json: &Value) -> usize {
    json.as_array().map_or(0, Vec::len)
}

pub(super) fn allocation(allocation: &Allocation, json: &Value) {
    assert!(!allocation.id.is_empty());
    assert_fields!(json,
        "ID": allocation.id, "Name": allocation.name, "JobID": allocation.job_id, "EvalID": allocation.eval_id,
        "NodeID": allocation.node_id, "NodeName": allocation.node_name, "Namespace": allocation.namespace,
        "TaskGroup": allocation.task_group, "ClientStatus": allocation.client_status,
        "ClientDescription": allocation.client_description, "DesiredStatus": allocation.desired_status,
        "DesiredDescription": allocation.desired_description, "CreateIndex": allocation.create_index,
        "ModifyIndex": allocation.modify_index, "CreateTime": allocation.create_time,
        "ModifyTime": allocation.modify_time,
    );
    assert_eq!(allocation.desired_transition.migrate, json["DesiredTransition"]["Migrate"].as_bool());
    let shared = &json["AllocatedResources"]["Shared"];
    let ports = &allocation.allocated_resources.shared.ports;
    assert_eq!(ports.len(), length(&shared["Ports"]));
    assert_eq!(allocation.allocated_resources.shared.networks.len(), length(&shared["Networks"]));
    for (port, json) in ports.iter().zip(shared["Ports"].as_array().into_iter().flatten()) {
        assert_fields!(json, "Label": port.label, "Value": port.value, "To": port.to, "HostIP": port.host_ip);
    }
    assert_eq!(allocation.task_states.len(), json["TaskStates"].as_object().map_or(0, serde_json::Map::len));
    for (task, state) in &allocation.task_states {
        let json = &json["TaskStates"][task];
        assert_fields!(json, "State": state.state, "Failed": state.failed, "Restarts": state.restarts);
        assert_eq!(state.events.len(), length(&json["Events"]));
        for (event, json) in state.events.iter().zip(json["Events"].as_array().into_iter().flatten()) {
            assert_fields!(json,
                "Type": event.r#type, "DisplayMessage": event.display_message, "Time": event.time,
            );
            assert_eq!(serde_json::to_value(&event.details).expect("JSON"), json["Details"]);
        }
    }
    if let Some(job) = &allocation.job {
        self::job(job, &json["Job"]);
    }
}

pub(super) fn job(job: &Job, json: &Value) {
    assert!(!job.id.is_empty());
    assert_fields!(json,
        "ID": job.id, "Name": job.name, "Namespace": job.namespace, "Type": job.r#type, "Status": job.status,
        "Stop": job.stop, "Version": job.version, "CreateIndex": job.create_index, "ModifyIndex": job.modify_index,
        "JobModifyIndex": job.job_modify_index, "Dispatched": job.dispatched,
        "ParentID": job.parent_id.clone().unwrap_or_default(),
        "DispatchIdempotencyToken": job.dispatch_idempotency_token.clone().unwrap_or_default(),
    );
    assert_eq!(job.parameterized_job.is_some(), json["ParameterizedJob"].is_object());
    assert_eq!(job.meta.len(), json["Meta"].as_object().map_or(0, serde_json::Map::len));
}

pub(super) fn job_stub(stub: &JobStub, json: &Value) {
    assert!(!stub.id.is_empty());
    assert_fields!(json,
        "ID": stub.id, "ParentID": stub.parent_id.clone().unwrap_or_default(), "Type": stub.r#type,
        "Status": stub.status, "Stop": stub.stop, "ParameterizedJob": stub.parameterized_job,
        "ModifyIndex": stub.modify_index, "JobModifyIndex": stub.job_modify_index, "SubmitTime": stub.submit_time,
    );
    assert_eq!(stub.meta.len(), json["Meta"].as_object().map_or(0, serde_json::Map::len));
}

pub(super) fn evaluation(evaluation: &Evaluation, json: &Value) {
    assert!(!evaluation.id.is_empty());
    assert_fields!(json,
        "ID": evaluation.id, "JobID": evaluation.job_id, "Status": evaluation.status,
        "StatusDescription": evaluation.status_description, "TriggeredBy": evaluation.triggered_by,
        "BlockedEval": evaluation.blocked_eval.clone().unwrap_or_default(), "ModifyIndex": evaluation.modify_index,
    );
    let failed = json["FailedTGAllocs"].as_object();
    assert_eq!(evaluation.failed_task_groups.len(), failed.map_or(0, serde_json::Map::len));
    for (group, failure) in &evaluation.failed_task_groups {
        let json = &json["FailedTGAllocs"][group];
        assert_fields!(json,
            "NodesEvaluated": failure.nodes_evaluated, "NodesFiltered": failure.nodes_filtered,
            "NodesExhausted": failure.nodes_exhausted, "NodesInPool": failure.nodes_in_pool,
        );
        for (name, counts) in [
            ("DimensionExhausted", &failure.dimension_exhausted),
            ("ConstraintFiltered", &failure.constraint_filtered),
            ("NodesAvailable", &failure.nodes_available),
        ] {
            assert_eq!(counts.len(), json[name].as_object().map_or(0, serde_json::Map::len), "{name}");
        }
    }
}

pub(super) fn node(node: &NodeStub, json: &Value) {
    assert!(!node.id.is_empty());
    assert_fields!(json,
        "ID": node.id, "Name": node.name, "Address": node.address, "Datacenter": node.datacenter,
        "NodeClass": node.node_class, "NodePool": node.node_pool, "Status": node.status,
        "StatusDescription": node.status_description, "SchedulingEligibility": node.scheduling_eligibility,
        "Drain": node.drain, "Version": node.version, "ModifyIndex": node.modify_index,
    );
    assert_eq!(node.drivers.len(), json["Drivers"].as_object().map_or(0, serde_json::Map::len));
    for (name, driver) in &node.drivers {
        let json = &json["Drivers"][name];
        assert_fields!(json,
            "Detected": driver.detected, "Healthy": driver.healthy, "HealthDescription": driver.health_description,
        );
    }
}

/// Each of a list.
pub(super) fn all<T>(values: &[T], json: &Value, compare: impl Fn(&T, &Value)) {
    assert_eq!(values.len(), length(json));
    for (value, json) in values.iter().zip(json.as_array().into_iter().flatten()) {
        compare(value, json);
    }
}
