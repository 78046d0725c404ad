//! The shell that keeps its state, over the real binary.

use std::time::{Duration, Instant};

use serde_json::json;
use tool_executor::pb::toolexecutor::{
    CallResult, Cancel, Input, Outcome, ReleaseTrajectory, trajectory_request::Message as Request,
};

use crate::support::{
    client::{Stream, tool},
    server::Server,
};

/// A trajectory whose calls are numbered.
struct Agent {
    stream: Stream,
    calls: u32,
}

impl Agent {
    async fn open(server: &Server, id: &str) -> Self {
        Self { stream: Stream::open(server, id).await, calls: 0 }
    }

    async fn send(&mut self, arguments: serde_json::Value) -> String {
        self.calls += 1;
        let id = format!("n{}", self.calls);
        self.stream.batch(vec![tool(&id, "terminal_stateful", arguments)]).await;
        id
    }

    async fn call(&mut self, arguments: serde_json::Value) -> CallResult {
        self.send(arguments).await;
        self.stream.result().await
    }

    async fn run(&mut self, command: &str) -> (String, String) {
        let result = self.call(json!({"command": command})).await;
        (result.output, result.error)
    }

    async fn output(&mut self, command: &str) -> String {
        let (output, error) = self.run(command).await;
        assert_eq!(error, "", "{command}: {output}");
        output
    }
}

#[tokio::test]
async fn the_shell_stays_and_only_the_commands_output_is_returned() {
    let server = Server::start();
    let mut agent = Agent::open(&server, "stateful").await;
    assert_eq!(agent.output("echo hi").await, "hi");
    assert_eq!(agent.output("mkdir d; cd d; X='a  b'; f() { echo \"f $X\"; }; export Y=1").await, "");
    assert_eq!(agent.output("pwd; f; printenv Y").await, "/workspace/d\nf a  b\n1");
    assert_eq!(agent.output("cat <<A\nit's \"$X\"\n\nA").await, "it's \"a  b\"");
    assert_eq!(agent.run("echo out; echo err >&2; (exit 3)").await, ("out\nerr".into(), "Exit code: 3".into()));
    assert_eq!(agent.output("for i in 1 2; do\n  echo $i\ndone # it's a comment").await, "1\n2");
    assert_eq!(agent.output("printf 'no newline'").await, "no newline");
    assert_eq!(agent.output("").await, "");
    assert_eq!(agent.output("test -t 0 && test -t 1 && tty").await, "/dev/pts/0");
    // What it would take to be believed is not among what a script has.
    assert_eq!(agent.output("echo '1 0' >&7; echo \"$?\"").await.lines().last(), Some("1"));
    assert_eq!(agent.output("echo '99 0'; echo still").await, "99 0\nstill");
}

#[tokio::test]
#[ignore = "a measurement: cargo test --release --test integration an_echo -- --ignored --nocapture"]
async fn an_echo_in_the_shell_that_stays() {
    let server = Server::start();
    let mut agent = Agent::open(&server, "echo").await;
    agent.output("true").await;
    let mut taken: Vec<Duration> = Vec::new();
    for _ in 0..300 {
        let asked = Instant::now();
        assert_eq!(agent.output("echo hi").await, "hi");
        taken.push(asked.elapsed());
    }
    taken.sort_unstable();
    println!("echo hi: p50 {:?}, p99 {:?}", taken[150], taken[297]);
    assert!(taken[150] < Duration::from_millis(10));
}

#[tokio::test]
async fn what_is_wrong_with_a_script_is_its_own_error() {
    let server = Server::start();
    let mut agent = Agent::open(&server, "wrong").await;
    agent.output("X=kept").await;
    for script in ["echo \"abc", "echo 'abc", "if true; then", "fi", "cat <<'A'; echo $((", "echo )", "`", "x=("] {
        let (output, error) = agent.run(script).await;
        assert!(!error.is_empty() || script.starts_with("cat"), "{script}: {output}");
        assert_eq!(agent.output("echo $X").await, "kept", "{script}");
    }
    assert_eq!(agent.run("no-such-program").await.1, "Exit code: 127");
}

#[tokio::test]
async fn jobs_stay() {
    let server = Server::start();
    let mut agent = Agent::open(&server, "jobs").await;
    agent.output("sleep 600 &").await;
    agent.output("(sleep 0.1; echo late > late) &").await;
    assert!(agent.output("jobs").await.contains("sleep 600"));
    // The shell may say what has become of them.
    assert_eq!(agent.output("kill %1; wait %2; cat late").await.lines().last(), Some("late"));
    // What a job prints between calls is nobody's.
    agent.output("(sleep 0.05; echo noise; touch made) &").await;
    assert_eq!(agent.call(json!({"command": "true"})).await.output, "");
}

