//! How the placing of a job went.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{not_empty, or_default};

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Evaluation {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(rename = "JobID")]
    pub job_id: String,
    /// `pending`, `complete`, `failed`, `blocked` or `canceled`. Of one that found no room: `complete`.
    pub status: String,
    pub status_description: String,
    pub triggered_by: String,
    /// The one that waits for room.
    #[serde(deserialize_with = "not_empty")]
    pub blocked_eval: Option<String>,
    /// By the group's name. Never changes, even if room comes.
    #[serde(rename = "FailedTGAllocs", deserialize_with = "or_default")]
    pub failed_task_groups: BTreeMap<String, PlacementFailure>,
    #[serde(deserialize_with = "or_default")]
    pub queued_allocations: BTreeMap<String, i64>,
    pub modify_index: u64,
}

/// Why a group found no node: counts of nodes, by what spoke against them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PlacementFailure {
    /// None at all: no node that is ready and eligible in the datacenter.
    pub nodes_evaluated: u64,
    pub nodes_filtered: u64,
    pub nodes_exhausted: u64,
    pub nodes_in_pool: u64,
    /// By the datacenter.
    #[serde(deserialize_with = "or_default")]
    pub nodes_available: BTreeMap<String, u64>,
    /// `memory`, `cpu` and the like.
    #[serde(deserialize_with = "or_default")]
    pub dimension_exhausted: BTreeMap<String, u64>,
    /// `missing drivers` and the like.
    #[serde(deserialize_with = "or_default")]
    pub constraint_filtered: BTreeMap<String, u64>,
    #[serde(deserialize_with = "or_default")]
    pub class_filtered: BTreeMap<String, u64>,
    #[serde(deserialize_with = "or_default")]
    pub class_exhausted: BTreeMap<String, u64>,
    #[serde(deserialize_with = "or_default")]
    pub quota_exhausted: Vec<String>,
    pub coalesced_failures: u64,
}
