//! The terminal with a screen, over the real binary.

use std::time::{Duration, Instant};

use serde_json::json;
use tool_executor::pb::toolexecutor::{
    Call, CallResult, Input, OutputStream, trajectory_request::Message as Request,
    trajectory_response::Message as Response,
};

use crate::support::{
    client::{Stream, tool},
    server::Server,
    skip,
};

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

    // Keys that move about in the line.
    person.keys(json!(["clear", "Enter"])).await;
    person.until(|screen| screen == "$").await;
    person.keys(json!(["b-c", "C-Left", "M-b", "a-", "Home", "echo ", "End", "-dx", "Left", "DC", "Enter"])).await;
    person.until(|screen| screen == "$ echo a-b-c-d\na-b-c-d\n$").await;

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
async fn a_history_that_is_larger_than_an_answer_is_cut_at_its_beginning() {
    let server = Server::start();
    let mut person = Person::open(&server, "large").await;
    let start = json!({"action": "start", "pane_width": 500, "pane_height": 20});
    assert!(person.tmux(start).await.success);
    person.keys(json!(["PS1=; clear; seq -f '%0490.0f' 5000", "Enter"])).await;
    let line = |number: usize| format!("{number:0490}");
    let wanted = line(5000);
    person.until(|screen| screen.ends_with(&wanted)).await;
    let entire = person.tmux(json!({"action": "capture", "capture_entire": true})).await;
    let (note, text) = entire.output.split_once('\n').expect("it has lines");
    let left_out = note.strip_prefix('[').and_then(|note| note.split_once(" lines are left out")).expect("a note").0;
    let left_out: usize = left_out.parse().expect("a number");
    // What was typed was cleared away: the history begins with what it printed, or just before.
    let kept = text.lines().count();
    assert!((3000..3300).contains(&kept), "{kept}");
    assert!(text.lines().eq((5001 - kept..=5000).map(line)), "the newest, and nothing between");
    assert!((5000 - kept..5025 - kept).contains(&left_out), "{left_out} and {kept}");
    let fields = &entire.metadata.as_ref().expect("it has some").fields;
    let number = |name: &str| fields.get(name).and_then(|value| value.kind.clone());
    assert_eq!(number("left_out_lines"), Some(prost_types::value::Kind::NumberValue(left_out as f64)));
    assert!(!entire.output.contains("truncated"));
}

#[tokio::test]
async fn less_is_driven() {
    let server = Server::start();
    let mut person = Person::open(&server, "less").await;
    if !has(&mut person, "less").await {
        return;
    }
    person.start().await;
    person.keys(json!(["seq 1 100 > numbers; clear; less numbers", "Enter"])).await;
    let lines = |from: u32| (from..from + 19).map(|number| number.to_string()).collect::<Vec<_>>().join("\n");
    person.until(|screen| screen == format!("{}\nnumbers", lines(1))).await;
    person.keys(json!("NPage")).await;
    person.until(|screen| screen == format!("{}\n:", lines(20))).await;
    person.keys(json!(["q", "clear", "Enter"])).await;
    person.until(|screen| screen == "$").await;
}

#[tokio::test]
async fn a_screen_is_seen_live_and_takes_input() {
    let server = Server::start();
    let mut person = Person::open(&server, "live").await;
    person.start().await;
    let keys = json!(["clear; read -r x; echo \"got:$x\"; sleep 0.3", "Enter"]);
    let call = tool("live", "tmux", json!({"action": "send_keys", "keys": keys, "block": true}));
    person.stream.batch(vec![Call { stream_output: true, ..call }]).await;
    let (mut live, mut asked) = (Vec::new(), false);
    let result = loop {
        match person.stream.next().await.expect("the stream goes on").expect("it has not ended") {
            Response::Output(output) => {
                assert_eq!((output.stream(), output.offset), (OutputStream::Terminal, live.len() as u64));
                live.extend_from_slice(&output.data);
            }
            Response::Result(result) => break result,
            _ => {}
        }
        if !std::mem::replace(&mut asked, !live.is_empty()) && !live.is_empty() {
            let input = Input { call_id: "live".into(), data: "typed\n".into(), end_of_file: false };
            person.stream.send(Request::Input(input)).await;
        }
    };
    assert!(result.output.contains("got:typed") && result.output.ends_with('$'), "{result:?}");
    let live = String::from_utf8_lossy(&live);
    assert!(live.contains("got:typed\r\n") && live.contains("\x1b["), "{live:?}");
}

