//! What tools there are, and what a call of one means.

use std::{sync::Arc, time::Duration};

use jsonschema::Validator;
use serde_json::Value;

use super::{
    ActionHash, Arguments, ExternalCall, Kind, Reason, ToolLabel, UnknownToolset, arguments,
    job::Job,
    sandboxed::{self, Tool},
    text, toolset,
};

/// Of a tool that is not this program's own.
const MAX_NAME_BYTES: usize = 256;

/// The tools that a service offers. Built anew when they change; every schema is compiled then.
pub struct Registry {
    tools: Vec<Entry>,
    /// Why nobody knows yet what tools a source has, where that is so: a name that is unknown here may be one of them.
    unheard: Option<String>,
}

struct Entry {
    label: Arc<str>,
    place: Place,
    validator: Validator,
    info: ToolInfo,
}

enum Place {
    Slot(Tool),
    Elsewhere(Arc<str>),
}

/// The tools of a source, as it told them last.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    pub source: Arc<str>,
    /// Function schemas, as in [`ToolInfo`]; or why they are not known.
    pub tools: Result<Vec<Value>, String>,
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
    pub task: Task,
    /// The call's own `timeout` argument, not yet held to the service's bounds. Counts where the call gives none.
    pub timeout: Option<Duration>,
    /// Of the arguments as they were sent, without policy fields.
    pub action: ActionHash,
}

/// What is to be done, and where.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    Slot {
        job: Job,
        /// What [`judge`](super::judge) needs to know of it.
        kind: Kind,
    },
    External(ExternalCall),
}

