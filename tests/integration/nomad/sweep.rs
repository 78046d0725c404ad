//! Every recorded answer, in every file: the client makes the call, and what it returns is what was said.

use std::{collections::BTreeMap, time::Duration};

use reqwest::Url;
use serde_json::{Value, json};
use tool_executor::backend::nomad::api::{
    Allocation, ApiError, Dispatch, Evaluation, Job, NodeStub, Payload, Registered, SelfToken, StreamEnd,
};

use super::{
    matching,
    player::{Answer, Player},
    recording::{self, Exchange, Request, Response},
};

/// What became of an exchange: which call it stands for, and how that ended.
type Played = (&'static str, Result<(), ApiError>);

#[tokio::test(start_paused = true)]
async fn every_answer_is_understood() {
    let player = Player::new();
    let mut calls = BTreeMap::<&str, usize>::new();
    for file in recording::files() {
        let mut played = 0;
        for exchange in recording::file(&file) {
            let Some((call, result)) = play(&player, &exchange).await else { continue };
            *calls.entry(call).or_default() += 1;
            played += 1;
            let error = result.err().map(|error| error.to_string());
            assert_eq!(error.is_some(), expects_error(&exchange), "{file} {}: {error:?}", exchange.name);
        }
        assert!(played > 0, "{file}");
    }
    // So that nothing is left out unseen.
    let expected = [
        ("acl_self_token", 3),
        ("agent_self", 3),
        ("allocation", 88),
        ("allocations", 25),
        ("decoded", 121),
        ("dispatch", 96),
        ("evaluation", 22),
        ("events", 85),
        ("health", 17),
        ("job", 67),
        ("jobs", 43),
        ("leader", 6),
        ("nodes", 11),
        ("register", 36),
        ("stop_job", 36),
        ("task_log_tail", 35),
        ("validate", 9),
        ("wait_allocations", 10),
    ];
    assert_eq!(calls, expected.into_iter().collect());
}

/// Whether the call fails. What is not there is an answer, where Nomad says so.
fn expects_error(exchange: &Exchange) -> bool {
    match &exchange.response {
        None => exchange.error.is_some(),
        Some(Response { status: 404, body: Some(body), .. }) => {
            !["job not found", "alloc not found", "eval not found"].contains(&body.as_str())
        }
        Some(response) => response.status != 200,
    }
}

/// Makes the call that the exchange stands for, if the client has it; decodes the answer if only that is possible.
async fn play(player: &Player, exchange: &Exchange) -> Option<Played> {
    let request = exchange.request.as_ref()?;
    let url = Url::parse(&format!("http://nomad{}", request.path)).expect("a path");
    let segments: Vec<_> = url.path_segments()?.map(|segment| segment.replace("%2F", "/")).collect();
    let query: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    if segments == ["v1", "event", "stream"] {
        return Some(("events", stream(player, exchange).await));
    }
    // One body was compressed, and was not kept; one answer is a stream's; and some are those of another server.
    let body = exchange.response.as_ref().map(|response| response.body.clone());
    if matches!(&body, Some(None)) || exchange.name == "gzip" {
        return None;
    }
    let client = player.play(exchange);
    let json = || exchange.response.as_ref().expect("an answer").json();
    let filter = query.get("filter").map_or("", String::as_str);
    let method = request.method.replace("PUT", "POST");
    let played = match (method.as_str(), &segments[1..]) {
        ("POST", ["validate", "job"]) => {
            let result = client.validate(&job_of(request)).await;
            ("validate", result.map(|validation| assert_eq!(validation.error, json()["Error"])))
        }
        ("POST", ["jobs"]) => {
            let result = client.register(&job_of(request), index_of(request)).await;
            ("register", result.map(|registered| assert_eq!(registered.job_modify_index, json()["JobModifyIndex"])))
        }
        ("DELETE", ["job", id @ ..]) => {
            let result = client.stop_job(&id.join("/"), query.contains_key("purge")).await;
            ("stop_job", result.map(|stopped| assert_eq!(stopped.eval_id.unwrap_or_default(), json()["EvalID"])))
        }
        ("POST", ["job", parent, "dispatch"]) => {
            let token = query.get("idempotency_token").map_or("", String::as_str);
            let dispatch = Dispatch { payload: b"", meta: &BTreeMap::new(), idempotency_token: token };
            let result = client.dispatch(parent, &dispatch).await;
            ("dispatch", result.map(|dispatched| assert_eq!(dispatched.job_id, json()["DispatchedJobID"])))
        }
        ("GET", ["jobs"]) => {
            // A page may have another after it, which is empty here.
            let last = (!expects_error(exchange)).then(|| Answer::new(200, "[]"));
            let client = player.answer([Answer::of(exchange)].into_iter().chain(last));
            let result = client.jobs(filter).await;
            ("jobs", result.map(|jobs| matching::all(&jobs, &json(), matching::job_stub)))
        }
        ("GET", ["allocations"]) if query.contains_key("index") => {
            let result = client.wait_allocations(filter, 1, Duration::from_secs(1)).await;
            ("wait_allocations", result.map(|list| matching::all(&list.value, &json(), matching::allocation)))
        }
        ("GET", ["allocations"]) => {
            let result = client.allocations(filter).await;
            ("allocations", result.map(|list| matching::all(&list.value, &json(), matching::allocation)))
        }
        ("GET", ["allocation", id]) => {
            let result = client.allocation(id).await;
            ("allocation", found(result, exchange, matching::allocation))
        }
        ("GET", ["evaluation", id]) => {
            let result = client.evaluation(id).await;
            ("evaluation", found(result, exchange, matching::evaluation))
        }
        ("GET", ["client", "fs", "logs", id]) => {
            let result = client.task_log_tail(id, "sandbox", 1 << 20).await;
            ("task_log_tail", result.map(|text| assert_eq!(text, body.flatten().expect("a body"))))
        }
        ("GET", ["status", "leader"]) => ("leader", client.leader().await.map(|leader| assert_eq!(leader, json()))),
        ("GET", ["agent", "health"]) => ("health", client.health().await),
        ("GET", ["agent", "self"]) => ("agent_self", client.agent_self().await.map(drop)),
        ("GET", ["nodes"]) => {
            ("nodes", client.nodes().await.map(|nodes| matching::all(&nodes, &json(), matching::node)))
        }
        ("GET", ["acl", "token", "self"]) => {
            let result = client.acl_self_token().await;
            ("acl_self_token", result.map(|token| assert_eq!(token.expect("a token").name, json()["Name"])))
        }
        ("GET", ["job", .., "allocations" | "evaluations" | "summary" | "versions"]) | ("GET", ["node", ..]) => {
            return decode(&segments[1..], exchange).map(|()| ("decoded", Ok(())));
        }
        ("GET", ["job", id @ ..]) => ("job", found(client.job(&id.join("/")).await, exchange, matching::job)),
        _ => return decode(&segments[1..], exchange).map(|()| ("decoded", Ok(()))),
    };
    let seen = player.seen();
    let first = seen.first().expect("a request");
    assert_eq!(first.method.as_str(), method, "{}", exchange.name);
    assert_eq!(first.uri.path().replace("%2F", "/"), url.path().replace("%2F", "/"), "{}", exchange.name);
    Some(played)
}

fn found<T>(
    result: Result<Option<T>, ApiError>,
    exchange: &Exchange,
    compare: impl Fn(&T, &Value),
) -> Result<(), ApiError> {
    let response = exchange.response.as_ref();
    result.map(|found| match found {
        Some(value) => compare(&value, &response.expect("an answer").json()),
        None => assert_eq!(response.expect("an answer").status, 404),
    })
}

/// Answers to calls that the client does not make, with what it makes of the same things elsewhere.
fn decode(path: &[&str], exchange: &Exchange) -> Option<()> {
    let response = exchange.response.as_ref().filter(|response| response.status == 200)?;
    let text = response.body.as_deref()?;
    let json = || response.json();
    fn read<T: serde::de::DeserializeOwned>(text: &str) -> T {
        serde_json::from_str(text).expect("an answer")
    }
    match path {
        [.., "allocations"] => matching::all(&read::<Vec<Allocation>>(text), &json(), matching::allocation),
        [.., "evaluations"] => matching::all(&read::<Vec<Evaluation>>(text), &json(), matching::evaluation),
        ["job", _, "versions"] => {
            let jobs: Vec<Job> = serde_json::from_value(json()["Versions"].clone()).expect("jobs");
            matching::all(&jobs, &json()["Versions"], matching::job);
        }
        ["node", _] if exchange.request.as_ref()?.method == "GET" => {
            matching::node(&read::<NodeStub>(text), &json());
        }
        ["job", _] => assert_eq!(read::<Registered>(text).job_modify_index, json()["JobModifyIndex"]),
        ["acl", "bootstrap"] => assert!(read::<SelfToken>(text).is_management()),
        _ => return None,
    }
    Some(())
}

/// Reads the stream to its end, as it was recorded; what is silent for too long ends, too.
async fn stream(player: &Player, exchange: &Exchange) -> Result<(), ApiError> {
    let mut stream = player.play(exchange).events(&["Allocation:*"], 0);
    let response = exchange.response.as_ref().expect("an answer");
    for line in response.lines.iter().flatten().filter(|_| response.status == 200) {
        let said: Value = serde_json::from_str(&line.data).expect("JSON");
        let events = stream.next().await.expect("events");
        assert_eq!(events.index, said["Index"].as_u64().unwrap_or(0));
        assert_eq!(events.events.len(), said["Events"].as_array().map_or(0, Vec::len));
        for (event, said) in events.events.iter().zip(said["Events"].as_array().into_iter().flatten()) {
            assert_eq!(event.key, said["Key"]);
            let payload = &said["Payload"][&event.topic];
            match &event.payload {
                Payload::Allocation(allocation) => matching::allocation(allocation, payload),
                Payload::Evaluation(evaluation) => matching::evaluation(evaluation, payload),
                Payload::Job(job) => matching::job(job, payload),
                Payload::Node(node) => matching::node(node, payload),
                Payload::Other => panic!("{said}"),
            }
        }
    }
    match stream.next().await.expect_err("the end") {
        StreamEnd::Failed(error) => Err(error),
        StreamEnd::Closed | StreamEnd::Silent | StreamEnd::Refused => Ok(()),
    }
}

fn job_of(request: &Request) -> Value {
    request_json(request)["Job"].take()
}

fn index_of(request: &Request) -> Option<u64> {
    let json = request_json(request);
    json["EnforceIndex"].as_bool().and_then(|_| json["JobModifyIndex"].as_u64())
}

/// Some requests were wrong on purpose.
fn request_json(request: &Request) -> Value {
    let body = request.body.as_deref().unwrap_or_default();
    serde_json::from_str::<Value>(body).ok().filter(Value::is_object).unwrap_or_else(|| json!({}))
}
