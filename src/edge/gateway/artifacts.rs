//! `POST /artifacts/read`, `/artifacts/list` and `/artifacts/archive`: files of a trajectory's workspace, each answer a
//! whole one, and so bounded. What is larger is for the public protocol, which streams.

use std::time::{Duration, UNIX_EPOCH};

use axum::{
    Json,
    extract::{Request, State},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json, value::RawValue};

use super::{
    Gateway,
    field::{Fault, Faults, Field},
    refusal::Refusal,
    trajectory_key,
};
use crate::{
    id::Tenant,
    tool::artifact::{self, Artifact, Failure, FailureKind, Packing, Piece, Summary},
    trajectory::{DirectoryError, NoWorkspace, OpenError, Workspace},
};

/// Of an answer's content before it is encoded, as the old system had it; and of a list.
const MAX_BYTES: u32 = 5_000_000;
const MAX_ENTRIES: u32 = 5_000;
/// After which a transfer may find room.
const SOON: Duration = Duration::from_secs(1);

/// Why there is nothing: the request is not answered, or the answer says so.
enum Problem {
    Refused(Refusal),
    Told(String),
}

impl Problem {
    fn later(text: String) -> Self {
        Self::Refused(Refusal::Unavailable { text, retry_after: SOON })
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure.kind {
            FailureKind::Busy => Self::later(failure.message),
            _ => Self::Told(failure.message),
        }
    }
}

impl From<NoWorkspace> for Problem {
    fn from(no: NoWorkspace) -> Self {
        match no {
            NoWorkspace::Changing => Self::later(no.to_string()),
            // The old system knew no other.
            NoWorkspace::NotFound | NoWorkspace::NoSlot => Self::Told(NoWorkspace::NoSlot.to_string()),
            NoWorkspace::Gone => Self::Told(no.to_string()),
        }
    }
}

/// The answer; `nothing` is what it has in place of what was asked for.
fn answer(done: Result<Value, Problem>, nothing: Value) -> Result<Json<Value>, Refusal> {
    match done {
        Ok(answer) => Ok(Json(answer)),
        Err(Problem::Refused(refusal)) => Err(refusal),
        Err(Problem::Told(error)) => {
            let mut answer = nothing;
            answer["success"] = false.into();
            answer["error"] = error.into();
            Ok(Json(answer))
        }
    }
}

/// What the three requests have in common.
#[derive(Debug, PartialEq)]
struct Asked {
    trajectory_id: String,
    path: String,
    max: u32,
}

impl Asked {
    /// `most`: of what the bound is of; more is not given, whatever is asked for.
    fn parse(
        faults: &mut Faults,
        id: Field<'_>,
        path: Result<String, Fault>,
        bound: Field<'_>,
        most: u32,
    ) -> Option<Self> {
        let (id, path) = (faults.take(id.text()), faults.take(path));
        let max = faults.take(bound.number_if_any())?.filter(|max| *max >= 1.0);
        Some(Self { trajectory_id: id?, path: path?, max: max.map_or(most, |max| max.min(most.into()) as u32) })
    }
}

impl Gateway {
    async fn workspace(&self, tenant: Tenant, id: &str) -> Result<Workspace, Problem> {
        match self.directory.files(&trajectory_key(tenant, id)).await {
            Ok(workspace) => Ok(workspace?),
            Err(DirectoryError::Open(OpenError::NotFound)) => Err(NoWorkspace::NotFound.into()),
            Err(error) => Err(Problem::Refused(error.into())),
        }
    }
}

#[derive(Debug, PartialEq)]
struct Read {
    asked: Asked,
    encoding: &'static str,
}

