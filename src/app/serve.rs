//! `serve`: from settings to a running service, and to its end.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Done, log, state_dir::StateDir};
use crate::{
    backend::{Backend, LocalBackend, LocalConfig, end_leftovers},
    edge::{Access, Edge, Keepalive, PublicLimits},
    id::PoolName,
    sandbox::{
        client::LinkOptions,
        slot::{self, Isolation, SlotConfig, Unavailable, View},
    },
    scheduler::{self, ContainerState, PoolConfig},
    settings::{self, ServeFlags, Settings},
    tool::{Registry, job::OutputLimits},
    trajectory::{Defaults, Directory, Limits},
};

/// How long connections may take to be done with what they have been sent, at the end.
const CLOSING: Duration = Duration::from_secs(2);
/// How often it is looked whether new trajectories are welcome.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);
/// How long a client that found no room should wait: calls end all the time.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Serves until it is told to end.
pub(super) fn run(flags: ServeFlags) -> Done {
    let loaded = settings::read(flags)?;
    log(&loaded.settings.log)?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(serve(loaded.settings));
    // Nothing is left to wait for but connections of clients that do not read.
    runtime.shutdown_background();
    done
}

async fn serve(settings: Settings) -> Done {
    let mut signals = Signals::listen()?;
    let state = StateDir::take(&settings.state_dir)?;
    let isolation = probe(&settings, state.path()).await?;
    info!(%isolation, network = settings.sandbox.network, state = %state.path().display(), "slots can be made");

    let options = LinkOptions {
        executor_id: settings.executor_id.clone(),
        epoch: state.next_epoch()?,
        max_batch_size: settings.link.max_batch_size,
        agent_grace: settings.link.agent_grace,
    };
    let containers = state.path().join("containers");
    end_leftovers(&containers, &options).await?;
    let listener = TcpListener::bind(settings.listen)
        .await
        .map_err(|error| format!("could not listen on {}: {error}", settings.listen))?;
    let address = listener.local_addr()?;

    let backend: Arc<dyn Backend> = Arc::new(LocalBackend::new(local_config(&settings, containers)));
    let (scheduler, scheduling) = scheduler::spawn(vec![pool_config(&settings)], backend.clone(), options);
    let limits = limits(&settings);
    let defaults = limits.default_options.clone();
    let directory = Directory::new(limits, settings.limits.max_trajectories, scheduler.clone());
    let (serving, is_serving) = watch::channel(true);
    let edge = Edge {
        access: Access::new(settings.token.as_ref().map(settings::Secret::reveal)),
        registry: Registry::new(&settings.tools.enabled, &settings.tools.disabled)?,
        defaults,
        limits: public_limits(&settings),
        directory: directory.clone(),
        scheduler: scheduler.clone(),
        backend: backend.name(),
        keepalive: Keepalive { interval: settings.keepalive.interval, timeout: settings.keepalive.timeout },
        serving: is_serving,
    };
    let closing = CancellationToken::new();
    let mut served = tokio::spawn(edge.serve(listener, closing.clone()));
    println!("listening on http://{address}");
    info!(%address, backend = backend.name(), "serving");

    let watching = watch_health(&scheduler, &directory, &serving);
    let broken = tokio::select! {
        () = signals.next() => None,
        ended = &mut served => Some(ended),
        () = watching => None,
    };
    if let Some(ended) = broken {
        scheduler.shut_down().await;
        ended??;
        return Err("the server ended by itself".into());
    }

    info!(timeout = ?settings.calls.drain_timeout, "draining");
    serving.send_replace(false);
    tokio::select! {
        () = directory.drain(settings.calls.drain_timeout) => {}
        // A second signal: what still runs is cut.
        () = signals.next() => {
            info!("ends at once");
            directory.drain(Duration::ZERO).await;
        }
    }
    scheduler.shut_down().await;
    scheduling.await?;
    closing.cancel();
    // Clients that do not read what they were sent are not waited for.
    tokio::select! {
        ended = &mut served => ended??,
        () = sleep(CLOSING) => info!("some connections did not close in {CLOSING:?}"),
        () = signals.next() => {}
    }
    info!("ended");
    Ok(ExitCode::SUCCESS)
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => info!("SIGTERM"),
            _ = self.interrupt.recv() => info!("SIGINT"),
        }
    }
}

/// Keeps `serving` true while new trajectories have something to hope for. Never returns.
async fn watch_health(scheduler: &scheduler::Handle, directory: &Directory, serving: &watch::Sender<bool>) {
    let mut tick = tokio::time::interval(HEALTH_INTERVAL);
    loop {
        tick.tick().await;
        let pools = scheduler.status().await;
        // A pool that may be empty starts a container when somebody asks for one.
        let hopeful = pools.iter().any(|pool| {
            let up = |state| matches!(state, ContainerState::Starting | ContainerState::Ready);
            pool.last_start_failure.is_none() || pool.containers.iter().any(|container| up(container.state))
        });
        serving.send_if_modified(|serving| {
            let now = hopeful && !directory.is_draining();
            std::mem::replace(serving, now) != now
        });
    }
}

/// The user ids of slots are the machine's to give where this is its root, and their own user's otherwise.
fn uid_base(settings: &Settings) -> Option<u32> {
    let base = settings.sandbox.uid_base;
    let ids = (settings.pool.slots + 1).saturating_mul(settings.pool.max_containers + settings.pool.max_starting);
    slot::can_assign_ids(base..base.saturating_add(ids)).then_some(base)
}

/// Whether slots like those that agents make can be made.
pub(super) async fn probe(settings: &Settings, state: &Path) -> Result<Isolation, Unavailable> {
    let probed = slot::probe(&probe_config(settings, state)).await;
    // What cannot be removed is in nobody's way: the next probe is given the same place.
    let _ = std::fs::remove_dir_all(state.join("probe"));
    probed
}

fn probe_config(settings: &Settings, state: &Path) -> SlotConfig {
    let sandbox = &settings.sandbox;
    SlotConfig {
        host_id: uid_base(settings),
        network: sandbox.network,
        read_only: sandbox.read_only.clone(),
        tmp_bytes: sandbox.tmp_bytes,
        max_open_files: sandbox.max_open_files,
        max_processes: Some(sandbox.max_processes),
        ..SlotConfig::new(state.join("probe/slot"))
    }
}

fn local_config(settings: &Settings, directory: PathBuf) -> LocalConfig {
    let sandbox = &settings.sandbox;
    LocalConfig {
        directory,
        program: "/proc/self/exe".into(),
        slots: settings.pool.slots,
        uid_base: uid_base(settings),
        network: sandbox.network,
        orphan_timeout: settings.link.orphan_timeout,
        view: View::Host,
        read_only: sandbox.read_only.clone(),
        hidden: Vec::new(),
        workspace_source: None,
        writable_root: false,
        tmp_bytes: sandbox.tmp_bytes,
        max_open_files: sandbox.max_open_files,
        max_processes: Some(sandbox.max_processes),
        log: settings.log.filter.clone(),
    }
}

fn pool_config(settings: &Settings) -> PoolConfig {
    let pool = &settings.pool;
    PoolConfig {
        name: PoolName::new(""),
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

fn limits(settings: &Settings) -> Limits {
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

fn public_limits(settings: &Settings) -> PublicLimits {
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
