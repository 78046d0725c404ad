//! Hands each room of the program its own part of the settings.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::descriptors;
use crate::{
    backend::{LocalConfig, NomadConfig, NomadPool, Program},
    edge::{ConnectionLimits, Keepalive, PublicLimits, Tls, TlsError, TlsFiles},
    external,
    id::PoolName,
    sandbox::{
        agent::{self, Profile},
        client::Token,
        slot::{self, Enforcement, Isolation, SlotConfig, Storage, Unavailable, View},
    },
    scheduler::PoolConfig,
    settings::{ClientAuth, PoolSettings, SandboxSettings, Secret, Settings, TOOL_SERVER},
    tool::{job::OutputLimits, limit::SlotLimit},
    trajectory::{Defaults, Limits},
};

/// How long a client that found no room should wait: calls end all the time.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Whether slots like those of every pool can be made, and how well isolated the worst of them is.
pub(super) async fn probe(settings: &Settings, state: &Path) -> Result<Isolation, Unavailable> {
    let mut worst = Isolation::L0;
    for pool in &settings.pools {
        let probed = slot::probe(&probe_config(settings, pool, state), settings.sandbox.isolation_minimum).await;
        // What cannot be removed is in nobody's way: the next probe is given the same place.
        let _ = std::fs::remove_dir_all(state.join("probe"));
        worst = worst.max(probed?);
    }
    Ok(worst)
}

/// What holds slots to their limits here, by trial: it is the same for all pools.
pub(super) async fn probe_limits(settings: &Settings, isolation: Isolation, state: &Path) -> Vec<SlotLimit> {
    let Some(pool) = settings.pools.first() else { return Vec::new() };
    let config = SlotConfig { isolation, ..probe_config(settings, pool, state) };
    let limits = Enforcement::try_out(&format!("probe-{}", std::process::id()), &config).await.describe(&config);
    let _ = std::fs::remove_dir_all(state.join("probe"));
    limits
}

fn probe_config(settings: &Settings, pool: &PoolSettings, state: &Path) -> SlotConfig {
    let profile = profile(settings, pool);
    SlotConfig {
        host_id: host_id(settings),
        network: profile.network,
        view: profile.view,
        read_only: profile.read_only,
        hidden: profile.hidden,
        workspace_source: profile.workspace_source,
        writable_root: profile.writable_root,
        tmp_bytes: profile.tmp_bytes,
        max_open_files: profile.max_open_files,
        max_processes: profile.max_processes,
        limits: profile.limits,
        ..SlotConfig::new(state.join("probe/slot"))
    }
}

/// The user ids of slots are the machine's to give where this is its root, and their own user's otherwise.
fn host_id(settings: &Settings) -> Option<u32> {
    let base = settings.sandbox.uid_base;
    slot::can_assign_ids(base..base.saturating_add(1)).then_some(base)
}

pub(super) fn local_config(settings: &Settings, directory: PathBuf) -> LocalConfig {
    LocalConfig {
        directory,
        program: "/proc/self/exe".into(),
        uid_base: settings.sandbox.uid_base,
        pools: settings.pools.iter().map(|pool| (PoolName::new(&pool.name), profile(settings, pool))).collect(),
        log: settings.log.filter.clone(),
    }
}

/// Where tools are that are not a slot's.
pub(super) fn external_config(settings: &Settings) -> external::Config {
    let server = &settings.tool_server;
    let source = |protocol, name: &str, url: &str, token: Option<&Secret>| external::SourceConfig {
        protocol,
        name: name.into(),
        url: url.to_owned(),
        token: token.map(|token| external::Token::new(token.reveal())),
        max_calls: server.max_calls_per_source,
        max_answer_bytes: server.max_answer_bytes,
        ca_cert: server.ca_cert.clone(),
    };
    let tool_server =
        server.url.iter().map(|url| source(external::Protocol::ToolServer, TOOL_SERVER, url, server.token.as_ref()));
    let mcp = server
        .mcp
        .iter()
        .map(|server| source(external::Protocol::Mcp, &server.name, &server.url, server.token.as_ref()));
    external::Config { sources: tool_server.chain(mcp).collect(), max_calls: server.max_calls, refresh: server.refresh }
}

/// What the Nomad backend is told; none where containers are here. `secret` and `program` are what the settings do not
/// give.
pub(super) fn nomad_config(settings: &Settings, secret: &str, program: Option<Program>) -> Option<NomadConfig> {
    let nomad = settings.nomad.as_ref()?;
    let pool = |pool: &PoolSettings| NomadPool {
        name: PoolName::new(&pool.name),
        min_containers: pool.min_containers,
        container: pool.container.clone(),
        profile: profile(settings, pool),
    };
    Some(NomadConfig {
        client: nomad.client.clone(),
        executor_id: settings.executor_id.clone(),
        job_id: nomad.job_id.clone(),
        secret: Token::new(secret),
        pools: settings.pools.iter().map(pool).collect(),
        uid_base: settings.sandbox.uid_base,
        agent_tls: nomad.agent_tls,
        program,
        log: settings.log.filter.clone(),
        placement_timeout: nomad.placement_timeout,
        lost_after: nomad.lost_after,
        address_rewrite: nomad.address_rewrite.clone(),
        purge_on_start: nomad.purge_job_on_start,
        purge_on_shutdown: nomad.purge_job_on_shutdown,
    })
}

