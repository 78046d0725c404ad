//! The calls, each with the answers of the real server.

use std::{
    io::{Read, Seek, SeekFrom},
    sync::Arc,
};

use axum::response::Response;
use base64::Engine as _;
use serde_json::{Value, json};

use super::{
    LostAnswer, filter,
    http::{Call, blocking, indexed, json as body, no_leader_health, text},
    jobs::{Dispatch, Refusal},
    lists, shape,
    world::{Shared, World},
};

/// What every call answers without a leader.
pub(super) fn without_leader(call: &Call) -> Response {
    if call.path == "/v1/agent/health" {
        let (status, health) = no_leader_health(call.get("type"));
        let mut response = body(&health);
        *response.status_mut() = axum::http::StatusCode::from_u16(status).unwrap_or_default();
        return response;
    }
    text(500, "No cluster leader")
}

pub(super) async fn answer(shared: &Arc<Shared>, call: Call) -> Response {
    if !matches!(call.get("region"), "" | "global") {
        return text(500, "No path to region");
    }
    let path = call.path.clone();
    let (is_get, is_write) = (call.method == "GET", call.is_write());
    match path.as_str() {
        "/v1/jobs" if is_write => written(read(&call).and_then(|body| shared.world().register(&body))),
        "/v1/jobs" if is_get => blocking(shared, &call, lists::jobs).await,
        "/v1/validate/job" if is_write => {
            let answer = read(&call).and_then(|body| shared.world().validate(&body));
            answer.map_or_else(|(status, message)| text(status, &message), |answer| body(&answer))
        }
        "/v1/allocations" if is_get => blocking(shared, &call, lists::allocations).await,
        "/v1/nodes" if is_get => blocking(shared, &call, lists::nodes).await,
        "/v1/status/leader" if is_get => body(&json!("127.0.0.1:4647")),
        "/v1/agent/health" if is_get => body(&health(call.get("type"))),
        "/v1/agent/self" if is_get => body(&agent_self(shared)),
        "/v1/acl/token/self" if is_get => body(&token_self(shared, &call.token)),
        "/v1/jobs" | "/v1/allocations" | "/v1/nodes" | "/v1/status/leader" | "/v1/agent/health" => {
            text(405, "Invalid method")
        }
        _ => {
            if let Some(rest) = path.strip_prefix("/v1/job/") {
                return job(shared, &call, rest).await;
            }
            if let Some(rest) = path.strip_prefix("/v1/allocation/") {
                return allocation(shared, &call, rest).await;
            }
            if let Some(id) = path.strip_prefix("/v1/evaluation/") {
                return blocking(shared, &call, |world, _| lists::evaluation(world, id)).await;
            }
            if let Some(id) = path.strip_prefix("/v1/node/") {
                return blocking(shared, &call, |world, _| lists::node(world, id)).await;
            }
            if let Some(id) = path.strip_prefix("/v1/client/fs/logs/") {
                return logs(&shared.world(), id, &call);
            }
            Response::builder().status(404).body(axum::body::Body::empty()).unwrap_or_default()
        }
    }
}

fn read(call: &Call) -> Result<Value, Refusal> {
    if call.body.is_empty() {
        return Err((400, "Request body is empty".to_owned()));
    }
    serde_json::from_slice(&call.body).map_err(|error| {
        let text = if error.is_eof() { "unexpected EOF".to_owned() } else { error.to_string() };
        (400, text)
    })
}

fn written(answer: Result<(u64, Value), Refusal>) -> Response {
    match answer {
        Ok((index, answer)) => {
            let mut response = body(&answer);
            response.headers_mut().insert("X-Nomad-Index", index.into());
            response
        }
        Err((status, message)) => text(status, &message),
    }
}

async fn job(shared: &Arc<Shared>, call: &Call, rest: &str) -> Response {
    if let Some(parent) = rest.strip_suffix("/dispatch").filter(|_| call.is_write()) {
        return dispatch(shared, call, parent).await;
    }
    if let Some(id) = rest.strip_suffix("/allocations") {
        return blocking(shared, call, |world, query| lists::job_allocations(world, query, id)).await;
    }
    if let Some(id) = rest.strip_suffix("/evaluations") {
        return blocking(shared, call, |world, _| lists::job_evaluations(world, id)).await;
    }
    match call.method.as_str() {
        "GET" => blocking(shared, call, |world, _| lists::job(world, rest)).await,
        "DELETE" => written(Ok(shared.world().deregister(rest, call.is("purge")))),
        "POST" | "PUT" => written(read(call).and_then(|body| {
            if body["Job"]["ID"].as_str() != Some(rest) {
                return Err((400, "Job ID does not match name".to_owned()));
            }
            shared.world().register(&body)
        })),
        _ => text(405, "Invalid method"),
    }
}

async fn dispatch(shared: &Arc<Shared>, call: &Call, parent: &str) -> Response {
    let asked = read(call).and_then(|body| {
        let payload = body["Payload"].as_str().unwrap_or_default();
        let payload = base64::engine::general_purpose::STANDARD.decode(payload);
        let payload = payload.map_err(|_| (400, "illegal base64 data at input byte 0".to_owned()))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let in_query = call.get("idempotency_token").to_owned();
        Ok(Dispatch {
            token: if in_query.is_empty() { text(&body["IdempotencyToken"]) } else { in_query },
            meta: body["Meta"].as_object().cloned().unwrap_or_default(),
            payload,
            prefix: text(&body["IdPrefixTemplate"]),
        })
    });
    let (answer, lost) = {
        let mut world = shared.world();
        let answer = asked.and_then(|asked| world.dispatch(parent, &asked));
        let lost = if answer.is_ok() { world.cues.lost_answers.pop_front() } else { None };
        (answer, lost)
    };
    match lost {
        None => written(answer),
        Some(LostAnswer::LeadershipLost) => text(500, "leadership lost while committing log"),
        Some(LostAnswer::ConnectionCut) => {
            call.line.0.cancel();
            std::future::pending().await
        }
        Some(LostAnswer::NeverAnswers) => std::future::pending().await,
    }
}