#[tokio::test]
async fn a_timeout_interrupts_and_the_shell_lives() {
    let server = Server::start();
    let mut agent = Agent::open(&server, "timeout").await;
    agent.output("X=kept").await;
    for script in [
        "echo begun; sleep 600; echo not reached",
        "echo begun; while :; do sleep 0.1; done",
        "echo begun; while :; do :; done",
        "echo begun; cat",
        "echo begun; sleep 600 | cat",
    ] {
        let asked = Instant::now();
        let result = agent.call(json!({"command": script, "timeout": 1})).await;
        assert_eq!((result.outcome(), &*result.output), (Outcome::TimedOut, "begun"), "{script}: {result:?}");
        assert_eq!(result.error, "Command timed out after 1.0s");
        assert!(asked.elapsed() < Duration::from_secs(5), "{script}");
        assert_eq!(agent.output("echo $X").await, "kept", "{script}");
    }
    let stubborn = "trap '' INT QUIT; echo begun; while :; do sleep 0.1; done";
    let result = agent.call(json!({"command": stubborn, "timeout": 1})).await;
    assert_eq!(result.outcome(), Outcome::TimedOut, "{result:?}");
    assert!(result.output.contains("has a new one"), "{result:?}");
    let next = agent.output("echo ${X:-gone}").await;
    assert_eq!(next, "[this is a new shell: the one before has been killed; its variables and jobs are gone]\ngone");
    assert_eq!(agent.output("echo again").await, "again");
}

#[tokio::test]
async fn a_cancel_interrupts() {
    let server = Server::start();
    let mut agent = Agent::open(&server, "cancel").await;
    agent.output("X=kept; rm -f up").await;
    let id = agent.send(json!({"command": "touch up; sleep 600"})).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    agent.stream.send(Request::Cancel(Cancel { call_ids: vec![id] })).await;
    assert_eq!(agent.stream.result().await.outcome(), Outcome::Cancelled);
    assert_eq!(agent.output("echo $X; ls").await, "kept\nup");
}

#[tokio::test]
async fn an_exit_ends_the_shell_and_the_next_says_so() {
    let server = Server::start();
    let mut agent = Agent::open(&server, "exit").await;
    agent.output("X=1; sleep 600 &").await;
    let (output, error) = agent.run("echo last; exit 7").await;
    assert!(output.starts_with("last\n"), "{output}");
    assert!(output.ends_with("[the shell has exited with code 7: the next terminal_stateful call has a new one]"));
    assert_eq!(error, "Exit code: 7");
    let next = agent.output("echo ${X:-gone}; jobs").await;
    assert!(next.starts_with("[this is a new shell: the one before has exited with code 7;"), "{next}");
    assert!(next.ends_with("\ngone"), "{next}");
    let (output, _) = agent.run("kill -9 $$").await;
    assert!(output.contains("has been killed"), "{output}");
    assert!(agent.output("echo up").await.ends_with("up"));
}

#[tokio::test]
async fn much_output_and_any_bytes() {
    let server = Server::start();
    let mut agent = Agent::open(&server, "bytes").await;
    let result = agent.call(json!({"command": "head -c 10000000 /dev/zero | tr '\\0' a"})).await;
    assert!(result.success && result.output.starts_with("aaa") && result.output.len() < 51_000);
    assert!(result.output.ends_with("(output truncated)"));
    assert_eq!(result.stdout.map(|stdout| stdout.total_bytes), Some(10_000_000), "the mark is not counted");
    assert_eq!(
        agent.output(r"printf 'a\r\nb\377\000c\033[31m' | od -An -tx1").await.trim(),
        "61 0d 0a 62 ff 00 63 1b 5b 33 31 6d"
    );
    assert_eq!(agent.output(r"printf 'a\r\nb\377c\004\003d'").await, "a\r\nb\u{fffd}c\u{4}\u{3}d");
    let size = agent.call(json!({"command": "head -c 2000000 /dev/urandom"})).await;
    assert_eq!(size.stdout.map(|stdout| stdout.total_bytes), Some(2_000_000));
    assert_eq!(agent.output("echo after").await, "after");
}

#[tokio::test]
async fn input_reaches_who_reads_the_terminal() {
    let server = Server::start();
    let mut agent = Agent::open(&server, "input").await;
    agent.output("true").await;
    let id = agent.send(json!({"command": "read line; echo \"got $line\""})).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    agent.stream.send(Request::Input(Input { call_id: id, data: "typed\n".into(), end_of_file: false })).await;
    assert_eq!(agent.stream.result().await.output, "got typed");
}

#[tokio::test]
async fn the_shell_ends_with_its_trajectory() {
    let server = Server::start();
    let mut agent = Agent::open(&server, "ends").await;
    agent.output("X=1; (while :; do date +%s%N > beat; sleep 0.01; done) &").await;
    agent.output("while [ ! -s beat ]; do :; done").await;
    agent.stream.send(Request::Release(ReleaseTrajectory { keep_workspace: true })).await;
    agent.stream.end().await.expect("it ends");
    let mut agent = Agent::open(&server, "ends").await;
    let output = agent.output("echo ${X:-gone}; cp beat seen; sleep 0.2; cmp beat seen && echo still").await;
    assert_eq!(output, "gone\nstill");
}

