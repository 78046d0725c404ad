//! Processes that outlive their calls: begun by one call, seen to by others, ended with their trajectory.

use std::time::{Duration, Instant};

use serde_json::json;
use tool_executor::pb::toolexecutor::{
    CallResult, Open, Outcome, Reason, ReleaseTrajectory, Reset, trajectory_request::Message as Request,
    trajectory_response,
};

use crate::support::{
    client::{Stream, open, tool},
    process,
    server::Server,
};

/// A trajectory whose calls are numbered.
struct Agent {
    stream: Stream,
    calls: u32,
    /// The sequence of the last result.
    last: u64,
}

impl Agent {
    async fn open(server: &Server, id: &str) -> Self {
        Self { stream: Stream::open(server, id).await, calls: 0, last: 0 }
    }

    async fn call(&mut self, name: &str, arguments: serde_json::Value) -> CallResult {
        self.calls += 1;
        self.stream.batch(vec![tool(&format!("n{}", self.calls), name, arguments)]).await;
        let result = self.stream.result().await;
        self.last = result.sequence;
        result
    }

    async fn bash(&mut self, script: &str) -> String {
        self.call("bash", json!({"command": script})).await.output
    }

    async fn begin(&mut self, script: &str) -> u64 {
        let result = self.call("terminal", json!({"command": script, "background": true})).await;
        assert!(result.success, "{result:?}");
        let id = result.output.strip_prefix("Started background process ").expect("it has a number");
        id.parse().expect("a number")
    }

    async fn process(&mut self, action: &str, id: u64) -> CallResult {
        self.call("process", json!({"action": action, "id": id})).await
    }

    /// Waits until the log from the beginning has a text.
    async fn until_logged(&mut self, id: u64, text: &str) {
        loop {
            let log = self.call("process", json!({"action": "log", "id": id, "offset": 0})).await;
            assert!(log.success, "{log:?}");
            if log.output.contains(text) {
                return;
            }
        }
    }
}

#[tokio::test]
async fn a_background_process_outlives_its_call() {
    let server = Server::start();
    let mut agent = Agent::open(&server, "background").await;
    assert_eq!(agent.call("process", json!({"action": "list"})).await.output, "There are no background processes");
    let id = agent.begin("echo begun; echo wrong >&2; read line; echo got $line; cat; exit 3").await;
    agent.until_logged(id, "wrong").await;
    assert_eq!(agent.bash("echo beside").await, "beside");
    let poll = agent.process("poll", id).await.output;
    assert!(poll.starts_with("Process 1 is running (") && poll.ends_with(" 12 bytes of output)"), "{poll}");
    let list = agent.call("process", json!({"action": "list"})).await.output;
    assert!(list.starts_with("1  is running  echo begun;"), "{list}");

    let log = agent.process("log", id).await.output;
    assert_eq!(log, "begun\nwrong\n[process 1 is running; next offset 12]");
    let write = json!({"action": "write", "id": id, "input": "word\nrest", "end_of_input": true});
    assert_eq!(agent.call("process", write.clone()).await.output, "Wrote 9 bytes to process 1");
    let wait = agent.process("wait", id).await.output;
    assert!(wait.starts_with("Process 1 exited with code 3 ("), "{wait}");
    assert_eq!(agent.process("log", id).await.output, "got word\nrest\n[process 1 exited with code 3; next offset 25]");
    let log = agent.call("process", json!({"action": "log", "id": id, "offset": 2, "max_bytes": 3})).await.output;
    assert_eq!(log, "gun\n[process 1 exited with code 3; next offset 5, 20 bytes follow]");

    let write = agent.call("process", write).await;
    assert_eq!((write.outcome(), write.reason()), (Outcome::Failed, Reason::TerminalState), "{write:?}");
    assert_eq!(write.error, "Process 1 takes no input: it has ended");
    let kill = agent.process("kill", id).await;
    assert_eq!(kill.error, "Process 1 exited with code 3: it cannot be killed");
}

#[tokio::test]
async fn a_kill_takes_all_that_it_started() {
    let server = Server::start();
    let mut agent = Agent::open(&server, "kill").await;
    let id = agent.begin("while :; do date +%s%N > beat; sleep 0.01; done & setsid sleep 600 & echo up; wait").await;
    agent.until_logged(id, "up").await;
    let other = agent.begin("sleep 600").await;
    assert_eq!(agent.bash("while [ ! -s beat ]; do :; done; echo beats").await, "beats");
    let killed = agent.process("kill", id).await.output;
    assert!(killed.starts_with("Process 1 was killed by signal 9"), "{killed}");
    assert_eq!(agent.bash("cp beat seen; sleep 0.2; cmp beat seen && echo still").await, "still");
    let poll = agent.process("poll", other).await.output;
    assert!(poll.starts_with("Process 2 is running"), "{poll}");
}

