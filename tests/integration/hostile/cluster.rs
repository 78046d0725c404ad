//! A whole executor whose containers have agents that do not keep to the protocol: every call is answered, with a result
//! that a client can take.

use std::{
    collections::{HashSet, VecDeque},
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use proptest::{collection::vec, prelude::*};
use prost::Message as _;
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime, task::JoinSet, time::timeout};
use tonic::{Code, Status, transport::Channel};
use tool_executor::pb::{
    sandbox::{ArtifactPage, TransferResponse, transfer_response},
    toolexecutor::{
        ArchiveArtifactsRequest, ArtifactFormat, ExecuteRequest, ListArtifactsRequest, Notice, Open, Outcome,
        ReadArtifactRequest, TrajectoryOptions, WriteArtifactHeader, WriteArtifactRequest, notice::Event,
        tool_executor_client::ToolExecutorClient, trajectory_response::Message as Response, write_artifact_request,
    },
};

use super::{
    bed::{MEMORY, Watched, cases, field, runtime},
    impostor::{self, Said, Speech, said, transfer_said},
};
use crate::support::{
    client::{PATIENCE, Stream, bash, command, open, shell, try_execute},
    dying,
    nomad::{AllocationView, Nomad, Options},
    process,
    server::Server,
};

/// A client takes no more, unless it is told to.
const MAX_RESULT: usize = 4 << 20;
/// Of an error's text, in bytes: more goes into no header.
const MAX_ERROR: usize = 8 << 10;

/// Whose containers are given agents by a test.
struct Cluster {
    nomad: Nomad,
    watched: Watched,
    /// If it is there, containers have real agents.
    honest: PathBuf,
    seen: HashSet<String>,
    agents: JoinSet<()>,
    _home: TempDir,
}

impl Cluster {
    fn start() -> Self {
        let nomad = Nomad::start_with(Options {
            task_start: Duration::from_millis(5),
            running_after: Duration::from_millis(20),
            report_after: Duration::from_millis(20),
            ..Options::default()
        });
        let home = TempDir::new().expect("a directory");
        let (program, honest) = (home.path().join("agent"), home.path().join("honest"));
        let real = env!("CARGO_BIN_EXE_tool-executor");
        let script = format!("#!/bin/sh\n[ -e {} ] && exec {real} \"$@\"\nexec sleep 600\n", honest.display());
        fs::write(&program, script).expect("it can be written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it can be made a program");
        let watched = Watched::with(|command| {
            command.envs(Server::over(&nomad.address())).envs([
                ("TOOL_EXECUTOR_AGENT_PATH", program.to_str().expect("it is text")),
                ("TOOL_EXECUTOR_AGENT_TLS", "false"),
                ("TOOL_EXECUTOR_SLOTS", "1"),
                ("TOOL_EXECUTOR_MAX_CONTAINERS", "1"),
            ]);
        });
        Self { nomad, watched, honest, seen: HashSet::new(), agents: JoinSet::new(), _home: home }
    }

    /// Gives a container that is new an agent that says this. It stays, to refuse what comes after: one that is silent is
    /// waited for.
    async fn next_agent(&mut self, rest: Vec<Said>, transfers: VecDeque<Vec<Vec<u8>>>) {
        let AllocationView { id, port, .. } = self.next_container().await;
        let address = ("127.0.0.1", port.expect("it has a port"));
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let speech = Speech { attached: impostor::attached(&id, 1), greeting: None, rest, transfers };
        self.agents.spawn(impostor::listen(listener, speech));
    }

