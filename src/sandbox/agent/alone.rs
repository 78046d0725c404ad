//! That nobody else uses a slot's user.

use std::time::{Duration, Instant};

use crate::sandbox::slot::{SlotError, have_processes};

/// How long the slot's user may have processes before the slot is made.
const LEAVING: Duration = Duration::from_secs(1);

/// Waits for what an agent that was killed, and had these users before, has left and is dying.
pub(super) async fn alone(user: u32) -> Result<(), SlotError> {
    let asked = Instant::now();
    while have_processes(user..user + 1) {
        if asked.elapsed() > LEAVING {
            return Err(SlotError::UserHasProcesses(user));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
