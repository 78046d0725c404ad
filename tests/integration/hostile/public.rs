//! The public protocol, from clients that do not know it.

use std::{cell::Cell, collections::HashMap, time::Duration};

use proptest::{collection::vec, prelude::*, sample::select};
use prost::Message as _;
use prost_types::{ListValue, Struct, Value, value::Kind};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};
use tool_executor::pb::toolexecutor::{
    Argv, Batch, Call, Cancel, Command, ExecuteRequest, Input, Open, OutputLimits, ReleaseTrajectory, Reset, ToolCall,
    TrajectoryOptions, TrajectoryRequest, TrajectoryResponse, call::Action, command::Program, tool_call::Arguments,
    trajectory_request::Message, trajectory_response,
};

use super::{
    bed::{MEMORY, Watched, cases, field, runtime},
    mutate::mutated,
    values::{arguments, data, duration, number, script, small, text},
};
use crate::support::{client::PATIENCE, process, raw};

const TRAJECTORY: &str = "/toolexecutor.v1.ToolExecutor/Trajectory";

/// Of one request and one answer.
const METHODS: [&str; 9] = [
    raw::EXECUTE,
    "/toolexecutor.v1.ToolExecutor/Release",
    "/toolexecutor.v1.ToolExecutor/CancelTrajectories",
    "/toolexecutor.v1.ToolExecutor/ListTools",
    "/toolexecutor.v1.ToolExecutor/GetStatus",
    "/toolexecutor.v1.ToolExecutor/ListTrajectories",
    "/grpc.health.v1.Health/Check",
    // These are streams, and answer the first message.
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    TRAJECTORY,
];

/// For what comes after the last message: some cases end only when the client goes.
const LISTEN: Duration = Duration::from_millis(80);

#[test]
fn a_stream_of_nonsense_ends_with_a_status() {
    let (runtime, watched, responses) = (runtime(), Watched::start(), Cell::new(0));
    cases(96, &(conversation(), any::<bool>()), |(messages, half_close)| {
        runtime.block_on(async {
            converse(&watched, messages, half_close, &responses).await;
            watched.no_panics();
        });
    });
    runtime.block_on(watched.is_well());
    assert!(responses.get() > 0, "some of it makes sense");
    assert!(runtime.block_on(sense(&watched)), "what makes sense has a result");
}

/// Whether a conversation that makes sense, sent the same way, is answered with a result.
async fn sense(watched: &Watched) -> bool {
    let open = Message::Open(Open { trajectory_id: "sense".to_owned(), ..Open::default() });
    let tool = ToolCall { name: "no tool".to_owned(), ..ToolCall::default() };
    let call = Call { call_id: "call".to_owned(), action: Some(Action::Tool(tool)), ..Call::default() };
    let messages = [encoded(open), encoded(Message::Batch(Batch { calls: vec![call] }))];
    let messages = tokio_stream::iter(messages).chain(tokio_stream::pending());
    let listening = async {
        let mut responses = raw::stream(watched.server.channel().await, TRAJECTORY, messages).await.expect("it opens");
        while let Some(response) = responses.message().await.expect("it goes on") {
            let response = TrajectoryResponse::decode(&*response).expect("a response");
            if matches!(response.message, Some(trajectory_response::Message::Result(_))) {
                return true;
            }
        }
        false
    };
    timeout(PATIENCE, listening).await.expect("an answer in time")
}

/// Counts the responses: how soon there are results depends on what else the machine does.
async fn converse(watched: &Watched, messages: Vec<Vec<u8>>, half_close: bool, count: &Cell<u32>) {
    let rest = tokio_stream::pending().take(if half_close { 0 } else { 1 });
    let messages = tokio_stream::iter(messages).chain(rest);
    let opened = timeout(LISTEN, raw::stream(watched.server.channel().await, TRAJECTORY, messages)).await;
    let mut responses = match opened {
        Ok(Ok(responses)) => responses,
        Ok(Err(status)) => return is_told(&status),
        // It has not been sent a whole message, and waits for one.
        Err(_) => return,
    };
    let listening = async {
        loop {
            match responses.message().await {
                Ok(Some(response)) => {
                    TrajectoryResponse::decode(&*response).expect("a response");
                    count.set(count.get() + 1);
                }
                Ok(None) => return,
                Err(status) => return is_told(&status),
            }
        }
    };
    // If it does not end, it is left.
    let _ = timeout(LISTEN, listening).await;
}

