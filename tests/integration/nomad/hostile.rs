//! Answers that Nomad never gives: each is understood, or is an error that says so.

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::{Value, json};
use tool_executor::backend::nomad::api::{Client, Dispatch};

use super::{
    player::{Answer, Player},
    recording,
};
use crate::hostile::{bed::cases, mutate::mutated};

/// Every body and every line of a stream that was recorded.
static RECORDED: LazyLock<Vec<String>> = LazyLock::new(|| {
    let exchanges = recording::files().into_iter().flat_map(|name| recording::file(&name[..2]));
    let responses = exchanges.filter_map(|exchange| exchange.response);
    let texts = responses.flat_map(|response| {
        response.body.into_iter().chain(response.lines.into_iter().flatten().map(|line| line.data))
    });
    // A few are of megabytes, and like the others.
    texts.filter(|text| text.len() < 64 << 10).collect()
});

fn recorded() -> impl Strategy<Value = String> {
    any::<Index>().prop_map(|index| index.get(&RECORDED).clone())
}

/// As it was, but for a few values that are something else.
fn odd() -> impl Strategy<Value = Vec<u8>> {
    let other = prop_oneof![
        Just(Value::Null),
        Just(json!([])),
        Just(json!({})),
        Just(json!("")),
        Just(json!(-1)),
        Just(json!(u64::MAX)),
        Just(json!(1e300)),
        Just(json!(true)),
        Just(json!([null, {"ID": 3}])),
    ];
    let structured = (recorded(), vec((any::<Index>(), other), 1..4)).prop_map(|(text, changes)| {
        let Ok(mut value) = serde_json::from_str::<Value>(&text) else { return text.into_bytes() };
        for (place, other) in changes {
            let places = places(&value);
            if let Some(changed) = value.pointer_mut(&places[place.index(places.len())]) {
                *changed = other;
            }
        }
        value.to_string().into_bytes()
    });
    prop_oneof![3 => structured, 2 => mutated(recorded().prop_map(String::into_bytes))]
}

/// The JSON pointer of everything in it, and of itself.
fn places(value: &Value) -> Vec<String> {
    let below = |name: &str, value: &Value| {
        let name = name.replace('~', "~0").replace('/', "~1");
        places(value).into_iter().map(move |place| format!("/{name}{place}")).collect::<Vec<_>>()
    };
    let mut all = vec![String::new()];
    match value {
        Value::Array(items) => (0..).zip(items).for_each(|(index, item)| all.extend(below(&index.to_string(), item))),
        Value::Object(fields) => fields.iter().for_each(|(name, field)| all.extend(below(name, field))),
        _ => {}
    }
    all
}

/// Whatever was asked. An error's text is for a log: one line of no great length.
async fn ask(client: &Client, question: usize) {
    let meta = BTreeMap::new();
    let dispatch = Dispatch { payload: b"", meta: &meta, idempotency_token: "token" };
    let error = match question {
        0 => client.allocations("").await.err(),
        1 => client.allocation("id").await.err(),
        2 => client.evaluation("id").await.err(),
        3 => client.jobs("").await.err(),
        4 => client.job("id").await.err(),
        5 => client.nodes().await.err(),
        6 => client.agent_self().await.err(),
        7 => client.acl_self_token().await.err(),
        8 => client.dispatch("id", &dispatch).await.err(),
        9 => client.register(&json!({}), None).await.err(),
        10 => client.validate(&json!({})).await.err(),
        11 => client.stop_job("id", true).await.err(),
        _ => client.leader().await.err(),
    };
    if let Some(error) = error {
        let text = error.to_string();
        assert!(text.len() < 2_000 && !text.contains('\n'), "{text}");
    }
}

#[test]
fn any_answer_is_understood_or_an_error() {
    let statuses = prop_oneof![4 => Just(200_u16), 1 => prop::sample::select(vec![201, 204, 400, 403, 404, 500])];
    let index = prop::sample::select(vec!["", "0", "7", "-1", "18446744073709551616", "x"]);
    let runtime = runtime();
    cases(128, &(odd(), statuses, index, 0..13_usize), |(body, status, index, question)| {
        runtime.block_on(async {
            let body = String::from_utf8_lossy(&body).into_owned();
            let headers = vec![("X-Nomad-Index".to_owned(), index.to_owned())];
            let player = Player::new();
            ask(player.answer([Answer::Whole { status, headers, body }]), question).await;
        });
    });
}

#[test]
fn any_stream_is_understood_or_ends() {
    let runtime = runtime();
    cases(48, &(vec(odd(), 0..4), any::<u64>()), |(lines, after)| {
        runtime.block_on(async {
            let line = |line: &Vec<u8>| (Duration::ZERO, format!("{}\n", String::from_utf8_lossy(line)));
            let lines = lines.iter().map(line).collect();
            let player = Player::new();
            let answer = Answer::Stream { status: 200, lines, end: Some(Duration::ZERO) };
            let mut stream = player.answer([answer]).events(&["Allocation:*"], after);
            while stream.next().await.is_ok() {}
        });
    });
}

/// Whose time passes only where both sides wait for it.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime")
}