impl Read {
    fn parse(body: &RawValue) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults::default();
        let members = Field::body(body).members([
            &["body", "trajectory_id"],
            &["body", "path"],
            &["body", "max_bytes"],
            &["body", "encoding"],
        ]);
        let Some([id, path, max, encoding]) = faults.take(members) else { return Err(faults.all()) };
        let asked = Asked::parse(&mut faults, id, path.text(), max, MAX_BYTES);
        let encoding = faults.take(encoding.one_of(["text", "base64"], "Input should be 'text' or 'base64'"));
        match (asked, encoding) {
            (Some(asked), Some(encoding)) => Ok(Self { asked, encoding }),
            _ => Err(faults.all()),
        }
    }

    async fn content(&self, workspace: Workspace) -> Result<Value, Problem> {
        let Asked { path, max, .. } = &self.asked;
        let request = artifact::Request::Read { path: path.clone(), offset: 0, max_bytes: Some((*max).into()) };
        let Received { artifact, content, summary } = Received::all(&workspace, request).await?;
        let text = match self.encoding {
            "base64" => STANDARD.encode(&content),
            _ => String::from_utf8_lossy(&content).into_owned(),
        };
        let (file_size, mime) = artifact.map(|artifact| (artifact.size, artifact.media_type)).unwrap_or_default();
        Ok(json!({
            "success": true,
            "content": text,
            "error": "",
            "encoding": self.encoding,
            "truncated": (content.len() as u64) < file_size,
            "bytes": content.len(),
            "file_size": file_size,
            "path": path,
            "mime": mime,
            "sha256": summary.sha256,
        }))
    }
}

pub(super) async fn read(State(gateway): State<Gateway>, request: Request) -> Result<Json<Value>, Refusal> {
    let (tenant, body) = gateway.admit(request).await?;
    let read = Read::parse(&body).map_err(Refusal::Unprocessable)?;
    let done = async { read.content(gateway.workspace(tenant, &read.asked.trajectory_id).await?).await };
    answer(done.await, json!({"content": "", "encoding": read.encoding, "truncated": false, "path": read.asked.path}))
}

#[derive(Debug, PartialEq)]
struct List {
    asked: Asked,
    recursive: bool,
    include_hidden: bool,
}

impl List {
    fn parse(body: &RawValue) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults::default();
        let members = Field::body(body).members([
            &["body", "trajectory_id"],
            &["body", "path"],
            &["body", "max_entries"],
            &["body", "recursive"],
            &["body", "include_hidden"],
        ]);
        let Some([id, path, max, recursive, hidden]) = faults.take(members) else { return Err(faults.all()) };
        let asked = Asked::parse(&mut faults, id, path.text_or("."), max, MAX_ENTRIES);
        let (recursive, hidden) = (faults.take(recursive.flag_or(false)), faults.take(hidden.flag_or(true)));
        match (asked, recursive, hidden) {
            (Some(asked), Some(recursive), Some(include_hidden)) => Ok(Self { asked, recursive, include_hidden }),
            _ => Err(faults.all()),
        }
    }

    async fn entries(&self, workspace: Workspace) -> Result<Value, Problem> {
        let request = artifact::Request::List {
            path: self.asked.path.clone(),
            recursive: self.recursive,
            include_hidden: self.include_hidden,
            page_size: self.asked.max,
            after: Vec::new(),
        };
        let mut transfer = workspace.begin(request).await?;
        let Some(Piece::Page { artifacts, more }) = transfer.next().await? else { return Err(ended_early()) };
        let entries: Vec<Value> = artifacts.iter().map(|artifact| self.entry(artifact)).collect();
        Ok(json!({"success": true, "entries": entries, "truncated": more, "error": ""}))
    }

    /// As a path of the workspace.
    fn entry(&self, artifact: &Artifact) -> Value {
        let name = String::from_utf8_lossy(&artifact.path);
        let path = match &*self.asked.path {
            "" | "." => name.into_owned(),
            below => format!("{}/{name}", below.trim_end_matches('/')),
        };
        let mtime = artifact.modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        json!({"path": path, "is_dir": artifact.is_directory, "size": artifact.size, "mtime": mtime})
    }
}

pub(super) async fn list(State(gateway): State<Gateway>, request: Request) -> Result<Json<Value>, Refusal> {
    let (tenant, body) = gateway.admit(request).await?;
    let list = List::parse(&body).map_err(Refusal::Unprocessable)?;
    let done = async { list.entries(gateway.workspace(tenant, &list.asked.trajectory_id).await?).await };
    answer(done.await, json!({"entries": [], "truncated": false}))
}

#[derive(Debug, PartialEq)]
struct Archive(Asked);

