//! Limits that are run into in what outlives its call: the shell that keeps its state, the terminal with a screen, and
//! background processes. Each script would end by itself if the limit did not hold.

use std::time::{Duration, Instant};

use prost_types::value::Kind;
use serde_json::json;
use tool_executor::pb::toolexecutor::{Attribution, CallResult, Executed, Outcome, Reason};

use crate::support::{
    cgroup::has_groups,
    client::{PATIENCE, Stream, bash, tool},
    server::Server,
};

/// A trajectory whose calls are numbered.
struct Agent {
    stream: Stream,
    calls: u32,
}

impl Agent {
    /// With a file in its workspace.
    async fn open(server: &Server, id: &str) -> Self {
        let mut agent = Self { stream: Stream::open(server, id).await, calls: 0 };
        agent.bash("echo kept > kept").await;
        agent
    }

    async fn call(&mut self, name: &str, arguments: serde_json::Value) -> CallResult {
        self.calls += 1;
        self.stream.batch(vec![tool(&format!("n{}", self.calls), name, arguments)]).await;
        self.stream.result().await
    }

    async fn bash(&mut self, script: &str) -> CallResult {
        self.call("bash", json!({"command": script})).await
    }

    async fn stateful(&mut self, script: &str) -> CallResult {
        self.call("terminal_stateful", json!({"command": script})).await
    }

    async fn start(&mut self) {
        let result = self.call("tmux", json!({"action": "start", "pane_width": 100})).await;
        assert!(result.success, "{result:?}");
    }

    async fn type_in(&mut self, script: &str) -> CallResult {
        self.call("tmux", json!({"action": "send_keys", "keys": [script, "Enter"], "block": true})).await
    }

    /// Begins one; its number.
    async fn begin(&mut self, script: &str) -> String {
        let result = self.call("bash", json!({"command": script, "background": true})).await;
        result.output.strip_prefix("Started background process ").expect("it has a number").to_owned()
    }

    /// How a background process ended.
    async fn wait(&mut self, id: &str) -> CallResult {
        let id: u64 = id.parse().expect("a number");
        self.call("process", json!({"action": "wait", "id": id})).await
    }

    /// The slot and its files are as they were, and nobody is blamed for what was before.
    async fn is_well(&mut self) {
        let after = self.bash("cat kept && rm -f f*").await;
        assert!(after.success && after.output == "kept", "{after:?}");
    }
}

fn text(result: &CallResult, name: &str) -> String {
    let fields = &result.metadata.as_ref().expect("it has some").fields;
    match fields.get(name).and_then(|value| value.kind.clone()) {
        Some(Kind::StringValue(text)) => text,
        other => panic!("{name} is {other:?}: {result:?}"),
    }
}

/// As for `bash`: outcome, reason, whose fault it is, and which limit.
fn assert_hit(result: &CallResult, outcome: Outcome, reason: Reason, setting: &str) {
    assert_eq!((result.outcome(), result.reason()), (outcome, reason), "{result:?}");
    assert_eq!((result.executed(), result.attribution()), (Executed::Yes, Attribution::Model), "{result:?}");
    assert_eq!(text(result, "limit"), setting);
    assert!(result.error.contains(setting) && result.error.contains(&text(result, "limit_value")), "{result:?}");
    assert!(!text(result, "limit_evidence").is_empty());
}

/// One process, and one whose shell goes on.
const HOGS: [&str; 2] = [
    "head -c 400000000 /dev/zero | tail | wc -c",
    "head -c 400000000 /dev/zero | tail > /dev/null; sleep 1; echo well",
];
const MANY: &str = "i=0; while [ $i -lt 150 ]; do sleep 20 & i=$((i+1)); done; wait";
const FILES: &str = "for n in 1 2 3; do head -c 20000000 /dev/zero > f$n || break; done; sleep 20";
const QUICK: &str = "for n in 1 2 3; do head -c 20000000 /dev/zero > f$n || break; done; false";
const FILE: &str = "head -c 60000000 /dev/zero > f";
const BURNER: &str = "while :; do :; done";
const BURNERS: &str = "for n in 1 2 3 4; do (while :; do :; done) & done; wait";

const GROUPS: [(&str, &str); 2] = [("SANDBOX_CGROUPS", "true"), ("SANDBOX_CGROUPS", "false")];
const MEMORY: [(&str, &str); 2] = [("SANDBOX_MEMORY", "96MiB"), ("SANDBOX_TMP_SIZE", "16MiB")];
const SIZE: (&str, &str) = ("SANDBOX_WORKSPACE_SIZE", "32MiB");

