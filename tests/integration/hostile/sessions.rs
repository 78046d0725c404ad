//! Terminals, shells and background processes, from models that type whatever comes to their mind, and with programs
//! that print whatever comes to theirs.

use std::cell::Cell;

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};
use tool_executor::pb::toolexecutor::Outcome;

use super::{
    bed::{Watched, cases, runtime},
    values::text,
};
use crate::support::client::{execute, tool};

#[test]
fn whatever_is_typed_and_printed_is_answered() {
    let (runtime, watched) = (runtime(), Watched::start());
    let answer = async |call| execute(&watched.server, "model", call).await;
    let begin = tool("begin", "terminal", json!({ "command": "cat", "background": true }));
    assert!(runtime.block_on(answer(begin)).success);
    let (all, successes) = (Cell::new(0), Cell::new(0));
    cases(40, &vec(asked(), 1..6), |calls| {
        runtime.block_on(async {
            for (name, arguments) in calls {
                let result = answer(tool(&fastrand::u64(..).to_string(), name, arguments)).await;
                let of_ours = [Outcome::Unspecified, Outcome::SandboxLost, Outcome::Internal];
                assert!(!of_ours.contains(&result.outcome()), "{result:?}");
                all.set(all.get() + 1);
                successes.set(successes.get() + u32::from(result.success));
            }
            watched.no_panics();
        });
    });
    assert!(successes.get() * 4 > all.get(), "few made sense: {} of {}", successes.get(), all.get());
    let after = runtime.block_on(answer(tool("after", "bash", json!({ "command": "echo well" }))));
    assert_eq!((after.success, &*after.output), (true, "well"), "{after:?}");
    runtime.block_on(watched.is_well());
}

/// A tool, and its arguments.
fn asked() -> BoxedStrategy<(&'static str, Value)> {
    let tmux = tmux().prop_map(|arguments| ("tmux", arguments));
    let process = process().prop_map(|arguments| ("process", arguments));
    let shell = prop_oneof![3 => printed(), 2 => typed(), 1 => Just("exit".to_owned())]
        .prop_map(|command| ("terminal_stateful", json!({ "command": command })));
    prop_oneof![6 => tmux, 2 => process, 1 => shell].boxed()
}

fn tmux() -> BoxedStrategy<Value> {
    let keys = prop_oneof![
        3 => vec(prop_oneof![typed(), key()], 0..6).prop_map(|keys| json!(keys)),
        2 => printed().prop_map(|command| json!([command, "Enter"])),
        1 => typed().prop_map(Value::String),
    ];
    let send = keys.prop_map(|keys| json!({ "action": "send_keys", "keys": keys, "min_wait_s": 0 }));
    let size = || prop_oneof![4 => 20..120_i64, 1 => Just(500), 1 => any::<i64>()];
    let sized = (select(vec!["start", "resize"]), size(), size(), any::<bool>()).prop_map(
        |(action, pane_width, pane_height, reset)| {
            json!({ "action": action, "pane_width": pane_width, "pane_height": pane_height, "reset": reset })
        },
    );
    let start = Just(json!({ "action": "start" }));
    let read = (any::<bool>(), any::<bool>(), 1..1_000_000_u32).prop_map(|(stream, whole, max_bytes)| match stream {
        true => json!({ "action": "stream", "reset": whole, "max_bytes": max_bytes }),
        false => json!({ "action": "capture", "capture_entire": whole }),
    });
    let stop = Just(json!({ "action": "stop" }));
    prop_oneof![3 => start, 8 => send, 2 => sized, 4 => read, 1 => stop].boxed()
}

fn process() -> impl Strategy<Value = Value> {
    let action = select(vec!["list", "poll", "log", "wait", "write", "kill"]);
    let id = prop_oneof![6 => Just(1), 1 => 0..9_i64, 1 => any::<i64>()];
    (action, id, any::<u64>(), typed(), any::<bool>()).prop_map(|(action, id, offset, input, end_of_input)| {
        let mut arguments = json!({ "action": action, "id": id, "offset": offset >> 12, "wait_s": 0 });
        if action == "write" {
            arguments["input"] = json!(input);
            // The first is to go on reading.
            arguments["end_of_input"] = json!(end_of_input && id != 1);
        }
        arguments
    })
}

fn key() -> impl Strategy<Value = String> {
    let named =
        select(vec!["Enter", "Escape", "Up", "C-c", "C-d", "C-z", "M-x", "F12", "BSpace", "C-Space", "S-Tab", "PPage"]);
    prop_oneof![6 => named.prop_map(str::to_owned), 1 => "[CMS]-[CMS]-\\PC"]
}

/// Bytes that are no text are none of a string's.
fn typed() -> impl Strategy<Value = String> {
    prop_oneof![3 => text(), 2 => "[\\x00-\\x1f\\x7f-\\u{9f}]{0,12}", 1 => Just("\u{1b}[200~".to_owned()), 1 => Just("$(".to_owned())]
}

/// A command that prints bytes which mean something to a terminal, or nearly.
fn printed() -> impl Strategy<Value = String> {
    let number = prop_oneof![4 => 0..300_u32, 1 => any::<u32>()];
    let escape = prop_oneof![
        (
            vec(number, 0..4),
            select(vec![
                'A', 'B', 'C', 'D', 'H', 'J', 'K', 'L', 'M', 'P', 'S', 'T', 'X', 'b', 'h', 'l', 'm', 'r', 'n', 'c', 't'
            ]),
            any::<bool>()
        )
            .prop_map(|(numbers, last, private)| {
                let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
                format!("\u{1b}[{}{}{last}", if private { "?" } else { "" }, numbers.join(";"))
            }),
        select(vec![
            "\u{1b}]0;title\u{7}",
            "\u{1b}]52;c;eA==\u{1b}\\",
            "\u{1b}Pq",
            "\u{1b}(0",
            "\u{1b}c",
            "\u{1b}M",
            "\u{1b}7",
            "\u{1b}8",
            "\u{1b}[?1049h"
        ])
        .prop_map(str::to_owned),
        "\\PC{0,10}",
    ];
    let bytes = prop_oneof![4 => escape.prop_map(String::into_bytes), 1 => vec(any::<u8>(), 0..20)];
    vec(bytes, 1..8).prop_map(|pieces| {
        let octal: String = pieces.concat().iter().map(|byte| format!("\\{byte:03o}")).collect();
        format!("printf '{octal}'")
    })
}
