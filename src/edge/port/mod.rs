//! The one port: takes connections, each with a task of its own, and never more than it may have.
//!
//! ```text
//! accepted -> TLS handshake, if any -> first bytes -> HTTP/2 or HTTP/1.1 -> the routes
//!             '------ handshake_timeout ------'
//! ```
//!
//! Whoever is slow, silent or broken costs one of `max_connections` for a bounded time, and nobody else waits for it.

mod connection;
mod deadline;
mod opening;
mod tls;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::Router;
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use self::connection::Broken;
pub use self::tls::{Tls, TlsError, TlsFiles};

/// What connections may be and take.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Open at a time; what is more is closed at once.
    pub max_connections: usize,
    /// Requests and streams under way on each.
    pub max_streams: u32,
    /// From the connection to its first request's first bytes, a TLS handshake among it.
    pub handshake_timeout: Duration,
    /// For the head of an HTTP/1.1 request, from the end of the one before it.
    pub header_timeout: Duration,
    pub keepalive: Keepalive,
}

/// How a client that has vanished without a word is noticed.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// Of silence, before the client is asked.
    pub interval: Duration,
    /// For its answer.
    pub timeout: Duration,
}

/// How many connections there are. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct ConnectionCounts(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    open: AtomicU64,
    refused: AtomicU64,
}

impl ConnectionCounts {
    /// At this moment.
    pub fn open(&self) -> u64 {
        self.0.open.load(Relaxed)
    }

    /// Closed at once since the start, for there were too many.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Relaxed)
    }
}

/// A connection's place among those that there may be, until it is dropped.
struct Place {
    counts: ConnectionCounts,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn new(counts: ConnectionCounts, permit: OwnedSemaphorePermit) -> Self {
        counts.0.open.fetch_add(1, Relaxed);
        Self { counts, _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counts.0.open.fetch_sub(1, Relaxed);
    }
}

/// After a connection could not be accepted, for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two lines of the log that say the same.
const QUIET: Duration = Duration::from_secs(10);
/// Times that the kernel asks a client that is silent.
const PROBES: u32 = 4;
/// The kernel takes no more, in seconds.
const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(32_767);

/// The port, and what is behind it.
pub(super) struct Port {
    pub(super) listener: TcpListener,
    pub(super) tls: Option<Tls>,
    pub(super) limits: ConnectionLimits,
    pub(super) counts: ConnectionCounts,
    pub(super) routes: Router,
}

impl Port {
    /// Takes connections until `shutdown`, and then waits for those there are to end what they have begun.
    pub(super) async fn serve(self, shutdown: CancellationToken) {
        let Self { listener, tls, limits, counts, routes } = self;
        let connections = TaskTracker::new();
        let permits = Arc::new(Semaphore::new(limits.max_connections));
        let (mut full, mut failing) = (Complaint::default(), Complaint::default());
        let refusals = Arc::new(Mutex::new(Complaint::default()));
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (stream, client) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_of_the_client(&error) => continue,
                Err(error) => {
                    if let Some(times) = failing.tell() {
                        warn!(error = &error as &dyn std::error::Error, times, "connections cannot be accepted");
                    }
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = permits.clone().try_acquire_owned() else {
                counts.0.refused.fetch_add(1, Relaxed);
                if let Some(times) = full.tell() {
                    let max_connections = limits.max_connections;
                    warn!(max_connections, times, "there are too many connections, and new ones are closed");
                }
                continue;
            };
            let place = Place::new(counts.clone(), permit);
            prepare(&stream, limits.keepalive);
            let tls = tls.as_ref().map(Tls::current);
            let (routes, shutdown, refusals) = (routes.clone(), shutdown.child_token(), refusals.clone());
            connections.spawn(async move {
                if let Err(broken) = connection::serve(stream, tls, &limits, routes, &shutdown).await {
                    tell(&broken, client, &refusals);
                }
                drop(place);
            });
        }
        // Nobody is left to wait at a door that stays shut.
        drop(listener);
        connections.close();
        connections.wait().await;
    }
}

/// A client that is refused, or refuses, may not know why; of others that come to nothing there are many.
fn tell(broken: &Broken, client: SocketAddr, refusals: &Mutex<Complaint>) {
    let error = broken as &dyn std::error::Error;
    let times = broken.is_refusal().then(|| refusals.lock().unwrap_or_else(PoisonError::into_inner).tell()).flatten();
    match times {
        Some(times) => warn!(error, %client, times, "a connection was refused"),
        None => debug!(error, %client, "a connection has ended"),
    }
}

/// Small messages go at once, and the kernel notices clients that vanish without a word: HTTP/1.1 has no question for
/// them.
fn prepare(stream: &TcpStream, keepalive: Keepalive) {
    let seconds = |time: Duration| time.clamp(Duration::from_secs(1), MAX_PROBE_INTERVAL);
    let prepared = stream.set_nodelay(true).and_then(|()| {
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, seconds(keepalive.interval))?;
        sockopt::set_tcp_keepintvl(stream, seconds(keepalive.timeout / PROBES))?;
        sockopt::set_tcp_keepcnt(stream, PROBES)?;
        Ok(())
    });
    if let Err(error) = prepared {
        // It works without; a client that has gone already is the usual reason.
        debug!(error = &error as &dyn std::error::Error, "a connection cannot be prepared");
    }
}

/// The client has hung up while it waited for its turn.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Something that may happen many times a second, and is told from time to time.
#[derive(Debug, Default)]
struct Complaint {
    told: Option<Instant>,
    /// Since it was told.
    times: u64,
}

impl Complaint {
    /// How often it has happened since it was last told, if it is to be told now.
    fn tell(&mut self) -> Option<u64> {
        self.times += 1;
        if self.told.is_some_and(|told| told.elapsed() < QUIET) {
            return None;
        }
        self.told = Some(Instant::now());
        Some(std::mem::take(&mut self.times))
    }
}

#[cfg(test)]
mod tests;
