//! The tools for what outlives its call: their schemas, and what their arguments ask for.

use serde_json::{Map, Value, json};

use super::super::{
    Rejection,
    session::{Input, ProcessAction, Request, TmuxAction},
};

pub(super) const PROCESS: &str = "See to the background processes that terminal and bash began with background: true. list shows all of them; poll \
     says whether one still runs, and how it ended; log returns what it printed since the last log, or from an offset; \
     wait waits for its end; write gives it input; kill ends it with all that it started. The last 256 KiB that each \
     printed are kept.";

pub(super) const STATEFUL: &str = "Run a script in a shell that stays: its working directory, variables, functions and background jobs are there for \
     your next terminal_stateful call. Returns what the script printed, stdout and stderr as they came, and its exit \
     code. The shell has a terminal. After the timeout the script is interrupted as by Ctrl-C and the shell stays; if \
     that does not end it, or if the shell exits, the next call has a new shell and says so. What a background job \
     prints between calls is not shown: send it to a file.";

pub(super) fn stateful_parameters() -> Value {
    json!({
        "type": "object",
        "properties": {
            "command": { "type": "string", "description": "The script to run. At most 131,071 bytes." },
            "timeout": { "type": "number", "description": "Seconds after which the script is interrupted." },
        },
        "required": ["command"],
    })
}

pub(super) const TMUX: &str = "Use a terminal with a screen, for programs that fill it (vim, less, top, a debugger). start begins it with a shell; \
     send_keys types, and returns the screen after that; capture returns the screen, with capture_entire also what has \
     scrolled off it (the last 10,000 lines); stream returns what was printed since the last stream, as asciicast v2 \
     lines; resize changes its size, of which the programs in it are told; stop ends it. A key is given by its tmux name (Enter, Escape, Up, C-c, M-x); anything else is typed as it is, \
     so a command needs an Enter after it: [\"ls -l\", \"Enter\"].";

pub(super) const TMUX_OPTIONAL: [&str; 9] =
    ["keys", "block", "min_wait_s", "max_wait_s", "capture_entire", "max_bytes", "reset", "pane_width", "pane_height"];

pub(super) fn tmux_parameters() -> Value {
    json!({
        "type": "object",
        "properties": {
            "action": {
                "type": "string",
                "enum": ["start", "send_keys", "capture", "stream", "resize", "stop"],
                "description": "What to do.",
            },
            "keys": {
                "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
                "description": "For send_keys: a key or a text, or a list of them.",
            },
            "block": {
                "type": "boolean",
                "description": "For send_keys: wait until the command that was typed has ended, at most max_wait_s.",
            },
            "min_wait_s": {
                "type": "number",
                "minimum": 0,
                "maximum": 60,
                "description": "For send_keys: wait at least so long; 0.1 unless given.",
            },
            "max_wait_s": {
                "type": "number",
                "minimum": 0,
                "maximum": 3600,
                "description": "For send_keys with block; 30 unless given.",
            },
            "capture_entire": { "type": "boolean", "description": "For capture: with what has scrolled off." },
            "max_bytes": {
                "type": "integer",
                "minimum": 1,
                "maximum": 1_000_000,
                "description": "For stream: how much to return at most; 50,000 unless given.",
            },
            "reset": { "type": "boolean", "description": "For start: begin anew. For stream: from the beginning." },
            "pane_width": {
                "type": "integer",
                "minimum": 20,
                "maximum": 500,
                "description": "For start: columns; 120 unless given. For resize: as many as there are, unless given.",
            },
            "pane_height": {
                "type": "integer",
                "minimum": 10,
                "maximum": 200,
                "description": "For start: rows; 40 unless given. For resize: as many as there are, unless given.",
            },
        },
        "required": ["action"],
    })
}

