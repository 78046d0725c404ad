//! Agents that an executor before this one has left: until executors adopt them, they are ended before their slots'
//! user ids are used again.

use std::{fs, io, path::Path, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{process, remove};
use crate::{
    id::ContainerId,
    sandbox::{
        agent,
        client::{self, Address, Endpoint, LinkOptions, Token},
    },
};

/// How long an agent may take to answer, and then to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ends every agent whose container has a directory here, and removes the directories.
///
/// # Errors
/// If the directory cannot be read.
pub async fn end_leftovers(directory: &Path, options: &LinkOptions) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        end(&path, options).await;
        remove(&path);
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
    match client::connect(id, endpoint, options.clone(), Instant::now() + PATIENCE).await {
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
