//! Every request comes through here: it is noted, the cues are heeded, its token is looked at; then it is answered.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    RequestView, access, calls,
    door::Line,
    stream,
    world::{Shared, World},
};

/// A request, taken apart.
pub(super) struct Call {
    pub(super) method: String,
    /// Decoded: a `%2F` is a slash here.
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) token: String,
    pub(super) body: Bytes,
    pub(super) line: Line,
}

impl Call {
    pub(super) fn get(&self, name: &str) -> &str {
        self.query.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub(super) fn is(&self, name: &str) -> bool {
        self.get(name) == "true"
    }

    pub(super) fn is_write(&self) -> bool {
        self.method == "POST" || self.method == "PUT"
    }
}

pub(super) fn app(shared: Arc<Shared>) -> Router {
    Router::new().fallback(answer).with_state(shared)
}

async fn answer(State(shared): State<Arc<Shared>>, ConnectInfo(line): ConnectInfo<Line>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, 8 << 20).await else { return text(400, "unexpected EOF") };
    let call = Call {
        method: parts.method.to_string(),
        path: decode(parts.uri.path(), false),
        query: parts.uri.query().map(read_query).unwrap_or_default(),
        token: token(&parts.headers),
        body,
        line,
    };
    let is_stream = call.path == "/v1/event/stream";
    let (hangs, failure, no_leader) = {
        let mut world = shared.world();
        let path = parts.uri.to_string();
        world.requests.push(RequestView { at: std::time::Instant::now(), method: call.method.clone(), path });
        (world.cues.hang, world.cues.failure_of(&call.path), world.cues.no_leader)
    };
    if hangs && !is_stream {
        return std::future::pending().await;
    }
    if let Some((status, message)) = failure {
        return text(status, &message);
    }
    if no_leader && !is_stream && !call.is("stale") && !call.path.starts_with("/v1/agent/self") {
        let mut changes = shared.changes.subscribe();
        let came = changes.wait_for(|_| !shared.world().cues.no_leader);
        if tokio::time::timeout(shared.options.no_leader_after, came).await.is_err() {
            return calls::without_leader(&call);
        }
    }
    if is_stream {
        return stream::open(&shared, call);
    }
    let refused = access::refusal(&shared.world(), &shared.options.acl, &call);
    let response = match refused {
        Some((status, message)) => text(status, &message),
        None => calls::answer(&shared, call).await,
    };
    // What was waited for comes to a server that hangs by now.
    if shared.world().cues.hang {
        return std::future::pending().await;
    }
    response
}

fn token(headers: &HeaderMap) -> String {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let own = value("x-nomad-token");
    if own.is_empty() { value("authorization").trim_start_matches("Bearer ").to_owned() } else { own }
}

fn read_query(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.map(|(name, value)| (decode(name, true), decode(value, true))).collect()
}

fn decode(text: &str, is_query: bool) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let escaped = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], escaped) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 3;
            }
            (b'+', _) if is_query => {
                decoded.push(b' ');
                at += 1;
            }
            (byte, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Anything that is not 200 is plain text.
pub(super) fn text(status: u16, message: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], message.to_owned()).into_response()
}

pub(super) fn json(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], Body::from(value.to_string())).into_response()
}

/// With its index, as every answer from the state has.
pub(super) fn indexed(index: u64, mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert("X-Nomad-Index", index.into());
    headers.insert("X-Nomad-Knownleader", header::HeaderValue::from_static("true"));
    headers.insert("X-Nomad-Lastcontact", header::HeaderValue::from_static("0"));
    response
}

/// A read that waits, if it is asked to, until its index has gone beyond the one that is known.
pub(super) async fn blocking(
    shared: &Shared,
    call: &Call,
    read: impl Fn(&World, &HashMap<String, String>) -> (u64, Response),
) -> Response {
    let query: HashMap<String, String> = call.query.iter().cloned().collect();
    let known = match query.get("index").map(|index| index.parse::<u64>()) {
        None => 0,
        Some(Ok(index)) => index,
        Some(Err(_)) => return text(400, "Invalid index"),
    };
    let Some(wait) = query.get("wait").map_or(Some(300.0), |wait| seconds(wait)) else {
        return text(400, "Invalid wait time");
    };
    let wait = std::time::Duration::from_secs_f64(wait.min(300.0) * (1.0 + fastrand::f64() / 16.0));
    let mut changes = shared.changes.subscribe();
    let deadline = tokio::time::Instant::now() + wait;
    loop {
        changes.borrow_and_update();
        let (index, response) = read(&shared.world(), &query);
        let waits = known > 0 && index <= known && response.status() != StatusCode::BAD_REQUEST;
        if !waits || tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
            return indexed(index, response);
        }
    }
}

/// A duration of Go: numbers, each with its unit.
fn seconds(text: &str) -> Option<f64> {
    if text == "0" {
        return Some(0.0);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit() && char != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = [("ms", 0.001), ("us", 1e-6), ("ns", 1e-9), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let (unit, factor) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        total += number * factor;
        rest = &rest[unit.len()..];
    }
    (!text.is_empty()).then_some(total)
}

pub(super) fn no_leader_health(kind: &str) -> (u16, Value) {
    let client = json!({ "message": "ok", "ok": true });
    let server = json!({ "ok": false, "message": "No cluster leader" });
    match kind {
        "server" => (500, json!({ "server": server })),
        "client" => (200, json!({ "client": client })),
        _ => (500, json!({ "client": client, "server": server })),
    }
}
