//! The tools that run in a slot: their schemas, as a model reads them, and what their arguments ask for.
//!
//! `terminal` and `bash` are one tool under two names. Arguments that a tool does not know are ignored, as the old
//! system did; an optional argument that is null counts as left out, since clients write it so.

mod sessions;

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{
    Kind, Reason, Rejection,
    job::{Job, Process, Program},
    session::{Input, Request},
};

/// The most that `read_file` answers and `write_file` takes, in bytes.
pub const MAX_FILE_BYTES: usize = 100_000;

/// The longest script or argument: the kernel takes 128 KiB for each, the NUL at its end included.
pub const MAX_COMMAND_BYTES: usize = 131_071;

/// The longest path: the kernel takes 4,096 bytes, the NUL at its end included.
pub const MAX_PATH_BYTES: usize = 4_095;

/// The longest timeout that is told apart, far above any maximum that a service sets.
const LONGEST_TIMEOUT_S: f64 = 1e9;

/// A tool that runs in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    Terminal,
    Bash,
    Process,
    ReadFile,
    WriteFile,
    TerminalStateful,
    Tmux,
}

/// What a call of a tool asks for.
pub(super) struct Asked {
    pub(super) job: Job,
    pub(super) kind: Kind,
    pub(super) timeout: Option<Duration>,
}

impl Tool {
    /// In the order in which they are listed.
    pub(super) const ALL: [Self; 7] = [
        Self::Terminal,
        Self::Bash,
        Self::Process,
        Self::ReadFile,
        Self::WriteFile,
        Self::TerminalStateful,
        Self::Tmux,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Terminal => "terminal",
            Self::Bash => "bash",
            Self::Process => "process",
            Self::ReadFile => "read_file",
            Self::WriteFile => "write_file",
            Self::TerminalStateful => "terminal_stateful",
            Self::Tmux => "tmux",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Terminal | Self::Bash => {
                "Run a shell script with /bin/sh in /workspace and return what it prints: stdout, then stderr after a \
                 [stderr] line. Files in /workspace and /tmp stay for your next calls. Everything else starts afresh: \
                 each call is a new shell (no variables or directory changes are kept), and when it ends, every \
                 process that it started ends with it: what `cmd &` left running is killed. For a server or anything else \
                 that is to run on, call with background: true. There is no terminal and no input. \
                 System directories are read-only. Output beyond 50,000 bytes of stdout or stderr is cut: send long \
                 output to a file and look at the parts that you need."
            }
            Self::Process => sessions::PROCESS,
            Self::TerminalStateful => sessions::STATEFUL,
            Self::Tmux => sessions::TMUX,
            Self::ReadFile => {
                "Read a text file in /workspace and return all of it, at most 100,000 bytes. For a larger or a binary \
                 file, print the part that you need with a shell command."
            }
            Self::WriteFile => {
                "Write a text file in /workspace: make it, or replace all that it held. Missing directories are made. \
                 At most 100,000 bytes."
            }
        }
    }

    /// The JSON Schema of the arguments.
    pub(super) fn parameters(self) -> Value {
        let path = json!({
            "type": "string",
            "description": "Path of the file, relative to /workspace or absolute inside it.",
        });
        match self {
            Self::Terminal | Self::Bash => json!({
                "type": "object",
                "properties": {
                    "command": {
                        "type": "string",
                        "description": "The script to run, for /bin/sh -c. At most 131,071 bytes.",
                    },
                    "timeout": {
                        "type": "number",
                        "description": "Seconds after which the script and all its processes are killed; what was \
                                        printed until then is returned.",
                    },
                    "background": {
                        "type": "boolean",
                        "description": "Run the script in the background: the call returns at once with an id, the \
                                        script runs on until it ends or is killed, and the `process` tool shows \
                                        its output and state, gives it input, waits for it and kills it. The \
                                        timeout does not apply.",
                    },
                },
                "required": ["command"],
            }),
            Self::Process => sessions::process_parameters(),
            Self::TerminalStateful => sessions::stateful_parameters(),
            Self::Tmux => sessions::tmux_parameters(),
            Self::ReadFile => json!({
                "type": "object",
                "properties": { "path": path },
                "required": ["path"],
            }),
            Self::WriteFile => json!({
                "type": "object",
                "properties": {
                    "path": path,
                    "content": { "type": "string", "description": "What the file is to hold, as it is." },
                },
                "required": ["path", "content"],
            }),
        }
    }

    /// The schema as chat templates take it.
    pub(super) fn schema(self) -> Value {
        json!({
            "type": "function",
            "function": {
                "name": self.name(),
                "description": self.description(),
                "parameters": self.parameters(),
            },
        })
    }

    /// Drops optional arguments that are null.
    pub(super) fn normalize(self, arguments: &mut Map<String, Value>) {
        let optional: &[&str] = match self {
            Self::Terminal | Self::Bash => &["timeout", "background"],
            Self::Process => &sessions::PROCESS_OPTIONAL,
            Self::TerminalStateful => &["timeout"],
            Self::Tmux => &sessions::TMUX_OPTIONAL,
            Self::ReadFile | Self::WriteFile => &[],
        };
        arguments.retain(|name, value| !(value.is_null() && optional.contains(&name.as_str())));
    }

    /// What the call asks for, of arguments that fit the schema.
    pub(super) fn ask(self, arguments: &mut Map<String, Value>) -> Result<Asked, Rejection> {
        let mut text = |name: &str| match arguments.get_mut(name).map(Value::take) {
            Some(Value::String(text)) => Ok(text),
            _ => Err(Rejection::invalid(self.name(), &format!("{name}: must be a string"))),
        };
        match self {
            Self::Terminal | Self::Bash => {
                let command = text("command")?;
                check_command(&command).map_err(|fault| fault.of_tool(self.name(), "command"))?;
                if arguments.get("background") == Some(&Value::Bool(true)) {
                    return Ok(of_session(Request::Background { command }));
                }
                Ok(Asked {
                    job: Job::Process(Process { program: Program::Shell(command), ..Process::default() }),
                    kind: Kind::Shell,
                    timeout: arguments.get("timeout").and_then(Value::as_f64).map(seconds),
                })
            }
            Self::TerminalStateful => {
                let command = text("command")?;
                check_command(&command).map_err(|fault| fault.of_tool(self.name(), "command"))?;
                let timeout = arguments.get("timeout").and_then(Value::as_f64).map(seconds);
                Ok(Asked { timeout, ..of_session(Request::Run { command, input: Input::default() }) })
            }
            Self::Tmux => sessions::tmux(arguments).map(of_session),
            Self::Process => sessions::process(arguments).map(of_session),
            Self::ReadFile => {
                let path = text("path")?;
                check_path(self.name(), &path)?;
                Ok(Asked {
                    job: Job::ReadFile { path: path.clone(), max_bytes: MAX_FILE_BYTES as u64 },
                    kind: Kind::ReadFile { path },
                    timeout: None,
                })
            }
            Self::WriteFile => {
                let (path, content) = (text("path")?, text("content")?);
                check_path(self.name(), &path)?;
                if content.len() > MAX_FILE_BYTES {
                    return Err(Rejection::too_large("Content", content.len(), MAX_FILE_BYTES));
                }
                Ok(Asked {
                    job: Job::WriteFile { path: path.clone(), content: content.into() },
                    kind: Kind::WriteFile { path },
                    timeout: None,
                })
            }
        }
    }
}

