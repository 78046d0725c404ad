//! Who may do what: the tokens of the options, less what is denied on cue.

use std::collections::BTreeMap;

use super::{http::Call, jobs::Refusal, world::World};

/// Why it may not be done, as the server says it.
pub(super) fn refusal(world: &World, acl: &Option<BTreeMap<String, Vec<String>>>, call: &Call) -> Option<Refusal> {
    let needed = needed(call)?;
    let is_known = acl.as_ref().is_none_or(|tokens| call.token.is_empty() || tokens.contains_key(&call.token));
    let has = |capability: &str| {
        let granted = acl.as_ref().is_none_or(|tokens| {
            let own = tokens.get(&call.token).map(Vec::as_slice).unwrap_or_default();
            own.iter().any(|known| known == capability || known == "*")
        });
        granted && !world.cues.denied.contains(capability)
    };
    if is_known && needed.iter().all(|any_of| any_of.iter().any(|capability| has(capability))) {
        return None;
    }
    let denied = "Permission denied".to_owned();
    let alloc = call.path.strip_prefix("/v1/allocation/").filter(|rest| !rest.contains('/'));
    Some(match alloc {
        Some(id) if is_known => (500, format!("Unknown allocation {id:?}")),
        _ if !is_known && call.path.starts_with("/v1/client/") => (500, format!("rpc error: {denied}")),
        _ => (403, denied),
    })
}

/// Of each of these, any one; `None`: nothing is needed.
fn needed(call: &Call) -> Option<Vec<&'static [&'static str]>> {
    let path = call.path.as_str();
    let one = |any_of: &'static [&'static str]| Some(vec![any_of]);
    if path == "/v1/event/stream" {
        let topics: Vec<&str> =
            call.query.iter().filter(|(name, _)| name == "topic").map(|(_, topic)| &**topic).collect();
        let all = topics.is_empty() || topics.iter().any(|topic| topic.starts_with('*'));
        let nodes = all || topics.iter().any(|topic| topic.starts_with("Node"));
        let mut needed: Vec<&[&str]> = vec![&["read-job"]];
        if nodes {
            needed.push(&["node:read"]);
        }
        return Some(needed);
    }
    match path {
        "/v1/status/leader" | "/v1/agent/health" => None,
        // Anyone may ask what his token is; one that is unknown may not.
        "/v1/acl/token/self" => Some(Vec::new()),
        "/v1/agent/self" => one(&["agent:read"]),
        "/v1/jobs" if call.is_write() => one(&["submit-job", "register-job"]),
        "/v1/jobs" => one(&["list-jobs"]),
        "/v1/validate/job" => one(&["read-job", "submit-job"]),
        _ if path.starts_with("/v1/job/") && path.ends_with("/dispatch") => one(&["dispatch-job"]),
        _ if path.starts_with("/v1/job/") && (call.is_write() || call.method == "DELETE") => one(&["submit-job"]),
        _ if path.starts_with("/v1/client/fs/logs/") => one(&["read-logs", "read-fs"]),
        _ if path.starts_with("/v1/node") => one(&["node:read"]),
        _ if path.starts_with("/v1/allocation/") && call.is_write() => one(&["alloc-lifecycle"]),
        _ => one(&["read-job"]),
    }
}
