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
    /// What other programs call it in the environment: read where our own name is not set.
    pub(super) elsewhere: Option<&'static str>,
    /// A pool may have its own.
    pub(super) of_pools: bool,
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
        Self { default: Some(default), ..Self::unset(path) }
    }

    const fn unset(path: &'static str) -> Self {
        Self { path, default: None, number: None, secret: false, elsewhere: None, of_pools: false }
    }

    const fn secret(path: &'static str) -> Self {
        Self { secret: true, ..Self::unset(path) }
    }

    const fn or(self, number: Number) -> Self {
        Self { number: Some(number), ..self }
    }

    const fn known_as(self, elsewhere: &'static str) -> Self {
        Self { elsewhere: Some(elsewhere), ..self }
    }

    const fn of_pools(self) -> Self {
        Self { of_pools: true, ..self }
    }

    /// Its name in the environment.
    pub(super) fn variable(&self) -> String {
        // As short as `RUST_LOG`.
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

/// In the order in which they are shown.
pub(super) const KEYS: &[Key] = &[
    // The old system's port; beyond loopback only on purpose.
    Key::new("listen", "127.0.0.1:9001"),
    Key::new("insecure_listen", "false"),
    Key::secret("token"),
    // A table for each tenant.
    Key::unset("tokens_file"),
    // Unset: health and status, as in the old system; health alone where there are tenants.
    Key::unset("open_endpoints"),
    // /var/lib/tool-executor for root, else below XDG_STATE_HOME or the home.
    Key::unset("state_dir"),
    // The machine's name.
    Key::unset("executor_id"),
    // Of the executor itself. Unset: half as many as there are processors; the others are for what it runs, and each that
    // is awake for nothing costs every call a wake-up.
    Key::unset("worker_threads"),
    //
    // Containers and slots. Numbers are the old system's where it had them.
    Key::new("slots", "10").of_pools(),
    Key::new("min_containers", "1").of_pools(),
    Key::new("max_containers", "10").of_pools(),
    Key::new("acquire_timeout", "30s").or(Number::Seconds).of_pools(),
    // Loading an image on a busy node can take minutes; a local process takes milliseconds.
    Key::new("start_timeout", "5min").of_pools(),
    // Longer than the pause between two steps of a training run.
    Key::new("scale_down_after", "5min").of_pools(),
    // Starting is work for the machine: a few at a time are up sooner than all at once.
    Key::new("max_starting", "4").of_pools(),
    Key::new("spread", "false").of_pools(),
    // A trajectory that waits costs about a kilobyte.
    Key::new("max_waiting_trajectories", "100000").of_pools(),
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
    // What a restart finds. On file they outlive this process, and to the machine's end its last seconds go; synced,
    // every call waits for the disk.
    Key::new("journal", "file"),
    // Containers end with the executor; or they, and what runs in them, are left for the next one.
    Key::new("on_shutdown", "end"),
    //
    // Slots. Unset: on with a token, off without one.
    Key::unset("allow_network"),
    // Above the ids that distributions give to people and services.
    Key::new("uid_base", "70000"),
    // Below it calls share the machine's network and file system, and one mechanism of the kernel keeps them apart.
    Key::new("isolation_minimum", "L1b"),
    Key::new("sandbox.read_only", ""),
    // Memory: it comes from the machine's.
    Key::new("sandbox.tmp_size", "512MiB"),
    Key::new("sandbox.max_open_files", "65536"),
    // Room for a parallel build, and an end to a fork bomb.
    Key::new("sandbox.max_processes", "4096"),
    // Of a slot: room for a build or a model's data, and an end to a hog before the machine's own memory is at one.
    Key::new("sandbox.memory", "4GiB"),
    // All slots of a container together weigh as much as one ordinary process: the executor and its agents stay quick.
    Key::new("sandbox.cpu_weight", "100"),
    // 0: none. A call has its timeout, and a parallel build does no wrong.
    Key::new("sandbox.cpu_time", "0s"),
    // Of one file. Unset: a workspace's size.
    Key::unset("sandbox.max_file_size"),
    // disk, or tmpfs: in memory.
    Key::new("sandbox.workspace", "disk"),
    // Room for a large repository with what is built of it; 0: no limit, as of the next.
    Key::new("sandbox.workspace_size", "8GiB"),
    // The same repository with its packages, a few times over.
    Key::new("sandbox.workspace_inodes", "1000000"),
    // Off: as if there were none.
    Key::new("sandbox.cgroups", "true"),
    // Even an image on a slow network disk, on the busiest machine.
    Key::new("sandbox.shell_start_timeout", "30s"),
    // Each is a thread of the agent's and a few chunks of memory.
    Key::new("sandbox.max_transfers", "4"),
    // Above a large repository with its packages; what is taken in has to be looked through before any of it is there.
    Key::new("sandbox.max_archive_entries", "500000"),
    // Unpacked. Above what a workspace has by default, for those whose workspaces are larger.
    Key::new("sandbox.max_archive_size", "64GiB"),
    //
    // Tools: names of toolsets.
    Key::new("enabled_toolsets", "full"),
    Key::new("disabled_toolsets", ""),
    //
    // Bounds of a trajectory.
    // A batch of this many calls is taken.
    Key::new("max_calls_in_flight", "10000"),
    // Four messages of the greatest size.
    Key::new("max_call_bytes_in_flight", "64MiB"),
    Key::new("max_concurrent_calls", "16"),
    // Calls in flight are results to come.
    Key::new("max_kept_results", "10000"),
    Key::new("max_kept_result_bytes", "16MiB"),
    Key::new("max_call_ids", "100000"),
    // A result has two such streams and stays below what a gRPC client takes (4 MiB).
    Key::new("max_output_bytes", "1MiB"),
    Key::new("max_pending_input_bytes", "1MiB"),
    // Bounds of the service.
    Key::new("max_trajectories", "100000"),
    Key::new("max_total_calls_in_flight", "200000"),
    Key::new("max_total_call_bytes_in_flight", "1GiB"),
    Key::new("max_total_result_bytes", "512MiB"),
    // Above the largest batch that makes sense, and above the 4 MiB that clients send without being told to.
    Key::new("max_request_bytes", "16MiB"),
    // The largest that is read by default needs 280 KB/s.
    Key::new("http_body_timeout", "1min"),
    //
    // Connections of clients. Above what a trainer opens; each takes a descriptor.
    Key::new("max_connections", "10000"),
    // A trainer has its trajectories on few connections, or on one.
    Key::new("max_streams_per_connection", "10000"),
    // A handshake over the slowest line takes a second or two.
    Key::new("handshake_timeout", "10s"),
    // Also how long an HTTP/1.1 connection may wait for its next request: longer than clients keep one that they do not
    // use.
    Key::new("header_timeout", "30s"),
    // Files of PEM. Unset: everything is sent as it is.
    Key::unset("tls.certificate"),
    Key::unset("tls.key"),
    // Unset: clients show no certificates.
    Key::unset("tls.client_ca"),
    // Or nothing would keep those out who have none.
    Key::new("tls.client_auth", "required"),
    // A client that is silently gone is noticed after interval and timeout together.
    Key::new("keepalive.interval", "30s"),
    Key::new("keepalive.timeout", "20s"),
    //
    Key::new("log.format", "text"),
    Key::new("log.filter", "info").known_as("RUST_LOG"),
    // Nothing: what a model writes and what it is shown may hold anything.
    Key::new("log.payloads", "0"),
    // A collector's; unset: no spans are sent.
    Key::unset("traces.endpoint").known_as("OTEL_EXPORTER_OTLP_ENDPOINT"),
    // All: a span costs little, and whoever sets an endpoint wants to see something.
    Key::new("traces.ratio", "1"),
    //
    // What a slot sees of its container's image. A directory of the image of which each workspace is a copy.
    Key::unset("workspace_source").of_pools(),
    Key::new("root", "read-only").of_pools(),
    // All of the image, or a host's system directories. Unset: as it is one or the other.
    Key::unset("view").of_pools(),
    //
    // Nomad. Without an address, containers are processes of this machine. The other names are those of its own
    // command line.
    Key::unset("nomad.address").known_as("NOMAD_ADDR"),
    Key::secret("nomad.token").known_as("NOMAD_TOKEN"),
    Key::unset("nomad.namespace").known_as("NOMAD_NAMESPACE"),
    Key::unset("nomad.region").known_as("NOMAD_REGION"),
    Key::unset("nomad.ca_cert").known_as("NOMAD_CACERT"),
    Key::unset("nomad.ca_path").known_as("NOMAD_CAPATH"),
    Key::unset("nomad.client_cert").known_as("NOMAD_CLIENT_CERT"),
    Key::unset("nomad.client_key").known_as("NOMAD_CLIENT_KEY"),
    Key::unset("nomad.tls_server_name").known_as("NOMAD_TLS_SERVER_NAME"),
    Key::new("nomad.skip_verify", "false").known_as("NOMAD_SKIP_VERIFY"),
    Key::secret("nomad.http_auth").known_as("NOMAD_HTTP_AUTH"),
    // A busy server answers in milliseconds; one that has lost its leader says so after 5 s.
    Key::new("nomad.timeout", "10s"),
    // For a node with room. Longer than a burst of stops takes to be noticed, and short enough to tell a waiting trainer
    // why there is none.
    Key::new("nomad.placement_timeout", "10s"),
    // A node that is cut off may come back with its containers; by then their executor has given them up long ago.
    Key::new("nomad.lost_after", "24h"),
    // Where agents are reached from here, if not at the address that Nomad tells: HOST=HOST, ...
    Key::new("nomad.address_rewrite", ""),
    Key::new("job_id", "atropos-sandbox-tool-executor"),
    Key::new("purge_job_on_start", "false"),
    Key::new("purge_job_on_shutdown", "true"),
    // What agents are opened with is made from it; unset: made once and kept in the state directory.
    Key::secret("secret"),
    Key::new("agent_tls", "true"),
    // Where Nomad's clients reach this executor, for its program; unset: where it listens.
    Key::unset("advertise"),
    // The program that they are given: a static build, for images with another C library. Unset: this one.
    Key::unset("agent_binary"),
    //
    // Containers under Nomad. Numbers are the old system's.
    Key::new("image", "atropos-sandbox:local").of_pools(),
    Key::new("driver", "docker").of_pools(),
    Key::new("privileged", "false").of_pools(),
    // MHz.
    Key::new("cpu", "500").of_pools(),
    Key::new("memory", "512MiB").of_pools(),
    Key::unset("memory_max").of_pools(),
    Key::new("datacenters", "*").of_pools(),
    Key::unset("node_pool").of_pools(),
    // ATTRIBUTE OPERATOR VALUE, ...
    Key::new("constraints", "").of_pools(),
    Key::unset("network_mode").of_pools(),
    Key::new("driver_config", "").of_pools(),
    // How the agent's program comes into the container: downloaded from this executor, or there already, at a path of
    // the image or of the node.
    Key::new("agent", "artifact").of_pools(),
    Key::new("agent_path", "tool-executor").of_pools(),
    //
    // The ToolServer of external tools.
    Key::unset("tool_server_url"),
    Key::secret("tool_server_token"),
    // MCP servers: NAME=URL each; and the bearer tokens of those that want one, NAME=TOKEN each.
    Key::new("mcp_servers", ""),
    Key::secret("mcp_tokens"),
    // A list of tools is small, and a tool that is new is not missed for long.
    Key::new("tool_server_refresh", "30s"),
    // At once. Each takes a connection; what is more waits its turn.
    Key::new("max_external_calls", "256"),
    Key::new("max_external_calls_per_source", "128"),
    // Above what a result may have of it.
    Key::new("max_external_answer_bytes", "4MiB"),
    // Beside the machine's own: one server is behind a company's authority, and the next behind a public one.
    Key::unset("external_ca_cert"),
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
