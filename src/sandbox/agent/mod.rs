//! The agent of one container: owns its slots and runs in them what its executor sends.
//!
//! ```text
//! executor ==Link==> server (token, epoch, numbering) --> one task a slot --> one task a call --> runner
//!          <=events= outgoing <-------------------------------'------------------'
//! ```
//!
//! One thread does all of it: a wake-up on another core costs more than most of what there is to do. It is tied to no
//! parent: while no executor is attached everything goes on, and after `orphan_timeout` it ends itself.

mod admission;
mod ahead;
mod call;
mod calls;
mod capture;
mod config;
mod files;
mod gauge;
mod handle;
mod listener;
mod meter;
mod precedence;
mod server;
mod sessions;
mod slot;
mod state;
mod stdio;
mod sweeper;
mod transfer;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tracing::{info, warn};

pub use self::config::{CONFIG_FILE, Config, ConfigError, Profile};
use self::{
    gauge::Gauge,
    handle::SlotHandle,
    listener::Listener,
    precedence::Precedence,
    server::{AgentService, Identity},
    slot::{Agent, SlotTask},
    sweeper::Sweeper,
};
use super::{
    client::{KEEPALIVE, WINDOW},
    outgoing::Outgoing,
    slot::{
        Cgroups, Enforcement, Isolation, SlotCgroup, SlotConfig, SlotError, Unavailable, can_assign_ids, empty_trash,
        probe,
    },
    tls::{self, CertificateError},
};
use crate::tool::limit::{self, SlotLimit};

/// In the container's directory on this machine: the agent's process, for an executor that is not its parent. It is true
/// for as long as somebody listens on the agent's socket.
pub const PID_FILE: &str = "agent.pid";

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
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// What an agent is told by whoever starts it; the rest is in its [`Config`].
#[derive(Debug, Clone)]
pub struct Place {
    /// Of the container: has the configuration, and will have the slots.
    pub directory: PathBuf,
    /// The name by which the executor knows the container.
    pub container: String,
    /// Of this machine's network, to listen on; none: the listening socket is standard input.
    pub port: Option<u16>,
}

/// Runs the agent of a container until it is told to end.
///
/// # Errors
/// If it cannot do what an agent is there for.
pub fn run(place: &Place) -> Result<(), AgentError> {
    let config = Config::load(&place.directory)?;
    let step = |step| move |source| AgentError::Io { step, source };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(step("start the runtime"))?;
    runtime.block_on(serve(place, config))
}

