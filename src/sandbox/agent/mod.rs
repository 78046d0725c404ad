//! The agent of one container: owns its slots and runs in them what its executor sends.
//!
//! ```text
//! executor ==Link==> server (token, epoch, numbering) --> one task a slot --> one task a call --> runner
//!          <=events= outgoing <-------------------------------'------------------'
//! ```
//!
//! One thread does all of it: a wake-up on another core costs more than most of what there is to do. It is tied to no
//! parent: while no executor is attached everything goes on, and after `orphan_timeout` it ends itself.

mod call;
mod capture;
mod config;
mod files;
mod server;
mod slot;
mod state;
mod stdio;
mod sweeper;

use std::{collections::BTreeMap, io, os::fd::AsFd, path::Path, sync::Arc};

use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tracing::{info, warn};

pub use self::config::{Config, ConfigError};
use self::{
    server::AgentService,
    slot::{Agent, SlotHandle, SlotTask},
    sweeper::Sweeper,
};
use super::{
    client::{KEEPALIVE, WINDOW},
    outgoing::Outgoing,
    slot::{Isolation, SlotConfig, SlotError, Unavailable, empty_trash, probe},
};

/// Why an agent ends before its time.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("could not {step}")]
    Io {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the isolation that was promised cannot be had")]
    Isolation(#[from] Unavailable),
    #[error("could not make slot {slot}")]
    Slot {
        slot: u32,
        #[source]
        source: SlotError,
    },
    #[error("could not serve")]
    Serve(#[from] tonic::transport::Error),
}

/// Runs the agent whose container has this directory, with its listening socket as standard input, until it is told to
/// end.
///
/// # Errors
/// If it cannot do what an agent is there for.
pub fn run(directory: &Path) -> Result<(), AgentError> {
    let config = Config::load(directory)?;
    let step = |step| move |source| AgentError::Io { step, source };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(step("start the runtime"))?;
    runtime.block_on(serve(directory, config))
}

async fn serve(directory: &Path, config: Config) -> Result<(), AgentError> {
    let step = |step| move |source| AgentError::Io { step, source };
    let listener = listener().map_err(step("listen on standard input"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(step("listen for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(step("listen for SIGINT"))?;
    let signalled = async {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    tokio::pin!(signalled);

    let slots_directory = directory.join("slots");
    let end = CancellationToken::new();
    let agent = Agent { events: Arc::new(Outgoing::new()), sweeper: Sweeper::default(), end: end.clone() };
    let mut tasks = JoinSet::new();
    tasks.spawn(agent.sweeper.clone().run(slots_directory.join("trash"), end.clone()));
    let made = tokio::select! {
        made = make_slots(&config, &slots_directory, &agent, &mut tasks) => Some(made),
        // What was made so far ends with its tasks.
        signal = &mut signalled => {
            info!("ends before it was ready: {signal}");
            None
        }
    };
    let outcome = match made {
        Some(Ok((isolation, slots))) => serve_slots(listener, config, isolation, slots, agent, signalled).await,
        Some(Err(error)) => Err(error),
        None => Ok(()),
    };
    end.cancel();
    tasks.join_all().await;
    if let Err(error) = tidy(&slots_directory) {
        warn!(error = &error as &dyn std::error::Error, "could not remove the slots' directories");
    }
    outcome
}

/// Proves that the isolation can be had, and makes all slots, beside one another.
async fn make_slots(
    config: &Config,
    directory: &Path,
    agent: &Agent,
    tasks: &mut JoinSet<()>,
) -> Result<(Isolation, Vec<SlotHandle>), AgentError> {
    let isolation = probe(&slot_config(config, directory, "probe", config.slots)).await?;
    if let Some(improvement) = isolation.improvement() {
        info!(%isolation, "{improvement}");
    }
    let mut making = JoinSet::new();
    for index in 0..config.slots {
        let slot = SlotConfig { isolation, ..slot_config(config, directory, &index.to_string(), index) };
        let slot = SlotTask::new(index, slot, agent.clone());
        making.spawn(async move { (index, slot.await) });
    }
    let mut made = BTreeMap::new();
    while let Some(slot) = making.join_next().await {
        let (index, slot) = slot.map_err(|failed| AgentError::Io { step: "make the slots", source: failed.into() })?;
        made.insert(index, slot.map_err(|source| AgentError::Slot { slot: index, source })?);
    }
    let mut handles = Vec::new();
    for (task, handle) in made.into_values() {
        tasks.spawn(task.run());
        handles.push(handle);
    }
    info!(container = %config.container_id, slots = config.slots, %isolation, "ready");
    Ok((isolation, handles))
}

/// Until the agent is to end: because it is told to, or because nobody needs it.
async fn serve_slots(
    listener: UnixListener,
    config: Config,
    isolation: Isolation,
    slots: Vec<SlotHandle>,
    agent: Agent,
    signalled: impl Future<Output = &'static str>,
) -> Result<(), AgentError> {
    let (attached, mut is_attached) = watch::channel(false);
    let orphan_timeout = config.orphan_timeout;
    let end = agent.end.clone();
    let service = AgentService::new(config, isolation.to_string(), slots, agent.events, attached, agent.end);
    let orphaned = async {
        // An error would mean that the service is gone, and it outlives this.
        while is_attached.wait_for(|attached| !attached).await.is_ok() {
            let found = is_attached.wait_for(|attached| *attached);
            if tokio::time::timeout(orphan_timeout, found).await.is_err() {
                break;
            }
        }
    };
    let served = Server::builder()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        // An executor whose machine or network is gone is gone, though nobody says so.
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(service.into_server())
        .serve_with_incoming(UnixListenerStream::new(listener));
    tokio::select! {
        served = served => return served.map_err(AgentError::from),
        () = end.cancelled() => info!("ends: the executor asks for it"),
        () = orphaned => warn!("ends: no executor for {orphan_timeout:?}"),
        signal = signalled => info!("ends: {signal}"),
    }
    Ok(())
}

/// Nothing of a slot outlives an agent that ends in good order.
fn tidy(slots: &Path) -> io::Result<()> {
    empty_trash(slots)?;
    match std::fs::remove_dir(slots) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The socket that whoever started the agent has bound, so that a connection can be made before the agent is up.
fn listener() -> io::Result<UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Fails unless it is a socket that was bound.
    listener.local_addr()?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// `offset`: which of the container's user ids; the last is the probe's.
fn slot_config(config: &Config, slots: &Path, name: &str, offset: u32) -> SlotConfig {
    SlotConfig {
        host_id: config.uid_base.map(|base| base + offset),
        network: config.network,
        view: config.view,
        read_only: config.read_only.clone(),
        // The agent's own directory too: there is a secret in it.
        hidden: config.hidden.iter().cloned().chain(slots.parent().map(Path::to_owned)).collect(),
        workspace_source: config.workspace_source.clone(),
        writable_root: config.writable_root,
        tmp_bytes: config.tmp_bytes,
        max_open_files: config.max_open_files,
        max_processes: config.max_processes,
        ..SlotConfig::new(slots.join(name))
    }
}
