//! What was recorded: one file for each scenario, one exchange in a line.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;
use serde_json::Value;

/// A request and what came of it; or a remark, which has neither.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Exchange {
    pub(super) name: String,
    pub(super) at_ms: u64,
    pub(super) note: Option<String>,
    pub(super) request: Option<Request>,
    pub(super) response: Option<Response>,
    /// There was no answer.
    pub(super) error: Option<String>,
    /// Of a stream.
    pub(super) ended: Option<String>,
    pub(super) ended_at_ms: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Request {
    pub(super) method: String,
    /// With the query.
    pub(super) path: String,
    pub(super) body: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Response {
    pub(super) status: u16,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Option<String>,
    pub(super) lines: Option<Vec<Line>>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Line {
    pub(super) at_ms: u64,
    pub(super) data: String,
}

impl Response {
    pub(super) fn json(&self) -> Value {
        let body = self.body.as_deref().expect("a body");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
    }
}

/// The names of all files.
pub(super) fn files() -> Vec<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/nomad");
    let entries = fs::read_dir(directory).expect("recordings");
    let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("a name");
    let mut names: Vec<_> = entries.map(|entry| name(entry.expect("an entry"))).collect();
    names.retain(|name| name.ends_with(".ndjson"));
    names.sort();
    names
}

/// All exchanges of the file whose name begins so.
pub(super) fn file(number: &str) -> Vec<Exchange> {
    let names = files();
    let name = names.iter().find(|name| name.starts_with(number)).expect("a file");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/nomad").join(name);
    let text = fs::read_to_string(path).expect("a recording");
    text.lines().map(|line| serde_json::from_str(line).expect("an exchange")).collect()
}

pub(super) fn exchange(number: &str, name: &str) -> Exchange {
    let found = file(number).into_iter().find(|exchange| exchange.name == name);
    found.unwrap_or_else(|| panic!("{number} has no exchange {name}"))
}