#[tokio::test]
async fn a_script_that_is_out_of_memory_says_so_and_the_shell_lives() {
    let server = Server::with(&MEMORY);
    if !has_groups(&server).await {
        return;
    }
    let mut agent = Agent::open(&server, "memory").await;
    agent.stateful("X=mine").await;
    for hog in HOGS {
        let result = agent.stateful(hog).await;
        assert_hit(&result, Outcome::OutOfMemory, Reason::Unspecified, "sandbox.memory");
        assert_eq!(agent.stateful("echo $X").await.output, "mine", "after {hog}");
        agent.is_well().await;
    }
}

#[tokio::test]
async fn a_script_at_the_limit_of_processes_takes_its_shell_along() {
    for groups in GROUPS {
        let server = Server::with(&[groups, ("SANDBOX_MAX_PROCESSES", "60")]);
        let mut agent = Agent::open(&server, "processes").await;
        agent.stateful("X=mine").await;
        let result = agent.stateful(MANY).await;
        assert_hit(&result, Outcome::LimitExceeded, Reason::ProcessLimit, "sandbox.max_processes");
        assert!(result.output.contains("has a new one]"), "{result:?}");
        agent.is_well().await;
        let next = agent.stateful("sleep 0; echo ${X:-gone}").await;
        assert!(next.success && next.output.starts_with("[this is a new shell: "), "{next:?}");
        assert!(next.output.ends_with("gone"), "{next:?}");
    }
}

#[tokio::test]
async fn a_script_that_writes_too_much_is_interrupted_and_the_shell_lives() {
    let tmpfs = [("SANDBOX_WORKSPACE", "tmpfs"), SIZE];
    let disk = [SIZE];
    let inodes = [("SANDBOX_WORKSPACE_INODES", "100")];
    let cases = [
        (&disk[..], FILES, "sandbox.workspace_size"),
        (&disk, QUICK, "sandbox.workspace_size"),
        (&disk, FILE, "sandbox.max_file_size"),
        (&tmpfs, QUICK, "sandbox.workspace_size"),
        (&inodes, "touch $(seq 200); sleep 20", "sandbox.workspace_inodes"),
    ];
    for (settings, script, setting) in cases {
        let server = Server::with(settings);
        let mut agent = Agent::open(&server, "disk").await;
        agent.stateful("X=mine").await;
        let asked = Instant::now();
        let result = agent.stateful(script).await;
        assert_hit(&result, Outcome::LimitExceeded, Reason::DiskLimit, setting);
        assert!(asked.elapsed() < Duration::from_secs(18), "it is not waited for");
        assert_eq!(agent.stateful("rm -f [1-9]* f*; echo $X").await.output, "mine", "after {script}");
        agent.is_well().await;
    }
}

#[tokio::test]
async fn a_shell_that_uses_too_much_time_is_replaced() {
    for groups in GROUPS {
        let server = Server::with(&[groups, ("SANDBOX_CPU_TIME", "1s")]);
        let mut agent = Agent::open(&server, "time").await;
        for script in [BURNER, BURNERS] {
            let result = agent.stateful(script).await;
            assert_hit(&result, Outcome::LimitExceeded, Reason::CpuLimit, "sandbox.cpu_time");
            let next = agent.stateful("echo on").await;
            assert!(next.success && next.output.contains("the one before has been"), "{next:?}");
            agent.is_well().await;
        }
    }
}

#[tokio::test]
async fn a_terminal_tells_its_limits() {
    for groups in GROUPS {
        let few = [groups, MEMORY[0], MEMORY[1], ("SANDBOX_MAX_PROCESSES", "60"), SIZE, ("SANDBOX_CPU_TIME", "3s")];
        let server = Server::with(&few);
        let has_groups = has_groups(&server).await;
        let mut agent = Agent::open(&server, "terminal").await;
        agent.start().await;
        if has_groups {
            let result = agent.type_in(HOGS[0]).await;
            assert_hit(&result, Outcome::OutOfMemory, Reason::Unspecified, "sandbox.memory");
            assert!(result.output.contains("| tail"), "the screen is shown: {result:?}");
            let next = agent.type_in("clear; echo o''n").await;
            assert!(next.success && next.output.contains("\non\n") || next.output.starts_with("on\n"), "{next:?}");
        }
        for (script, reason, setting) in [
            (FILES, Reason::DiskLimit, "sandbox.workspace_size"),
            (MANY, Reason::ProcessLimit, "sandbox.max_processes"),
            (BURNERS, Reason::CpuLimit, "sandbox.cpu_time"),
        ] {
            let result = agent.type_in(script).await;
            assert_hit(&result, Outcome::LimitExceeded, reason, setting);
            assert!(result.output.contains("[the terminal has ended: its shell has been "), "{result:?}");
            agent.is_well().await;
            let gone = agent.call("tmux", json!({"action": "capture"})).await;
            assert!(gone.error.starts_with("The terminal has ended, since its shell has been"), "{gone:?}");
            agent.start().await;
            assert!(agent.type_in("echo on").await.success);
        }
    }
}

