//! Requests to the old system and its answers, as they were recorded, in their order. The directory of its slot is told
//! as a slot knows its own.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::description::Description;
use crate::support::{
    client::PATIENCE,
    http::{Answer, Request},
    server::Server,
};

const TOKEN: &str = "s3cret-bench";

/// What had happened before a request was recorded, in the same workspace.
const BEFORE: [(&str, &str); 6] = [
    ("write_path_is_dir", "mkdir p"),
    ("write_via_symlink_escape", "ln -s /etc/passwd esc; ln -s w.txt lnk"),
    ("read_fifo", "mkfifo ff"),
    ("read_too_large", "head -c 100001 /dev/zero > big"),
    ("read_noperm", ": > noperm; chmod 000 noperm"),
    ("same_traj_order", "echo B >> order"),
];

/// What is answered otherwise, and why: parts of the recorded answer that these stand for.
fn changed(case: &str) -> Option<(&'static str, Value)> {
    Some(match case {
        "tool_bash" => ("it is a tool now", json!({"success": true, "error": "", "metadata": {"exit_code": 0}})),
        "timeout_s_1" => ("what was printed until then is not lost", json!({"output": "partial"})),
        "exec_long_command_130k" => (
            "the old system's sandbox failed",
            json!({"error": "Command too large: 131105 bytes (max 131071)", "metadata": {}}),
        ),
        "write_via_symlink_inside" | "read_symlink_inside" => {
            ("a file is called what it was asked for as", json!({"metadata": {"path": "/workspace/lnk", "size": 3}}))
        }
        // The old system read as root what a call had forbidden itself.
        "read_noperm" => (
            "files are read with the slot's own rights",
            json!({
                "success": false,
                "error": "Failed to read file: [Errno 13] Permission denied: '/workspace/noperm'",
                "metadata": {},
            }),
        ),
        "exec_which_shell" => ("where the shell is, the machine says", json!({"output": null})),
        "out_binary_10MB" => ("it is random", json!({"output": null})),
        "status_end" => ("not every request of then is sent", json!({"total_requests": null, "total_errors": null})),
        _ => return None,
    })
}

#[tokio::test]
async fn the_old_systems_answers_are_given() {
    let settings = [("TOKEN", TOKEN), ("ALLOW_NETWORK", "true"), ("SLOTS", "10"), ("MAX_CONTAINERS", "1")];
    let server = Server::with(&settings);
    let description = Description::of(&server).await;
    until_free(&server, 10).await;
    let pairs: Vec<Value> = serde_json::from_str(include_str!("pairs.json")).expect("they are JSON");
    let (mut compared, mut different) = (0, Vec::new());
    for pair in &pairs {
        let case = pair["case"].as_str().expect("a case has a name");
        let before = BEFORE.into_iter().filter(|(name, _)| *name == case).map(|(_, script)| ("r1", script));
        for (trajectory, script) in before.chain((case == "same_traj_new_traj_B").then_some(("B", "touch x"))) {
            let done = authorized(Request::execute(&server.address, trajectory, case, script)).send().await.done();
            assert_eq!(done["success"], true, "before {case}: {done}");
        }
        if case == "status_end" {
            // Only the last of them was still there.
            for trajectory in ["", "B"] {
                let body = json!({"trajectory_id": trajectory, "reset_workspace": true});
                authorized(Request::post(&server.address, "/release", &body)).send().await.done();
            }
            until_free(&server, 9).await;
        }
        let asked = asked(&server, case, &pair["request"]);
        let (method, path) = (asked.method.clone(), asked.path.clone());
        let answer = asked.request.send().await;
        description.check(&method, &path, &answer);
        different.extend(difference(case, pair, &answer));
        compared += 1;
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert!(compared > 65, "{compared} of {} were compared", pairs.len());
}

struct Asked<'a> {
    method: String,
    path: String,
    request: Request<'a>,
}

