//! An allocation: one container, here.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Job, not_empty, or_default};

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Allocation {
    #[serde(rename = "ID")]
    pub id: String,
    pub name: String,
    #[serde(rename = "JobID")]
    pub job_id: String,
    #[serde(rename = "EvalID")]
    pub eval_id: String,
    #[serde(rename = "NodeID")]
    pub node_id: String,
    pub node_name: String,
    pub namespace: String,
    pub task_group: String,
    /// `pending`, `running`, `complete`, `failed`, `lost` or `unknown`.
    pub client_status: String,
    pub client_description: String,
    /// `run`, `stop` or `evict`.
    pub desired_status: String,
    pub desired_description: String,
    #[serde(deserialize_with = "or_default")]
    pub desired_transition: DesiredTransition,
    /// The one that replaces it.
    #[serde(deserialize_with = "not_empty")]
    pub next_allocation: Option<String>,
    pub create_index: u64,
    pub modify_index: u64,
    /// In nanoseconds of Unix time.
    pub create_time: i64,
    pub modify_time: i64,
    /// Not in every list.
    #[serde(deserialize_with = "or_default")]
    pub allocated_resources: AllocatedResources,
    /// By the task's name. Not in events of the first moments.
    #[serde(deserialize_with = "or_default")]
    pub task_states: BTreeMap<String, TaskState>,
    /// In an answer by ID alone.
    pub job: Option<Box<Job>>,
}

impl Allocation {
    /// Its last process has gone, or nobody will say any more whether it has.
    pub fn is_terminal(&self) -> bool {
        matches!(self.client_status.as_str(), "complete" | "failed" | "lost")
    }

    /// The address of a port of the group.
    pub fn port(&self, label: &str) -> Option<&Port> {
        self.allocated_resources.shared.ports.iter().find(|port| port.label == label)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DesiredTransition {
    pub migrate: Option<bool>,
    pub reschedule: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct AllocatedResources {
    #[serde(deserialize_with = "or_default")]
    pub shared: SharedResources,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct SharedResources {
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<Port>,
    #[serde(deserialize_with = "or_default")]
    pub networks: Vec<Network>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Port {
    pub label: String,
    /// On the host.
    pub value: u16,
    /// Inside, if another.
    pub to: u16,
    #[serde(rename = "HostIP")]
    pub host_ip: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Network {
    pub mode: String,
    #[serde(rename = "IP")]
    pub ip: String,
    #[serde(deserialize_with = "or_default")]
    pub dynamic_ports: Vec<Port>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TaskState {
    /// `pending`, `running` or `dead`.
    pub state: String,
    pub failed: bool,
    pub restarts: u64,
    #[serde(deserialize_with = "not_empty")]
    pub started_at: Option<String>,
    #[serde(deserialize_with = "not_empty")]
    pub finished_at: Option<String>,
    /// The last ten.
    #[serde(deserialize_with = "or_default")]
    pub events: Vec<TaskEvent>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TaskEvent {
    /// `Terminated`, `Driver Failure` and the like.
    pub r#type: String,
    pub display_message: String,
    #[serde(deserialize_with = "or_default")]
    pub details: BTreeMap<String, String>,
    /// In nanoseconds of Unix time.
    pub time: i64,
}
