//! What a call asks for: its kind, who chose it, and the hash that tells a repeated call from another one.

use std::fmt;

use serde_json::{Map, Number, Value};
use sha2::{Digest, Sha256};

use super::job::{Process, Program};

/// What is needed of an action to judge its end, without its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `terminal` or `bash`.
    Shell,
    /// The path as the model gave it.
    ReadFile {
        path: String,
    },
    WriteFile {
        path: String,
    },
    /// What the trainer runs itself.
    Command,
    /// Something of what outlives its calls.
    Session,
}

impl Kind {
    /// Who answers for what the action does.
    pub fn chooser(&self) -> Chooser {
        match self {
            Self::Shell | Self::ReadFile { .. } | Self::WriteFile { .. } | Self::Session => Chooser::Model,
            Self::Command => Chooser::Client,
        }
    }
}

/// Who chose an action, and so whose doing its failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Chooser {
    /// A tool call is the model's.
    Model,
    /// A command is the trainer's.
    Client,
}

/// Tells whether two calls ask for the same thing. Of a tool: its name and the values of its arguments, so that
/// neither the order of keys nor the spelling of a number (`1`, `1.0`, `1e0`) matters. Of a command: all of it. Never
/// of the call's timeout.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ActionHash(pub [u8; 16]);

impl ActionHash {
    /// Of a tool call, with the arguments as they were sent.
    pub fn of_tool(name: &str, arguments: &Map<String, Value>) -> Self {
        let mut canonical = Canonical::new("tool");
        canonical.text(name);
        canonical.object(arguments);
        canonical.finish()
    }

    /// Of a command.
    pub fn of_command(process: &Process) -> Self {
        let mut canonical = Canonical::new("command");
        match &process.program {
            Program::Shell(script) => {
                canonical.tag(b'S');
                canonical.text(script);
            }
            Program::Argv(arguments) => {
                canonical.tag(b'A');
                canonical.length(arguments.len());
                arguments.iter().for_each(|argument| canonical.text(argument));
            }
        }
        canonical.text(&process.working_directory);
        let mut environment: Vec<_> = process.environment.iter().collect();
        environment.sort_unstable();
        canonical.length(environment.len());
        for (name, value) in environment {
            canonical.text(name);
            canonical.text(value);
        }
        canonical.bytes(&process.stdin);
        canonical.tag(if process.interactive { b'I' } else { b'N' });
        canonical.finish()
    }
}

impl fmt::Debug for ActionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Feeds values to the hash so that no two different ones feed the same bytes: each has its type in front, and what
/// varies in length its length.
struct Canonical(Sha256);

impl Canonical {
    fn new(domain: &str) -> Self {
        let mut canonical = Self(Sha256::new());
        canonical.text(domain);
        canonical
    }

    fn tag(&mut self, tag: u8) {
        self.0.update([tag]);
    }

    fn length(&mut self, length: usize) {
        self.0.update((length as u64).to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn object(&mut self, object: &Map<String, Value>) {
        let mut entries: Vec<_> = object.iter().collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        self.tag(b'{');
        self.length(entries.len());
        for (key, value) in entries {
            self.text(key);
            self.value(value);
        }
    }

    /// Recursion is bounded: JSON text is parsed to a depth of 128, protobuf to one of 100.
    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.tag(b'n'),
            Value::Bool(false) => self.tag(b'f'),
            Value::Bool(true) => self.tag(b't'),
            Value::Number(number) => self.number(number),
            Value::String(text) => {
                self.tag(b'"');
                self.text(text);
            }
            Value::Array(items) => {
                self.tag(b'[');
                self.length(items.len());
                items.iter().for_each(|item| self.value(item));
            }
            Value::Object(object) => self.object(object),
        }
    }