#[test]
fn nonsense_to_every_method_is_answered() {
    let (runtime, watched) = (runtime(), Watched::start());
    cases(128, &(select(&METHODS[..]), mutated(execution())), |(method, message)| {
        runtime.block_on(async {
            let asked = raw::unary(watched.server.channel().await, method, message);
            if let Err(status) = timeout(PATIENCE, asked).await.expect("an answer in time") {
                is_told(&status);
            }
            watched.no_panics();
        });
    });
    runtime.block_on(watched.is_well());
}

/// It says whose fault it is, and that is not the server's.
fn is_told(status: &Status) {
    let of_servers = [Code::Unknown, Code::Internal, Code::DataLoss, Code::Ok];
    // What is no protobuf to the services that are not ours has a code of the library's choosing.
    let is_foreign = status.message().starts_with("failed to decode Protobuf message")
        // The client's own words, of a stream that ended well without an answer.
        || status.message() == "Missing response message.";
    assert!(!of_servers.contains(&status.code()) || is_foreign, "{status:?}");
}

/// An element takes two bytes of a message, and hundreds of memory.
#[test]
fn small_messages_do_not_become_large_ones() {
    let (runtime, watched) = (runtime(), Watched::start());
    // The first field of what it is in.
    let elements = field(1, b"").repeat(4 << 20 >> 1);
    let list = field(2, &field(6, &elements));
    let fields = field(1, &[field(1, b"list"), list].concat());
    let tool = [field(1, b"bash"), field(2, &fields)].concat();
    let call = [field(1, b"call"), field(2, &tool)].concat();
    let [calls, arguments, ids] = [field(2, &elements), field(2, &field(1, &call)), field(3, &elements)];
    for message in [calls, arguments, ids] {
        let open = encoded(Message::Open(Open { trajectory_id: "large".to_owned(), ..Open::default() }));
        let messages = [open, message];
        runtime.block_on(async {
            let messages = tokio_stream::iter(messages);
            let asked = raw::stream(watched.server.channel().await, TRAJECTORY, messages).await;
            let mut responses = asked.expect("it is opened");
            let ended = async {
                loop {
                    match responses.message().await {
                        Ok(Some(_)) => {}
                        Ok(None) => panic!("it was taken"),
                        Err(status) => return status,
                    }
                }
            };
            let status = timeout(PATIENCE, ended).await.expect("an end in time");
            assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        });
        let peak = process::peak_memory(watched.server.pid().as_raw_pid().cast_unsigned());
        assert!(peak < MEMORY, "it took {} MiB", peak >> 20);
    }
    runtime.block_on(watched.is_well());
}

/// Mostly one that begins well.
fn conversation() -> BoxedStrategy<Vec<Vec<u8>>> {
    let opening = || open().prop_map(|open| encoded(Message::Open(open)));
    let nonsense = prop_oneof![mutated(opening()), vec(any::<u8>(), 0..64)];
    let first = prop_oneof![4 => opening(), 1 => nonsense];
    let typed = || message().prop_map(encoded);
    let next = prop_oneof![3 => typed(), 2 => mutated(typed()), 1 => vec(any::<u8>(), 0..64)];
    (first, vec(next, 0..8)).prop_map(|(first, rest)| [vec![first], rest].concat()).boxed()
}

fn encoded(message: Message) -> Vec<u8> {
    TrajectoryRequest { message: Some(message) }.encode_to_vec()
}

fn message() -> BoxedStrategy<Message> {
    prop_oneof![
        1 => open().prop_map(Message::Open),
        6 => vec(call(), 0..5).prop_map(|calls| Message::Batch(Batch { calls })),
        1 => vec(text(), 0..4).prop_map(|call_ids| Message::Cancel(Cancel { call_ids })),
        2 => (text(), data(), any::<bool>()).prop_map(|(call_id, data, end_of_file)| {
            Message::Input(Input { call_id, data, end_of_file })
        }),
        1 => number().prop_map(|generation| Message::Reset(Reset { generation })),
        1 => any::<bool>().prop_map(|keep_workspace| Message::Release(ReleaseTrajectory { keep_workspace })),
    ]
    .boxed()
}

/// Few trajectories, so that cases meet each other's.
fn trajectory() -> impl Strategy<Value = String> {
    prop_oneof![8 => "[a-c]", 1 => text()]
}

fn open() -> BoxedStrategy<Open> {
    let options = prop::option::weighted(0.3, options());
    (trajectory(), options, any::<bool>(), number(), any::<bool>())
        .prop_map(|(trajectory_id, options, take_over, last_sequence, require_existing)| Open {
            trajectory_id,
            options,
            take_over,
            last_sequence: if take_over { 0 } else { last_sequence },
            require_existing: require_existing && !take_over,
        })
        .boxed()
}