fn of_session(request: Request) -> Asked {
    Asked { job: Job::Session(request), kind: Kind::Session, timeout: None }
}

/// Why the kernel would not take a text as a script or an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextFault {
    Nul,
    TooLarge { bytes: usize },
}

impl TextFault {
    fn of_tool(self, tool: &str, argument: &str) -> Rejection {
        match self {
            Self::Nul => Rejection::invalid(tool, &format!("{argument}: must not have a NUL character")),
            Self::TooLarge { bytes } => Rejection::too_large("Command", bytes, MAX_COMMAND_BYTES),
        }
    }
}

/// Whether the kernel takes the text as a script or an argument.
pub(super) fn check_command(text: &str) -> Result<(), TextFault> {
    if text.contains('\0') {
        return Err(TextFault::Nul);
    }
    if text.len() > MAX_COMMAND_BYTES {
        return Err(TextFault::TooLarge { bytes: text.len() });
    }
    Ok(())
}

fn check_path(tool: &str, path: &str) -> Result<(), Rejection> {
    if path.contains('\0') {
        // The old system's answer: no file inside the workspace has such a name.
        let message = "Access denied: path outside workspace".to_owned();
        return Err(Rejection { reason: Reason::InvalidArguments, message });
    }
    if path.len() > MAX_PATH_BYTES {
        let message = format!("path: has {} bytes, and may have at most {MAX_PATH_BYTES}", path.len());
        return Err(Rejection::invalid(tool, &message));
    }
    Ok(())
}

/// A model's number of seconds. Whoever runs the call holds it to the service's own bounds.
pub(super) fn seconds(number: f64) -> Duration {
    // `clamp` keeps NaN, which JSON does not have and the conversion would refuse.
    Duration::try_from_secs_f64(number.clamp(0.0, LONGEST_TIMEOUT_S)).unwrap_or(Duration::ZERO)
}
