//! `serve`: from settings to a running service, and to its end.

use std::{process::ExitCode, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Done,
    containers::{self, Containers, scheme},
    listen::listen,
    log,
    metrics::{Counter, Scraped},
    reload::{Hangups, Reload},
    rooms,
    state_dir::StateDir,
    tenants,
};
use crate::{
    edge::{ConnectionCounts, Edge, History},
    external,
    journal::Journal,
    sandbox::client::LinkOptions,
    scheduler::{self, ContainerState},
    settings::{self, OnShutdown, ServeFlags, Settings},
    telemetry::Metrics,
    trajectory::{self, Directory},
};
#[cfg(feature = "otlp")]
use crate::{settings::TraceSettings, telemetry::Traces};

/// How long connections may take to be done with what they have been sent, and sources of tools to hear that they are
/// left, at the end.
const CLOSING: Duration = Duration::from_secs(2);
/// How long containers may take to end once it is to be at once.
const HURRY: Duration = Duration::from_secs(2);
/// How often it is looked whether new trajectories are welcome.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// Serves until it is told to end.
pub(super) fn run(flags: ServeFlags) -> Done {
    let loaded = settings::read(flags.clone())?;
    log(&loaded.settings.log)?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(loaded.settings.worker_threads)
        .enable_all()
        .build()?;
    let done = runtime.block_on(traced(loaded.settings, flags));
    // Nothing is left to wait for but connections of clients that do not read.
    runtime.shutdown_background();
    done
}

/// Serves, and sends spans to a collector if that is wanted.
async fn traced(settings: Settings, flags: ServeFlags) -> Done {
    #[cfg(feature = "otlp")]
    if let Some(TraceSettings { endpoint, ratio }) = &settings.traces {
        let traces = Traces::start(endpoint, *ratio, &settings.executor_id)?;
        let done = serve(settings, flags).await;
        traces.finish().await;
        return done;
    }
    serve(settings, flags).await
}

