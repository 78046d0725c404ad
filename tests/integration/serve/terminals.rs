//! The shell that keeps its state, over the real binary.

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use serde_json::json;
use tool_executor::pb::toolexecutor::{
    Call, CallResult, Cancel, Executed, Input, Open, Outcome, OutputStream, Reason, ReleaseTrajectory,
    trajectory_request::Message as Request, trajectory_response::Message as Response,
};

use crate::support::{
    client::{Stream, open, tool},
    process,
    server::{OVER_NOMAD, Server},
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
    // Nor is the shell kept from saying how a script ended.
    assert_eq!(agent.output("echo() { printf mine; }; alias echo=false").await, "");
    assert_eq!(agent.output("printf on").await, "on");
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
async fn a_script_that_waits_for_another_has_its_time_still() {
    let server = Server::start();
    let mut agent = Agent::open(&server, "beside").await;
    agent.output("true").await;
    let beside = |id: &str, arguments| Call { concurrent: true, ..tool(id, "terminal_stateful", arguments) };
    let calls =
        [("slow", json!({"command": "sleep 2; echo one"})), ("quick", json!({"command": "echo two", "timeout": 1}))];
    agent.stream.batch(calls.map(|(id, arguments)| beside(id, arguments)).to_vec()).await;
    assert_eq!(agent.stream.result().await.output, "one");
    let quick = agent.stream.result().await;
    assert_eq!((quick.outcome(), &*quick.output), (Outcome::Succeeded, "two"), "{quick:?}");
    let execution = quick.timings.and_then(|timings| timings.execution).expect("it ran");
    assert!(execution.seconds == 0, "{execution:?}");
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
async fn input_that_comes_before_its_call_has_begun_is_kept() {
    let server = Server::start();
    let mut agent = Agent::open(&server, "early").await;
    // The first has no shell yet, the second waits for the first.
    for (command, data, end_of_file) in
        [("sleep 0.3; read -r x; echo \"got $x\"", "one\n", false), ("cat", "two", true)]
    {
        let id = agent.send(json!({"command": command})).await;
        agent.stream.send(Request::Input(Input { call_id: id, data: data.into(), end_of_file })).await;
    }
    assert_eq!(agent.stream.result().await.output, "got one");
    assert_eq!(agent.stream.result().await.output, "two");
    // More than may be kept.
    agent.send(json!({"command": "sleep 1"})).await;
    let id = agent.send(json!({"command": "cat"})).await;
    for _ in 0..3 {
        let data = vec![b'x'; 1 << 20].into();
        agent.stream.send(Request::Input(Input { call_id: id.clone(), data, end_of_file: false })).await;
    }
    let refused = agent.stream.result().await;
    assert_eq!((&*refused.call_id, refused.reason()), (&*id, Reason::InputLimit), "{refused:?}");
    assert!(agent.stream.result().await.success);
}

#[tokio::test]
async fn a_script_that_waits_in_the_shell_takes_no_more_input_than_its_bound() {
    let server = Server::with(&[("MAX_PENDING_INPUT_BYTES", "100000")]);
    let mut agent = Agent::open(&server, "queued").await;
    agent.output("X=kept").await;
    // Beside one another they are handed over, and wait for the shell there.
    let beside =
        |id: &str, script: &str| Call { concurrent: true, ..tool(id, "terminal_stateful", json!({"command": script})) };
    let calls =
        [("runs", "touch up; read -r x"), ("enough", "read -r x; echo \"got $x\""), ("flooded", "touch flooded")];
    agent.stream.batch(calls.map(|(id, script)| beside(id, script)).to_vec()).await;
    agent
        .stream
        .batch(vec![Call {
            concurrent: true,
            ..tool("up", "bash", json!({"command": "until [ -e up ]; do sleep 0.01; done"}))
        }])
        .await;
    assert!(agent.stream.result().await.success);
    let typed =
        |id: &str, data: Vec<u8>| Request::Input(Input { call_id: id.into(), data: data.into(), end_of_file: false });
    agent.stream.send(typed("enough", b"typed\n".to_vec())).await;
    agent.stream.send(typed("flooded", vec![b'x'; 60_000])).await;
    agent.stream.send(typed("flooded", vec![b'x'; 60_000])).await;
    // Its turn has not come.
    let flooded = agent.stream.result().await;
    assert_eq!(flooded.call_id, "flooded");
    assert_eq!((flooded.outcome(), flooded.reason()), (Outcome::LimitExceeded, Reason::InputLimit), "{flooded:?}");
    assert_eq!(flooded.executed(), Executed::No, "{flooded:?}");
    assert!(flooded.error.contains("max_pending_input_bytes is 100000"), "{flooded:?}");
    agent.stream.send(typed("runs", b"\n".to_vec())).await;
    assert!(agent.stream.result().await.success);
    assert_eq!(agent.stream.result().await.output, "got typed");
    assert_eq!(agent.output("echo $X; ls").await, "kept\nup");
}

#[tokio::test]
async fn a_reader_that_goes_away_holds_nothing_up() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "gone").await;
    let much =
        tool("much", "terminal_stateful", json!({"command": "head -c 20000000 /dev/zero | tr '\\0' a; echo end"}));
    stream.batch(vec![Call { stream_output: true, ..much }]).await;
    stream.until(|message| matches!(message, Response::Output(_)).then_some(())).await;
    drop(stream);
    let mut stream = Stream::try_open(&server, Open { take_over: true, ..open("gone") }).await.expect("it resumes");
    let asked = Instant::now();
    let result = stream.result().await;
    assert_eq!(result.stdout.map(|stdout| stdout.total_bytes), Some(20_000_004), "all of it was read");
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
}

