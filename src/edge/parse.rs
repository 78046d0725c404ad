//! What a client sends, checked and turned into what the rest of the program speaks of. Whatever has no meaning is a
//! [`Violation`] that names its field.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    id::{CallId, Generation, PoolName, Sequence, TrajectoryId},
    journal::Options,
    pb::{duration as pb_duration, toolexecutor as pb},
    scheduler,
    tool::{
        Arguments, Chooser, Command, CommandError, Kind, ParsedTool, Registry, Task, ToolLabel,
        job::{Job, OutputLimits, Program},
    },
    trajectory::{self, Defaults, Unfit, Work},
};

/// Calls of one message. Each that is refused is answered, so that a small message of very many would make a large
/// answer.
const MAX_BATCH: usize = 100_000;

/// A field of a message that cannot be what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) field: String,
    pub(super) description: String,
}

impl Violation {
    pub(super) fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }
}

/// What is needed to understand a message.
pub(super) struct Parser {
    /// The tools that there are just now.
    pub(super) registry: watch::Receiver<Arc<Registry>>,
    pub(super) defaults: Defaults,
    /// Knows which pools there are.
    pub(super) scheduler: scheduler::Handle,
    /// Of `head` and `tail` together.
    pub(super) max_output_bytes: u32,
}

/// The longest lease that may be asked for: a trainer that is gone for longer than a week does not come back.
const MAX_LEASE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Labels are there to group by, not to keep data in.
const MAX_LABELS: usize = 64;
const MAX_LABEL_BYTES: usize = 1024;

impl Parser {
    pub(super) fn registry(&self) -> Arc<Registry> {
        self.registry.borrow().clone()
    }

    pub(super) fn open(&self, open: pb::Open) -> Result<(TrajectoryId, trajectory::Open), Violation> {
        let id = trajectory_id(&open.trajectory_id, "open.trajectory_id")?;
        let open = trajectory::Open {
            options: self.options(open.options, "open.options")?,
            take_over: open.take_over,
            last_sequence: Sequence(open.last_sequence),
            require_existing: open.require_existing,
            trace: None,
        };
        Ok((id, open))
    }

    /// Options that are not given are the service's own.
    pub(super) fn options(&self, options: Option<pb::TrajectoryOptions>, field: &str) -> Result<Options, Violation> {
        let options = options.unwrap_or_default();
        let lease = match duration(options.lease, &format!("{field}.lease"))? {
            None => self.defaults.lease,
            Some(lease) if lease.is_zero() || lease > MAX_LEASE => {
                return Err(Violation::new(format!("{field}.lease"), "must be above 0 and at most 7 days"));
            }
            Some(lease) => lease,
        };
        let labels: BTreeMap<String, String> = options.labels.into_iter().collect();
        if labels.len() > MAX_LABELS || labels.iter().any(|(name, value)| name.len() + value.len() > MAX_LABEL_BYTES) {
            let description = format!("at most {MAX_LABELS} labels of at most {MAX_LABEL_BYTES} bytes each");
            return Err(Violation::new(format!("{field}.labels"), description));
        }
        let pool = PoolName::new(&options.pool);
        if !self.scheduler.knows_pool(&pool) {
            return Err(Violation::new(format!("{field}.pool"), format!("there is no pool `{pool}`")));
        }
        let limits = options.output_limits.unwrap_or_default();
        let output_limits = OutputLimits {
            head: limits.head_bytes.unwrap_or(self.defaults.output_limits.head),
            tail: limits.tail_bytes.unwrap_or(self.defaults.output_limits.tail),
        };
        if u64::from(output_limits.head) + u64::from(output_limits.tail) > u64::from(self.max_output_bytes) {
            let description = format!("head and tail are at most {} bytes together", self.max_output_bytes);
            return Err(Violation::new(format!("{field}.output_limits"), description));
        }
        Ok(Options {
            lease,
            labels,
            pool,
            acquire_slot: options.acquire_slot,
            output_limits,
            default_timeout: duration(options.default_timeout, &format!("{field}.default_timeout"))?
                .unwrap_or(self.defaults.timeout),
        })
    }