impl Task {
    /// Of what its sender has put into it, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Slot { job, .. } => job.size(),
            Self::External(call) => call.size(),
        }
    }
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
    ///
    /// # Errors
    /// If there is no such toolset.
    pub fn new(enabled: &[String], disabled: &[String]) -> Result<Self, UnknownToolset> {
        Self::with_external(enabled, disabled, &[]).map(|(registry, _)| registry)
    }

    /// The same, with the tools of other places after them; and what is wrong with those that are left out. Of two tools
    /// of one name the first stays: those of slots before all others, then in the order of the listings.
    ///
    /// # Errors
    /// If there is no such toolset.
    pub fn with_external(
        enabled: &[String],
        disabled: &[String],
        listings: &[Listing],
    ) -> Result<(Self, Vec<String>), UnknownToolset> {
        toolset::check(enabled.iter().chain(disabled))?;
        let has = |toolsets: &[String], tool: &str| toolsets.iter().any(|set| toolset::contains(set, tool));
        let offered = |tool: &str| has(enabled, tool) && !has(disabled, tool);
        let mut tools: Vec<Entry> =
            Tool::ALL.into_iter().filter(|tool| offered(tool.name())).map(Entry::in_slot).collect();
        let (mut faults, mut unheard) = (Vec::new(), None);
        for Listing { source, tools: told } in listings {
            let schemas = match told {
                Ok(schemas) => schemas,
                Err(cause) => {
                    unheard.get_or_insert_with(|| format!("{source}: {cause}"));
                    continue;
                }
            };
            for (index, schema) in schemas.iter().enumerate() {
                match Entry::elsewhere(source, schema) {
                    Err(fault) => faults.push(format!("{source}: tool {index}: {fault}")),
                    Ok(Entry { info: ToolInfo { name, .. }, .. })
                        if Tool::ALL.iter().any(|tool| tool.name() == name) =>
                    {
                        faults.push(format!("{source}: {name} is a tool of slots, which stays"));
                    }
                    Ok(entry) => match tools.iter().find(|known| known.info.name == entry.info.name) {
                        Some(Entry { place: Place::Elsewhere(first), .. }) => {
                            faults.push(format!("{source}: {} is a tool of {first}, which stays", entry.info.name));
                        }
                        _ if offered(&entry.info.name) => tools.push(entry),
                        _ => {}
                    },
                }
            }
        }
        Ok((Self { tools, unheard }, faults))
    }

    /// The tools of the given toolsets; of none, all that the service offers.
    pub fn list(&self, toolsets: &[String]) -> Result<Vec<ToolInfo>, UnknownToolset> {
        toolset::check(toolsets)?;
        let wanted =
            |entry: &&Entry| toolsets.is_empty() || toolsets.iter().any(|set| toolset::contains(set, &entry.info.name));
        Ok(self.tools.iter().filter(wanted).map(|entry| entry.info.clone()).collect())
    }

    /// What calls of this name count as.
    pub fn label(&self, name: &str) -> ToolLabel {
        let known = self.tools.iter().find(|entry| entry.info.name == name);
        known.map_or(ToolLabel::Unknown, |entry| ToolLabel::Tool(entry.label.clone()))
    }

    /// What a call of a tool means. Everything that can be known to be wrong with it is found here, before anything
    /// is queued.
    pub fn parse(&self, name: &str, arguments: Arguments) -> Result<ParsedTool, Rejection> {
        let Some(entry) = self.tools.iter().find(|entry| entry.info.name == name) else {
            return Err(self.unknown(name));
        };
        let invalid = |fault: String| Rejection::invalid(name, &fault);
        let mut object = arguments::parse(arguments).map_err(invalid)?;
        let action = ActionHash::of_tool(name, &object);
        if let Place::Slot(tool) = entry.place {
            tool.normalize(&mut object);
        }
        let mut value = Value::Object(object);
        arguments::check(&entry.validator, &value).map_err(invalid)?;
        let Value::Object(object) = &mut value else {
            return Err(invalid("must be a JSON object".to_owned()));
        };
        match &entry.place {
            Place::Slot(tool) => {
                let asked = tool.ask(object)?;
                let task = Task::Slot { job: asked.job, kind: asked.kind };
                Ok(ParsedTool { task, timeout: asked.timeout, action })
            }
            Place::Elsewhere(source) => {
                let timeout = object.get("timeout").and_then(Value::as_f64).map(sandboxed::seconds);
                let (source, tool) = (source.clone(), name.to_owned());
                let task = Task::External(ExternalCall { source, tool, arguments: value.to_string() });
                Ok(ParsedTool { task, timeout, action })
            }
        }
    }

    fn unknown(&self, name: &str) -> Rejection {
        let name = text::one_line(name, 200);
        match &self.unheard {
            Some(cause) => Rejection {
                reason: Reason::ToolServerUnreachable,
                message: format!("{name} is not a tool of slots, and others are not known yet: {cause}"),
            },
            None => Rejection { reason: Reason::UnknownTool, message: format!("Unknown tool: {name}") },
        }
    }
}