#[tokio::test]
async fn a_background_process_tells_its_limit() {
    for groups in GROUPS {
        let few = [groups, MEMORY[0], MEMORY[1], ("SANDBOX_MAX_PROCESSES", "60"), SIZE, ("SANDBOX_CPU_TIME", "2s")];
        let server = Server::with(&few);
        let has_groups = has_groups(&server).await;
        let mut agent = Agent::open(&server, "background").await;
        let hogs = HOGS.map(|hog| (hog, "sandbox.memory"));
        let others = [
            (FILES, "sandbox.workspace_size"),
            (QUICK, "sandbox.workspace_size"),
            ("exec head -c 60000000 /dev/zero > f", "sandbox.max_file_size"),
            (MANY, "sandbox.max_processes"),
            (BURNERS, "sandbox.cpu_time"),
        ];
        for (script, setting) in hogs.into_iter().filter(|_| has_groups).chain(others) {
            let id = agent.begin(script).await;
            // Asked how it ended, its trajectory hears why. That is no fault of the question's.
            let ended = agent.wait(&id).await;
            assert_eq!(ended.outcome(), Outcome::Succeeded, "{ended:?}");
            assert!(ended.output.contains(&format!("({setting})")), "after {script}: {ended:?}");
            assert_eq!(text(&ended, "limit"), setting);
            agent.is_well().await;
        }
        let plain = agent.begin("exit 3").await;
        let ended = agent.wait(&plain).await;
        assert!(ended.output.starts_with(&format!("Process {plain} exited with code 3 (0.")), "{ended:?}");
    }
}

/// What a job, or a program on the screen, writes while nobody calls is held to the limit, too: nothing else would.
#[tokio::test]
async fn a_workspace_is_held_to_its_limit_while_nobody_calls() {
    let server = Server::with(&[("SANDBOX_WORKSPACE_SIZE", "64MiB"), ("SANDBOX_MAX_FILE_SIZE", "1GiB")]);
    let filler =
        "(sleep 1; for n in 1 2 3 4 5 6 7 8 9; do head -c 20000000 /dev/zero >> f; sleep 0.2; done; sleep 60) &";
    let mut agent = Agent::open(&server, "job").await;
    assert!(agent.stateful(filler).await.success);
    tokio::time::sleep(Duration::from_secs(7)).await;
    let next = agent.stateful("echo on").await;
    assert!(next.output.starts_with("[this is a new shell: the one before has been killed (Too much was"), "{next:?}");
    assert!(next.output.contains("sandbox.workspace_size") && next.success, "{next:?}");
    agent.is_well().await;

    agent.start().await;
    assert!(agent.type_in(filler).await.success);
    tokio::time::sleep(Duration::from_secs(7)).await;
    let next = agent.call("tmux", json!({"action": "capture"})).await;
    assert_eq!((next.outcome(), next.reason()), (Outcome::Failed, Reason::TerminalState), "{next:?}");
    assert!(next.error.contains("killed (Too much was written"), "{next:?}");
    agent.is_well().await;
    // The shell that did nothing meanwhile may have been taken for the one; then it says so.
    assert!(agent.stateful("true").await.success);

    // Of several, whatever writes is a background process where there is one.
    assert!(agent.stateful("X=mine").await.success);
    let id = agent.begin(&filler.replace(" &", "")).await;
    let ended = agent.wait(&id).await;
    assert!(ended.output.contains("(sandbox.workspace_size)"), "{ended:?}");
    agent.is_well().await;
    assert_eq!(agent.stateful("echo $X").await.output, "mine");
}

/// Nobody who succeeds is blamed for what goes on behind it.
#[tokio::test]
async fn a_call_is_not_blamed_for_a_background_process() {
    let server = Server::with(&MEMORY);
    if !has_groups(&server).await {
        return;
    }
    let mut agent = Agent::open(&server, "blame").await;
    let id = agent.begin("sleep 0.5; head -c 400000000 /dev/zero | tail > /dev/null; echo hit > hit; sleep 60").await;
    let asked = Instant::now();
    for script in ["while [ ! -e hit ]; do sleep 0.05; done; sleep 0.3", "true"] {
        agent.stream.batch(vec![bash(&format!("beside-{}", agent.calls), script)]).await;
        agent.calls += 1;
        let beside = agent.stream.result().await;
        assert_eq!(beside.outcome(), Outcome::Succeeded, "{beside:?}");
    }
    assert!(asked.elapsed() < PATIENCE);
    // It bore it, and runs.
    let poll = agent.call("process", json!({"action": "poll", "id": id.parse::<u64>().unwrap()})).await;
    assert!(poll.output.contains("is running"), "{poll:?}");
}
