//! Agents that an executor before this one has left. Those that can be taken over are; all others are ended before their
//! slots' user ids are used again, and what the dead have left is removed.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{process, remove};
use crate::{
    id::{ContainerId, PoolName},
    sandbox::{
        agent,
        client::{self, Address, Endpoint, LinkOptions, Token},
    },
};

/// How long an agent may take to answer, and then to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// An agent that lives, with its process.
pub(super) struct Leftover {
    pub(super) id: ContainerId,
    pub(super) config: agent::Config,
    pub(super) process: OwnedFd,
}

impl Leftover {
    /// None if there is no agent that listens, or it cannot be told which process it is.
    pub(super) fn find(directory: &Path) -> Option<Self> {
        let id = ContainerId::new(directory.file_name()?.to_str()?);
        let config = agent::Config::load(directory).ok()?;
        let pid = fs::read_to_string(directory.join(agent::PID_FILE)).ok()?.trim().parse().ok()?;
        let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        // It said so itself, and lives: so the number is its own, and was when the process was opened.
        listens(directory).then_some(Self { id, config, process })
    }
}

/// Of all containers, dead or alive.
pub(super) fn directories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// Ends every agent whose container has a directory here, but for those of these pools that can be taken over; and
/// removes the directories.
///
/// # Errors
/// If the directory cannot be read.
pub async fn clear_leftovers(directory: &Path, options: &LinkOptions, pools: &[PoolName]) -> io::Result<()> {
    for path in directories(directory)? {
        let known = |left: &Leftover| pools.iter().any(|pool| pool.as_str() == left.config.pool);
        if !Leftover::find(&path).is_some_and(|left| known(&left)) {
            end(&path, options).await;
            remove(&path);
        }
    }
    Ok(())
}

async fn end(directory: &Path, options: &LinkOptions) {
    let Ok(config) = agent::Config::load(directory) else { return };
    let socket = directory.join(process::SOCKET);
    // Nobody accepts once the agent is dead.
    if !listens(directory) {
        return;
    }
    let Some(id) = directory.file_name().and_then(|name| name.to_str()).map(ContainerId::new) else { return };
    info!(container = %id, "ends an agent that an earlier executor has left");
    let endpoint = Endpoint::new(Address::Unix(socket), Token::new(&config.token));
    match client::connect(id, endpoint, options.clone(), Instant::now() + PATIENCE, &[]).await {
        Ok(connected) => {
            connected.link.shut_down();
            let deadline = Instant::now() + PATIENCE;
            while listens(directory) && Instant::now() < deadline {
                sleep(Duration::from_millis(5)).await;
            }
            connected.link.lose(&Default::default());
        }
        Err(error) => warn!(error = &error as &dyn std::error::Error, "could not end an agent that was left"),
    }
}

fn listens(directory: &Path) -> bool {
    process::connect(directory).is_ok()
}
