//! What tools and commands do, and the words in which they say so.

use serde_json::json;
use tool_executor::pb::toolexecutor::{
    Attribution, CallResult, CapturedStream, Command, Executed, ListToolsRequest, Outcome, OutputLimits, Reason,
    TrajectoryOptions, call_result::Exit, trajectory_request::Message, trajectory_response,
};

use crate::support::{
    client::{Stream, argv, bash, command, execute, open, shell, tool},
    server::Server,
};

fn nanos(duration: Option<prost_types::Duration>) -> i64 {
    let duration = duration.expect("every phase has a duration");
    duration.seconds * 1_000_000_000 + i64::from(duration.nanos)
}

fn metadata(result: &CallResult, name: &str) -> Option<prost_types::value::Kind> {
    result.metadata.as_ref()?.fields.get(name)?.kind.clone()
}

#[tokio::test]
async fn the_shell_tool_answers_in_the_old_systems_words() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "texts").await;
    for (id, script, success, output, error) in [
        ("1", "echo hi", true, "hi", ""),
        ("2", "exit 3", false, "", "Exit code: 3"),
        ("3", "echo out; echo err >&2", true, "out\n\n[stderr]\nerr", ""),
        ("4", "echo err >&2", true, "err", ""),
        ("5", "kill -9 $$", false, "", "Exit code: 137"),
        ("6", r"printf '  hi  \n\n'", true, "hi", ""),
        ("7", r"printf 'a\377b'", true, "a\u{fffd}b", ""),
        ("8", "pwd; echo $0; umask", true, "/workspace\n/bin/sh\n0022", ""),
        ("9", "timeout 2 cat; echo rc=$?", true, "rc=0", ""),
        ("10", "", true, "", ""),
        ("11", "touch /usr/x", false, "touch: cannot touch '/usr/x': Read-only file system", "Exit code: 1"),
    ] {
        let result = stream.bash(id, script).await;
        assert_eq!((result.success, &*result.output, &*result.error), (success, output, error), "{script}");
        assert_eq!(result.executed(), Executed::Yes, "{script}");
        let attribution = if success { Attribution::Unspecified } else { Attribution::Model };
        assert_eq!(result.attribution(), attribution, "{script}");
        assert_eq!(metadata(&result, "sandboxed"), Some(prost_types::value::Kind::BoolValue(true)), "{script}");
    }
}

#[tokio::test]
async fn a_result_says_where_the_time_went_and_what_was_used() {
    let server = Server::start();
    let script = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; sleep 0.2";
    let result = execute(&server, "timings", bash("1", script)).await;
    assert_eq!(result.exit, Some(Exit::ExitCode(0)));
    let timings = result.timings.expect("it has timings");
    let phases = [timings.queued, timings.slot_wait, timings.dispatch, timings.execution, timings.collection];
    assert_eq!(phases.into_iter().map(nanos).sum::<i64>(), nanos(timings.total));
    assert!(nanos(timings.execution) >= 200_000_000, "{timings:?}");
    assert!(nanos(timings.slot_wait) > 0, "the first call waits for the first container: {timings:?}");
    let usage = result.usage.expect("it has used something");
    assert!(nanos(usage.user_cpu) + nanos(usage.system_cpu) > 0, "{usage:?}");
    assert!(usage.max_rss_bytes > Some(100_000), "{usage:?}");
}

#[tokio::test]
async fn output_is_cut_and_counted() {
    let server = Server::start();
    let result = execute(&server, "cut", bash("1", "head -c 1000000 /dev/zero | tr '\\0' a")).await;
    assert_eq!(result.output, format!("{}\n... (output truncated)", "a".repeat(50_000)));
    let stdout = result.stdout.expect("it is counted");
    assert_eq!((stdout.total_bytes, stdout.truncated, stdout.data.len()), (1_000_000, true, 0));

    let limits = OutputLimits { head_bytes: Some(3), tail_bytes: Some(4) };
    let options = TrajectoryOptions { output_limits: Some(limits), ..TrajectoryOptions::default() };
    let mut open = open("bounds");
    open.options = Some(options);
    let mut stream = Stream::try_open(&server, open).await.expect("it opens");
    stream.batch(vec![command("1", shell("printf 0123456789; printf xy >&2"))]).await;
    let result = stream.result().await;
    let stdout = result.stdout.expect("a command's output is answered");
    assert_eq!((&stdout.data[..], stdout.total_bytes, stdout.truncated), (&b"0126789"[..], 10, true));
    let stderr = result.stderr.expect("a command's output is answered");
    assert_eq!((&stderr.data[..], stderr.total_bytes, stderr.truncated), (&b"xy"[..], 2, false));
    assert_eq!(result.output, "");
}

#[tokio::test]
async fn standard_streams_can_be_opened_by_their_names() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "names").await;
    let script = "echo out > /dev/stdout; echo err > /dev/stderr; cat /dev/stdin; cat /proc/self/fd/0";
    let stdin = b"in".to_vec().into();
    stream.batch(vec![command("a", Command { stdin, ..shell(script) })]).await;
    let result = stream.result().await;
    let text = |captured: &Option<CapturedStream>| captured.as_ref().map(|stream| stream.data.to_vec());
    assert_eq!(text(&result.stdout).as_deref(), Some(&b"out\nin"[..]), "{result:?}");
    assert_eq!(text(&result.stderr).as_deref(), Some(&b"err\n"[..]), "{result:?}");
}

