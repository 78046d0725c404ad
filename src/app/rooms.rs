//! Hands each room of the program its own part of the settings.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    backend::LocalConfig,
    edge::PublicLimits,
    id::PoolName,
    sandbox::{
        agent::Profile,
        slot::{self, Isolation, SlotConfig, Unavailable},
    },
    scheduler::PoolConfig,
    settings::{PoolSettings, Settings},
    tool::job::OutputLimits,
    trajectory::{Defaults, Limits},
};

/// How long a client that found no room should wait: calls end all the time.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Whether slots like those that agents make can be made.
pub(super) async fn probe(settings: &Settings, state: &Path) -> Result<Isolation, Unavailable> {
    let probed = slot::probe(&probe_config(settings, state)).await;
    // What cannot be removed is in nobody's way: the next probe is given the same place.
    let _ = std::fs::remove_dir_all(state.join("probe"));
    probed
}

/// The user ids of slots are the machine's to give where this is its root, and their own user's otherwise.
fn host_id(settings: &Settings) -> Option<u32> {
    let base = settings.sandbox.uid_base;
    slot::can_assign_ids(base..base.saturating_add(1)).then_some(base)
}

fn probe_config(settings: &Settings, state: &Path) -> SlotConfig {
    let sandbox = &settings.sandbox;
    SlotConfig {
        host_id: host_id(settings),
        network: sandbox.network,
        read_only: sandbox.read_only.clone(),
        tmp_bytes: sandbox.tmp_bytes,
        max_open_files: sandbox.max_open_files,
        max_processes: Some(sandbox.max_processes),
        ..SlotConfig::new(state.join("probe/slot"))
    }
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

fn profile(settings: &Settings, pool: &PoolSettings) -> Profile {
    let sandbox = &settings.sandbox;
    Profile {
        slots: pool.slots,
        network: sandbox.network,
        orphan_timeout: settings.link.orphan_timeout,
        read_only: sandbox.read_only.clone(),
        tmp_bytes: sandbox.tmp_bytes,
        max_open_files: sandbox.max_open_files,
        max_processes: Some(sandbox.max_processes),
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
        max_call_ids: limits.max_call_ids,
        max_pending_input_bytes: limits.max_pending_input_bytes,
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
    }
}
