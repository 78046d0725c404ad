//! What the rooms of the program are given: typed, in range, plain.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use super::{
    AccessSettings, ConnectionSettings, Machine, NomadSettings, PoolSettings, SandboxSettings, access, connections,
    convert,
    mcp::{self, McpServerSettings},
    nomad, pools,
    reader::Reader,
    sandbox,
    traces::{self, TraceSettings},
};
use crate::{journal::Durability, tool::MAX_CAPTURED_BYTES};

/// All settings of a start. Durations and sizes are within bounds, and nothing contradicts anything else.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the one port listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Listening beyond loopback without a token is meant.
    pub insecure_listen: bool,
    /// The bearer token that callers must have, if any.
    pub token: Option<Secret>,
    pub access: AccessSettings,
    /// Absolute. Holds sockets, workspaces and what a restart needs.
    pub state_dir: PathBuf,
    /// Tells this executor's containers from another's.
    pub executor_id: String,
    /// That carry calls to and fro.
    pub worker_threads: usize,
    /// The default one, which has no name, comes first.
    pub pools: Vec<PoolSettings>,
    pub link: LinkSettings,
    pub calls: CallSettings,
    /// What the records of trajectories outlive.
    pub journal: Durability,
    pub on_shutdown: OnShutdown,
    pub sandbox: SandboxSettings,
    pub tools: ToolSettings,
    pub limits: LimitSettings,
    pub connections: ConnectionSettings,
    pub log: LogSettings,
    /// Where spans are sent, if anywhere.
    pub traces: Option<TraceSettings>,
    /// Where containers run if not on this machine.
    pub nomad: Option<NomadSettings>,
    /// What agents are opened with is made from it.
    pub secret: Option<Secret>,
    /// Where others reach this executor, if that is not where it listens: an address with its scheme.
    pub advertise: Option<String>,
    /// The program that agents are, if it is not this one.
    pub agent_binary: Option<PathBuf>,
    pub tool_server: ToolServerSettings,
}

/// What becomes of containers when the executor is told to end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnShutdown {
    /// They end, after what was accepted or at the end of the drain's time.
    #[default]
    End,
    /// They are left as they are, with what runs in them, for the executor after this one.
    HandOver,
}

/// Of the link between executor and agent.
#[derive(Debug, Clone)]
pub struct LinkSettings {
    /// Of the old system, and taken so that its settings stay valid: nothing waits for it.
    pub batch_window: Duration,
    pub max_batch_size: usize,
    /// How long a silent link is retried before its container is lost.
    pub agent_grace: Duration,
    /// How long an agent without an executor waits before it ends itself.
    pub orphan_timeout: Duration,
}

/// Of calls and trajectories.
#[derive(Debug, Clone)]
pub struct CallSettings {
    /// Execution timeout of calls that give none.
    pub default_timeout: Duration,
    pub max_timeout: Duration,
    /// How long a trajectory lives with no stream attached and no call running or waiting.
    pub lease: Duration,
    /// How long accepted calls may go on once the service ends.
    pub drain_timeout: Duration,
}

/// Names of toolsets.
#[derive(Debug, Clone)]
pub struct ToolSettings {
    pub enabled: Vec<String>,
    pub disabled: Vec<String>,
}

/// Bounds: of each trajectory unless the name says otherwise.
#[derive(Debug, Clone)]
pub struct LimitSettings {
    pub max_calls_in_flight: usize,
    /// Of those, calls marked `concurrent` that run at once; and, beside them, calls of tools that run elsewhere.
    pub max_concurrent_calls: usize,
    /// Of what these calls carry.
    pub max_call_bytes_in_flight: u64,
    pub max_kept_results: usize,
    pub max_kept_result_bytes: u64,
    pub max_call_ids: u64,
    /// Of each captured stream.
    pub max_output_bytes: u32,
    /// Of input that a process has not read.
    pub max_pending_input_bytes: u32,
    /// Of the service.
    pub max_trajectories: usize,
    /// Of the service.
    pub max_total_calls_in_flight: usize,
    /// Of the service.
    pub max_total_call_bytes_in_flight: u64,
    /// Of the service.
    pub max_total_result_bytes: u64,
    /// Of one message.
    pub max_request_bytes: u32,
    /// For the body of an HTTP request, from its first byte to its last.
    pub http_body_timeout: Duration,
}