/// Of arguments that fit the schema.
pub(super) fn tmux(arguments: &Map<String, Value>) -> Result<Request, Rejection> {
    let number = |name, default: f64| arguments.get(name).and_then(Value::as_f64).unwrap_or(default);
    let flag = |name| arguments.get(name) == Some(&Value::Bool(true));
    let milliseconds = |name, default| (number(name, default) * 1000.0) as u64;
    let action = match arguments.get("action").and_then(Value::as_str).unwrap_or_default() {
        "start" => TmuxAction::Start {
            width: number("pane_width", 120.0) as u16,
            height: number("pane_height", 40.0) as u16,
            reset: flag("reset"),
        },
        "send_keys" => {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let keys = match arguments.get("keys") {
                Some(Value::Array(keys)) => keys.iter().map(text).collect(),
                Some(key) => vec![text(key)],
                None => return Err(Rejection::invalid("tmux", "keys: is required")),
            };
            let (min_wait_ms, max_wait_ms) = (milliseconds("min_wait_s", 0.1), milliseconds("max_wait_s", 30.0));
            TmuxAction::SendKeys { keys, block: flag("block"), min_wait_ms, max_wait_ms, input: Input::default() }
        }
        "resize" => match (arguments.get("pane_width"), arguments.get("pane_height")) {
            (None, None) => return Err(Rejection::invalid("tmux", "pane_width: is required, or pane_height")),
            (width, height) => {
                let size = |size: Option<&Value>| size.and_then(Value::as_f64).map(|size| size as u16);
                TmuxAction::Resize { width: size(width), height: size(height) }
            }
        },
        "capture" => TmuxAction::Capture { entire: flag("capture_entire") },
        "stream" => {
            TmuxAction::Stream { max_bytes: number("max_bytes", LOG_BYTES as f64) as u64, reset: flag("reset") }
        }
        "stop" => TmuxAction::Stop,
        // The schema has no other.
        _ => return Err(Rejection::invalid("tmux", "action: is not known")),
    };
    Ok(Request::Tmux(action))
}

pub(super) const PROCESS_OPTIONAL: [&str; 6] = ["id", "offset", "max_bytes", "wait_s", "input", "end_of_input"];

/// The most input that one call gives, in bytes.
const MAX_INPUT_BYTES: usize = 100_000;

/// What a log answers, in bytes, unless its call says it.
const LOG_BYTES: u64 = 50_000;

const WAIT_S: f64 = 30.0;

pub(super) fn process_parameters() -> Value {
    json!({
        "type": "object",
        "properties": {
            "action": {
                "type": "string",
                "enum": ["list", "poll", "log", "wait", "write", "kill"],
                "description": "What to do.",
            },
            "id": {
                "type": "integer",
                "minimum": 1,
                "maximum": 9_007_199_254_740_991_u64,
                "description": "Of the process. For every action but list.",
            },
            "offset": {
                "type": "integer",
                "minimum": 0,
                "maximum": 9_007_199_254_740_991_u64,
                "description": "For log: where in its output to begin, in bytes. Left out: where the last log ended.",
            },
            "max_bytes": {
                "type": "integer",
                "minimum": 1,
                "maximum": 100_000,
                "description": "For log: how much to return at most; 50,000 unless given.",
            },
            "wait_s": {
                "type": "number",
                "minimum": 0,
                "maximum": 3600,
                "description": "For wait: how many seconds at most; 30 unless given.",
            },
            "input": { "type": "string", "description": "For write: what it is to read, newlines included." },
            "end_of_input": { "type": "boolean", "description": "For write: nothing follows, its input ends." },
        },
        "required": ["action"],
    })
}

/// Of arguments that fit the schema.
pub(super) fn process(arguments: &Map<String, Value>) -> Result<Request, Rejection> {
    let invalid = |fault: &str| Rejection::invalid("process", fault);
    // A whole number may be written as 3.0.
    let number = |name| arguments.get(name).and_then(Value::as_f64).map(|number| number as u64);
    let action = arguments.get("action").and_then(Value::as_str).unwrap_or_default();
    if action == "list" {
        return Ok(Request::List);
    }
    let id = number("id").ok_or_else(|| invalid("id: is required"))?;
    let action = match action {
        "poll" => ProcessAction::Poll,
        "kill" => ProcessAction::Kill,
        "log" => ProcessAction::Log { offset: number("offset"), max_bytes: number("max_bytes").unwrap_or(LOG_BYTES) },
        "wait" => {
            let seconds = arguments.get("wait_s").and_then(Value::as_f64).unwrap_or(WAIT_S);
            ProcessAction::Wait { milliseconds: (seconds * 1000.0) as u64 }
        }
        "write" => {
            let input = arguments.get("input").and_then(Value::as_str).unwrap_or_default().to_owned();
            let end_of_input = arguments.get("end_of_input") == Some(&Value::Bool(true));
            if input.is_empty() && !end_of_input {
                return Err(invalid("input: is required, or end_of_input"));
            }
            if input.len() > MAX_INPUT_BYTES {
                return Err(Rejection::too_large("Input", input.len(), MAX_INPUT_BYTES));
            }
            ProcessAction::Write { input, end_of_input }
        }
        // The schema has no other.
        _ => return Err(invalid("action: is not known")),
    };
    Ok(Request::Process { id, action })
}
