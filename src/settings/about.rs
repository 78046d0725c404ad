//! What each setting is, for people: in groups, in the order in which they are shown.

/// A group of settings: its title, and each one's name with what it is.
pub(super) type Group = (&'static str, &'static [(&'static str, &'static str)]);

pub(super) const GROUPS: &[Group] = &[
    (
        "The service",
        &[
            (
                "listen",
                "Where to listen, for gRPC and HTTP; port 0 takes a free one. Beyond loopback it needs a token or mutual \
                 TLS",
            ),
            ("insecure_listen", "To listen beyond loopback without a token or mutual TLS is meant"),
            ("token", "The bearer token that callers must send"),
            ("tokens_file", "A file of tenants, each with tokens, labels and a quota of its own (docs/access.md)"),
            (
                "open_endpoints",
                "What needs no token: none, or some of health,status,reflection,metrics. Unset: health,status; health \
                 alone where there are tenants",
            ),
            ("state_dir", "Sockets, workspaces, and what a restart needs; one executor at a time"),
            ("executor_id", "Tells this executor's containers from another's; unset: the machine's name"),
            ("worker_threads", "Threads that carry calls to and fro; unset: half as many as there are processors"),
            ("drain_timeout", "How long accepted calls may go on after SIGTERM; a second signal ends at once"),
            (
                "on_shutdown",
                "What becomes of containers then: end, or hand_over to the next executor on the same state",
            ),
            (
                "journal",
                "What the records of trajectories outlive: nothing (memory), this process (file), or the machine (synced)",
            ),
            ("max_connections", "Connections of clients that may be open; more are closed at once"),
            ("max_streams_per_connection", "Requests and streams under way on each"),
            ("handshake_timeout", "How long a new connection may take to its first request, with a TLS handshake"),
            ("header_timeout", "How long an HTTP/1.1 request's head may take, and a connection be idle before it"),
            ("tls.certificate", "The certificate (PEM), with those up to its authority: TLS (docs/tls.md)"),
            ("tls.key", "And its key"),
            ("tls.client_ca", "The authorities (PEM) of clients' certificates: mutual TLS"),
            ("tls.client_auth", "Whether clients must show one: required; or optional, and those without need a token"),
            ("keepalive.interval", "A connection that is silent for so long is asked whether its client lives"),
            ("keepalive.timeout", "How long its answer may take"),
            ("log.format", "text or json"),
            ("log.filter", "As RUST_LOG has it: a level, or module=level, ..."),
            (
                "traces.endpoint",
                "A collector's address, for spans over OTLP (gRPC); of a program built with the feature otlp",
            ),
            ("traces.ratio", "How many trajectories are traced, of those whose callers have not decided: 0 to 1"),
        ],
    ),
    (
        "Containers and slots, of the default pool; others are tables [pools.NAME]",
        &[
            ("slots", "Slots of each container"),
            ("min_containers", "Containers that are always there"),
            ("max_containers", "Containers that there may be"),
            ("acquire_timeout", "How long a trajectory waits for a slot"),
            ("start_timeout", "How long a container may take until it is ready"),
            ("scale_down_after", "How long a container is idle before it is stopped"),
            ("max_starting", "Containers that start at a time"),
            ("spread", "Fill containers evenly, rather than one after the other"),
            ("max_waiting_trajectories", "Trajectories that may wait for a slot"),
            ("workspace_source", "A directory of the image of which each workspace begins as a copy"),
            ("root", "What a slot can do to the image that it sees: read-only, or overlay: write, for itself alone"),
            (
                "view",
                "What a slot sees: image, all of it; or host, system directories alone. Unset: as it is one or other",
            ),
        ],
    ),
    (
        "What slots are held to",
        &[
            (
                "allow_network",
                "Slots share the machine's network. On needs a token or mutual TLS; unset: on with one, off without",
            ),
            ("isolation_minimum", "The least isolation that is accepted: L0, L1, L1b, L2 or L2- (docs/isolation.md)"),
            ("uid_base", "The first of the user ids that slots have, where the executor is root"),
            ("sandbox.read_only", "Further directories of the machine that slots see, read-only: PATH,PATH"),
            ("sandbox.memory", "Of a slot; 0 is no limit"),
            ("sandbox.max_processes", "Of a slot"),
            ("sandbox.max_open_files", "Of each process"),
            ("sandbox.cpu_weight", "Of all slots of a container together; 100 is an ordinary process's"),
            ("sandbox.cpu_time", "Of a processor, by all processes of a call together; 0 is no limit"),
            ("sandbox.tmp_size", "Of a slot's /tmp and /dev/shm, which are in memory"),
            ("sandbox.workspace", "Where workspaces are: disk, or tmpfs, in memory with exact limits"),
            ("sandbox.workspace_size", "Of a workspace; 0 is no limit"),
            ("sandbox.workspace_inodes", "Files and directories of a workspace; 0 is no limit"),
            ("sandbox.max_file_size", "Of one file; unset: the workspace's"),
            ("sandbox.cgroups", "Use control groups where they can be had; false: as if there were none"),
            ("sandbox.max_transfers", "Transfers of files that run at once in a slot"),
            ("sandbox.max_archive_entries", "Files, directories and links of one archive, either way"),
            ("sandbox.max_archive_size", "What the files of one archive may come to when they are unpacked"),
        ],
    ),
    (
        "Calls and trajectories",
        &[
            ("default_timeout", "Of the execution of calls that give none"),
            ("max_timeout", "The longest that a call may ask for"),
            ("lease", "How long a trajectory lives with no stream attached and no call running or waiting"),
            ("enabled_toolsets", "Toolsets whose tools are offered: NAME,NAME"),
            ("disabled_toolsets", "Toolsets whose tools are not"),
            ("max_calls_in_flight", "Calls of a trajectory that run or wait"),
            ("max_concurrent_calls", "Calls of a trajectory that run beside its others"),
            ("max_call_bytes_in_flight", "What the calls of a trajectory that run or wait carry"),
            ("max_kept_results", "Results that are kept of a trajectory"),
            ("max_kept_result_bytes", "And their size"),
            ("max_call_ids", "Ids of calls that a trajectory may have used"),
            ("max_output_bytes", "Of each captured stream of a call"),
            ("max_pending_input_bytes", "Input of a call that its process has not read"),
            ("max_trajectories", "Trajectories that may be open"),
            ("max_total_calls_in_flight", "Calls that run or wait, of all trajectories"),
            ("max_total_call_bytes_in_flight", "And what they carry"),
            ("max_total_result_bytes", "Results that are kept of all trajectories"),
            ("max_request_bytes", "Of one message of a client"),
            ("http_body_timeout", "How long the body of an HTTP request may take to come"),
        ],
    ),
    (
        "Tools that run elsewhere",
        &[
            ("tool_server_url", "The ToolServer that has further tools"),
            ("tool_server_token", "The bearer token that it is sent"),
            ("mcp_servers", "MCP servers that have further tools: NAME=URL,NAME=URL"),
            ("mcp_tokens", "The bearer tokens that they are sent: NAME=TOKEN,NAME=TOKEN"),
            ("tool_server_refresh", "How often servers are asked which tools they have"),
            ("max_external_calls", "Calls of such tools that run at a time"),
            ("max_external_calls_per_source", "And at one server"),
            ("max_external_answer_bytes", "Of one answer"),
            ("external_ca_cert", "A file of certificates (PEM) to trust of servers with https, beside the machine's"),
        ],
    ),
    (
        "The link to containers",
        &[
            ("batch_window", "Of the old system, and taken so that its settings stay valid: nothing waits for it"),
            ("max_batch_size", "Calls that go to a container together, at most"),
            ("agent_grace", "How long a silent link is retried before its container is lost"),
            ("orphan_timeout", "How long an agent without an executor waits before it ends itself"),
        ],
    ),
    (
        "A Nomad cluster, for containers (docs/nomad.md)",
        &[
            ("nomad.address", "Its API; unset: containers are processes of this machine"),
            ("nomad.token", "The ACL token"),
            ("nomad.namespace", "The namespace of the containers' job"),
            ("nomad.region", "The region of the containers' job"),
            ("nomad.ca_cert", "A file of certificates (PEM) to trust"),
            ("nomad.ca_path", "A directory of such files"),
            ("nomad.client_cert", "This client's certificate (PEM)"),
            ("nomad.client_key", "And its key"),
            ("nomad.tls_server_name", "The name in the server's certificate, if it is not the address's"),
            ("nomad.skip_verify", "Trust any certificate"),
            ("nomad.http_auth", "USER:PASSWORD for HTTP"),
            ("nomad.timeout", "Of one request"),
            ("nomad.placement_timeout", "How long a container may wait for a node that has room"),
            ("nomad.lost_after", "How long a node that is cut off may come back with its containers"),
            (
                "nomad.address_rewrite",
                "Where agents are reached from here, if not where Nomad says: HOST=HOST,HOST=HOST",
            ),
            ("job_id", "The id of the containers' job"),
            ("purge_job_on_start", "Remove the job, and its containers, before anything is started"),
            ("purge_job_on_shutdown", "Remove the job when the executor ends"),
            (
                "secret",
                "What agents are opened with is made from it; unset: made once, and kept in the state directory",
            ),
            ("agent_tls", "Encrypt the link to agents"),
            ("advertise", "Where Nomad's nodes reach this executor; unset: where it listens"),
            ("agent_binary", "The program that agents are: a static build, for any image. Unset: this one"),
        ],
    ),
    (
        "Containers under Nomad, of the default pool",
        &[
            ("image", "Of the docker driver"),
            ("driver", "docker, raw_exec, exec, or singularity"),
            ("privileged", "Run containers privileged"),
            ("cpu", "MHz"),
            ("memory", "That a container is given"),
            ("memory_max", "That it may use where the node has it to spare"),
            ("datacenters", "NAME,NAME"),
            ("node_pool", "The node pool"),
            ("constraints", "ATTRIBUTE OPERATOR VALUE,..."),
            ("network_mode", "Of the docker driver"),
            ("driver_config", "Laid over what the executor tells the driver: a table"),
            ("agent", "How the agent comes into the container: artifact, downloaded from here; or present"),
            ("agent_path", "Where it is, if it is present"),
        ],
    ),
];

/// What the setting of this name is.
#[cfg(test)]
pub(super) fn about(path: &str) -> Option<&'static str> {
    GROUPS.iter().flat_map(|(_, settings)| *settings).find(|(name, _)| *name == path).map(|(_, about)| *about)
}
