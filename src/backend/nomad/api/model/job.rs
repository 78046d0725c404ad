//! Jobs: templates, and the children that are dispatched of them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{not_empty, or_default};

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Job {
    #[serde(rename = "ID")]
    pub id: String,
    pub name: String,
    pub namespace: String,
    pub r#type: String,
    /// `pending`, `running` or `dead`; dead before its task is.
    pub status: String,
    /// It was stopped.
    pub stop: bool,
    pub version: u64,
    pub create_index: u64,
    pub modify_index: u64,
    /// Changes with the spec.
    pub job_modify_index: u64,
    /// A child has it too.
    pub parameterized_job: Option<ParameterizedJob>,
    /// Of a child.
    #[serde(rename = "ParentID", deserialize_with = "not_empty")]
    pub parent_id: Option<String>,
    /// It is a child.
    pub dispatched: bool,
    #[serde(deserialize_with = "not_empty")]
    pub dispatch_idempotency_token: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub meta: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ParameterizedJob {
    /// `optional`, `required` or `forbidden`.
    pub payload: String,
    #[serde(deserialize_with = "or_default")]
    pub meta_required: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub meta_optional: Vec<String>,
}

/// A job in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct JobStub {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(rename = "ParentID", deserialize_with = "not_empty")]
    pub parent_id: Option<String>,
    pub r#type: String,
    pub status: String,
    pub stop: bool,
    /// It is a template.
    pub parameterized_job: bool,
    pub modify_index: u64,
    pub job_modify_index: u64,
    /// In nanoseconds of Unix time.
    pub submit_time: i64,
    #[serde(deserialize_with = "or_default")]
    pub meta: BTreeMap<String, String>,
}

/// Whether a job could be registered. The configuration of its driver is not looked at, nor the mode of its network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Validation {
    #[serde(rename = "ValidationErrors", deserialize_with = "or_default")]
    pub errors: Vec<String>,
    /// The errors in one text.
    pub error: String,
    pub warnings: String,
}

impl Validation {
    pub fn is_valid(&self) -> bool {
        self.errors.is_empty() && self.error.is_empty()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Registered {
    /// None of a template.
    #[serde(rename = "EvalID", deserialize_with = "not_empty")]
    pub eval_id: Option<String>,
    pub job_modify_index: u64,
    pub warnings: String,
}

/// A job was stopped, or was not there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Stopped {
    /// None if it was not there.
    #[serde(rename = "EvalID", deserialize_with = "not_empty")]
    pub eval_id: Option<String>,
    pub job_modify_index: u64,
}

/// One child to be.
#[derive(Debug, Clone)]
pub struct Dispatch<'a> {
    /// At most 16 KiB.
    pub payload: &'a [u8],
    pub meta: &'a BTreeMap<String, String>,
    /// A second dispatch with it makes no second child, unless the two race.
    pub idempotency_token: &'a str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Dispatched {
    /// `<parent>/dispatch-<unix time>-<8 hex digits>`.
    #[serde(rename = "DispatchedJobID")]
    pub job_id: String,
    /// None of a child that was there before: its token is known, and it may be dead.
    #[serde(rename = "EvalID", deserialize_with = "not_empty")]
    pub eval_id: Option<String>,
    pub index: u64,
    pub job_create_index: u64,
}