impl Archive {
    fn parse(body: &RawValue) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults::default();
        let members = Field::body(body).members([
            &["body", "trajectory_id"],
            &["body", "path"],
            &["body", "max_bytes"],
            &["body", "format"],
        ]);
        let Some([id, path, max, format]) = faults.take(members) else { return Err(faults.all()) };
        let asked = Asked::parse(&mut faults, id, path.text_or("."), max, MAX_BYTES);
        match (asked, faults.take(format.one_of(["tar.gz"], "Input should be 'tar.gz'"))) {
            (Some(asked), Some(_)) => Ok(Self(asked)),
            _ => Err(faults.all()),
        }
    }

    async fn content(&self, workspace: Workspace) -> Result<Value, Problem> {
        let Asked { path, max, .. } = &self.0;
        // One that is too large for its client, and not for everybody, is told with its size.
        let (path, format) = (path.clone(), Packing::TarGz);
        let request = artifact::Request::Archive { path, format, max_bytes: MAX_BYTES.into() };
        let Received { content, summary, .. } = Received::all(&workspace, request).await?;
        if content.len() > *max as usize {
            return Err(Problem::Told(format!("Archive too large: {} bytes (max {max})", content.len())));
        }
        Ok(json!({
            "success": true,
            "content": STANDARD.encode(&content),
            "error": "",
            "encoding": "base64",
            "format": "tar.gz",
            "bytes": content.len(),
            "entry_count": summary.entries,
        }))
    }
}

pub(super) async fn archive(State(gateway): State<Gateway>, request: Request) -> Result<Json<Value>, Refusal> {
    let (tenant, body) = gateway.admit(request).await?;
    let archive = Archive::parse(&body).map_err(Refusal::Unprocessable)?;
    let done = async { archive.content(gateway.workspace(tenant, &archive.0.trajectory_id).await?).await };
    answer(done.await, json!({"content": "", "encoding": "base64", "format": "tar.gz"}))
}

/// A transfer out, as a whole.
struct Received {
    artifact: Option<Artifact>,
    content: Vec<u8>,
    summary: Summary,
}

impl Received {
    async fn all(workspace: &Workspace, request: artifact::Request) -> Result<Self, Problem> {
        let mut transfer = workspace.begin(request).await?;
        let (mut artifact, mut content) = (None, Vec::new());
        loop {
            match transfer.next().await? {
                Some(Piece::Artifact(of)) => artifact = Some(of),
                Some(Piece::Chunk(chunk)) => content.extend_from_slice(&chunk),
                Some(Piece::Summary(summary)) => return Ok(Self { artifact, content, summary }),
                Some(Piece::Page { .. }) | None => return Err(ended_early()),
            }
        }
    }
}

fn ended_early() -> Problem {
    Problem::Told("the transfer ended before it was whole".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(value: &Value) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).expect("it is JSON")
    }

    #[test]
    fn bounds_are_clamped_and_defaults_are_the_old_systems() {
        let read = |value| Read::parse(&body(&value)).expect("it fits");
        let whole = read(json!({"trajectory_id": "t", "path": "a"}));
        assert_eq!((whole.asked.max, whole.encoding), (MAX_BYTES, "text"));
        let less = read(json!({"trajectory_id": "t", "path": "a", "max_bytes": 100, "encoding": "base64"}));
        assert_eq!((less.asked.max, less.encoding), (100, "base64"));
        assert_eq!(read(json!({"trajectory_id": "t", "path": "a", "max_bytes": 1e300})).asked.max, MAX_BYTES);
        let list = List::parse(&body(&json!({"trajectory_id": "t"}))).expect("it fits");
        assert_eq!((&*list.asked.path, list.asked.max, list.recursive), (".", MAX_ENTRIES, false));
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let faults = Read::parse(&body(&json!({"path": 1, "encoding": "hex"}))).expect_err("nothing fits");
        let told = serde_json::to_value(faults).expect("it is JSON");
        let kinds: Vec<_> = told.as_array().expect("a list").iter().map(|fault| &fault["type"]).collect();
        assert_eq!(kinds, ["missing", "string_type", "literal_error"]);
        assert!(Archive::parse(&body(&json!({"trajectory_id": "t", "format": "zip"}))).is_err());
    }
}
