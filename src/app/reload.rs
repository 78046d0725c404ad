//! SIGHUP: what is read from files of its own is read again, while everything goes on.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info};

/// Reads something again. Says in words what it has read, or why all stays as it was.
pub(super) type Reload = Box<dyn Fn() -> Result<String, String> + Send + Sync>;

/// SIGHUP, which ends this process no more.
pub(super) struct Hangups(Signal);

impl Hangups {
    pub(super) fn listen() -> std::io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Each time, reads all of these again. Never returns.
    pub(super) async fn answer(mut self, reloads: Vec<Reload>) {
        while self.0.recv().await.is_some() {
            info!("SIGHUP");
            for reload in &reloads {
                match reload() {
                    Ok(told) => info!("{told}"),
                    Err(told) => error!("{told}"),
                }
            }
        }
    }
}
