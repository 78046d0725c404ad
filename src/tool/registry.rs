//! What tools there are, and what a call of one means.

use std::time::Duration;

use jsonschema::Validator;
use serde_json::Value;

use super::{ActionHash, Arguments, Kind, Reason, UnknownToolset, arguments, job::Job, sandboxed::Tool, text, toolset};

/// The tools that a service offers. Built once; every schema is compiled then.
pub struct Registry {
    tools: Vec<Entry>,
}

struct Entry {
    tool: Tool,
    validator: Validator,
    info: ToolInfo,
}

/// A tool, for whoever lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolInfo {
    pub name: String,
    pub route: Route,
    /// The toolsets that have it.
    pub toolsets: Vec<&'static str>,
    /// The OpenAI function schema, as JSON text.
    pub schema_json: String,
}

/// Where a tool runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// In the trajectory's slot.
    Sandbox,
    /// At a ToolServer.
    External,
}

/// A tool call that may be run.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedTool {
    pub job: Job,
    /// What [`judge`](super::judge) needs to know of it.
    pub kind: Kind,
    /// The call's own `timeout` argument, not yet held to the service's bounds. Counts where the call gives none.
    pub timeout: Option<Duration>,
    /// Of the arguments as they were sent, without policy fields.
    pub action: ActionHash,
}

/// Why a call was refused before anything ran: UNKNOWN_TOOL, INVALID_ARGUMENTS or REQUEST_TOO_LARGE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub reason: Reason,
    /// One bounded line, for the model.
    pub message: String,
}

impl Rejection {
    /// Arguments that do not fit.
    pub(super) fn invalid(tool: &str, fault: &str) -> Self {
        Self { reason: Reason::InvalidArguments, message: format!("Invalid arguments for {tool}: {fault}") }
    }

    /// The old system's words for what is over a limit, in bytes.
    pub(super) fn too_large(what: &str, bytes: usize, max: usize) -> Self {
        Self { reason: Reason::RequestTooLarge, message: format!("{what} too large: {bytes} bytes (max {max})") }
    }
}

impl Registry {
    /// The tools of the enabled toolsets that are not in a disabled one. `full` enables everything.
    pub fn new(enabled: &[String], disabled: &[String]) -> Result<Self, UnknownToolset> {
        toolset::check(enabled.iter().chain(disabled))?;
        let has = |toolsets: &[String], tool: Tool| toolsets.iter().any(|set| toolset::contains(set, tool.name()));
        let tools = Tool::ALL.into_iter().filter(|tool| has(enabled, *tool) && !has(disabled, *tool));
        Ok(Self { tools: tools.map(Entry::new).collect() })
    }

    /// The tools of the given toolsets; of none, all that the service offers.
    pub fn list(&self, toolsets: &[String]) -> Result<Vec<ToolInfo>, UnknownToolset> {
        toolset::check(toolsets)?;
        let wanted = |entry: &&Entry| {
            toolsets.is_empty() || toolsets.iter().any(|set| toolset::contains(set, entry.tool.name()))
        };
        Ok(self.tools.iter().filter(wanted).map(|entry| entry.info.clone()).collect())
    }

    /// What a call of a tool means. Everything that can be known to be wrong with it is found here, before anything
    /// is queued.
    pub fn parse(&self, name: &str, arguments: Arguments) -> Result<ParsedTool, Rejection> {
        let Some(entry) = self.tools.iter().find(|entry| entry.tool.name() == name) else {
            let message = format!("Unknown tool: {}", text::one_line(name, 200));
            return Err(Rejection { reason: Reason::UnknownTool, message });
        };
        let invalid = |fault: String| Rejection::invalid(name, &fault);
        let mut object = arguments::parse(arguments).map_err(invalid)?;
        let action = ActionHash::of_tool(name, &object);
        entry.tool.normalize(&mut object);
        let mut value = Value::Object(object);
        arguments::check(&entry.validator, &value).map_err(invalid)?;
        let Value::Object(object) = &mut value else {
            return Err(invalid("must be a JSON object".to_owned()));
        };
        let asked = entry.tool.ask(object)?;
        Ok(ParsedTool { job: asked.job, kind: asked.kind, timeout: asked.timeout, action })
    }
}