fn options() -> BoxedStrategy<TrajectoryOptions> {
    let limits = (prop::option::of(small()), prop::option::of(small()))
        .prop_map(|(head_bytes, tail_bytes)| OutputLimits { head_bytes, tail_bytes });
    (
        duration(),
        pairs(),
        prop_oneof![4 => Just(String::new()), 1 => text()],
        any::<bool>(),
        prop::option::of(limits),
        duration(),
    )
        .prop_map(|(lease, labels, pool, acquire_slot, output_limits, default_timeout)| TrajectoryOptions {
            lease,
            labels,
            pool,
            acquire_slot,
            output_limits,
            default_timeout,
        })
        .boxed()
}

fn pairs() -> impl Strategy<Value = HashMap<String, String>> {
    prop::collection::hash_map(text(), text(), 0..3)
}

fn execution() -> BoxedStrategy<Vec<u8>> {
    (trajectory(), prop::option::weighted(0.9, call()), prop::option::weighted(0.2, options()), any::<bool>())
        .prop_map(|(trajectory_id, call, options, require_existing)| {
            ExecuteRequest { trajectory_id, call, options, require_existing }.encode_to_vec()
        })
        .boxed()
}

fn call() -> BoxedStrategy<Call> {
    let action = prop_oneof![
        4 => tool().prop_map(Action::Tool),
        4 => command().prop_map(Action::Command),
    ];
    (text(), prop::option::weighted(0.95, action), duration(), any::<bool>(), any::<bool>())
        .prop_map(|(call_id, action, timeout, stream_output, concurrent)| Call {
            call_id,
            action,
            timeout,
            stream_output,
            concurrent,
        })
        .boxed()
}

fn command() -> BoxedStrategy<Command> {
    let program = prop_oneof![
        3 => script().prop_map(Program::Shell),
        1 => arguments().prop_map(|arguments| Program::Argv(Argv { arguments })),
    ];
    let directory = prop_oneof![4 => Just(String::new()), 1 => text()];
    (prop::option::weighted(0.95, program), directory, pairs(), data(), any::<bool>())
        .prop_map(|(program, working_directory, environment, stdin, interactive)| Command {
            program,
            working_directory,
            environment,
            stdin,
            interactive,
        })
        .boxed()
}

fn tool() -> BoxedStrategy<ToolCall> {
    let name = prop_oneof![4 => select(vec!["bash", "terminal", "read_file", "write_file"]).prop_map(str::to_owned), 1 => text()];
    let fields = prop::collection::btree_map(argument(), value(), 0..4);
    let json = || {
        (argument(), script()).prop_map(|(name, value)| {
            serde_json::json!({ name: value, "path": "f", "content": "c", "timeout": 1 }).to_string()
        })
    };
    let json = prop_oneof![
        2 => json(),
        2 => mutated(json().prop_map(String::into_bytes)).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        1 => text(),
        // Deep enough to end a parser that calls itself.
        1 => Just("[".repeat(100_000)),
    ];
    let arguments = prop_oneof![
        json.prop_map(Arguments::ArgumentsJson),
        fields.prop_map(|fields| Arguments::ArgumentsStruct(Struct { fields })),
    ];
    (name, prop::option::weighted(0.95, arguments)).prop_map(|(name, arguments)| ToolCall { name, arguments }).boxed()
}

fn argument() -> impl Strategy<Value = String> {
    prop_oneof![4 => select(vec!["command", "path", "content", "timeout"]).prop_map(str::to_owned), 1 => text()]
}

fn value() -> BoxedStrategy<Value> {
    let of = |kind| Value { kind: Some(kind) };
    let leaf = prop_oneof![
        1 => Just(Value { kind: None }),
        1 => Just(of(Kind::NullValue(0))),
        1 => Just(of(Kind::NullValue(7))),
        1 => any::<bool>().prop_map(move |value| of(Kind::BoolValue(value))),
        2 => any::<f64>().prop_map(move |value| of(Kind::NumberValue(value))),
        1 => Just(of(Kind::NumberValue(f64::NAN))),
        4 => script().prop_map(move |value| of(Kind::StringValue(value))),
    ];
    leaf.prop_recursive(3, 16, 4, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(move |values| of(Kind::ListValue(ListValue { values }))),
            prop::collection::btree_map("[a-c]", inner, 0..4)
                .prop_map(move |fields| of(Kind::StructValue(Struct { fields }))),
        ]
    })
    .boxed()
}