fn profile(settings: &Settings, pool: &PoolSettings) -> Profile {
    let sandbox = &settings.sandbox;
    Profile {
        slots: pool.slots,
        isolation_minimum: sandbox.isolation_minimum,
        network: sandbox.network,
        orphan_timeout: settings.link.orphan_timeout,
        view: if pool.sees_image(settings.nomad.is_some()) { View::Image } else { View::Host },
        read_only: sandbox.read_only.clone(),
        // Agents elsewhere add what there is to hide where they are.
        hidden: [vec![settings.state_dir.clone()], agent::nomad_directories()].concat(),
        workspace_source: pool.workspace_source.clone(),
        writable_root: pool.writable_root,
        tmp_bytes: sandbox.tmp_bytes,
        max_open_files: sandbox.max_open_files,
        max_processes: Some(sandbox.max_processes),
        limits: slot_limits(sandbox),
    }
}

fn slot_limits(sandbox: &SandboxSettings) -> slot::Limits {
    slot::Limits {
        memory_bytes: sandbox.memory_bytes,
        cpu_weight: sandbox.cpu_weight,
        cpu_time: sandbox.cpu_time,
        file_bytes: sandbox.file_bytes,
        workspace: if sandbox.workspace_in_memory { Storage::Tmpfs } else { Storage::Disk },
        workspace_bytes: sandbox.workspace_bytes,
        workspace_inodes: sandbox.workspace_inodes,
        cgroups: sandbox.cgroups,
        shell_start: sandbox.shell_start_timeout,
        transfers: slot::TransferLimits {
            at_once: sandbox.max_transfers,
            archive_entries: sandbox.max_archive_entries,
            archive_bytes: sandbox.max_archive_bytes,
        },
    }
}

pub(super) fn pool_config(pool: &PoolSettings) -> PoolConfig {
    PoolConfig {
        name: PoolName::new(&pool.name),
        slots_per_container: pool.slots,
        min_containers: pool.min_containers,
        max_containers: pool.max_containers,
        acquire_timeout: pool.acquire_timeout,
        scale_down_after: pool.scale_down_after,
        max_starting: pool.max_starting,
        start_timeout: pool.start_timeout,
        spread: pool.spread,
        max_waiting: pool.max_waiting_trajectories,
    }
}

pub(super) fn limits(settings: &Settings) -> Limits {
    let (calls, limits) = (&settings.calls, &settings.limits);
    let head = OutputLimits::default().head.min(limits.max_output_bytes);
    Limits {
        max_calls_in_flight: limits.max_calls_in_flight,
        max_concurrent_calls: limits.max_concurrent_calls,
        max_kept_results: limits.max_kept_results,
        max_kept_result_bytes: limits.max_kept_result_bytes,
        max_total_result_bytes: limits.max_total_result_bytes,
        max_total_calls_in_flight: limits.max_total_calls_in_flight,
        max_call_bytes_in_flight: limits.max_call_bytes_in_flight,
        max_total_call_bytes_in_flight: limits.max_total_call_bytes_in_flight,
        max_call_ids: limits.max_call_ids,
        max_pending_input_bytes: limits.max_pending_input_bytes,
        logged_payload_bytes: settings.log.payload_bytes as usize,
        max_timeout: calls.max_timeout,
        retry_after: RETRY_AFTER,
        default_options: Defaults {
            lease: calls.lease,
            timeout: calls.default_timeout,
            output_limits: OutputLimits { head, ..OutputLimits::default() },
        },
    }
}

pub(super) fn public_limits(settings: &Settings) -> PublicLimits {
    let limits = &settings.limits;
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    PublicLimits {
        max_calls_in_flight: count(limits.max_calls_in_flight),
        max_request_bytes: limits.max_request_bytes,
        max_timeout: settings.calls.max_timeout,
        max_kept_results: count(limits.max_kept_results),
        max_kept_result_bytes: limits.max_kept_result_bytes,
        max_output_bytes: limits.max_output_bytes,
        max_pending_input_bytes: limits.max_pending_input_bytes,
        max_call_bytes_in_flight: limits.max_call_bytes_in_flight,
    }
}

pub(super) fn connection_limits(settings: &Settings) -> ConnectionLimits {
    let connections = &settings.connections;
    ConnectionLimits {
        max_connections: descriptors::connections(connections.max_connections),
        max_streams: connections.max_streams,
        handshake_timeout: connections.handshake_timeout,
        header_timeout: connections.header_timeout,
        keepalive: Keepalive { interval: connections.keepalive.interval, timeout: connections.keepalive.timeout },
    }
}

/// How connections are encrypted, if they are.
pub(super) fn tls(settings: &Settings) -> Result<Option<Tls>, TlsError> {
    let Some(tls) = settings.connections.tls.clone() else { return Ok(None) };
    let client_may_have_none = tls.client_auth == ClientAuth::Optional;
    let files = TlsFiles { certificate: tls.certificate, key: tls.key, client_ca: tls.client_ca, client_may_have_none };
    Tls::open(files).map(Some)
}