/// A recorded request is whole, or says only what it has of its own.
fn asked<'a>(server: &'a Server, case: &str, recorded: &Value) -> Asked<'a> {
    let text = |name: &str| recorded[name].as_str().map(str::to_owned);
    let path = text("path").unwrap_or_else(|| "/execute".to_owned());
    let method = text("method").unwrap_or_else(|| if path == "/status" { "GET" } else { "POST" }.to_owned());
    let body = match (text("body"), &*path) {
        (Some(body), _) => body,
        (None, "/status") => String::new(),
        (None, "/release") => {
            json!({"trajectory_id": recorded["trajectory_id"], "reset_workspace": recorded["reset_workspace"]})
                .to_string()
        }
        (None, _) => {
            let (tool, arguments, id) = match recorded.get("command") {
                Some(command) => (json!("terminal"), json!({ "command": command }), case),
                None => (recorded["tool"].clone(), expanded(&recorded["arguments"]), "u1"),
            };
            let trajectory = if case == "same_traj_new_traj_B" { "B" } else { "r1" };
            let tool = json!({"name": tool, "arguments": arguments, "uniq_id": id.trim_start_matches("same_traj_")});
            json!({"trajectory_id": trajectory, "tool": tool, "timeout_s": recorded["timeout_s"]}).to_string()
        }
    };
    let mut request = Request::new(&server.address, &method, &path).body(body);
    let own = |name: &str| recorded["headers"].get(name);
    if own("Content-Type").is_none() {
        request = request.header("Content-Type", "application/json");
    }
    match own("Authorization").and_then(Value::as_str) {
        Some(authorization) => request = request.header("Authorization", authorization),
        None if recorded["auth"] != false => request = authorized(request),
        None => {}
    }
    Asked { method, path, request }
}

fn authorized(request: Request<'_>) -> Request<'_> {
    request.header("Authorization", &format!("Bearer {TOKEN}"))
}

/// What of an answer is not as it was, if anything.
fn difference(case: &str, pair: &Value, answer: &Answer) -> Option<String> {
    if pair["status"] != answer.status {
        return Some(format!("{case}: not {}, but {answer:?}", pair["status"]));
    }
    let (mut expected, mut given) = (expanded(&pair["response"]), answer.json());
    if let Some((_, changes)) = changed(case) {
        for (name, value) in changes.as_object().expect("fields") {
            expected[name] = value.clone();
            // Of these only that they are there is compared.
            if value.is_null() {
                assert!(!given[name].is_null(), "{case}: {given}");
                given[name] = Value::Null;
            }
        }
    }
    // More may be known of a call than there was.
    if let Some(Value::Object(known)) = given.get_mut("metadata") {
        let expected = expected["metadata"].as_object();
        known.retain(|name, _| {
            !["isolation", "sandboxed", "network_isolated"].contains(&&**name)
                || expected.is_some_and(|expected| expected.contains_key(name))
        });
    }
    let order = |value: &Value| value.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>());
    let same = given == expected && order(&given) == order(&expected);
    (!same).then(|| format!("{case}: not {expected}, but {given}"))
}

/// With what was left out of long texts.
fn expanded(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(whole(text)),
        Value::Array(values) => values.iter().map(expanded).collect(),
        Value::Object(object) => {
            object.iter().map(|(name, value)| (name.clone(), expanded(value))).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

/// `aa...<9 chars>...ab` stands for nine characters, the end among them.
fn whole(text: &str) -> String {
    let parts = || {
        let (start, rest) = text.split_once("...<")?;
        let (length, end) = rest.split_once(" chars>...")?;
        Some((start, length.parse::<usize>().ok()?, end))
    };
    let Some((start, length, end)) = parts() else { return text.to_owned() };
    let fill = start.chars().next_back().expect("a text has a start").to_string();
    let missing = length - start.chars().count() - end.chars().count();
    format!("{start}{}{end}", fill.repeat(missing))
}

async fn until_free(server: &Server, slots: u32) {
    let asked = Instant::now();
    while Request::get(&server.address, "/status").send().await.done()["pool"]["available_slots"] != slots {
        assert!(asked.elapsed() < PATIENCE, "no {slots} slots come free");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
