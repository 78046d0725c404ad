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

use std::{
    io,
    os::fd::AsFd,
    path::Path,
    sync::Arc,
};

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
use self::{server::AgentService, slot::SlotTask};
use super::{
    client::{KEEPALIVE, WINDOW},
    outgoing::Outgoing,
    slot::{SlotConfig, SlotError, Unavailable, empty_trash, probe},
};
use crate::pb::sandbox::Event;

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
    let end = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(step("listen for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(step("listen for SIGINT"))?;

    let slots_directory = directory.join("slots");
    let isolation = probe(&slot_config(&config, &slots_directory, "probe", config.slots)).await?;
    let events: Arc<Outgoing<Event>> = Arc::new(Outgoing::new());
    let mut tasks = JoinSet::new();
    let mut slots = Vec::new();
    for index in 0..config.slots {
        let slot_config = slot_config(&config, &slots_directory, &index.to_string(), index);
        let (task, handle) = SlotTask::new(index, slot_config, events.clone(), end.clone())
            .await
            .map_err(|source| AgentError::Slot { slot: index, source })?;
        tasks.spawn(task.run());
        slots.push(handle);
    }
    info!(container = %config.container_id, slots = config.slots, %isolation, "ready");

    let (attached, mut is_attached) = watch::channel(false);
    let orphan_timeout = config.orphan_timeout;
    let service = AgentService::new(config, isolation.to_string(), slots, events, attached, end.clone());
    let orphaned = async {
        loop {
            if is_attached.wait_for(|attached| !attached).await.is_err() {
                std::future::pending::<()>().await;
            }
            let found = is_attached.wait_for(|attached| *attached);
            if tokio::time::timeout(orphan_timeout, found).await.is_err() {
                return;
            }
        }
    };
    let served = Server::builder()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        // An executor whose machine or network is gone is gone, though nobody says so: else nothing here would end.
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(service.into_server())
        .serve_with_incoming(UnixListenerStream::new(listener));
    let outcome = tokio::select! {
        served = served => served.map_err(AgentError::from),
        () = end.cancelled() => Ok(info!("ends: the executor asks for it")),
        () = orphaned => Ok(warn!("ends: no executor for {orphan_timeout:?}")),
        _ = terminate.recv() => Ok(info!("ends: SIGTERM")),
        _ = interrupt.recv() => Ok(info!("ends: SIGINT")),
    };
    end.cancel();
    tasks.join_all().await;
    if let Err(error) = tidy(&slots_directory) {
        warn!(error = &error as &dyn std::error::Error, "could not remove the slots' directories");
    }
    outcome
}

/// Nothing of a slot outlives an agent that ends in good order.
fn tidy(slots: &Path) -> io::Result<()> {
    empty_trash(&slots.join("trash"))?;
    match std::fs::remove_dir_all(slots) {
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
        read_only: config.read_only.clone(),
        tmp_bytes: config.tmp_bytes,
        max_open_files: config.max_open_files,
        max_processes: config.max_processes,
        ..SlotConfig::new(slots.join(name))
    }
}
