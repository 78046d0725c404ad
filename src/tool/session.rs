//! What outlives the call that began it: background processes, a shell that keeps its state, and a terminal with a
//! screen. What is asked of them, and what they answer. Both go through protocol and journal as JSON, since neither looks
//! into them.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::job::Exceeded;

/// What a call asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Begin a shell script that outlives its call.
    Background { command: String },
    /// Run a script in the shell that keeps its state; there is a new one where there is none.
    Run {
        command: String,
        #[serde(default, skip_serializing_if = "Input::is_empty")]
        input: Input,
    },
    /// Of the terminal with a screen.
    Tmux(TmuxAction),
    /// What goes on in the background.
    List,
    /// Of one background process.
    Process { id: u64, action: ProcessAction },
}

/// What is typed into a terminal for a call, before it has begun.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Input(pub Vec<u8>);

impl Input {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// In base64: it need not be text.
impl From<Input> for String {
    fn from(input: Input) -> Self {
        BASE64_STANDARD.encode(input.0)
    }
}

impl TryFrom<String> for Input {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        BASE64_STANDARD.decode(text).map(Self)
    }
}

/// What a client's input is as somebody would type it. Its end is Ctrl-D, of which a line that has been begun takes one
/// more.
pub fn typed(data: &[u8], end_of_file: bool) -> Vec<u8> {
    let end: &[u8] = match (end_of_file, data.last()) {
        (false, _) => b"",
        (true, None | Some(b'\n')) => b"\x04",
        (true, Some(_)) => b"\x04\x04",
    };
    [data, end].concat()
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
        #[serde(default, skip_serializing_if = "Input::is_empty")]
        input: Input,
    },
    /// Give it so many columns and rows; what is not said stays.
    Resize {
        width: Option<u16>,
        height: Option<u16>,
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
    /// The limit that was run into while it was done, which counts for more than an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exceeded: Option<Box<Exceeded>>,
    pub metadata: Vec<(String, Value)>,
}

impl Request {
    /// What its sender has put into it, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Background { command } => command.len(),
            Self::Run { command, input } => command.len() + input.0.len(),
            Self::Process { action: ProcessAction::Write { input, .. }, .. } => input.len(),
            Self::Tmux(TmuxAction::SendKeys { keys, input, .. }) => {
                keys.iter().map(String::len).sum::<usize>() + input.0.len()
            }
            Self::Tmux(_) | Self::List | Self::Process { .. } => 0,
        }
    }

    /// What is typed for it before it begins; nothing for a request that reads no input.
    pub fn input(&self) -> Option<&Input> {
        match self {
            Self::Run { input, .. } | Self::Tmux(TmuxAction::SendKeys { block: true, input, .. }) => Some(input),
            Self::Background { .. } | Self::Tmux(_) | Self::List | Self::Process { .. } => None,
        }
    }

    /// As [`Self::input`].
    pub fn input_mut(&mut self) -> Option<&mut Input> {
        match self {
            Self::Run { input, .. } | Self::Tmux(TmuxAction::SendKeys { block: true, input, .. }) => Some(input),
            Self::Background { .. } | Self::Tmux(_) | Self::List | Self::Process { .. } => None,
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
        Self { output: output.into(), error: String::new(), exceeded: None, metadata: Vec::new() }
    }

    pub fn failed(error: impl Into<String>) -> Self {
        Self { error: error.into(), ..Self::new("") }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.metadata.push((name.to_owned(), value.into()));
        self
    }

    /// Also tells of a limit, if one was run into.
    #[must_use]
    pub fn naming(self, exceeded: Option<&Exceeded>) -> Self {
        let named = exceeded.into_iter().flat_map(Exceeded::named);
        named.fold(self, |told, (name, value)| told.with(name, value))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_kept_whatever_it_is() {
        let mut request = Request::Run { command: "cat".into(), input: Input::default() };
        let json = request.to_json();
        assert_eq!(json, r#"{"Run":{"command":"cat"}}"#, "as builds before this one wrote it");
        assert_eq!(Request::from_json(&json).unwrap(), request);
        request.input_mut().unwrap().0.extend_from_slice(b"\xff\0\n");
        assert_eq!(Request::from_json(&request.to_json()).unwrap(), request);
        assert_eq!(request.size(), 6);
        assert!(Request::from_json(br#"{"Run":{"command":"cat","input":"?"}}"#).is_err());
    }

    #[test]
    fn the_end_of_input_is_typed() {
        assert_eq!(typed(b"x", false), b"x");
        assert_eq!(typed(b"", true), b"\x04");
        assert_eq!(typed(b"x\n", true), b"x\n\x04");
        assert_eq!(typed(b"x", true), b"x\x04\x04");
    }
}