    /// A whole number that fits is hashed as such, however it was spelt; anything else as its float.
    fn number(&mut self, number: &Number) {
        const WHOLE: std::ops::Range<f64> = -9_223_372_036_854_775_808.0..18_446_744_073_709_551_616.0;
        let whole = number.as_i128().or_else(|| {
            number.as_f64().filter(|float| float.fract() == 0.0 && WHOLE.contains(float)).map(|float| float as i128)
        });
        match whole {
            Some(whole) => {
                self.tag(b'i');
                self.0.update(whole.to_le_bytes());
            }
            None => {
                self.tag(b'd');
                self.0.update(number.as_f64().unwrap_or(f64::NAN).to_le_bytes());
            }
        }
    }

    fn finish(self) -> ActionHash {
        let digest = self.0.finalize();
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        ActionHash(hash)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hash(json: &str) -> ActionHash {
        ActionHash::of_tool("terminal", &serde_json::from_str(json).unwrap())
    }

    #[test]
    fn values_count_and_spelling_does_not() {
        assert_eq!(hash(r#"{"a":1,"b":[1.0,-0.0]}"#), hash(r#"{ "b": [1e0, 0], "a": 1.0 }"#));
        assert_eq!(hash(r#"{"a":"\u0061"}"#), hash(r#"{"a":"a"}"#));
        assert_eq!(hash(r#"{"a":18446744073709551615}"#), hash(r#"{"a":18446744073709551615}"#));
    }

    #[test]
    fn different_values_differ() {
        let all = [
            r#"{}"#,
            r#"{"a":1}"#,
            r#"{"a":1.5}"#,
            r#"{"a":"1"}"#,
            r#"{"a":[1]}"#,
            r#"{"a":[[1]]}"#,
            r#"{"a":[1,1]}"#,
            r#"{"a":{"a":1}}"#,
            r#"{"a":null}"#,
            r#"{"a":true}"#,
            r#"{"a":false}"#,
            r#"{"a":9007199254740993}"#,
            r#"{"a":9007199254740992}"#,
            r#"{"b":1}"#,
            r#"{"ab":1}"#,
        ];
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                assert_ne!(hash(a), hash(b), "{a} {b}");
            }
        }
        assert_ne!(ActionHash::of_tool("bash", &Map::new()), ActionHash::of_tool("terminal", &Map::new()));
    }

    #[test]
    fn a_command_is_hashed_whole() {
        let process = |program| Process { program, ..Process::default() };
        let argv = |words: &[&str]| process(Program::Argv(words.iter().map(ToString::to_string).collect()));
        let all = [
            process(Program::Shell("ls".into())),
            argv(&["ls"]),
            argv(&["l", "s"]),
            Process { working_directory: "ls".into(), ..process(Program::Shell(String::new())) },
            Process { stdin: "ls".into(), ..process(Program::Shell(String::new())) },
            Process { interactive: true, ..process(Program::Shell("ls".into())) },
            Process { environment: vec![("a".into(), "b".into())], ..process(Program::Shell("ls".into())) },
        ];
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                assert_ne!(ActionHash::of_command(a), ActionHash::of_command(b), "{a:?} {b:?}");
            }
        }
        let with = |names: [&str; 2]| Process {
            environment: names.iter().map(|name| (name.to_string(), String::new())).collect(),
            ..Process::default()
        };
        assert_eq!(ActionHash::of_command(&with(["A", "B"])), ActionHash::of_command(&with(["B", "A"])));
    }

    proptest! {
        #[test]
        fn the_order_of_keys_does_not_matter(
            mut entries in proptest::collection::btree_map("[a-c]{1,3}", any::<i64>(), 0..6)
                .prop_map(|map| map.into_iter().collect::<Vec<_>>()),
            seed in any::<u64>(),
        ) {
            let map = |entries: &[(String, i64)]| -> Map<String, Value> {
                entries.iter().map(|(key, value)| (key.clone(), Value::from(*value))).collect()
            };
            let first = ActionHash::of_tool("t", &map(&entries));
            fastrand::Rng::with_seed(seed).shuffle(&mut entries);
            prop_assert_eq!(first, ActionHash::of_tool("t", &map(&entries)));
        }
    }
}