/// What came live of the next call to end, and its result.
async fn live(stream: &mut Stream) -> (Vec<u8>, CallResult) {
    let mut live = Vec::new();
    loop {
        match stream.next().await.expect("the stream goes on").expect("it has not ended") {
            Response::Output(output) => {
                assert_eq!((output.stream(), output.offset), (OutputStream::Terminal, live.len() as u64));
                live.extend_from_slice(&output.data);
            }
            Response::Result(result) => return (live, result),
            _ => {}
        }
    }
}

#[tokio::test]
async fn what_the_shell_prints_is_seen_live() {
    let server = Server::start();
    let mut agent = Agent::open(&server, "live").await;
    let streamed = |id: &str, command: &str| {
        let call = tool(id, "terminal_stateful", json!({"command": command}));
        vec![Call { stream_output: true, ..call }]
    };
    // It ends only if its first line was seen.
    agent.stream.batch(streamed("asks", "echo one >&2; read -r x; echo \"two $x\"")).await;
    let first = agent.stream.until(|message| match message {
        Response::Output(output) => Some(output),
        _ => None,
    });
    let first = first.await;
    assert_eq!((first.stream(), first.offset, &*first.data), (OutputStream::Terminal, 0, &b"one\n"[..]));
    let input = Input { call_id: "asks".into(), data: "three\n".into(), end_of_file: false };
    agent.stream.send(Request::Input(input)).await;
    let rest = agent.stream.until(|message| match message {
        Response::Output(output) => Some(output),
        _ => None,
    });
    let rest = rest.await;
    assert_eq!((rest.offset, &*rest.data), (4, &b"two three\n"[..]));
    assert_eq!(agent.stream.result().await.output, "one\ntwo three");

    agent.stream.batch(streamed("much", "head -c 3000000 /dev/zero | tr '\\0' a; echo end")).await;
    let (seen, result) = live(&mut agent.stream).await;
    assert_eq!(result.stdout.map(|stdout| stdout.total_bytes), Some(3_000_004));
    assert!(seen.len() == 3_000_004 && seen.ends_with(b"aend\n"), "the mark is not shown: {}", seen.len());
    // Nobody asked for it.
    agent.send(json!({"command": "echo quiet"})).await;
    let (seen, result) = live(&mut agent.stream).await;
    assert_eq!((seen.len(), &*result.output), (0, "quiet"));
}

