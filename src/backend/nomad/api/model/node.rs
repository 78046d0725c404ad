//! A machine of the cluster.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::or_default;

/// A node in a list, or in an event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NodeStub {
    #[serde(rename = "ID")]
    pub id: String,
    pub name: String,
    pub address: String,
    pub datacenter: String,
    pub node_class: String,
    pub node_pool: String,
    /// `ready`, `down`, `disconnected` or `initializing`.
    pub status: String,
    pub status_description: String,
    /// `eligible` or `ineligible`.
    pub scheduling_eligibility: String,
    pub drain: bool,
    /// Of Nomad; in a list.
    pub version: String,
    #[serde(deserialize_with = "or_default")]
    pub drivers: BTreeMap<String, Driver>,
    pub modify_index: u64,
    #[serde(deserialize_with = "or_default")]
    pub node_resources: NodeResources,
}

impl NodeStub {
    /// Whether anything new may be placed on it.
    pub fn is_usable(&self) -> bool {
        self.status == "ready" && self.scheduling_eligibility == "eligible" && !self.drain
    }

    pub fn has_healthy(&self, driver: &str) -> bool {
        self.drivers.get(driver).is_some_and(|driver| driver.detected && driver.healthy)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Driver {
    pub detected: bool,
    pub healthy: bool,
    pub health_description: String,
}

/// All that there is, in use or not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NodeResources {
    #[serde(deserialize_with = "or_default")]
    pub cpu: NodeCpu,
    #[serde(deserialize_with = "or_default")]
    pub memory: NodeMemory,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NodeCpu {
    /// In MHz.
    pub cpu_shares: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NodeMemory {
    #[serde(rename = "MemoryMB")]
    pub memory_mb: u64,
}
