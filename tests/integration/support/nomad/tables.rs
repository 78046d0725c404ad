//! The server's records: jobs, allocations, evaluations and nodes.

use std::collections::BTreeMap;

use serde_json::Value;

use super::NodeSpec;

/// The last index of each table, as `X-Nomad-Index` gives it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Indexes {
    pub(super) jobs: u64,
    pub(super) allocs: u64,
    pub(super) evals: u64,
    pub(super) nodes: u64,
}

#[derive(Clone, Default)]
pub(super) struct Tables {
    pub(super) index: u64,
    pub(super) at: Indexes,
    pub(super) jobs: BTreeMap<String, Job>,
    /// In the order of their creation.
    pub(super) allocs: Vec<Alloc>,
    pub(super) evals: BTreeMap<String, Value>,
    pub(super) nodes: Vec<Node>,
}

#[derive(Clone)]
pub(super) struct Job {
    /// As `GET /v1/job/:id` gives it.
    pub(super) doc: Value,
    /// As it was registered, with defaults: what tells whether it has changed.
    pub(super) spec: Value,
}

#[derive(Clone)]
pub(super) struct Node {
    pub(super) id: String,
    pub(super) spec: NodeSpec,
    pub(super) status: &'static str,
    pub(super) eligible: bool,
    pub(super) drain: Value,
    pub(super) create_index: u64,
    pub(super) modify_index: u64,
}

#[derive(Clone)]
pub(super) struct Port {
    pub(super) label: String,
    pub(super) value: u16,
    pub(super) to: u16,
}

/// An allocation as the server knows it.
#[derive(Clone)]
pub(super) struct Alloc {
    pub(super) id: String,
    pub(super) eval_id: String,
    pub(super) job_id: String,
    /// The job as it was at the placement.
    pub(super) job: Value,
    pub(super) node_id: String,
    pub(super) node_name: String,
    pub(super) create_index: u64,
    pub(super) modify_index: u64,
    pub(super) alloc_modify_index: u64,
    pub(super) create_time: u64,
    pub(super) modify_time: u64,
    pub(super) client_status: &'static str,
    pub(super) client_description: &'static str,
    pub(super) desired_status: &'static str,
    pub(super) desired_description: String,
    pub(super) transition: Value,
    pub(super) next: String,
    pub(super) previous: String,
    pub(super) preempted_by: String,
    pub(super) followup: String,
    pub(super) states: Vec<Value>,
    pub(super) ports: Vec<Port>,
    pub(super) task_states: Value,
}

impl Alloc {
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self.client_status, "complete" | "failed" | "lost")
    }

    pub(super) fn group(&self) -> &Value {
        &self.job["TaskGroups"][0]
    }

    pub(super) fn task(&self) -> &Value {
        &self.group()["Tasks"][0]
    }

    pub(super) fn task_name(&self) -> String {
        self.task()["Name"].as_str().unwrap_or_default().to_owned()
    }
}
