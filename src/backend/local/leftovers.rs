//! What an executor before this one has left. Agents that can be taken over are; all others are ended before their slots'
//! user ids are used again, and what the dead have left is removed.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Deserialize;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{
    process::{self, Agent},
    try_remove,
};
use crate::{
    id::{ContainerId, PoolName},
    sandbox::{
        agent,
        client::{self, Address, Endpoint, LinkOptions, Token},
    },
};

/// How long an agent may take to answer, and then to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an agent that has just been started may take to say which process it is.
const INTRODUCTION: Duration = Duration::from_secs(1);
/// How long the slots of a dead agent may take to die, too, and to let go of what is theirs.
const DEATH: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(5);

/// A container whose agent lives.
pub(super) struct Leftover {
    pub(super) id: ContainerId,
    pub(super) process: OwnedFd,
    pub(super) told: Told,
}

/// What an agent was told when it was started, as far as it matters here. The rest of it another build may have told it
/// in other words.
#[derive(Deserialize)]
pub(super) struct Told {
    pub(super) token: String,
    pub(super) uid_base: Option<u32>,
    pub(super) pool: String,
    pub(super) profile: serde_json::Value,
}

impl Told {
    fn load(directory: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(directory.join(agent::CONFIG_FILE)).ok()?).ok()
    }

    /// How many slots it has.
    pub(super) fn slots(&self) -> u32 {
        self.profile["slots"].as_u64().and_then(|slots| u32::try_from(slots).ok()).unwrap_or_default()
    }
}

impl Leftover {
    /// None if there is no agent that listens, it does not say which process it is, or it cannot be told what it was told.
    pub(super) fn find(directory: &Path) -> Option<Self> {
        let (id, told) = (name(directory)?, Told::load(directory)?);
        Some(Self { id, process: process_of(directory)?, told })
    }
}

fn name(directory: &Path) -> Option<ContainerId> {
    directory.file_name()?.to_str().map(ContainerId::new)
}

/// Of the agent that listens there, if it says which it is.
fn process_of(directory: &Path) -> Option<OwnedFd> {
    let pid = fs::read_to_string(directory.join(agent::PID_FILE)).ok()?.trim().parse().ok()?;
    let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    // It has said so itself, and lives: so the number is its own, and was when the process was opened.
    listens(directory).then_some(process)
}

/// Nobody accepts once the agent is dead.
fn listens(directory: &Path) -> bool {
    process::connect(directory).is_ok()
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
    let mut clearing = JoinSet::new();
    for path in directories(directory)? {
        let (options, pools) = (options.clone(), pools.to_vec());
        clearing.spawn(async move {
            introduce(&path).await;
            let known = |left: &Leftover| pools.iter().any(|pool| pool.as_str() == left.told.pool);
            if !Leftover::find(&path).is_some_and(|left| known(&left)) {
                end(&path, &options).await;
                sweep(path).await;
            }
        });
    }
    clearing.join_all().await;
    Ok(())
}

/// An executor may have ended just when it had started an agent.
async fn introduce(directory: &Path) {
    let deadline = Instant::now() + INTRODUCTION;
    while !directory.join(agent::PID_FILE).exists() && listens(directory) && Instant::now() < deadline {
        sleep(LOOK).await;
    }
}

async fn end(directory: &Path, options: &LinkOptions) {
    let Some(id) = name(directory).filter(|_| listens(directory)) else { return };
    info!(container = %id, "ends an agent that an earlier executor has left");
    let ended = match process_of(directory).map(Agent::adopt) {
        Some(Ok(mut agent)) => agent.end().await.map(drop).map_err(|error| error.to_string()),
        Some(Err(error)) => Err(error.to_string()),
        None => ask_to_end(id, directory, options).await,
    };
    if let Err(error) = ended {
        warn!(directory = %directory.display(), error, "could not end an agent that was left");
    }
}

/// Of one that does not say which process it is.
async fn ask_to_end(id: ContainerId, directory: &Path, options: &LinkOptions) -> Result<(), String> {
    let config = agent::Config::load(directory).map_err(|error| error.to_string())?;
    let endpoint = Endpoint::new(Address::Unix(directory.join(process::SOCKET)), Token::new(&config.token));
    let deadline = Instant::now() + PATIENCE;
    let connected = client::connect(id, endpoint, options.clone(), deadline, &[]).await;
    let link = connected.map_err(|error| error.to_string())?.link;
    link.shut_down();
    let deadline = Instant::now() + PATIENCE;
    while listens(directory) && Instant::now() < deadline {
        sleep(LOOK).await;
    }
    link.lose(&Default::default());
    Ok(())
}

/// Removes what a dead agent has left, once its slots have died with it.
async fn sweep(directory: PathBuf) {
    let swept = tokio::task::spawn_blocking(move || {
        let deadline = std::time::Instant::now() + DEATH;
        loop {
            match try_remove(&directory) {
                Ok(()) => return,
                Err(_) if std::time::Instant::now() < deadline => std::thread::sleep(LOOK * 10),
                Err(error) => {
                    return warn!(
                        directory = %directory.display(),
                        error = &error as &dyn std::error::Error,
                        "could not remove what a dead agent has left"
                    );
                }
            }
        }
    });
    if let Err(error) = swept.await {
        warn!(error = &error as &dyn std::error::Error, "what a dead agent has left was not removed");
    }
}