/// A trajectory that uses a terminal with a screen.
struct Person {
    stream: Stream,
    calls: u32,
}

impl Person {
    async fn open(server: &Server, id: &str) -> Self {
        Self { stream: Stream::open(server, id).await, calls: 0 }
    }

    async fn tmux(&mut self, arguments: serde_json::Value) -> CallResult {
        self.calls += 1;
        self.stream.batch(vec![tool(&format!("t{}", self.calls), "tmux", arguments)]).await;
        self.stream.result().await
    }

    async fn start(&mut self) {
        let result = self.tmux(json!({"action": "start", "pane_width": 80, "pane_height": 20})).await;
        assert_eq!(result.output, "Started a terminal of 80 columns and 20 rows", "{result:?}");
    }

    async fn keys(&mut self, keys: serde_json::Value) {
        let result = self.tmux(json!({"action": "send_keys", "keys": keys, "min_wait_s": 0})).await;
        assert!(result.success, "{result:?}");
    }

    /// Looks until the screen is as wanted.
    async fn until(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        let asked = Instant::now();
        loop {
            let screen = self.tmux(json!({"action": "capture"})).await.output;
            if wanted(&screen) {
                return screen;
            }
            assert!(asked.elapsed() < Duration::from_secs(20), "{screen}");
        }
    }
}

#[tokio::test]
async fn a_screen_is_typed_to_and_captured() {
    let server = Server::start();
    let mut person = Person::open(&server, "tmux").await;
    assert_eq!(person.tmux(json!({"action": "capture"})).await.error, "There is no terminal: start it first");
    person.start().await;
    let asked = Instant::now();
    let block = json!({"action": "send_keys", "keys": ["sleep 0.5; echo do''ne", "Enter"], "block": true});
    let result = person.tmux(block).await;
    assert_eq!(result.output, "$ sleep 0.5; echo do''ne\ndone\n$");
    assert!(asked.elapsed() >= Duration::from_millis(500));
    person.keys(json!(["tty; stty size; clear; seq 100", "Enter"])).await;
    person.until(|screen| screen.ends_with("\n100\n$")).await;
    let entire = person.tmux(json!({"action": "capture", "capture_entire": true})).await.output;
    let numbers: Vec<String> = (1..=100).map(|number| number.to_string()).collect();
    assert!(entire.contains(&numbers.join("\n")), "{entire}");

    let stream = person.tmux(json!({"action": "stream"})).await.output;
    let first: serde_json::Value = serde_json::from_str(stream.lines().next().expect("a header")).expect("JSON");
    assert_eq!((first["version"].as_u64(), first["width"].as_u64()), (Some(2), Some(80)));
    assert_eq!(person.tmux(json!({"action": "stream"})).await.output, "");

    let slow = json!({"action": "send_keys", "keys": ["sleep 600", "Enter"], "block": true, "max_wait_s": 0.5});
    assert!(person.tmux(slow).await.output.ends_with("[the command has not ended after 0.5 s]"));
    person.keys(json!("C-c")).await;
    person.until(|screen| screen.ends_with("^C\n$")).await;

    assert!(person.tmux(json!({"action": "stop"})).await.success);
    assert_eq!(person.tmux(json!({"action": "capture"})).await.error, "There is no terminal: start it first");
    person.start().await;
    person.keys(json!(["exit", "Enter"])).await;
    loop {
        let result = person.tmux(json!({"action": "capture"})).await;
        if !result.success {
            break assert!(result.error.starts_with("The terminal has ended"), "{result:?}");
        }
    }
}

#[tokio::test]
async fn programs_that_fill_the_screen_are_driven() {
    let server = Server::start();
    let mut person = Person::open(&server, "screen").await;
    person.start().await;
    person.keys(json!(["seq 1 100 > numbers; clear; less numbers", "Enter"])).await;
    let lines = |from: u32| (from..from + 19).map(|number| number.to_string()).collect::<Vec<_>>().join("\n");
    person.until(|screen| screen == format!("{}\nnumbers", lines(1))).await;
    person.keys(json!("NPage")).await;
    person.until(|screen| screen == format!("{}\n:", lines(20))).await;
    person.keys(json!(["q", "clear", "Enter"])).await;
    person.until(|screen| screen == "$").await;

    if std::path::Path::new("/usr/bin/vim").exists() {
        person.keys(json!(["vim -u NONE -N made", "Enter"])).await;
        person.until(|screen| screen.contains("\"made\" [New]") || screen.contains("\"made\" [New File]")).await;
        person.keys(json!(["i", "hello", "Enter", "world", "Escape", ":wq", "Enter"])).await;
        person.until(|screen| screen.ends_with('$')).await;
        person.keys(json!(["clear; cat made", "Enter"])).await;
        person.until(|screen| screen == "hello\nworld\n$").await;
    }
}