#[tokio::test]
async fn what_a_script_used_is_its_own() {
    let server = Server::start();
    let mut agent = Agent::open(&server, "usage").await;
    let spin = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
    let mut cpu = async |command: &str| {
        let result = agent.call(json!({"command": command})).await;
        let usage = result.usage.unwrap_or_else(|| panic!("it is known of {command}: {result:?}"));
        assert_eq!(usage.max_rss_bytes, None, "it cannot be known");
        let of =
            |part: Option<prost_types::Duration>| Duration::try_from(part.expect("it is there")).expect("it is one");
        of(usage.user_cpu) + of(usage.system_cpu)
    };
    let few = Duration::from_millis(20);
    assert!(cpu("true").await < few, "what made the shell is not the script's");
    let (own, others) = (cpu(spin).await, cpu(&format!("sh -c '{spin}'; sh -c '{spin}'; false")).await);
    assert!(own > few && others > 2 * few, "{own:?} {others:?}");
    assert!(cpu("sleep 0.3").await < few, "what came before is not counted again");
    let id = agent.send(json!({"command": format!("{spin}; sleep 600"), "timeout": 2})).await;
    let stopped = agent.stream.result().await;
    assert_eq!((&*stopped.call_id, stopped.outcome()), (&*id, Outcome::TimedOut));
    assert!(stopped.usage.is_some(), "{stopped:?}");
    // The shell is gone, and nobody can say it.
    assert_eq!(agent.call(json!({"command": "exit 3"})).await.usage, None);
}

/// In a mount namespace of its own the machine's bash is another.
#[tokio::test]
async fn a_shell_that_is_not_ready_in_time_is_given_up_and_nothing_is_left_of_it() {
    if !rustix::process::geteuid().is_root() || std::env::var_os(OVER_NOMAD).is_some() {
        eprintln!("skipped: its server cannot have mounts of its own here");
        return;
    }
    let programs = tempfile::TempDir::new().expect("a directory");
    std::fs::set_permissions(programs.path(), Permissions::from_mode(0o755)).expect("it is ours");
    let slow = programs.path().join("bash");
    let asleep = format!("611.{}", fastrand::u32(100_000..));
    std::fs::write(&slow, format!("#!/bin/sh\nsleep {asleep}\n")).expect("it is written");
    std::fs::set_permissions(&slow, Permissions::from_mode(0o755)).expect("it is ours");
    let mount = format!("mount --bind {} /usr/local/bin && exec \"$@\"", programs.path().display());
    let through = ["unshare", "--mount", "sh", "-c", &mount, "sh"];
    let server = Server::through(&through, &[("SANDBOX_SHELL_START_TIMEOUT", "2s"), ("MAX_CONTAINERS", "1")]);
    let mut agent = Agent::open(&server, "slow").await;
    for _ in 0..2 {
        let asked = Instant::now();
        // Its own time has not begun.
        let result = agent.call(json!({"command": "echo hi", "timeout": 1})).await;
        assert_eq!((result.outcome(), result.executed()), (Outcome::Internal, Executed::No), "{result:?}");
        assert!(result.error.ends_with("the shell was not ready within 2s"), "{result:?}");
        assert!(result.fault.as_ref().is_some_and(|fault| fault.retryable), "{result:?}");
        let took = asked.elapsed();
        assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(8), "{took:?}");
        assert_eq!(process::marked(&asleep), Vec::<u32>::new(), "nothing of it runs");
        assert_eq!(agent.stream.bash(&format!("beside-{}", agent.calls), "echo well").await.output, "well");
    }
    std::fs::remove_file(&slow).expect("it was there");
    assert!(agent.output("echo hi").await.ends_with("\nhi"));
    assert_eq!(agent.output("echo again").await, "again");
}

#[tokio::test]
async fn a_shell_that_floods_its_keeper_is_replaced() {
    let server = Server::start();
    let mut agent = Agent::open(&server, "flood").await;
    for line in ["1 0", "words", "0m0.1s 0m0.1s"] {
        agent.call(json!({"command": format!("trap 'yes {line} >&7' DEBUG")})).await;
        let (output, _) = agent.run("echo hi").await;
        assert!(output.contains("has been killed"), "{line}: {output}");
        assert!(agent.output("echo up").await.ends_with("up"));
    }
    agent.call(json!({"command": "trap 'cat /dev/zero >&7' DEBUG"})).await;
    assert!(agent.run("echo hi").await.0.contains("has been killed"));
    assert!(agent.output("echo up").await.ends_with("up"));
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
