//! Where containers run: on this machine, or on a Nomad cluster.

use std::{error::Error, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::{info, warn};

use super::{rooms, state_dir::StateDir};
use crate::{
    backend::{
        AgentDelivery, Backend, Container, Finding, LocalBackend, NomadBackend, Program, clear_leftovers, inspect_nomad,
    },
    edge::AgentProgram,
    id::PoolName,
    sandbox::client::LinkOptions,
    settings::Settings,
    tool::limit,
};

/// Between attempts to learn from a cluster what runs there.
const AGAIN: Duration = Duration::from_secs(2);
const THIS_PROGRAM: &str = "/proc/self/exe";

/// What `serve` needs to know of where containers run.
pub(super) struct Containers {
    pub(super) backend: Arc<dyn Backend>,
    /// To be offered for download.
    pub(super) program: Option<AgentProgram>,
}

/// `address`: where this executor listens.
pub(super) async fn open(
    settings: &Settings,
    state: &StateDir,
    link: &LinkOptions,
    address: SocketAddr,
) -> Result<Containers, Box<dyn Error>> {
    if settings.nomad.is_none() {
        return local(settings, state, link).await;
    }
    let secret = match &settings.secret {
        Some(secret) => secret.reveal().to_owned(),
        None => state.secret()?,
    };
    let program = program(settings)?;
    let source = program.as_ref().map(|program| source(settings, address, program));
    let Some(config) = rooms::nomad_config(settings, &secret, source) else { return Err("there is no Nomad".into()) };
    info!(nomad = %config.client.address, job = config.job_id, executor = config.executor_id, "containers run under Nomad");
    Ok(Containers { backend: Arc::new(NomadBackend::new(config)?), program })
}

/// What there is to know of the cluster before a start.
pub(super) async fn inspect(settings: &Settings) -> Result<Vec<Finding>, Box<dyn Error>> {
    let program = program(settings)?.map(|program| source(settings, settings.listen, &program));
    // Nothing is started: what would open its agent is of no account.
    Ok(match rooms::nomad_config(settings, "", program) {
        Some(config) => inspect_nomad(&config).await,
        None => Vec::new(),
    })
}

/// Where nodes download the agent's program from.
fn source(settings: &Settings, address: SocketAddr, program: &AgentProgram) -> Program {
    let url = format!("{}{}", advertised(settings, address), program.path());
    Program { url, sha256: program.sha256().to_owned() }
}

async fn local(settings: &Settings, state: &StateDir, link: &LinkOptions) -> Result<Containers, Box<dyn Error>> {
    let isolation = rooms::probe(settings, state.path()).await?;
    if let Some(improvement) = isolation.improvement() {
        info!(%isolation, "{improvement}");
    }
    info!(%isolation, network = settings.sandbox.network, state = %state.path().display(), "slots can be made");
    // Here, too, since under version 2 of control groups agents can have some only if this process has moved aside.
    let limits = rooms::probe_limits(settings, isolation, state.path()).await;
    info!(limits = %limit::list(&limits), "slots have limits");
    let containers = state.path().join("containers");
    let config = rooms::local_config(settings, containers.clone());
    let pools: Vec<PoolName> = config.pools.keys().cloned().collect();
    clear_leftovers(&containers, link, &pools).await?;
    let backend = LocalBackend::new(config);
    Ok(Containers { backend: Arc::new(backend), program: None })
}

/// The agent's program, if any pool has it downloaded.
fn program(settings: &Settings) -> Result<Option<AgentProgram>, String> {
    if settings.pools.iter().all(|pool| pool.container.agent == AgentDelivery::Present) {
        return Ok(None);
    }
    let file = settings.agent_binary.as_deref().unwrap_or(Path::new(THIS_PROGRAM));
    AgentProgram::new(file).map(Some).map_err(|error| format!("could not read {}: {error}", file.display()))
}

/// Of this executor's own address.
pub(super) fn scheme(settings: &Settings) -> &'static str {
    if settings.connections.tls.is_some() { "https" } else { "http" }
}

/// Where others reach this executor.
fn advertised(settings: &Settings, address: SocketAddr) -> String {
    let scheme = scheme(settings);
    settings.advertise.clone().unwrap_or_else(|| {
        if address.ip().is_unspecified() {
            let host = rustix::system::uname();
            format!("{scheme}://{}:{}", host.nodename().to_string_lossy(), address.port())
        } else {
            format!("{scheme}://{address}")
        }
    })
}

/// What an executor before this one has left. A cluster that does not answer for now is waited for: whoever started
/// without knowing would run beside what is there.
pub(super) async fn adopt(backend: &dyn Backend) -> Result<Vec<(PoolName, Container)>, Box<dyn Error>> {
    let mut told = false;
    loop {
        match backend.adopt().await {
            Ok(adopted) => return Ok(adopted),
            Err(error) if error.for_now => {
                if !std::mem::replace(&mut told, true) {
                    warn!(error = &error as &dyn Error, "waits until it can");
                }
                sleep(AGAIN).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