#[tokio::test]
async fn a_command_has_its_directory_environment_and_input() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "command").await;
    let full = Command {
        working_directory: "sub".to_owned(),
        environment: [("NAME".to_owned(), "a value".to_owned())].into(),
        stdin: "from stdin".into(),
        ..shell("pwd; echo $NAME; cat; env | sort >&2; exit 7")
    };
    stream.batch(vec![command("0", argv(&["mkdir", "sub"])), command("1", full)]).await;
    assert!(stream.result().await.success);
    let result = stream.result().await;
    let stdout = result.stdout.clone().expect("stdout").data;
    assert_eq!(&stdout[..], b"/workspace/sub\na value\nfrom stdin");
    assert_eq!(result.exit, Some(Exit::ExitCode(7)));
    assert_eq!((result.outcome(), result.reason()), (Outcome::Failed, Reason::ExitStatus));
    assert_eq!(result.attribution(), Attribution::Client, "the trainer chose it");
    let environment = String::from_utf8(result.stderr.expect("stderr").data.to_vec()).expect("it is text");
    let names: Vec<&str> = environment.lines().filter_map(|line| line.split('=').next()).collect();
    assert_eq!(names, ["HOME", "LANG", "NAME", "PATH", "PWD", "TAR_OPTIONS"], "nothing of the server's");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_said_so() {
    let server = Server::start();
    let result = execute(&server, "missing", command("1", argv(&["no-such-program"]))).await;
    assert_eq!((result.outcome(), result.reason(), result.exit), (Outcome::Failed, Reason::FileNotFound, None));
    assert!(result.error.contains("no-such-program"), "{}", result.error);
    let nowhere = Command { working_directory: "nowhere".to_owned(), ..argv(&["true"]) };
    let result = execute(&server, "missing", command("2", nowhere)).await;
    assert_eq!((result.outcome(), result.reason()), (Outcome::Failed, Reason::FileNotFound));
    assert!(result.error.contains("nowhere"), "{}", result.error);
    // An argument list far beyond one datagram still runs.
    let long: Vec<String> = std::iter::once("echo".to_owned()).chain((0..10).map(|_| "x".repeat(100_000))).collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    let result = execute(&server, "missing", command("3", argv(&long))).await;
    assert_eq!(result.stdout.expect("stdout").total_bytes, 10 * 100_001);
}

#[tokio::test]
async fn an_interactive_command_reads_what_is_sent_to_it() {
    use tool_executor::pb::toolexecutor::Input;
    let server = Server::start();
    let mut stream = Stream::open(&server, "interactive").await;
    let ask = Command { interactive: true, ..shell("read a; echo got $a; read b; echo then $b; cat") };
    let mut call = command("1", ask);
    call.stream_output = true;
    stream.batch(vec![call]).await;
    let input = |data: &'static str, end_of_file| Input { call_id: "1".into(), data: data.into(), end_of_file };
    stream.send(Message::Input(input("one\n", false))).await;
    let seen = stream
        .until(|message| match message {
            trajectory_response::Message::Output(output) => Some(output),
            _ => None,
        })
        .await;
    assert_eq!((&seen.data[..], seen.offset), (&b"got one\n"[..], 0));
    stream.send(Message::Input(input("two\nthe rest", true))).await;
    let result = stream.result().await;
    assert_eq!(&result.stdout.expect("stdout").data[..], b"got one\nthen two\nthe rest");
}

#[tokio::test]
async fn half_close_ends_the_input_of_interactive_commands() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "half-close").await;
    let cat = Command { interactive: true, stdin: "first ".into(), ..argv(&["cat"]) };
    stream.batch(vec![command("1", cat)]).await;
    stream.half_close();
    assert_eq!(&stream.result().await.stdout.expect("stdout").data[..], b"first ");
    stream.end().await.expect("the stream ends well");
}