    async fn next_container(&mut self) -> AllocationView {
        let asked = Instant::now();
        loop {
            let all = self.nomad.allocations();
            if let Some(new) = all.into_iter().find(|one| one.pid.is_some() && !self.seen.contains(&one.id)) {
                self.seen.insert(new.id.clone());
                return new;
            }
            assert!(asked.elapsed() < PATIENCE, "there should be a container");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Runs one call under such an agent; it is answered, whatever with.
    async fn call(&mut self, rest: Vec<Said>, is_command: bool) -> Outcome {
        self.next_agent(rest, VecDeque::new()).await;
        let call = if is_command { command("a", shell("true")) } else { bash("a", "true") };
        let trajectory_id = fastrand::u64(..).to_string();
        let request = ExecuteRequest { trajectory_id, call: Some(call), ..ExecuteRequest::default() };
        let result = try_execute(&self.watched.server, request).await.expect("an answer");
        assert!(result.encoded_len() < MAX_RESULT, "it has {} bytes", result.encoded_len());
        self.watched.no_panics();
        result.outcome()
    }

    /// Asks for transfers under such an agent, one after another; each is answered, whatever with. Before them, for one
    /// that makes sense.
    async fn transfer(&mut self, transfers: Vec<(Vec<Vec<u8>>, u8)>) {
        let page = transfer_response::Message::Page(ArtifactPage::default());
        let listed = vec![TransferResponse { message: Some(page) }.encode_to_vec()];
        let (said, asked): (_, Vec<u8>) = [(listed, LIST)].into_iter().chain(transfers).unzip();
        self.next_agent(Vec::new(), said).await;
        let options = TrajectoryOptions { acquire_slot: true, ..TrajectoryOptions::default() };
        let id = fastrand::u64(..).to_string();
        let open = Open { options: Some(options), ..open(&id) };
        let mut stream = Stream::try_open(&self.watched.server, open).await.expect("it opens");
        let assigned = |response| match response {
            Response::Notice(Notice { event: Some(Event::SlotAssigned(_)) }) => Some(()),
            _ => None,
        };
        stream.until(assigned).await;
        for (index, method) in asked.into_iter().enumerate() {
            let mut client = self.watched.server.client().await;
            let answered = timeout(PATIENCE, ask(&mut client, method, id.clone())).await.expect("an answer in time");
            if let Err(status) = answered {
                assert!(index > 0, "it makes sense: {status:?}");
                // What tonic says of a stream that broke.
                assert_ne!(status.code(), Code::Unknown, "{status:?}");
                assert!(status.message().len() < MAX_ERROR, "{status:?}");
            }
            self.watched.no_panics();
        }
    }

    async fn is_well(&mut self) {
        File::create(&self.honest).expect("it can be made");
        // The one that there is by now will never answer.
        let waiting = self.nomad.allocations().into_iter().filter_map(|one| one.pid);
        waiting.for_each(dying::kill);
        self.watched.is_well().await;
    }
}

fn with_cluster(test: impl FnOnce(&Runtime, &mut Cluster)) {
    let runtime = runtime();
    let mut cluster = Cluster::start();
    test(&runtime, &mut cluster);
    runtime.block_on(cluster.is_well());
}

const LIST: u8 = 2;

/// Of files, in one of the four ways.
async fn ask(client: &mut ToolExecutorClient<Channel>, method: u8, trajectory_id: String) -> Result<(), Status> {
    let path = "file".to_owned();
    let tar = ArtifactFormat::Tar.into();
    match method {
        0 => {
            let read = ReadArtifactRequest { trajectory_id, path, ..ReadArtifactRequest::default() };
            let mut answers = client.read_artifact(read).await?.into_inner();
            while answers.message().await?.is_some() {}
        }
        1 => {
            let archive = ArchiveArtifactsRequest { trajectory_id, path, format: tar, max_bytes: 0 };
            let mut answers = client.archive_artifacts(archive).await?.into_inner();
            while answers.message().await?.is_some() {}
        }
        LIST => {
            let list = ListArtifactsRequest { trajectory_id, ..ListArtifactsRequest::default() };
            client.list_artifacts(list).await?;
        }
        _ => {
            let header = WriteArtifactHeader { trajectory_id, path, format: ArtifactFormat::Raw.into(), mode: 0 };
            let messages = [write_artifact_request::Message::Header(header), chunk(b"content")];
            let messages = messages.map(|message| WriteArtifactRequest { message: Some(message) });
            client.write_artifact(tokio_stream::iter(messages)).await?;
        }
    }
    Ok(())
}

fn chunk(content: &'static [u8]) -> write_artifact_request::Message {
    write_artifact_request::Message::Chunk(content.into())
}

#[test]
fn transfers_under_an_agent_that_talks_nonsense_are_answered() {
    with_cluster(|runtime, cluster| {
        let cluster = std::cell::RefCell::new(cluster);
        cases(4, &vec((transfer_said(), 0..4_u8), 1..40), |transfers| {
            runtime.block_on(cluster.borrow_mut().transfer(transfers));
        });
    });
}

#[test]
fn a_call_under_an_agent_that_talks_nonsense_is_answered() {
    with_cluster(|runtime, cluster| {
        let cluster = std::cell::RefCell::new(cluster);
        // The more of them are lost, the longer the next is waited for.
        cases(5, &(vec(said(), 0..4), any::<bool>()), |(rest, is_command)| {
            runtime.block_on(cluster.borrow_mut().call(rest, is_command));
        });
    });
}

/// An event takes two bytes of a message, and hundreds of memory.
#[test]
fn an_agent_cannot_fill_its_executors_memory() {
    with_cluster(|runtime, cluster| {
        // Of `LinkResponse`, the second field, and of that again.
        let message = field(2, &field(2, b"").repeat(8 << 20 >> 1));
        let outcome = runtime.block_on(cluster.call(vec![Said::Bytes(message)], false));
        assert_eq!(outcome, Outcome::SandboxLost);
        let peak = process::peak_memory(cluster.watched.server.pid().as_raw_pid().cast_unsigned());
        assert!(peak < MEMORY, "it took {} MiB", peak >> 20);
    });
}