async fn serve(place: &Place, mut config: Config) -> Result<(), AgentError> {
    let step = |step| move |source| AgentError::Io { step, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(step("listen for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(step("listen for SIGINT"))?;
    let signalled = async {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    tokio::pin!(signalled);
    let listener = match place.port {
        Some(port) => Listener::on(port).map_err(step("listen on its port"))?,
        None => {
            let pid = std::process::id().to_string();
            std::fs::write(place.directory.join(PID_FILE), pid).map_err(step("say which process it is"))?;
            Listener::inherited().map_err(step("listen on standard input"))?
        }
    };
    // One more than there are slots: see `slot_config`.
    let wanted = config.profile.slots + 1;
    config.uid_base =
        config.uid_base.filter(|base| base.checked_add(wanted).is_some_and(|end| can_assign_ids(*base..end)));

    let slots_directory = place.directory.join("slots");
    let end = CancellationToken::new();
    let sweeper = Sweeper::new(slots_directory.join("trash"), config.profile.slots, end.clone());
    let agent = Agent { events: Arc::new(Outgoing::new()), sweeper, end: end.clone() };
    let mut tasks = JoinSet::new();
    tasks.spawn(agent.sweeper.clone().run());
    let made = tokio::select! {
        made = make_slots(&config, place, &agent, &mut tasks) => Some(made),
        // What was made so far ends with its tasks.
        signal = &mut signalled => {
            info!("ends before it was ready: {signal}");
            None
        }
    };
    let mut kept = None;
    let outcome = match made {
        Some(Ok(Made { isolation, slots, enforcement, limits })) => {
            info!(container = place.container, slots = config.profile.slots, %isolation, "ready");
            info!(limits = %limit::list(&limits), "slots have limits");
            // For as long as there are slots.
            kept = Some(enforcement);
            let isolation = isolation.to_string();
            serve_slots(
                listener,
                Identity { container: place.container.clone(), isolation, limits, config },
                slots,
                agent,
                signalled,
            )
            .await
        }
        Some(Err(error)) => Err(error),
        None => Ok(()),
    };
    end.cancel();
    tasks.join_all().await;
    drop(kept);
    if let Err(error) = tidy(&slots_directory) {
        warn!(error = &error as &dyn std::error::Error, "could not remove the slots' directories");
    }
    outcome
}

/// All slots, and what is the same for each of them.
struct Made {
    isolation: Isolation,
    slots: Vec<SlotHandle>,
    enforcement: Enforcement,
    limits: Vec<SlotLimit>,
}

/// Proves that the isolation can be had, finds out what holds limits, and makes all slots, beside one another.
async fn make_slots(
    config: &Config,
    place: &Place,
    agent: &Agent,
    tasks: &mut JoinSet<()>,
) -> Result<Made, AgentError> {
    let directory = &place.directory.join("slots");
    let trial = slot_config(config, directory, "probe", config.profile.slots);
    let isolation = probe(&trial, config.profile.isolation_minimum).await?;
    let trial = SlotConfig { isolation, ..trial };
    let enforcement = Enforcement::try_out(&place.container, &trial).await;
    let limits = enforcement.describe(&trial);
    if let Some(improvement) = isolation.improvement() {
        info!(%isolation, "{improvement}");
    }
    let (mut making, mut precedences) = (JoinSet::new(), Vec::new());
    for index in 0..config.profile.slots {
        let mut slot = SlotConfig { isolation, ..slot_config(config, directory, &index.to_string(), index) };
        let max_processes = slot.max_processes;
        let cgroup = held(&enforcement, &mut slot, index)?.map(Arc::new);
        let precedence = cgroup.clone().and_then(Precedence::new);
        precedences.extend(precedence.clone());
        let gauge = Gauge::new(&slot, max_processes, cgroup);
        let slot = SlotTask::new(index, slot, gauge, precedence, agent.clone());
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
    let end = agent.end.clone();
    tasks.spawn(async move { _ = end.run_until_cancelled(precedence::watch(precedences)).await });
    Ok(Made { isolation, slots: handles, enforcement, limits })
}

/// Makes a slot's control groups, and changes its configuration for what these hold.
fn held(enforcement: &Enforcement, slot: &mut SlotConfig, index: u32) -> Result<Option<SlotCgroup>, AgentError> {
    let max_processes = slot.max_processes;
    let make = |groups: &Cgroups| groups.slot(&index.to_string(), &slot.limits, max_processes);
    let cgroup = enforcement.cgroups().map(make).transpose();
    let cgroup = cgroup.map_err(|source| AgentError::Io { step: "make a slot's control groups", source })?;
    slot.entrances = cgroup.as_ref().map(SlotCgroup::entrances).unwrap_or_default();
    enforcement.apply(slot);
    Ok(cgroup)
}

/// Until the agent is to end: because it is told to, or because nobody needs it.
async fn serve_slots(
    listener: Listener,
    identity: Identity,
    slots: Vec<SlotHandle>,
    agent: Agent,
    signalled: impl Future<Output = &'static str>,
) -> Result<(), AgentError> {
    let (attached, mut is_attached) = watch::channel(false);
    let orphan_timeout = identity.config.profile.orphan_timeout;
    let tls = identity.config.tls.then(|| tls::server(&identity.config.token)).transpose()?;
    let end = agent.end.clone();
    let service = AgentService::new(identity, slots, agent.events, attached, agent.end);
    let orphaned = async {
        // An error would mean that the service is gone, and it outlives this.
        while is_attached.wait_for(|attached| !attached).await.is_ok() {
            let found = is_attached.wait_for(|attached| *attached);
            if tokio::time::timeout(orphan_timeout, found).await.is_err() {
                break;
            }
        }
    };
    let mut server = Server::builder();
    if let Some(tls) = tls {
        server = server.tls_config(tls)?;
    }
    let server = server
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        // An executor whose machine or network is gone is gone, though nobody says so.
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(service.into_server());
    tokio::select! {
        served = listener.serve(server) => return served.map_err(AgentError::from),
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

/// What no slot may see, wherever it lies: the agent's own directory, in which there is a secret, and Nomad's.
fn hidden(profile: &Profile, slots: &Path) -> Vec<PathBuf> {
    let own = slots.parent().map(Path::to_owned);
    profile.hidden.iter().cloned().chain(own).chain(nomad_directories()).collect()
}

/// What Nomad has for its allocations, where this process is part of one. In that is a socket through which whoever
/// reaches it may run anything on any node.
pub fn nomad_directories() -> Vec<PathBuf> {
    let directories =
        ["NOMAD_ALLOC_DIR", "NOMAD_TASK_DIR", "NOMAD_SECRETS_DIR"].into_iter().filter_map(std::env::var_os);
    directories.map(|directory| all_of_nomad(Path::new(&directory)).to_owned()).collect()
}

/// On a node as it is, the directories of all allocations are beside one another: `<all>/<allocation>/alloc`, and one
/// deeper those of a task. In a root of its own, a task has them at the top.
fn all_of_nomad(directory: &Path) -> &Path {
    let depth = if directory.ends_with("alloc") { 2 } else { 3 };
    directory.ancestors().nth(depth).filter(|all| all.parent().is_some()).unwrap_or(directory)
}

/// `offset`: which of the container's user ids; the last is the probe's.
fn slot_config(config: &Config, slots: &Path, name: &str, offset: u32) -> SlotConfig {
    let profile = &config.profile;
    SlotConfig {
        host_id: config.uid_base.map(|base| base + offset),
        network: profile.network,
        view: profile.view,
        read_only: profile.read_only.clone(),
        hidden: hidden(profile, slots),
        workspace_source: profile.workspace_source.clone(),
        writable_root: profile.writable_root,
        tmp_bytes: profile.tmp_bytes,
        max_open_files: profile.max_open_files,
        max_processes: profile.max_processes,
        limits: profile.limits.clone(),
        ..SlotConfig::new(slots.join(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nomads_directories_are_hidden_with_those_of_other_allocations() {
        for (directory, all) in [
            ("/opt/nomad/alloc/1f/alloc", "/opt/nomad/alloc"),
            ("/opt/nomad/alloc/1f/sandbox/local", "/opt/nomad/alloc"),
            ("/opt/nomad/alloc/1f/sandbox/secrets", "/opt/nomad/alloc"),
            ("/alloc", "/alloc"),
            ("/local", "/local"),
            ("/secrets", "/secrets"),
        ] {
            assert_eq!(all_of_nomad(Path::new(directory)), Path::new(all), "{directory}");
        }
    }
}