async fn allocation(shared: &Arc<Shared>, call: &Call, rest: &str) -> Response {
    let Some(id) = rest.strip_suffix("/stop").filter(|_| call.is_write()) else {
        return blocking(shared, call, |world, _| lists::allocation(world, rest)).await;
    };
    match shared.world().stop_by_hand(id) {
        Some((index, eval)) => indexed(index, body(&json!({ "EvalID": eval, "Index": index }))),
        None => text(404, "alloc not found"),
    }
}

fn health(kind: &str) -> Value {
    let ok = json!({ "message": "ok", "ok": true });
    match kind {
        "server" => json!({ "server": ok }),
        "client" => json!({ "client": ok }),
        _ => json!({ "client": ok, "server": ok }),
    }
}

fn agent_self(shared: &Shared) -> Value {
    let version =
        json!({ "Revision": "0000000000", "Version": "2.0.6", "VersionMetadata": "", "VersionPrerelease": "dev" });
    json!({
        "config": {
            "Datacenter": "dc1", "Region": "global", "NodeName": "client-1", "Version": version,
            "ACL": { "Enabled": shared.options.acl.is_some() },
        },
        "member": { "Name": "client-1.global", "Status": "alive", "Tags": { "build": "2.0.6-dev", "role": "nomad" } },
        "stats": { "nomad": { "leader": "true", "server": "true" } },
    })
}

fn token_self(shared: &Shared, token: &str) -> Value {
    let (accessor, name, policies) = match &shared.options.acl {
        Some(_) if !token.is_empty() => ("aaaaaaaa-2222-2222-2222-222222222222", "executor", json!(["executor"])),
        Some(_) => ("anonymous", "Anonymous Token", json!(["anonymous"])),
        None => ("acls-disabled", "ACLs disabled token", Value::Null),
    };
    json!({
        "AccessorID": accessor, "CreateIndex": 0, "CreateTime": "0001-01-01T00:00:00Z", "ExpirationTTL": "",
        "ExpirationTime": null, "Global": false, "Hash": null, "ModifyIndex": 0, "Name": name, "Policies": policies,
        "Roles": null, "SecretID": token, "Type": "client",
    })
}

/// What a task has written: the whole, or its end, as text or as one frame.
fn logs(world: &World, id: &str, call: &Call) -> Response {
    let kind = call.get("type");
    if id.len() != 36 {
        return text(500, "alloc lookup failed: index error: UUID must be 36 characters");
    }
    let task = call.get("task");
    if task.is_empty() {
        return text(400, "must provide task name");
    }
    if !["stdout", "stderr"].contains(&kind) {
        return text(400, "must provide log type (stdout/stderr)");
    }
    let Some(alloc) = world.alloc(id) else { return text(404, &format!("Unknown allocation {id:?}")) };
    if !world.is_reachable(&alloc.node_id) {
        return text(404, "No path to node");
    }
    if task != alloc.task_name() {
        return text(400, &format!("unknown task name {task:?}"));
    }
    let file = format!("alloc/logs/{task}.{kind}.0");
    let local = world.locals.get(id).filter(|local| !local.started_at.is_null());
    let Some(local) = local else { return text(404, &format!("task {task:?} not started yet. No logs available")) };
    let read = || -> std::io::Result<Vec<u8>> {
        let mut log = std::fs::File::open(local.directory.join(&file))?;
        let offset: u64 = call.get("offset").parse().unwrap_or(0);
        let length = log.metadata()?.len();
        let from = if call.get("origin") == "end" { length.saturating_sub(offset) } else { offset.min(length) };
        log.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Err(error) => text(500, &error.to_string()),
        Ok(bytes) if call.is("plain") => {
            let mut response = Response::new(axum::body::Body::from(bytes));
            let plain = axum::http::HeaderValue::from_static("text/plain");
            response.headers_mut().insert(axum::http::header::CONTENT_TYPE, plain);
            response
        }
        Ok(bytes) => {
            let data = base64::engine::general_purpose::STANDARD.encode(&bytes);
            body(&json!({ "Data": data, "File": file, "Offset": bytes.len() }))
        }
    }
}

/// The entries that a filter takes, each shaped.
pub(super) fn filtered<T>(
    filter: &str,
    entries: impl Iterator<Item = T>,
    whole: impl Fn(&T) -> Value,
    shaped: impl Fn(&T) -> Value,
) -> Result<Vec<Value>, String> {
    if filter.is_empty() {
        return Ok(entries.map(|entry| shaped(&entry)).collect());
    }
    let filter = filter::parse(filter)?;
    let mut taken = Vec::new();
    for entry in entries {
        if filter.takes(&whole(&entry))? {
            taken.push(shaped(&entry));
        }
    }
    Ok(taken)
}

/// The selectors of an allocation: all fields of its struct, whatever the answers leave out.
pub(super) fn alloc_datum(alloc: &super::tables::Alloc) -> Value {
    let mut datum = shape::alloc_stub(alloc, true, true);
    datum["Job"] = alloc.job.clone();
    datum["PreviousAllocation"] = alloc.previous.clone().into();
    datum
}