/// `flags`: what the settings came from, which may be asked again.
async fn serve(settings: Settings, flags: ServeFlags) -> Done {
    let mut signals = Signals::listen()?;
    let hangups = Hangups::listen()?;
    let connections = rooms::connection_limits(&settings);
    let mut reloads: Vec<Reload> = Vec::new();
    let tls = rooms::tls(&settings)?;
    if let Some(tls) = tls.clone() {
        info!("{}", tls.describe());
        reloads.push(Box::new(move || tls.reload()));
    }
    let state = StateDir::take(&settings.state_dir)?;
    let limits = Arc::new(rooms::limits(&settings));
    let (journal, recovered) = Journal::open(&state.path().join("journal"), settings.journal)?;
    let (restored, claims) = trajectory::restore(recovered, &limits);
    if !restored.is_empty() {
        info!(
            trajectories = restored.len(),
            slots = claims.len(),
            "goes on with what an executor before this one has left"
        );
    }
    let superseded = CancellationToken::new();
    let options = LinkOptions {
        executor_id: settings.executor_id.clone(),
        epoch: state.next_epoch()?,
        max_batch_size: settings.link.max_batch_size,
        agent_grace: settings.link.agent_grace,
        superseded: superseded.clone(),
    };
    let listener = listen(settings.listen).await?;
    let address = listener.local_addr()?;

    let Containers { backend, program } = containers::open(&settings, &state, &options, address).await?;
    let adopted = tokio::select! {
        adopted = containers::adopt(&*backend) => adopted?,
        () = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    // Ended with this function: what it asks is of no use to anybody then.
    let mut refreshing = JoinSet::new();
    let (enabled, disabled) = (settings.tools.enabled.clone(), settings.tools.disabled.clone());
    let (tools, registry) =
        external::open(rooms::external_config(&settings), enabled, disabled, &mut refreshing).await?;
    let pools = settings.pools.iter().map(rooms::pool_config).collect();
    let (tell_former_owners, former_owners) = (!journal.was_complete()).then(mpsc::unbounded_channel).unzip();
    let (scheduler, scheduling) =
        scheduler::spawn(pools, backend.clone(), options, adopted, claims, tell_former_owners);
    let defaults = limits.default_options.clone();
    let max_trajectories = settings.limits.max_trajectories;
    let metrics = Arc::new(Metrics::new(backend.name()));
    let history = Arc::new(History::default());
    let counter = Arc::new(Counter { metrics: metrics.clone(), history: history.clone() });
    let directory =
        Directory::new(limits, max_trajectories, scheduler.clone(), tools.clone(), journal, counter, restored);
    if let Some(former_owners) = former_owners {
        tokio::spawn(directory.clone().strand(former_owners));
    }
    let access = tenants::access(&settings, &directory);
    reloads.extend(tenants::reload(&settings, flags, &access, &directory));
    let (serving, is_serving) = watch::channel(true);
    let counts = ConnectionCounts::default();
    let edge = Edge {
        access,
        registry,
        defaults,
        limits: rooms::public_limits(&settings),
        http_body_timeout: settings.limits.http_body_timeout,
        directory: directory.clone(),
        scheduler: scheduler.clone(),
        tools: tools.clone(),
        backend: backend.name(),
        connections,
        counts: counts.clone(),
        tls: tls.clone(),
        serving: is_serving,
        exporter: Arc::new(Scraped {
            metrics,
            scheduler: scheduler.clone(),
            directory: directory.clone(),
            backend: backend.clone(),
            connections: counts,
            max_connections: connections.max_connections as u64,
            tls,
        }),
        history,
        program,
    };
    refreshing.spawn(hangups.answer(reloads));
    let closing = CancellationToken::new();
    let mut served = tokio::spawn(edge.serve(listener, closing.clone()));
    println!("listening on {}://{address}", scheme(&settings));
    info!(%address, backend = backend.name(), "serving");

    let watching = watch_health(&scheduler, &directory, &serving);
    let broken = tokio::select! {
        () = signals.next() => None,
        ended = &mut served => Some(ended),
        () = watching => None,
        () = superseded.cancelled() => {
            // What runs is the other's: nothing of it must be stopped.
            directory.drain(Duration::ZERO).await;
            return Err("another executor with the same name has taken over: give each its own `executor_id`".into());
        }
    };
    if let Some(ended) = broken {
        scheduler.shut_down().await;
        ended?;
        return Err("the server ended by itself".into());
    }

    serving.send_replace(false);
    if settings.on_shutdown == OnShutdown::HandOver {
        info!("hands over");
        // The agents first: what they say from here on is for the executor after this one.
        scheduler.hand_over().await;
        directory.hand_over().await;
        refreshing.shutdown().await;
        tools.close(CLOSING).await;
        closing.cancel();
        // What was sent still reaches those who read it.
        let _ = timeout(CLOSING, &mut served).await;
        info!("handed over");
        return Ok(ExitCode::SUCCESS);
    }
    info!(timeout = ?settings.calls.drain_timeout, "draining");
    let hurry = tokio::select! {
        () = directory.drain(settings.calls.drain_timeout) => false,
        // A second signal: what still runs is cut.
        () = signals.next() => {
            info!("ends at once");
            // A container that does not answer is not waited for: it is ended with what runs in it.
            let _ = timeout(HURRY, directory.drain(Duration::ZERO)).await;
            true
        }
    };
    // No call is under way any more.
    refreshing.shutdown().await;
    let leaving = tokio::spawn(async move { tools.close(CLOSING).await });
    let patience = async {
        if !hurry {
            signals.next().await;
        }
        sleep(HURRY).await;
    };
    tokio::select! {
        () = scheduler.shut_down() => scheduling.await?,
        () = patience => warn!("not every container has been seen to end: agents end by themselves without an executor"),
    }
    closing.cancel();
    // Clients that do not read what they were sent are not waited for.
    tokio::select! {
        ended = &mut served => ended?,
        () = sleep(CLOSING) => info!("some connections did not close in {CLOSING:?}"),
        () = signals.next() => {}
    }
    leaving.await?;
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