#[derive(Debug, Clone)]
pub struct LogSettings {
    pub format: LogFormat,
    /// As `RUST_LOG` has it.
    pub filter: String,
    /// Of a call's arguments, and of its output; 0 is never.
    pub payload_bytes: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Of external tools.
#[derive(Debug, Clone)]
pub struct ToolServerSettings {
    /// With its scheme.
    pub url: Option<String>,
    pub token: Option<Secret>,
    /// Others that have tools, each of a name of its own.
    pub mcp: Vec<McpServerSettings>,
    /// How often each is asked what tools it has.
    pub refresh: Duration,
    /// Calls that run at once, in all.
    pub max_calls: usize,
    /// Calls that run at once at one server.
    pub max_calls_per_source: usize,
    /// Of one answer.
    pub max_answer_bytes: usize,
    /// Whom to trust beside those whom the machine trusts.
    pub ca_cert: Option<PathBuf>,
}

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// For whoever must send or compare it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// Reads all settings, each on its own. Whether they go together is for [`super::rules`].
pub(super) fn build(r: &mut Reader<'_>, machine: &Machine) -> Settings {
    let connections = connections::build(r);
    Settings {
        listen: r.optional("listen", convert::address).unwrap_or((Ipv4Addr::LOCALHOST, 0).into()),
        insecure_listen: r.value("insecure_listen", convert::boolean),
        token: r.optional("token", secret),
        access: access::build(r, &connections),
        state_dir: state_dir(r, machine),
        executor_id: r.optional("executor_id", name).unwrap_or_else(|| host_name(machine)),
        worker_threads: r.optional("worker_threads", worker_threads).unwrap_or_else(|| (machine.processors / 2).max(1)),
        pools: vec![pools::build(r, "")],
        link: LinkSettings {
            batch_window: duration(r, "batch_window", ZERO..=SECOND),
            max_batch_size: number(r, "max_batch_size", 1..=10_000),
            agent_grace: duration(r, "agent_grace", SECOND..=HOUR),
            orphan_timeout: duration(r, "orphan_timeout", SECOND..=DAY),
        },
        calls: CallSettings {
            default_timeout: duration(r, "default_timeout", SECOND..=DAY),
            max_timeout: duration(r, "max_timeout", SECOND..=WEEK),
            lease: duration(r, "lease", SECOND..=WEEK),
            drain_timeout: duration(r, "drain_timeout", ZERO..=DAY),
        },
        journal: r.value("journal", durability),
        on_shutdown: r.value("on_shutdown", on_shutdown),
        sandbox: sandbox::build(r),
        tools: ToolSettings {
            enabled: r.value("enabled_toolsets", convert::list),
            disabled: r.value("disabled_toolsets", convert::list),
        },
        limits: limits(r),
        connections,
        log: log(r),
        traces: traces::build(r),
        nomad: nomad::build(r),
        secret: r.optional("secret", secret),
        advertise: r.optional("advertise", url),
        agent_binary: r.optional("agent_binary", convert::absolute_path),
        tool_server: ToolServerSettings {
            url: r.optional("tool_server_url", url),
            token: r.optional("tool_server_token", secret),
            mcp: mcp::build(r),
            refresh: duration(r, "tool_server_refresh", SECOND..=DAY),
            max_calls: number(r, "max_external_calls", 1..=100_000),
            max_calls_per_source: number(r, "max_external_calls_per_source", 1..=100_000),
            max_answer_bytes: size(r, "max_external_answer_bytes", 1024..=256 * MIB),
            ca_cert: r.optional("external_ca_cert", convert::path),
        },
    }
}

fn log(r: &mut Reader<'_>) -> LogSettings {
    LogSettings {
        format: r.value("log.format", log_format),
        filter: r.value("log.filter", convert::string),
        payload_bytes: size(r, "log.payloads", 0..=MIB),
    }
}

fn limits(r: &mut Reader<'_>) -> LimitSettings {
    LimitSettings {
        max_calls_in_flight: number(r, "max_calls_in_flight", 1..=1_000_000),
        max_concurrent_calls: number(r, "max_concurrent_calls", 1..=1_000),
        max_call_bytes_in_flight: size(r, "max_call_bytes_in_flight", MIB..=1 << 40),
        max_kept_results: number(r, "max_kept_results", 1..=1_000_000),
        // Room for one result at least, whatever its size.
        max_kept_result_bytes: size(r, "max_kept_result_bytes", 4 * MIB..=1 << 40),
        max_call_ids: number(r, "max_call_ids", 1..=100_000_000),
        max_output_bytes: size(r, "max_output_bytes", 1..=MAX_CAPTURED_BYTES as u64),
        max_pending_input_bytes: size(r, "max_pending_input_bytes", 1..=256 * MIB),
        max_trajectories: number(r, "max_trajectories", 1..=10_000_000),
        max_total_calls_in_flight: number(r, "max_total_calls_in_flight", 1..=100_000_000),
        max_total_call_bytes_in_flight: size(r, "max_total_call_bytes_in_flight", MIB..=1 << 44),
        max_total_result_bytes: size(r, "max_total_result_bytes", 4 * MIB..=1 << 44),
        // Room for the longest content of a file in the worst JSON; below what protobuf can frame.
        max_request_bytes: size(r, "max_request_bytes", MIB..=1 << 30),
        http_body_timeout: duration(r, "http_body_timeout", SECOND..=HOUR),
    }
}

pub(super) const ZERO: Duration = Duration::ZERO;
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3_600);
pub(super) const WEEK: Duration = Duration::from_secs(7 * 24 * 3_600);
pub(super) const MIB: u64 = 1 << 20;

