//! A command: what a trainer itself runs in a slot. It has no schema; a malformed one is an error of the message.

use std::fmt;

use bytes::Bytes;

use super::{
    ActionHash, Rejection,
    job::{Process, Program},
    sandboxed::{MAX_COMMAND_BYTES, MAX_PATH_BYTES, TextFault, check_command},
};

/// A command as it was sent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Command {
    /// None where the message had neither `argv` nor `shell`.
    pub program: Option<Program>,
    pub working_directory: String,
    pub environment: Vec<(String, String)>,
    pub stdin: Bytes,
    pub interactive: bool,
}

/// Why a command cannot be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandError {
    /// The message is malformed: every field that is, at least one.
    Malformed(Vec<FieldError>),
    /// It is well formed, and more than the kernel takes.
    Rejected(Rejection),
}

/// A field of a message, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Below the command's own field, such as `argv.arguments[0]`.
    pub field: String,
    pub description: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.description)
    }
}

/// Mistakes of one message that are told.
const MAX_FIELD_ERRORS: usize = 10;

impl Command {
    /// Checks the command. Its size as a whole is the kernel's to refuse, since its bound depends on the machine.
    pub fn parse(self) -> Result<(Process, ActionHash), CommandError> {
        let mut check = Check::default();
        match &self.program {
            None => check.malformed("program", "must be given: argv or shell"),
            Some(Program::Shell(script)) => check.text("shell", script),
            Some(Program::Argv(arguments)) => {
                match arguments.first().map(String::as_str) {
                    None => check.malformed("argv.arguments", "must have a program"),
                    Some("") => check.malformed("argv.arguments[0]", "must not be empty"),
                    Some(_) => {}
                }
                for (index, argument) in arguments.iter().enumerate() {
                    check.text(&format!("argv.arguments[{index}]"), argument);
                }
            }
        }
        check.directory(&self.working_directory);
        for (name, value) in &self.environment {
            check.variable(name, value);
        }
        check.verdict()?;
        let process = Process {
            program: self.program.unwrap_or_default(),
            working_directory: self.working_directory,
            environment: self.environment,
            stdin: self.stdin,
            interactive: self.interactive,
        };
        let action = ActionHash::of_command(&process);
        Ok((process, action))
    }
}

/// Collects what is wrong; what is malformed comes before what is too large.
#[derive(Default)]
struct Check {
    malformed: Vec<FieldError>,
    rejected: Option<Rejection>,
}

impl Check {
    fn malformed(&mut self, field: &str, description: &str) {
        if self.malformed.len() < MAX_FIELD_ERRORS {
            self.malformed.push(FieldError { field: field.to_owned(), description: description.to_owned() });
        }
    }

    fn too_large(&mut self, what: &str, bytes: usize) {
        self.rejected.get_or_insert_with(|| Rejection::too_large(what, bytes, MAX_COMMAND_BYTES));
    }

    fn text(&mut self, field: &str, text: &str) {
        match check_command(text) {
            Ok(()) => {}
            Err(TextFault::Nul) => self.malformed(field, "must not have a NUL character"),
            Err(TextFault::TooLarge { bytes }) => self.too_large("Command", bytes),
        }
    }

    fn directory(&mut self, path: &str) {
        if path.contains('\0') {
            self.malformed("working_directory", "must not have a NUL character");
        } else if path.len() > MAX_PATH_BYTES {
            self.malformed("working_directory", &format!("may have at most {MAX_PATH_BYTES} bytes"));
        }
    }

    fn variable(&mut self, name: &str, value: &str) {
        let shown: String = name.chars().take(64).collect();
        let field = format!("environment[{shown:?}]");
        if name.is_empty() {
            self.malformed(&field, "must have a name");
        } else if name.contains(['=', '\0']) {
            self.malformed(&field, "must have a name without = and NUL");
        } else if value.contains('\0') {
            self.malformed(&field, "must not have a NUL character");
        } else if name.len() + 1 + value.len() > MAX_COMMAND_BYTES {
            self.too_large("Environment variable", name.len() + 1 + value.len());
        }
    }

    fn verdict(self) -> Result<(), CommandError> {
        match self.rejected {
            _ if !self.malformed.is_empty() => Err(CommandError::Malformed(self.malformed)),
            Some(rejection) => Err(CommandError::Rejected(rejection)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::Reason;

    fn argv(words: &[&str]) -> Command {
        let words = words.iter().map(ToString::to_string).collect();
        Command { program: Some(Program::Argv(words)), ..Command::default() }
    }

    fn with(name: &str, value: &str) -> Command {
        Command { environment: vec![(name.into(), value.into())], ..argv(&["true"]) }
    }

    fn fields(command: Command) -> Vec<String> {
        match command.parse() {
            Err(CommandError::Malformed(errors)) => errors.into_iter().map(|error| error.field).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn malformed_fields_are_named() {
        assert_eq!(fields(Command::default()), ["program"]);
        assert_eq!(fields(argv(&[])), ["argv.arguments"]);
        assert_eq!(fields(argv(&[""])), ["argv.arguments[0]"]);
        assert_eq!(fields(argv(&["a", "b", "\0"])), ["argv.arguments[2]"]);
        assert_eq!(fields(Command { program: Some(Program::Shell("\0".into())), ..Command::default() }), ["shell"]);
        assert_eq!(fields(Command { working_directory: "\0".into(), ..argv(&["a"]) }), ["working_directory"]);
        assert_eq!(fields(Command { working_directory: "d".repeat(5000), ..argv(&["a"]) }), ["working_directory"]);
        assert_eq!(fields(with("", "")), ["environment[\"\"]"]);
        assert_eq!(fields(with("A=B", "")), ["environment[\"A=B\"]"]);
        assert_eq!(fields(with("A", "\0")), ["environment[\"A\"]"]);
        assert_eq!(fields(argv(&["\0"; 100])).len(), MAX_FIELD_ERRORS);
    }

    #[test]
    fn what_the_kernel_would_not_take_is_rejected() {
        let long = "x".repeat(MAX_COMMAND_BYTES + 1);
        for command in [argv(&["echo", &long]), with("A", &long[2..])] {
            match command.parse() {
                Err(CommandError::Rejected(rejection)) => assert_eq!(rejection.reason, Reason::RequestTooLarge),
                other => panic!("{other:?}"),
            }
        }
        assert!(argv(&["echo", &long[1..]]).parse().is_ok());
        assert!(with("A", &long[3..]).parse().is_ok());
    }

    #[test]
    fn a_sound_command_is_a_process() {
        let (process, _) = Command { stdin: "x".into(), interactive: true, ..with("A", "b=c") }.parse().unwrap();
        assert_eq!(process.environment, [("A".to_owned(), "b=c".to_owned())]);
        assert!(process.interactive);
    }
}