#[tokio::test]
async fn files_are_read_and_written_in_the_old_systems_words() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "files").await;
    let prepare = "mkdir p; mkfifo ff; ln -s /etc/passwd esc; ln -s w.txt lnk; head -c 100001 /dev/zero > big";
    assert!(stream.bash("prepare", prepare).await.success);
    let write = |id, path, content| tool(id, "write_file", json!({"path": path, "content": content}));
    let read = |id, path| tool(id, "read_file", json!({ "path": path }));
    let outside = "Access denied: path outside workspace";
    for (call, outcome, output, error) in [
        (write("1", "w.txt", "hello"), Outcome::Succeeded, "Successfully wrote 5 bytes to w.txt", ""),
        (read("2", "w.txt"), Outcome::Succeeded, "hello", ""),
        (read("3", "/workspace/w.txt"), Outcome::Succeeded, "hello", ""),
        (write("4", "lnk", "via"), Outcome::Succeeded, "Successfully wrote 3 bytes to lnk", ""),
        (read("5", "w.txt"), Outcome::Succeeded, "via", ""),
        (read("6", "nope"), Outcome::Failed, "", "File not found: nope"),
        (read("7", "p"), Outcome::Failed, "", "Not a file: p"),
        (read("8", "ff"), Outcome::Failed, "", "Not a file: ff"),
        (read("9", "esc"), Outcome::Failed, "", outside),
        (write("10", "esc", "x"), Outcome::Failed, "", outside),
        (read("11", "/etc/passwd"), Outcome::Failed, "", outside),
        (write("12", "../../etc/passwd", "x"), Outcome::Failed, "", outside),
        (read("13", "big"), Outcome::Failed, "", "File too large: 100001 bytes (max 100000)"),
        (read("14", ""), Outcome::Failed, "", "Not a file: "),
        (read("15", "a\0b"), Outcome::Rejected, "", outside),
        (write("16", "deep/er/f", "x\r\n"), Outcome::Succeeded, "Successfully wrote 3 bytes to deep/er/f", ""),
        (read("17", "deep/er/f"), Outcome::Succeeded, "x\r\n", ""),
    ] {
        let name = format!("{:?}", call.action);
        stream.batch(vec![call]).await;
        let result = stream.result().await;
        assert_eq!((result.outcome(), &*result.output, &*result.error), (outcome, output, error), "{name}");
    }
    let listed = stream.bash("ls", "ls -ln w.txt | cut -d' ' -f1,3").await;
    assert_eq!(listed.output, "-rw-r--r-- 0", "a file that was written belongs to the slot's user");
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_rejected() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "arguments").await;
    let huge = "x".repeat(100_001);
    for (call, reason, error) in [
        (tool("1", "nope", json!({})), Reason::UnknownTool, "Unknown tool: nope"),
        (tool("2", "bash", json!({})), Reason::InvalidArguments, "command"),
        (tool("3", "bash", json!({"command": 7})), Reason::InvalidArguments, "command"),
        (tool("4", "bash", json!({"command": "true", "timeout": "5"})), Reason::InvalidArguments, "timeout"),
        (tool("5", "bash", json!({"command": "a\0b"})), Reason::InvalidArguments, "NUL"),
        (tool("6", "bash", json!([])), Reason::InvalidArguments, "object"),
        (tool("7", "write_file", json!({"path": "f", "content": huge})), Reason::RequestTooLarge, "max 100000"),
        (tool("8", "process", json!({"action": "poll"})), Reason::InvalidArguments, "id"),
        (tool("9", "terminal_stateful", json!({})), Reason::InvalidArguments, "command"),
    ] {
        stream.batch(vec![call]).await;
        let result = stream.result().await;
        assert_eq!((result.outcome(), result.reason()), (Outcome::Rejected, reason), "{}", result.error);
        assert!(result.error.contains(error), "{}", result.error);
        assert_eq!((result.executed(), result.attribution()), (Executed::No, Attribution::Model));
        assert_eq!(result.sequence, 0, "it is in no log");
    }
    // What was refused left no trace: the id is free.
    assert!(stream.bash("1", "true").await.success);
}

#[tokio::test]
async fn the_calls_own_timeout_argument_counts() {
    let server = Server::start();
    let call = tool("1", "terminal", json!({"command": "echo partial; sleep 60", "timeout": 1}));
    let result = execute(&server, "timeout", call).await;
    assert_eq!((result.outcome(), &*result.error), (Outcome::TimedOut, "Command timed out after 1.0s"));
    assert_eq!(result.output, "partial");
    assert_eq!(metadata(&result, "timeout"), Some(prost_types::value::Kind::BoolValue(true)));
    assert_eq!(metadata(&result, "exit_code"), Some(prost_types::value::Kind::NumberValue(-1.0)));
}

#[tokio::test]
async fn tools_are_listed_by_toolset() {
    let server = Server::start();
    let list = async |toolsets: &[&str]| {
        let toolsets = toolsets.iter().map(ToString::to_string).collect();
        let answer = server.client().await.list_tools(ListToolsRequest { toolsets }).await;
        answer.map(|answer| answer.into_inner().tools)
    };
    let names = |tools: &[tool_executor::pb::toolexecutor::Tool]| {
        let mut names: Vec<String> = tools.iter().map(|tool| tool.name.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&list(&["filesystem"]).await.expect("a toolset")), ["read_file", "write_file"]);
    let all = list(&["all"]).await.expect("a toolset");
    assert_eq!(names(&all), ["bash", "process", "read_file", "terminal", "terminal_stateful", "tmux", "write_file"]);
    for tool in &all {
        let schema: serde_json::Value = serde_json::from_str(&tool.schema_json).expect("a schema is JSON");
        assert_eq!(schema["type"], "function");
        assert_eq!(schema["function"]["name"], tool.name.as_str());
        assert_eq!(schema["function"]["parameters"]["type"], "object");
    }
    assert_eq!(list(&["nope"]).await.expect_err("there is none").code(), tonic::Code::InvalidArgument);
}
