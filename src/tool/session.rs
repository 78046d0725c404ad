//! What outlives the call that began it: background processes, and a shell that keeps its state. What is asked of it, and what it answers. Both go
//! through protocol and journal as JSON, since neither looks into them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a call asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Begin a shell script that outlives its call.
    Background { command: String },
    /// Run a script in the shell that keeps its state; there is a new one where there is none.
    Run { command: String },
    /// Of the terminal with a screen.
    Tmux(TmuxAction),
    /// What goes on in the background.
    List,
    /// Of one background process.
    Process { id: u64, action: ProcessAction },
}

/// What is asked of the terminal with a screen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TmuxAction {
    /// Begin it; with `reset` anew, where there is one. Of so many columns and rows.
    Start {
        width: u16,
        height: u16,
        reset: bool,
    },
    /// Type these, each the name of a key or a text, wait at least so long, and with `block` until the command has ended.
    SendKeys {
        keys: Vec<String>,
        block: bool,
        min_wait_ms: u64,
        max_wait_ms: u64,
    },
    /// What is on the screen, or with `entire` also what has scrolled off it.
    Capture {
        entire: bool,
    },
    /// What was printed since the last time, as lines of asciicast v2; with `reset` from the begin.
    Stream {
        max_bytes: u64,
        reset: bool,
    },
    Stop,
}

/// What is asked of a background process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ProcessAction {
    /// Whether it runs still.
    Poll,
    /// What it printed, at most `max_bytes`; without an offset, from where the last log of it ended.
    Log { offset: Option<u64>, max_bytes: u64 },
    /// Wait for its end, for so long.
    Wait { milliseconds: u64 },
    /// Give it input.
    Write { input: String, end_of_input: bool },
    /// End it, with all that it started.
    Kill,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// For the model.
    pub output: String,
    /// Why it cannot be done; empty where it was.
    pub error: String,
    pub metadata: Vec<(String, Value)>,
}

impl Request {
    /// What its sender has put into it, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Background { command } | Self::Run { command } => command.len(),
            Self::Process { action: ProcessAction::Write { input, .. }, .. } => input.len(),
            Self::Tmux(TmuxAction::SendKeys { keys, .. }) => keys.iter().map(String::len).sum(),
            Self::Tmux(_) | Self::List | Self::Process { .. } => 0,
        }
    }

    pub fn to_json(&self) -> Bytes {
        json(self)
    }

    /// # Errors
    /// No build of this version wrote it.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

impl Told {
    pub fn new(output: impl Into<String>) -> Self {
        Self { output: output.into(), error: String::new(), metadata: Vec::new() }
    }

    pub fn failed(error: impl Into<String>) -> Self {
        Self { output: String::new(), error: error.into(), metadata: Vec::new() }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.metadata.push((name.to_owned(), value.into()));
        self
    }

    pub fn to_json(&self) -> Bytes {
        json(self)
    }

    /// # Errors
    /// No build of this version wrote it.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("it has texts and numbers alone").into()
}