impl Entry {
    fn new(tool: Tool) -> Self {
        Self {
            tool,
            validator: jsonschema::validator_for(&tool.parameters())
                .expect("a tool's own schema is valid: a test compiles each"),
            info: ToolInfo {
                name: tool.name().to_owned(),
                route: Route::Sandbox,
                toolsets: toolset::toolsets_of(tool.name()),
                schema_json: tool.schema().to_string(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;
    use crate::tool::{
        job::{Process, Program},
        session::{ProcessAction, Request},
    };

    fn names(toolsets: &[&str]) -> Vec<String> {
        toolsets.iter().map(ToString::to_string).collect()
    }

    fn registry() -> Registry {
        Registry::new(&names(&["full"]), &[]).unwrap()
    }

    fn parse(name: &str, arguments: Value) -> Result<ParsedTool, Rejection> {
        let Value::Object(object) = arguments else { panic!("an object") };
        let of_struct = registry().parse(name, Arguments::Struct(object.clone()));
        let of_json = registry().parse(name, Arguments::Json(Value::Object(object).to_string()));
        assert_eq!(of_struct, of_json);
        of_struct
    }

    fn refused(name: &str, arguments: Value) -> (Reason, String) {
        let rejection = parse(name, arguments).unwrap_err();
        (rejection.reason, rejection.message)
    }

    fn invalid(name: &str, arguments: Value) -> String {
        let (reason, message) = refused(name, arguments);
        assert_eq!(reason, Reason::InvalidArguments);
        message
    }

    fn listed(registry: &Registry, toolsets: &[&str]) -> Vec<String> {
        registry.list(&names(toolsets)).unwrap().into_iter().map(|tool| tool.name).collect()
    }

    #[test]
    fn toolsets_choose_what_is_offered_and_listed() {
        let all = registry();
        assert_eq!(
            listed(&all, &[]),
            ["terminal", "bash", "process", "read_file", "write_file", "terminal_stateful", "tmux"]
        );
        assert_eq!(listed(&all, &["default"]), ["terminal", "process", "read_file", "write_file"]);
        assert_eq!(listed(&all, &["terminal", "filesystem"]), ["terminal", "process", "read_file", "write_file"]);
        assert_eq!(listed(&all, &["terminal_stateful"]), ["terminal_stateful", "tmux"]);
        assert!(all.list(&names(&["nope"])).is_err());

        let some = Registry::new(&names(&["all"]), &names(&["filesystem"])).unwrap();
        assert_eq!(listed(&some, &["*"]), ["terminal", "bash", "process", "terminal_stateful", "tmux"]);
        assert_eq!(some.parse("read_file", Arguments::Json("{}".into())).unwrap_err().reason, Reason::UnknownTool);
        assert!(Registry::new(&names(&["nope"]), &[]).is_err());
    }

    #[test]
    fn schemas_are_openai_functions() {
        for tool in registry().list(&[]).unwrap() {
            let schema: Value = serde_json::from_str(&tool.schema_json).unwrap();
            assert_eq!(schema["type"], "function");
            assert_eq!(schema["function"]["name"], tool.name);
            let parameters = &schema["function"]["parameters"];
            assert_eq!(parameters["type"], "object");
            for required in parameters["required"].as_array().unwrap() {
                assert!(parameters["properties"][required.as_str().unwrap()]["description"].is_string());
            }
        }
    }

    #[test]
    fn a_command_becomes_a_shell_script() {
        let parsed = parse("terminal", json!({"command": "pwd", "cwd": "/tmp", "env": {"A": "b"}})).unwrap();
        let process = Process { program: Program::Shell("pwd".into()), ..Process::default() };
        assert_eq!(parsed.job, Job::Process(process));
        assert_eq!((parsed.kind, parsed.timeout), (Kind::Shell, None));
        assert_eq!(parse("bash", json!({"command": ""})).unwrap().kind, Kind::Shell);
    }

    #[test]
    fn what_is_to_outlive_its_call_is_a_sessions() {
        let request = |name, arguments| match parse(name, arguments).unwrap() {
            ParsedTool { job: Job::Session(request), kind: Kind::Session, .. } => request,
            other => panic!("{other:?}"),
        };
        let command = || "sleep 9".to_owned();
        for name in ["terminal", "bash"] {
            let background = request(name, json!({"command": "sleep 9", "background": true}));
            assert_eq!(background, Request::Background { command: command() });
        }
        assert_eq!(request("terminal_stateful", json!({"command": "sleep 9"})), Request::Run { command: command() });
        assert_eq!(request("process", json!({"action": "list", "id": 3})), Request::List);
        let action = |arguments| match request("process", arguments) {
            Request::Process { id: 3, action } => action,
            other => panic!("{other:?}"),
        };
        assert_eq!(action(json!({"action": "poll", "id": 3})), ProcessAction::Poll);
        assert_eq!(action(json!({"action": "kill", "id": 3})), ProcessAction::Kill);
        let log = ProcessAction::Log { offset: Some(7), max_bytes: 50_000 };
        assert_eq!(action(json!({"action": "log", "id": 3, "offset": 7, "max_bytes": null})), log);
        let wait = ProcessAction::Wait { milliseconds: 1_500 };
        assert_eq!(action(json!({"action": "wait", "id": 3, "wait_s": 1.5})), wait);
        let write = ProcessAction::Write { input: "x".to_owned(), end_of_input: true };
        assert_eq!(action(json!({"action": "write", "id": 3, "input": "x", "end_of_input": true})), write);

        assert_eq!(invalid("process", json!({"action": "poll"})), "Invalid arguments for process: id: is required");
        assert!(invalid("process", json!({"action": "dance", "id": 1})).contains("action"));
        assert!(invalid("process", json!({"action": "log", "id": 1, "max_bytes": 0})).contains("max_bytes"));
        assert!(invalid("process", json!({"action": "log", "id": -1})).contains("id"));
        let nothing = invalid("process", json!({"action": "write", "id": 1}));
        assert_eq!(nothing, "Invalid arguments for process: input: is required, or end_of_input");
        let (reason, _) = refused("process", json!({"action": "write", "id": 1, "input": "x".repeat(1 << 20)}));
        assert_eq!(reason, Reason::RequestTooLarge);
    }

    #[test]
    fn a_numeric_timeout_is_the_calls() {
        let timeout = |value: Value| parse("bash", json!({"command": "", "timeout": value})).map(|call| call.timeout);
        assert_eq!(timeout(json!(5)), Ok(Some(Duration::from_secs(5))));
        assert_eq!(timeout(json!(0.5)), Ok(Some(Duration::from_millis(500))));
        assert_eq!(timeout(json!(-3)), Ok(Some(Duration::ZERO)));
        assert_eq!(timeout(json!(1e300)), Ok(Some(Duration::from_secs(1_000_000_000))));
        assert_eq!(timeout(json!(null)), Ok(None));
        assert_eq!(
            timeout(json!("5")).unwrap_err().message,
            "Invalid arguments for bash: timeout: must be a number, and a string was given"
        );
        assert!(timeout(json!(true)).is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        assert_eq!(refused("nope", json!({})), (Reason::UnknownTool, "Unknown tool: nope".into()));
        assert_eq!(refused("", json!({})), (Reason::UnknownTool, "Unknown tool: ".into()));
        assert_eq!(invalid("terminal", json!({})), "Invalid arguments for terminal: command: is required");
        assert_eq!(
            invalid("terminal", json!({"command": ["ls"]})),
            "Invalid arguments for terminal: command: must be a string, and an array was given"
        );
        assert_eq!(
            invalid("write_file", json!({"path": 1})),
            "Invalid arguments for write_file: content: is required; path: must be a string, and a number was given"
        );
        assert_eq!(
            invalid("terminal", json!({"command": "a\0b"})),
            "Invalid arguments for terminal: command: must not have a NUL character"
        );
        assert!(parse("terminal", json!({"command": "ls", "background": false})).is_ok());
        assert_eq!(invalid("read_file", json!({"path": "a\0b"})), "Access denied: path outside workspace");
        assert!(invalid("read_file", json!({"path": "x".repeat(5000)})).contains("5000 bytes"));
    }

    #[test]
    fn sizes_are_bounded_in_bytes() {
        let content = |length: usize| parse("write_file", json!({"path": "l", "content": "a".repeat(length)}));
        assert!(content(100_000).is_ok());
        let rejection = content(1_048_176).unwrap_err();
        assert_eq!(rejection.reason, Reason::RequestTooLarge);
        assert_eq!(rejection.message, "Content too large: 1048176 bytes (max 100000)");
        assert!(parse("write_file", json!({"path": "l", "content": "é".repeat(50_001)})).is_err());

        assert!(parse("bash", json!({"command": "a".repeat(131_071)})).is_ok());
        let rejection = parse("bash", json!({"command": "a".repeat(131_072)})).unwrap_err();
        assert_eq!(rejection.reason, Reason::RequestTooLarge);
        assert_eq!(rejection.message, "Command too large: 131072 bytes (max 131071)");
    }

    #[test]
    fn a_refusal_is_short_whatever_was_sent() {
        let long = "x".repeat(1_000_000);
        for rejection in [
            registry().parse(&long, Arguments::Struct(Map::new())).unwrap_err(),
            registry().parse("bash", Arguments::Json(long.clone())).unwrap_err(),
            registry().parse("bash", Arguments::Json(json!({"command": [long]}).to_string())).unwrap_err(),
        ] {
            assert!(rejection.message.len() < 5_000, "{}", rejection.message.len());
        }
    }

    #[test]
    fn the_action_is_of_what_was_sent_but_for_policy() {
        let action = |arguments| parse("bash", arguments).unwrap().action;
        assert_eq!(action(json!({"command": "ls"})), action(json!({"allow_network": true, "command": "ls"})));
        assert_ne!(action(json!({"command": "ls"})), action(json!({"command": "ls -a"})));
        assert_ne!(action(json!({"command": "ls"})), parse("terminal", json!({"command": "ls"})).unwrap().action);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::vec((key(), inner), 0..5)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    fn key() -> impl Strategy<Value = String> {
        prop_oneof![
            "command|path|content|timeout|background|action|id|offset|input|wait_s|keys|pane_width",
            any::<String>()
        ]
    }

    proptest! {
        #[test]
        fn no_text_crashes_it(text in ".{0,200}", tool in "terminal|bash|process|read_file|write_file|terminal_stateful|tmux") {
            let _ = registry().parse(&tool, Arguments::Json(text));
        }

        #[test]
        fn no_value_crashes_it(value in any_json(), tool in "terminal|bash|process|read_file|write_file|terminal_stateful|tmux") {
            let _ = registry().parse(&tool, Arguments::Json(value.to_string()));
        }
    }
}
