//! The agent that is asked, and who asks.

use serde::{Deserialize, Deserializer};

use super::{not_empty, or_default};

/// The agent that answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentSelf {
    /// `2.0.6`, or `2.0.6-dev`.
    pub version: String,
    pub acl_enabled: bool,
    pub region: String,
    pub datacenter: String,
    pub node_name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    #[serde(deserialize_with = "or_default")]
    config: Config,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Config {
    #[serde(deserialize_with = "or_default")]
    version: Version,
    #[serde(rename = "ACL", deserialize_with = "or_default")]
    acl: Acl,
    region: String,
    datacenter: String,
    node_name: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Version {
    version: String,
    version_prerelease: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Acl {
    enabled: bool,
}

impl<'de> Deserialize<'de> for AgentSelf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Config { version, acl, region, datacenter, node_name } = Answer::deserialize(deserializer)?.config;
        let dash = if version.version_prerelease.is_empty() { "" } else { "-" };
        let version = format!("{}{dash}{}", version.version, version.version_prerelease);
        Ok(Self { version, acl_enabled: acl.enabled, region, datacenter, node_name })
    }
}

/// What Nomad takes this client's token for. Without a token, that is the anonymous one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct SelfToken {
    #[serde(rename = "AccessorID")]
    pub accessor_id: String,
    pub name: String,
    /// `client`, or `management`, which may do anything.
    pub r#type: String,
    #[serde(deserialize_with = "or_default")]
    pub policies: Vec<String>,
    pub global: bool,
    #[serde(deserialize_with = "not_empty")]
    pub expiration_time: Option<String>,
}

impl SelfToken {
    pub fn is_management(&self) -> bool {
        self.r#type == "management"
    }
}