pub(super) fn number<T: Default + TryFrom<u64>>(
    r: &mut Reader<'_>,
    path: &'static str,
    range: RangeInclusive<u64>,
) -> T {
    r.within(path, convert::number, range, u64::to_string)
}

pub(super) fn size<T: Default + TryFrom<u64>>(r: &mut Reader<'_>, path: &'static str, range: RangeInclusive<u64>) -> T {
    r.within(path, convert::size, range, |bytes| match bytes {
        bytes if *bytes >= MIB && bytes % MIB == 0 => format!("{} MiB", bytes / MIB),
        bytes => format!("{bytes} bytes"),
    })
}

pub(super) fn duration(r: &mut Reader<'_>, path: &'static str, range: RangeInclusive<Duration>) -> Duration {
    r.within(path, convert::duration, range, |duration| {
        humantime_serde::re::humantime::format_duration(*duration).to_string()
    })
}

/// Told without the text.
pub(super) fn secret(written: convert::Written<'_>) -> Result<Secret, String> {
    let text = convert::string(written)?;
    if text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(Secret::new(&text))
    } else {
        Err("must have visible ASCII characters only: it is sent in a header".to_owned())
    }
}

/// A name that can stand in a path, a header and a Nomad meta value.
pub(super) fn name(written: convert::Written<'_>) -> Result<String, String> {
    let text = convert::string(written)?;
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if plain && (1..=128).contains(&text.len()) {
        Ok(text)
    } else {
        Err(format!("must be 1 to 128 characters of [A-Za-z0-9._-], and is {text:?}"))
    }
}

pub(super) fn url(written: convert::Written<'_>) -> Result<String, String> {
    let text = convert::string(written)?;
    match text.split_once("://") {
        Some(("http" | "https", rest)) if !rest.is_empty() => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err(format!("must be an address such as http://executor:9001, and is {text:?}")),
    }
}

fn worker_threads(written: convert::Written<'_>) -> Result<usize, String> {
    match convert::number(written)? {
        threads @ 1..=1_024 => Ok(threads as usize),
        other => Err(format!("must be between 1 and 1024, and is {other}")),
    }
}

fn log_format(written: convert::Written<'_>) -> Result<LogFormat, String> {
    match convert::string(written)?.as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => Err(format!("must be text or json, and is {other:?}")),
    }
}

fn durability(written: convert::Written<'_>) -> Result<Durability, String> {
    match convert::string(written)?.as_str() {
        "memory" => Ok(Durability::Memory),
        "file" => Ok(Durability::File),
        "synced" => Ok(Durability::Synced),
        other => Err(format!("must be memory, file or synced, and is {other:?}")),
    }
}

fn on_shutdown(written: convert::Written<'_>) -> Result<OnShutdown, String> {
    match convert::string(written)?.as_str() {
        "end" => Ok(OnShutdown::End),
        "hand_over" => Ok(OnShutdown::HandOver),
        other => Err(format!("must be end or hand_over, and is {other:?}")),
    }
}

fn host_name(machine: &Machine) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = machine.host_name.chars().take(128).map(plain).collect();
    if name.is_empty() { "executor".to_owned() } else { name }
}

fn state_dir(r: &mut Reader<'_>, machine: &Machine) -> PathBuf {
    if let Some(path) = r.optional("state_dir", convert::string) {
        return machine.working_directory.join(path);
    }
    let user = || machine.xdg_state_home.clone().or_else(|| Some(machine.home.as_ref()?.join(".local/state")));
    if machine.root {
        return "/var/lib/tool-executor".into();
    }
    match user() {
        Some(base) => machine.working_directory.join(base).join("tool-executor"),
        None => {
            r.tell(&["state_dir"], "must be set where there is no HOME");
            PathBuf::new()
        }
    }
}
