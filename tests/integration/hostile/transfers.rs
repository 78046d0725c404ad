//! Transfers of files, from clients and from executors that do not know their protocol.

use std::{cell::Cell, time::Duration};

use proptest::{collection::vec, prelude::*, sample::select};
use prost::Message as _;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::{Code, Status, transport::Channel};
use tool_executor::{
    id::{Generation, Opening, Tenant, TrajectoryId, TrajectoryKey},
    pb::{
        sandbox::{
            ArchiveArtifacts, BeginTransfer, EndOfContent, ListArtifacts, ReadArtifact, TransferRequest, WriteArtifact,
            begin_transfer::Action, transfer_request::Message,
        },
        toolexecutor::{
            ArchiveArtifactsRequest, ListArtifactsRequest, ReadArtifactRequest, WriteArtifactHeader,
            WriteArtifactRequest, write_artifact_request,
        },
    },
};

use super::{
    bed::{MEMORY, Watched, cases, never_panicked, runtime},
    executors,
    mutate::mutated,
    values::{data, number, small, text},
};
use crate::support::{
    agent::{Agent, TOKEN},
    client::Stream,
    raw,
};

const OWNER: &str = "owner";
/// Some cases end only when the client goes.
const LISTEN: Duration = Duration::from_millis(60);

#[test]
fn an_agent_survives_transfers_of_nonsense() {
    let runtime = runtime();
    let (agent, linked) = runtime.block_on(async {
        let agent = Agent::start(1);
        let linked = executors::attach(&agent, 1).await.expect("a link");
        (agent, linked)
    });
    let id = TrajectoryId::parse(OWNER).expect("it is an id");
    let owner = TrajectoryKey { tenant: Tenant::anonymous(), id };
    let mut slot = linked.link.assign(0, &owner, Generation(1), Opening(1));
    assert_eq!(runtime.block_on(executors::echo(&mut slot)), "well\n");
    let answers = Cell::new(0);
    cases(192, &transfer(), |messages| {
        runtime.block_on(async {
            let path = "/sandbox.v1.SandboxService/Transfer";
            if let Some(status) = converse(executors::channel(&agent).await, path, messages, &answers).await {
                let told = [Code::InvalidArgument, Code::Unauthenticated, Code::FailedPrecondition];
                assert!(told.contains(&status.code()), "{status:?}");
            }
            never_panicked(&agent.log());
        });
    });
    assert!(answers.get() > 0, "some of it makes sense");
    assert!(agent.peak_memory() < MEMORY, "it has had {} MiB", agent.peak_memory() >> 20);
    assert_eq!(runtime.block_on(executors::echo(&mut slot)), "well\n");
}

#[test]
fn nonsense_about_artifacts_is_answered() {
    let (runtime, watched) = (runtime(), Watched::start());
    let mut stream = runtime.block_on(Stream::open(&watched.server, OWNER));
    assert!(runtime.block_on(stream.bash("slot", "mkdir a; echo > a/b")).success);
    let answers = Cell::new(0);
    cases(192, &asked(), |(method, messages)| {
        runtime.block_on(async {
            if let Some(status) = converse(watched.server.channel().await, method, messages, &answers).await {
                let of_servers = [Code::Unknown, Code::Internal, Code::DataLoss, Code::Ok];
                assert!(!of_servers.contains(&status.code()), "{status:?}");
            }
            watched.no_panics();
        });
    });
    assert!(answers.get() > 0, "some of it makes sense");
    assert!(runtime.block_on(stream.bash("after", "true")).success);
    runtime.block_on(watched.is_well());
}

/// With what error it ended, if it did so in time. Counts the answers.
async fn converse(channel: Channel, path: &'static str, messages: Vec<Vec<u8>>, answers: &Cell<u32>) -> Option<Status> {
    let talk = async {
        let mut responses = raw::stream(channel, path, tokio_stream::iter(messages)).await?;
        while let Some(response) = responses.next().await {
            response?;
            answers.set(answers.get() + 1);
        }
        Ok(())
    };
    timeout(LISTEN, talk).await.ok()?.err()
}