#[tokio::test]
async fn what_nobody_reads_is_bounded_and_blocks_nobody() {
    let server = Server::start();
    let mut agent = Agent::open(&server, "bounded").await;
    let id = agent.begin("head -c 5000000 /dev/zero | tr '\\0' a; echo; echo the end").await;
    let wait = agent.process("wait", id).await.output;
    assert!(wait.starts_with("Process 1 exited with code 0") && wait.contains("5000009 bytes"), "{wait}");
    let log = agent.process("log", id).await.output;
    assert!(log.starts_with("[4737865 earlier bytes are not kept]\naaa"), "{}", &log[..80]);
    assert!(log.len() < 51_000, "{}", log.len());
    let tail = agent.call("process", json!({"action": "log", "id": id, "offset": 5_000_001})).await.output;
    assert_eq!(tail, "the end\n[process 1 exited with code 0; next offset 5000009]");
}

#[tokio::test]
async fn who_prints_without_end_costs_little_and_delays_nobody() {
    let server = Server::start();
    let mut flood = Agent::open(&server, "flood").await;
    let mut neighbour = Agent::open(&server, "neighbour").await;
    assert_eq!(neighbour.bash("echo there").await, "there");
    let agent = server.agents()[0];
    let floods = [
        ("terminal", json!({"command": "yes", "background": true})),
        ("terminal", json!({"command": "yes", "background": true})),
        ("terminal_stateful", json!({"command": "yes &"})),
        ("tmux", json!({"action": "start"})),
        ("tmux", json!({"action": "send_keys", "keys": ["yes", "Enter"]})),
    ];
    for (name, arguments) in floods {
        let result = flood.call(name, arguments).await;
        assert!(result.success, "{result:?}");
    }
    let before = process::cpu_time(agent);
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    while begun.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        assert_eq!(neighbour.bash("echo there").await, "there");
        longest = longest.max(asked.elapsed());
    }
    let spent = process::cpu_time(agent) - before;
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    // Among it is what the neighbour's calls cost, one after the other.
    assert!(spent < begun.elapsed() * 3 / 4, "{spent:?} of {:?}", begun.elapsed());
    let memory = process::peak_memory(agent);
    assert!(memory < 128 << 20, "{memory}");
    // Its own calls are not held up, and what was printed last is there.
    assert_eq!(flood.bash("echo here").await, "here");
    let log = flood.call("process", json!({"action": "log", "id": 1, "offset": 0, "max_bytes": 9})).await.output;
    assert!(log.contains(" earlier bytes are not kept]\n") && log.contains("is running"), "{log}");
    let interrupt = json!({"action": "send_keys", "keys": ["C-c"], "block": true});
    let screen = flood.call("tmux", interrupt).await.output;
    assert!(screen.ends_with("^C\n$"), "{screen}");
}

#[tokio::test]
async fn it_outlives_the_executor() {
    let mut server = Server::start();
    let mut agent = Agent::open(&server, "adopted").await;
    let id = agent.begin("echo before; read line; echo after $line").await;
    agent.until_logged(id, "before").await;
    server.kill_and_start_again();
    let open = Open { last_sequence: agent.last, require_existing: true, ..open("adopted") };
    agent.stream = Stream::try_open(&server, open).await.expect("it resumes");
    let write = json!({"action": "write", "id": id, "input": "x\n"});
    assert_eq!(agent.call("process", write).await.output, "Wrote 2 bytes to process 1");
    agent.until_logged(id, "after x").await;
}

#[tokio::test]
async fn there_are_so_many_at_a_time() {
    let server = Server::start();
    let mut agent = Agent::open(&server, "many").await;
    for _ in 0..16 {
        agent.begin("sleep 600").await;
    }
    let refused = agent.call("bash", json!({"command": "true", "background": true})).await;
    assert_eq!(refused.error, "16 background processes are running: kill one first");
    assert!(agent.process("kill", 3).await.success);
    assert_eq!(agent.begin("true").await, 17);
}

#[tokio::test]
async fn it_ends_with_a_reset_and_with_its_trajectory() {
    let server = Server::start();
    let mut agent = Agent::open(&server, "ends").await;
    let beat = "while :; do date +%s%N > /workspace/beat; sleep 0.01; done";
    agent.begin(beat).await;
    agent.stream.send(Request::Reset(Reset { generation: 1 })).await;
    agent
        .stream
        .until(|message| matches!(message, trajectory_response::Message::WorkspaceReset(_)).then_some(()))
        .await;
    let list = agent.call("process", json!({"action": "list"})).await.output;
    assert_eq!(list, "There are no background processes");
    assert_eq!(agent.bash("sleep 0.2; ls").await, "");

    // The files stay; what runs does not.
    agent.begin(beat).await;
    assert_eq!(agent.bash("while [ ! -s beat ]; do :; done; echo beats").await, "beats");
    agent.stream.send(Request::Release(ReleaseTrajectory { keep_workspace: true })).await;
    agent.stream.end().await.expect("it ends");
    let mut agent = Agent::open(&server, "ends").await;
    assert_eq!(agent.call("process", json!({"action": "list"})).await.output, "There are no background processes");
    assert_eq!(agent.bash("cp beat seen; sleep 0.2; cmp beat seen && echo still").await, "still");
}
