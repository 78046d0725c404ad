//! Every setting: its name, what it is called in the environment, and its default with the reason for it.

/// A setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    /// In the file and for `--set`; a dot is a table.
    pub(super) path: &'static str,
    /// As a person writes it; none where it depends on the machine, or unset has a meaning of its own.
    pub(super) default: Option<&'static str>,
    /// Another name of the environment, for a plain number.
    pub(super) number: Option<Number>,
    pub(super) secret: bool,
}

/// The old system's names for durations end in their unit and have plain numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    /// `_S`, with a fraction if need be.
    Seconds,
    /// `_MS`.
    Milliseconds,
}

/// Begins every name of the environment that is ours.
pub(super) const PREFIX: &str = "TOOL_EXECUTOR_";

impl Key {
    const fn new(path: &'static str, default: &'static str) -> Self {
        Self { path, default: Some(default), number: None, secret: false }
    }

    const fn unset(path: &'static str) -> Self {
        Self { path, default: None, number: None, secret: false }
    }

    const fn secret(path: &'static str) -> Self {
        Self { secret: true, ..Self::unset(path) }
    }

    const fn or(self, number: Number) -> Self {
        Self { number: Some(number), ..self }
    }

    /// Its name in the environment.
    pub(super) fn variable(&self) -> String {
        // The one name that people know from other programs: `RUST_LOG` has the same value.
        let path = if self.path == "log.filter" { "log" } else { self.path };
        format!("{PREFIX}{}", path.replace('.', "_").to_uppercase())
    }

    /// Its other name in the environment, for a plain number.
    pub(super) fn number_variable(&self) -> Option<String> {
        self.number.map(|number| {
            let unit = match number {
                Number::Seconds => "S",
                Number::Milliseconds => "MS",
            };
            format!("{}_{unit}", self.variable())
        })
    }
}

/// Read instead of `TOOL_EXECUTOR_LOG` where that is not set.
pub(super) const RUST_LOG: &str = "RUST_LOG";

/// In the order in which they are shown.
pub(super) const KEYS: &[Key] = &[
    // The old system's port; beyond loopback only on purpose.
    Key::new("listen", "127.0.0.1:9001"),
    Key::new("insecure_listen", "false"),
    Key::secret("token"),
    // /var/lib/tool-executor for root, else below XDG_STATE_HOME or the home.
    Key::unset("state_dir"),
    // The machine's name.
    Key::unset("executor_id"),
    //
    // Containers and slots. Numbers are the old system's where it had them.
    Key::new("slots", "10"),
    Key::new("min_containers", "1"),
    Key::new("max_containers", "10"),
    Key::new("acquire_timeout", "30s").or(Number::Seconds),
    // Loading an image on a busy node can take minutes; a local process takes milliseconds.
    Key::new("start_timeout", "5min"),
    // Longer than the pause between two steps of a training run.
    Key::new("scale_down_after", "5min"),
    // Starting is work for the machine: a few at a time are up sooner than all at once.
    Key::new("max_starting", "4"),
    Key::new("spread", "false"),
    // A trajectory that waits costs about a kilobyte.
    Key::new("max_waiting_trajectories", "100000"),
    //
    // The link to a container. The old system held every call for its window, so that others could go with it. Here a
    // call goes as soon as the connection takes it, with whatever else waits then; the name is taken, and never waited.
    Key::new("batch_window", "20ms").or(Number::Milliseconds),
    Key::new("max_batch_size", "200"),
    // A silent link is retried for so long before its container is given up.
    Key::new("agent_grace", "10s"),
    // An agent whose executor does not come back ends itself then, and frees what it holds.
    Key::new("orphan_timeout", "5min"),
    //
    // Calls. Both are the old system's, but for the maximum, which was 600 s and did not work beyond 30.
    Key::new("default_timeout", "30s").or(Number::Seconds),
    Key::new("max_timeout", "1h").or(Number::Seconds),
    // Longer than a trainer's restart, shorter than a lost afternoon.
    Key::new("lease", "10min"),
    // Within the 30 s that Kubernetes and systemd leave before they kill.
    Key::new("drain_timeout", "25s"),
    //
    // Slots. Unset: on with a token, off without one.
    Key::unset("allow_network"),
    // Above the ids that distributions give to people and services.
    Key::new("uid_base", "70000"),
    Key::new("sandbox.read_only", ""),
    // Memory: it comes from the machine's.
    Key::new("sandbox.tmp_size", "512MiB"),
    Key::new("sandbox.max_open_files", "65536"),
    // Room for a parallel build, and an end to a fork bomb.
    Key::new("sandbox.max_processes", "4096"),
    //
    // Tools: names of toolsets.
    Key::new("tools.enabled", "full"),
    Key::new("tools.disabled", ""),
    //
    // Bounds of a trajectory.
    Key::new("max_calls_in_flight", "1000"),
    Key::new("max_concurrent_calls", "16"),
    Key::new("max_kept_results", "1000"),
    Key::new("max_kept_result_bytes", "16MiB"),
    Key::new("max_call_ids", "100000"),
    // A result has two such streams and stays below what a gRPC client takes (4 MiB).
    Key::new("max_output_bytes", "1MiB"),
    Key::new("max_pending_input_bytes", "1MiB"),
    // Bounds of the service.
    Key::new("max_trajectories", "100000"),
    Key::new("max_total_calls_in_flight", "200000"),
    Key::new("max_total_result_bytes", "512MiB"),
    // Above the largest batch that makes sense, and above the 4 MiB that clients send without being told to.
    Key::new("max_request_bytes", "16MiB"),
    //
    // A client that is silently gone is noticed after interval and timeout together.
    Key::new("keepalive.interval", "30s"),
    Key::new("keepalive.timeout", "20s"),
    //
    Key::new("log.format", "text"),
    Key::new("log.filter", "info"),
    //
    // The Nomad backend's.
    Key::unset("nomad_address"),
    Key::new("job_id", "atropos-sandbox-tool-executor"),
    Key::new("image", "atropos-sandbox:local"),
    Key::new("privileged", "false"),
    Key::new("purge_job_on_start", "false"),
    Key::new("purge_job_on_shutdown", "true"),
    //
    // The ToolServer of external tools.
    Key::unset("tool_server_url"),
    Key::secret("tool_server_token"),
];

/// The setting of that name.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The name among these that is most like it, if one is like it at all.
pub(super) fn nearest(name: &str, names: impl Iterator<Item = String>) -> Option<String> {
    names
        .map(|known| (strsim::damerau_levenshtein(name, &known), known))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, known)| *distance <= 2.max(known.len() / 4))
        .map(|(_, known)| known)
}
