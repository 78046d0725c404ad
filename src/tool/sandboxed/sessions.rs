//! The tools for what outlives its call: their schemas, and what their arguments ask for.

use serde_json::{Map, Value, json};

use super::super::{
    Rejection,
    session::{ProcessAction, Request},
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