#[tokio::test]
async fn a_screen_is_resized_and_its_programs_hear_of_it() {
    let server = Server::start();
    let mut person = Person::open(&server, "resize").await;
    let resize = |width: u16, height: u16| json!({"action": "resize", "pane_width": width, "pane_height": height});
    assert_eq!(person.tmux(resize(100, 30)).await.error, "There is no terminal: start it first");
    person.start().await;
    person
        .keys(json!(["clear; sh -c 'trap \"stty size\" WINCH; echo up; while :; do sleep 0.1; done'", "Enter"]))
        .await;
    person.until(|screen| screen.ends_with("\nup") || screen == "up").await;
    assert_eq!(person.tmux(resize(100, 30)).await.output, "The terminal has 100 columns and 30 rows");
    person.until(|screen| screen.ends_with("up\n30 100")).await;
    person.keys(json!(["C-c", "clear; stty size", "Enter"])).await;
    person.until(|screen| screen == "30 100\n$").await;
    // A program that fills it draws itself anew.
    person.keys(json!(["seq 1 100 > numbers; clear; less numbers", "Enter"])).await;
    let page = |rows: u32| (1..rows).map(|number| number.to_string()).collect::<Vec<_>>().join("\n");
    person.until(|screen| screen == format!("{}\nnumbers", page(30))).await;
    let only_rows = json!({"action": "resize", "pane_height": 12});
    assert_eq!(person.tmux(only_rows).await.output, "The terminal has 100 columns and 12 rows");
    person.until(|screen| screen.starts_with(&format!("{}\n", page(12))) && screen.lines().count() == 12).await;
    let stream = person.tmux(json!({"action": "stream"})).await.output;
    assert!(stream.lines().any(|line| line.ends_with(",\"r\",\"100x30\"]")), "{stream}");
}

/// Whether a slot has this program; if not, that is said.
async fn has(person: &mut Person, program: &str) -> bool {
    let look = format!("command -v {program} && {program} --version </dev/null");
    let there_is = person.stream.bash(program, &look).await.success;
    if !there_is {
        eprintln!("not tested: there is no {program} in a slot of this machine");
    }
    there_is
}

#[tokio::test]
async fn python_is_driven() {
    let server = Server::start();
    let mut person = Person::open(&server, "python").await;
    if !has(&mut person, "python3").await {
        skip::<()>("there is no python3 in a slot");
        return;
    }
    person.start().await;
    person.keys(json!(["clear; python3 -q", "Enter"])).await;
    person.until(|screen| screen == ">>>").await;
    person.keys(json!(["def f(n):", "Enter", "    return n * 2", "Enter", "Enter", "f(21)", "Enter"])).await;
    person.until(|screen| screen == ">>> def f(n):\n...     return n * 2\n...\n>>> f(21)\n42\n>>>").await;
    // A loop is interrupted, a line is found again, and the end of input ends it.
    person.keys(json!(["C-l", "while True: pass", "Enter", "Enter"])).await;
    person.keys(json!("C-c")).await;
    person.until(|screen| screen.ends_with("KeyboardInterrupt\n>>>")).await;
    person.keys(json!(["1 +", "BSpace", "+ 1", "Enter"])).await;
    person.until(|screen| screen.ends_with("\n>>> 1 + 1\n2\n>>>")).await;
    person.keys(json!("C-d")).await;
    person.until(|screen| screen.ends_with('$')).await;
}

#[tokio::test]
async fn top_is_driven() {
    let server = Server::start();
    let mut person = Person::open(&server, "top").await;
    if !has(&mut person, "top").await {
        return;
    }
    person.start().await;
    person.keys(json!(["clear; sleep 600 & clear; top -d 1", "Enter"])).await;
    let screen = person.until(|screen| screen.starts_with("top - ") && screen.contains("sleep")).await;
    let heading = screen.lines().find(|line| line.contains("PID")).expect("the table has a heading");
    assert!(heading.trim_start().starts_with("PID USER") && heading.ends_with("COMMAND"), "{screen}");
    let row = screen.lines().find(|line| line.ends_with("sleep")).expect("the job is in it");
    assert!(row.split_whitespace().next().is_some_and(|pid| pid.parse::<u32>().is_ok()), "{screen}");
    person.keys(json!("q")).await;
    person.until(|screen| screen.ends_with('$')).await;
    person.keys(json!(["clear; kill %1", "Enter"])).await;
    person.until(|screen| !screen.contains("top - ")).await;
}

#[tokio::test]
async fn vim_is_driven() {
    let server = Server::start();
    let mut person = Person::open(&server, "vim").await;
    if !has(&mut person, "vim").await {
        return;
    }
    person.start().await;
    person.keys(json!(["clear; vim -u NONE -N made", "Enter"])).await;
    let tildes = "\n~".repeat(18);
    person.until(|screen| screen.starts_with(&format!("{tildes}\n\"made\" [New"))).await;
    person.keys(json!(["i", "hello", "Enter", "world", "Escape", "gg", "dd", "p"])).await;
    person.until(|screen| screen.starts_with(&format!("world\nhello{}", "\n~".repeat(17)))).await;
    person.keys(json!([":wq", "Enter"])).await;
    person.until(|screen| screen.ends_with('$')).await;
    person.keys(json!(["clear; cat made", "Enter"])).await;
    person.until(|screen| screen == "world\nhello\n$").await;
}
