//! The program as a client of a running executor.

use std::{
    io::{Read as _, Write as _},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{client::Stream, process::marked, server::Server};

fn command(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tool-executor"));
    command.args(arguments).env_clear().env("TOOL_EXECUTOR_ADDRESS", &server.address).stdin(Stdio::null());
    command
}

fn client(server: &Server, arguments: &[&str]) -> Output {
    command(server, arguments).output().expect("it runs")
}

fn spawn(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it is text")
}

/// Waits as a test may: it ends, or the test does.
fn until(what: &str, done: impl Fn() -> bool) {
    let asked = Instant::now();
    while !done() {
        assert!(asked.elapsed() < crate::support::client::PATIENCE, "waiting until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_as_if_it_ran_here() {
    let server = Server::start();
    let run = client(&server, &["run", "--", "echo hi; echo problem >&2; exit 7"]);
    assert_eq!((text(&run.stdout), text(&run.stderr), run.status.code()), ("hi\n", "problem\n", Some(7)));
    let run =
        client(&server, &["run", "-e", "A=b c", "--directory", "/tmp", "--", "sh", "-c", "echo \"$A $0 $PWD\"", "x y"]);
    assert_eq!((text(&run.stdout), run.status.code()), ("b c x y /tmp\n", Some(0)));
    let run = client(&server, &["run", "--", "kill -9 $$"]);
    assert_eq!(run.status.code(), Some(137));
    let run = client(&server, &["run", "--timeout", "1s", "--", "echo begun; sleep 60"]);
    assert_eq!((text(&run.stdout), run.status.code()), ("begun\n", Some(124)));
    assert!(text(&run.stderr).contains("timed out"), "{}", text(&run.stderr));
    let run = client(&server, &["run", "--", "/no/such/program", "x"]);
    assert_eq!(run.status.code(), Some(126), "{}", text(&run.stderr));
    assert!(!run.stderr.is_empty());
    // Each of these was a trajectory of its own, and is gone.
    assert_eq!(text(&client(&server, &["trajectories"]).stdout).lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_comes_while_the_command_runs_and_input_reaches_it() {
    let server = Server::start();
    let mut run = spawn(command(&server, &["run", "-i", "--", "echo ready; cat"]).stdin(Stdio::piped()));
    let mut said = [0; 6];
    run.stdout.as_mut().expect("a pipe").read_exact(&mut said).expect("it says so at once");
    assert_eq!(&said, b"ready\n");
    let mut stdin = run.stdin.take().expect("a pipe");
    let long = vec![b'x'; 300_000];
    stdin.write_all(&long).expect("it is taken");
    drop(stdin);
    let run = run.wait_with_output().expect("it ends");
    assert_eq!((run.stdout.len(), run.status.code()), (long.len(), Some(0)), "{}", text(&run.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_cancels_the_command() {
    let server = Server::start();
    let mut run = spawn(&mut command(&server, &["run", "--", "echo ready; exec sleep 900.5"]));
    let mut said = [0; 6];
    run.stdout.as_mut().expect("a pipe").read_exact(&mut said).expect("it says so at once");
    let pid = Pid::from_raw(run.id().cast_signed()).expect("it is a pid");
    kill_process(pid, Signal::INT).expect("it runs");
    let run = run.wait_with_output().expect("it ends");
    assert_eq!(run.status.code(), Some(130), "{}", text(&run.stderr));
    until("the command is gone", || marked("sleep\0900.5").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trajectory_goes_on_from_run_to_run() {
    let server = Server::start();
    assert!(client(&server, &["run", "--trajectory", "mine", "--", "echo here > file"]).status.success());
    let run = client(&server, &["run", "--trajectory", "mine", "--", "cat file"]);
    assert_eq!(text(&run.stdout), "here\n");
    let list = client(&server, &["trajectories"]);
    let rows: Vec<Vec<&str>> = text(&list.stdout).lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..5], ["TRAJECTORY", "ATTACHED", "RUNNING", "WAITING", "FINISHED"]);
    assert_eq!(rows[1][..5], ["mine", "no", "0", "0", "2"]);
    let list = client(&server, &["trajectories", "--json"]);
    let one: Value = serde_json::from_slice(&list.stdout).expect("one line of JSON");
    assert_eq!((&one["trajectoryId"], &one["finishedCalls"]), (&"mine".into(), &"2".into()));
    // Not of a client that is there.
    let stream = Stream::open(&server, "theirs").await;
    let run = client(&server, &["run", "--trajectory", "theirs", "--", "true"]);
    assert_eq!(run.status.code(), Some(1));
    assert!(text(&run.stderr).contains("--take-over"), "{}", text(&run.stderr));
    let run = client(&server, &["run", "--trajectory", "theirs", "--take-over", "--", "echo taken"]);
    assert_eq!(text(&run.stdout), "taken\n");
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_and_status_are_json_if_asked_for() {
    let server = Server::start();
    let run = client(&server, &["run", "--json", "--", "echo hi; exit 3"]);
    let result: Value = serde_json::from_slice(&run.stdout).expect("one line of JSON");
    assert_eq!((&result["outcome"], &result["exitCode"]), (&"OUTCOME_FAILED".into(), &3.into()));
    assert_eq!((&result["stdout"]["data"], run.status.code()), (&"aGkK".into(), Some(3)));
    let status: Value = serde_json::from_slice(&client(&server, &["status", "--json"]).stdout).expect("JSON");
    assert_eq!((&status["pools"][0]["totalSlots"], &status["totalRequests"]), (&4.into(), &"1".into()));
    let status = || text(&client(&server, &["status"]).stdout).to_owned();
    until("its slot is free again", || status().contains("pool default: 4 slots: 4 free"));
    assert!(status().contains("ready"), "{}", status());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_in_and_come_out() {
    let server = Server::start();
    let home = tempfile::tempdir().expect("a directory");
    let at = |name: &str| home.path().join(name).display().to_string();
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(at("in.bin"), &content).expect("it can be written");
    assert!(client(&server, &["run", "--trajectory", "t", "--", "mkdir d; echo a > d/a"]).status.success());
    let put = client(&server, &["put", "--trajectory", "t", "--json", &at("in.bin"), "d/in.bin"]);
    let summary: Value = serde_json::from_slice(&put.stdout).expect("one line of JSON");
    assert_eq!((&summary["bytes"], put.status.success()), (&"3000000".into(), true), "{}", text(&put.stderr));
    let get = client(&server, &["get", "--trajectory", "t", "d/in.bin", &at("out.bin")]);
    assert!(get.status.success(), "{}", text(&get.stderr));
    assert!(std::fs::read(at("out.bin")).expect("it is there") == content);
    assert_eq!(client(&server, &["get", "--trajectory", "t", "d/a", "-"]).stdout, b"a\n");
    // A directory goes out and in as an archive.
    let archive = at("d.tar.gz");
    assert!(client(&server, &["get", "--trajectory", "t", "--archive", "tar.gz", "d", &archive]).status.success());
    let unpack = client(&server, &["put", "--trajectory", "t", "--unpack", &archive, "copy"]);
    assert!(unpack.status.success(), "{}", text(&unpack.stderr));
    let same =
        client(&server, &["run", "--trajectory", "t", "--", "find copy -name in.bin -exec cmp {} d/in.bin \\; -print"]);
    assert!(same.status.success() && text(&same.stdout).contains("in.bin"), "{}", text(&same.stdout));
    // What fails leaves nothing, and says what to do next. The first address of a program is nobody's to read.
    let broken = "/proc/self/mem";
    for (arguments, says) in [
        (&["get", "--trajectory", "t", "missing", &at("none")][..], "paths are of the workspace"),
        (&["get", "--trajectory", "t", "../a", &at("none")], "paths are of the workspace"),
        (&["get", "--trajectory", "t", "d", &at("none")], "--archive"),
        (&["get", "--trajectory", "nobody", "d/a", &at("none")], "tool-executor trajectories"),
        (&["put", "--trajectory", "nobody", &at("in.bin")], "tool-executor trajectories"),
        (&["put", "--trajectory", "t", &at("not-there")], "could not read"),
        (&["put", "--trajectory", "t", &at("."), "d/directory"], "--unpack"),
        (&["put", "--trajectory", "t", broken, "d/a"], "could not read `/proc/self/mem`"),
        (&["put", "--trajectory", "t", "--unpack", &at("in.bin")], ".tar.gz"),
    ] {
        let failed = client(&server, arguments);
        assert_eq!(failed.status.code(), Some(1), "{arguments:?}");
        assert!(text(&failed.stderr).contains(says), "{arguments:?}: {}", text(&failed.stderr));
    }
    let kept = client(&server, &["run", "--trajectory", "t", "--", "sleep 0.2; ls -A d; cat d/a"]);
    assert_eq!(text(&kept.stdout), "a\nin.bin\na\n", "what breaks off is no file");
    let mut left: Vec<_> =
        std::fs::read_dir(home.path()).expect("a directory").flatten().map(|entry| entry.file_name()).collect();
    left.sort();
    assert_eq!(left, ["d.tar.gz", "in.bin", "out.bin"]);
}

/// What the program writes to a terminal of this width that is its standard error, and also its standard output if
/// so wanted.
fn on_terminal(command: &mut Command, columns: u16, output_too: bool) -> String {
    use rustix::{
        pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
        termios::{Winsize, tcsetwinsize},
    };
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&master).expect("it is ours");
    unlockpt(&master).expect("it can be opened");
    tcsetwinsize(&master, Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).expect("it has a size");
    let name = ptsname(&master, Vec::new()).expect("it has a name").into_string().expect("it is text");
    let other = || std::fs::OpenOptions::new().read(true).write(true).open(&name).expect("its other end");
    // Without, it is taken for one that cannot draw.
    command.env("TERM", "xterm");
    command.stderr(other()).stdout(if output_too { Stdio::from(other()) } else { Stdio::null() });
    let mut child = command.spawn().expect("it runs");
    // The end of the last that has the terminal is the end of what is read.
    command.stderr(Stdio::null()).stdout(Stdio::null());
    let mut written = Vec::new();
    // That end is an error, on Linux.
    _ = std::fs::File::from(master).read_to_end(&mut written);
    let ended = child.wait().expect("it ends");
    let written = String::from_utf8(written).expect("it is text");
    assert!(ended.success(), "{written}");
    written
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_is_seen_on_a_terminal_and_nowhere_else() {
    const COLUMNS: u16 = 80;
    let size = |number| std::num::NonZero::new(number).expect("it is one");
    let server = Server::start();
    let home = tempfile::tempdir().expect("a directory");
    let at = |name: &str| home.path().join(name).display().to_string();
    std::fs::write(at("in"), vec![b'x'; 20 << 20]).expect("it can be written");
    assert!(client(&server, &["run", "--trajectory", "t", "--", "true"]).status.success());
    let (source, target) = (at("in"), at("out"));
    let put = ["put", "--trajectory", "t", &source, "file"];
    let get = ["get", "--trajectory", "t", "file", &target];
    let archive = ["get", "--trajectory", "t", "--archive", "tar", ".", &target];
    let all = "of 20.00 MiB";
    for (arguments, shown) in [(&put[..], all), (&get, all), (&archive, "MiB/s")] {
        let written = on_terminal(&mut command(&server, arguments), COLUMNS, false);
        let told = |what: &str| assert!(written.contains(what), "{what}: {written:?}");
        told(shown);
        told("iB/s");
        assert!(shown != all || written.contains(" left"), "{written:?}");
        let screen = || vt100::Parser::new(size(24), size(COLUMNS), 0);
        let mut whole = screen();
        whole.process(written.as_bytes());
        assert_eq!(whole.screen().contents().trim(), "", "nothing is left of it: {written:?}");
        // One line, so that drawing it anew does not leave the last behind.
        for drawn in written.split(['\r', '\n']) {
            let mut line = screen();
            line.process(drawn.as_bytes());
            assert!(line.screen().contents().lines().count() <= 1, "{drawn:?}");
        }
        let quiet = on_terminal(command(&server, arguments).arg("--json"), COLUMNS, false);
        assert_eq!(quiet, "", "a program reads what is said");
        let piped = client(&server, arguments);
        assert!(piped.status.success() && piped.stderr.is_empty(), "{}", text(&piped.stderr));
    }
    let small = client(&server, &["run", "--trajectory", "t", "--", "echo small > small"]);
    assert!(small.status.success());
    let shown = on_terminal(&mut command(&server, &["get", "--trajectory", "t", "small", "-"]), COLUMNS, true);
    assert_eq!(shown, "small\r\n", "what is fetched, and no bar amid it");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_say_what_to_do_next() {
    let server = Server::with(&[("TOKEN", "s3cret")]);
    let refused = client(&server, &["status"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("TOOL_EXECUTOR_TOKEN"), "{}", text(&refused.stderr));
    let mut right = command(&server, &["status"]);
    assert!(right.env("TOOL_EXECUTOR_TOKEN", "s3cret").output().expect("it runs").status.success());
    let private = format!("https://{}", server.address);
    for (address, says) in [
        ("127.0.0.1:1", "no executor answers at 127.0.0.1:1"),
        ("not an address", "is no address"),
        ("https://127.0.0.1:1", "no executor answers at https://127.0.0.1:1"),
        (&private, "does not speak TLS"),
    ] {
        let failed = client(&server, &["status", "--address", address]);
        assert_eq!(failed.status.code(), Some(1));
        assert!(text(&failed.stderr).contains(says), "{}", text(&failed.stderr));
    }
    let help = client(&server, &["run", "--help"]);
    assert!(!text(&help.stdout).contains("s3cret"));
}

#[test]
fn a_reader_that_goes_early_is_told_in_a_line() {
    for arguments in [&["example-settings"][..], &["completions", "bash"], &["check", "--listen", "127.0.0.1:0"]] {
        let home = tempfile::tempdir().expect("a directory");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_tool-executor"));
        command.args(arguments).env_clear().env("TOOL_EXECUTOR_STATE_DIR", home.path()).stdout(writer);
        let output = command.output().expect("it runs");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("tool-executor: could not write to standard output: Broken pipe"), "{said}");
    }
}

#[test]
fn shells_complete_the_arguments() {
    for shell in ["bash", "zsh", "fish"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tool-executor"));
        let script = command.args(["completions", shell]).output().expect("it runs");
        assert!(script.status.success() && text(&script.stdout).contains("trajectories"), "{shell}");
    }
}