/// Mostly one that may begin, and goes on as it likes.
fn transfer() -> BoxedStrategy<Vec<Vec<u8>>> {
    let token = prop_oneof![9 => Just(TOKEN.to_owned()), 1 => text()];
    let owner = prop_oneof![9 => Just(OWNER.to_owned()), 1 => text()];
    let one = || prop_oneof![9 => Just(1), 1 => number()];
    let slot = prop_oneof![9 => Just(0), 1 => small()];
    let begin = (token, one(), slot, owner, one(), prop::option::weighted(0.95, action()));
    let begin = begin.prop_map(|(token, epoch, slot, owner, generation, action)| {
        encoded(Message::Begin(BeginTransfer { token, epoch, slot, owner, generation, action }))
    });
    let chunk = data().prop_map(|chunk| encoded(Message::Chunk(chunk)));
    let rest = prop_oneof![
        4 => chunk,
        2 => Just(encoded(Message::End(EndOfContent {}))),
        1 => vec(any::<u8>(), 0..64),
    ];
    let first = prop_oneof![6 => begin.clone(), 2 => mutated(begin), 1 => vec(any::<u8>(), 0..64)];
    (first, vec(rest, 0..4)).prop_map(|(first, rest)| [vec![first], rest].concat()).boxed()
}

fn encoded(message: Message) -> Vec<u8> {
    TransferRequest { message: Some(message) }.encode_to_vec()
}

fn action() -> BoxedStrategy<Action> {
    let read = (path(), number(), number())
        .prop_map(|(path, offset, max_bytes)| Action::Read(ReadArtifact { path, offset, max_bytes }));
    let write = (path(), format(), small())
        .prop_map(|(path, format, mode)| Action::Write(WriteArtifact { path, format, mode }));
    let list = (path(), any::<bool>(), any::<bool>(), small(), data()).prop_map(
        |(path, recursive, include_hidden, page_size, after)| {
            Action::List(ListArtifacts { path, recursive, include_hidden, page_size, after })
        },
    );
    let archive = (path(), format(), number())
        .prop_map(|(path, format, max_bytes)| Action::Archive(ArchiveArtifacts { path, format, max_bytes }));
    prop_oneof![2 => read, 3 => write, 2 => list, 2 => archive].boxed()
}

/// A method of the public protocol, and what it is sent.
fn asked() -> BoxedStrategy<(&'static str, Vec<Vec<u8>>)> {
    let read = (owner(), path(), number(), number()).prop_map(|(trajectory_id, path, offset, max_bytes)| {
        ReadArtifactRequest { trajectory_id, path, offset, max_bytes }.encode_to_vec()
    });
    let archive = (owner(), path(), format(), number()).prop_map(|(trajectory_id, path, format, max_bytes)| {
        ArchiveArtifactsRequest { trajectory_id, path, format, max_bytes }.encode_to_vec()
    });
    let list = (owner(), path(), any::<bool>(), any::<bool>(), small(), text()).prop_map(
        |(trajectory_id, path, recursive, include_hidden, page_size, page_token)| {
            ListArtifactsRequest { trajectory_id, path, recursive, include_hidden, page_size, page_token }
                .encode_to_vec()
        },
    );
    let header = (owner(), path(), format(), small()).prop_map(|(trajectory_id, path, format, mode)| {
        written(write_artifact_request::Message::Header(WriteArtifactHeader { trajectory_id, path, format, mode }))
    });
    let chunk = data().prop_map(|chunk| written(write_artifact_request::Message::Chunk(chunk)));
    let write = (header, vec(chunk, 0..4)).prop_map(|(header, chunks)| [vec![header], chunks].concat());
    let single = |message: BoxedStrategy<Vec<u8>>| message.prop_map(|message| vec![message]).boxed();
    let messages = prop_oneof![single(read.boxed()), single(archive.boxed()), single(list.boxed()), write];
    let damaged = mutated(messages.clone().prop_map(|messages| messages.concat())).prop_map(|message| vec![message]);
    (select(&METHODS[..]), prop_oneof![5 => messages, 2 => damaged]).boxed()
}

/// Any of them may be sent what is meant for another.
const METHODS: [&str; 4] = [
    "/toolexecutor.v1.ToolExecutor/ReadArtifact",
    "/toolexecutor.v1.ToolExecutor/WriteArtifact",
    "/toolexecutor.v1.ToolExecutor/ListArtifacts",
    "/toolexecutor.v1.ToolExecutor/ArchiveArtifacts",
];

fn written(message: write_artifact_request::Message) -> Vec<u8> {
    WriteArtifactRequest { message: Some(message) }.encode_to_vec()
}

fn owner() -> impl Strategy<Value = String> {
    prop_oneof![9 => Just(OWNER.to_owned()), 1 => text()]
}

fn path() -> impl Strategy<Value = String> {
    let usual =
        select(vec!["", ".", "a", "a/b", "a/b/c", "/workspace/a", "..", "/proc/self/mem", "a//b/", "a/../../b"]);
    prop_oneof![4 => usual.prop_map(str::to_owned), 1 => text()]
}

fn format() -> impl Strategy<Value = i32> {
    prop_oneof![6 => 0..6, 1 => any::<i32>()]
}