    /// A message of a stream that is open.
    pub(super) fn request(&self, request: pb::TrajectoryRequest) -> Result<trajectory::Request, Violation> {
        use pb::trajectory_request::Message;
        match request.message {
            None => Err(Violation::new("message", "must be set")),
            Some(Message::Open(_)) => Err(Violation::new("open", "only the first message of a stream may be an open")),
            Some(Message::Batch(batch)) => {
                if batch.calls.len() > MAX_BATCH {
                    return Err(Violation::new("batch.calls", format!("must not be more than {MAX_BATCH}")));
                }
                let calls = batch.calls.into_iter().enumerate();
                let calls = calls.map(|(index, call)| self.call(call, &format!("batch.calls[{index}]"), false));
                Ok(trajectory::Request::Batch(calls.collect::<Result<_, _>>()?))
            }
            Some(Message::Cancel(cancel)) => {
                let ids = cancel.call_ids.iter().enumerate();
                let ids = ids.map(|(index, id)| call_id(id, &format!("cancel.call_ids[{index}]")));
                Ok(trajectory::Request::Cancel(ids.collect::<Result<_, _>>()?))
            }
            Some(Message::Input(input)) => Ok(trajectory::Request::Input {
                call: call_id(&input.call_id, "input.call_id")?,
                data: input.data,
                end_of_file: input.end_of_file,
            }),
            Some(Message::Reset(reset)) => Ok(trajectory::Request::Reset(Generation(reset.generation))),
            Some(Message::Release(release)) => {
                Ok(trajectory::Request::Release { keep_workspace: release.keep_workspace })
            }
        }
    }

    /// `unnamed`: the call may have no id; then it is a new call, whatever it does.
    pub(super) fn call(&self, call: pb::Call, field: &str, unnamed: bool) -> Result<trajectory::Call, Violation> {
        let id = match call.call_id.as_str() {
            "" if unnamed => CallId::random(),
            id => call_id(id, &format!("{field}.call_id"))?,
        };
        let timeout = duration(call.timeout, &format!("{field}.timeout"))?;
        let (tool, work, own_timeout) = match call.action {
            None => return Err(Violation::new(format!("{field}.action"), "must be a tool or a command")),
            Some(pb::call::Action::Tool(tool)) => self.tool(tool),
            Some(pb::call::Action::Command(sent)) => {
                (ToolLabel::Command, command(sent, &format!("{field}.command"))?, None)
            }
        };
        Ok(trajectory::Call {
            id,
            tool,
            work,
            timeout: timeout.or(own_timeout),
            stream_output: call.stream_output,
            concurrent: call.concurrent,
        })
    }

    /// What the model asked for, and its own timeout.
    pub(super) fn tool(&self, tool: pb::ToolCall) -> (ToolLabel, Result<Work, Unfit>, Option<Duration>) {
        let arguments = match tool.arguments {
            None => Arguments::Struct(serde_json::Map::new()),
            Some(pb::tool_call::Arguments::ArgumentsJson(text)) => Arguments::Json(text),
            Some(pb::tool_call::Arguments::ArgumentsStruct(fields)) => Arguments::Struct(super::json::object(fields)),
        };
        let registry = self.registry();
        let label = registry.label(&tool.name);
        match registry.parse(&tool.name, arguments) {
            Ok(ParsedTool { task, timeout, action }) => (label, Ok(Work { action, task }), timeout),
            Err(rejection) => (label, Err(Unfit { rejection, chooser: Chooser::Model }), None),
        }
    }
}

/// What the trainer itself runs.
fn command(sent: pb::Command, field: &str) -> Result<Result<Work, Unfit>, Violation> {
    let program = sent.program.map(|program| match program {
        pb::command::Program::Shell(script) => Program::Shell(script),
        pb::command::Program::Argv(argv) => Program::Argv(argv.arguments),
    });
    let parsed = Command {
        program,
        working_directory: sent.working_directory,
        environment: sent.environment.into_iter().collect(),
        stdin: sent.stdin,
        interactive: sent.interactive,
    }
    .parse();
    match parsed {
        Ok((process, action)) => {
            let task = Task::Slot { job: Job::Process(process), kind: Kind::Command };
            Ok(Ok(Work { action, task }))
        }
        Err(CommandError::Rejected(rejection)) => Ok(Err(Unfit { rejection, chooser: Chooser::Client })),
        Err(CommandError::Malformed(errors)) => Err(match errors.into_iter().next() {
            Some(error) => Violation::new(format!("{field}.{}", error.field), error.description),
            None => Violation::new(field, "is malformed"),
        }),
    }
}

pub(super) fn trajectory_id(text: &str, field: &str) -> Result<TrajectoryId, Violation> {
    TrajectoryId::parse(text).map_err(|error| Violation::new(field, error.to_string()))
}

fn call_id(text: &str, field: &str) -> Result<CallId, Violation> {
    CallId::parse(text).map_err(|error| Violation::new(field, error.to_string()))
}

/// A well-formed duration that is not negative.
fn duration(duration: Option<prost_types::Duration>, field: &str) -> Result<Option<Duration>, Violation> {
    duration
        .map(|duration| {
            pb_duration(duration).ok_or_else(|| Violation::new(field, "must be a duration that is not negative"))
        })
        .transpose()
}