impl Entry {
    fn in_slot(tool: Tool) -> Self {
        Self {
            label: tool.name().into(),
            place: Place::Slot(tool),
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

    /// From a schema that somebody else wrote.
    fn elsewhere(source: &Arc<str>, schema: &Value) -> Result<Self, String> {
        let function = &schema["function"];
        let name = function["name"].as_str().unwrap_or_default();
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(format!("its function has no name of 1 to {MAX_NAME_BYTES} bytes"));
        }
        // A function without parameters takes none, or any.
        let any = Value::Object(serde_json::Map::new());
        let parameters = function.get("parameters").filter(|parameters| !parameters.is_null()).unwrap_or(&any);
        let validator = jsonschema::validator_for(parameters).map_err(|error| {
            format!("{name}: its parameters are no JSON Schema: {}", text::one_line(&error.to_string(), 200))
        })?;
        Ok(Self {
            label: name.into(),
            place: Place::Elsewhere(source.clone()),
            validator,
            info: ToolInfo {
                name: name.to_owned(),
                route: Route::External,
                toolsets: toolset::toolsets_of(name),
                schema_json: schema.to_string(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;
    use crate::tool::{
        job::{Process, Program},
        session::{Input, ProcessAction, Request, TmuxAction},
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

    fn kind(parsed: &ParsedTool) -> Kind {
        match &parsed.task {
            Task::Slot { kind, .. } => kind.clone(),
            Task::External(_) => panic!("{parsed:?}"),
        }
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

    fn listing(source: &str, tools: Result<Vec<Value>, String>) -> Listing {
        Listing { source: source.into(), tools }
    }

    fn elsewhere(name: &str) -> Value {
        let parameters = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
        json!({"type": "function", "function": {"name": name, "parameters": parameters}})
    }

    #[test]
    fn of_two_tools_of_one_name_the_first_stays_and_the_other_is_reported() {
        let listings = [
            listing("a", Ok(vec![elsewhere("search"), elsewhere("bash"), json!(1)])),
            listing("b", Ok(vec![elsewhere("search"), json!({"function": {"name": "x", "parameters": {"type": 7}}})])),
        ];
        let (registry, faults) = Registry::with_external(&names(&["full"]), &[], &listings).unwrap();
        assert_eq!(
            listed(&registry, &["all"]),
            ["terminal", "bash", "process", "read_file", "write_file", "terminal_stateful", "tmux", "search"]
        );
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(faults[0].contains("bash is a tool of slots") && faults[2].contains("search is a tool of a"));

        let call = |arguments: &str| registry.parse("search", Arguments::Json(arguments.into()));
        let Task::External(call_of_a) = call(r#"{"n":1,"more":[1.5],"allow_network":true,"timeout":7}"#).unwrap().task
        else {
            panic!("it is elsewhere")
        };
        assert_eq!((&*call_of_a.source, &*call_of_a.arguments), ("a", r#"{"n":1,"more":[1.5],"timeout":7}"#));
        assert_eq!(call(r#"{"n":1,"timeout":7}"#).unwrap().timeout, Some(Duration::from_secs(7)));
        assert_eq!(call(r#"{"n":"1"}"#).unwrap_err().reason, Reason::InvalidArguments);
        let (fewer, _) = Registry::with_external(&names(&["default"]), &[], &listings).unwrap();
        assert!(!listed(&fewer, &[]).contains(&"search".to_owned()));
    }

    #[test]
    fn a_name_is_unknown_only_where_everybody_has_said_what_they_have() {
        let (registry, _) =
            Registry::with_external(&names(&["full"]), &[], &[listing("a", Err("refused".into()))]).unwrap();
        let refused = registry.parse("search", Arguments::Json("{}".into())).unwrap_err();
        assert_eq!(refused.reason, Reason::ToolServerUnreachable);
        assert!(refused.message.contains("refused"));
        assert!(registry.parse("bash", Arguments::Json(r#"{"command":""}"#.into())).is_ok());
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
        assert_eq!(parsed.task, Task::Slot { job: Job::Process(process), kind: Kind::Shell });
        assert_eq!(parsed.timeout, None);
        assert_eq!(kind(&parse("bash", json!({"command": ""})).unwrap()), Kind::Shell);
    }

    #[test]
    fn what_is_to_outlive_its_call_is_a_sessions() {
        let request = |name, arguments| match parse(name, arguments).unwrap() {
            ParsedTool { task: Task::Slot { job: Job::Session(request), kind: Kind::Session }, .. } => request,
            other => panic!("{other:?}"),
        };
        let command = || "sleep 9".to_owned();
        for name in ["terminal", "bash"] {
            let background = request(name, json!({"command": "sleep 9", "background": true}));
            assert_eq!(background, Request::Background { command: command() });
        }
        assert_eq!(
            request("terminal_stateful", json!({"command": "sleep 9"})),
            Request::Run { command: command(), input: Input::default() }
        );
        let resize = |width, height| Request::Tmux(TmuxAction::Resize { width, height });
        let asked = json!({"action": "resize", "pane_width": 100, "pane_height": null});
        assert_eq!(request("tmux", asked), resize(Some(100), None));
        assert!(invalid("tmux", json!({"action": "resize"})).contains("pane_width: is required, or pane_height"));
        assert!(invalid("tmux", json!({"action": "resize", "pane_width": 501})).contains("pane_width"));
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
