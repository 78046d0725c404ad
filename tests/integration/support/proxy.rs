//! A relay in front of a unix socket that behaves like a bad network, on cue.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// Relays what is sent to [`Proxy::path`]; dropped, it ends with all of its connections.
pub(crate) struct Proxy {
    home: TempDir,
    weather: watch::Sender<Weather>,
    connections: Arc<AtomicUsize>,
    /// Owns the task that listens, which owns those that relay.
    _tasks: JoinSet<()>,
}

/// What all connections go through.
#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    /// How often everything was cut.
    cuts: u64,
    refuses: bool,
    frozen: bool,
    delay: Duration,
}

impl Proxy {
    /// In front of the socket that has this path.
    pub(crate) fn start(target: &Path) -> Self {
        let home = TempDir::new().expect("a directory for the socket");
        let (weather, _) = watch::channel(Weather::default());
        let connections = Arc::new(AtomicUsize::new(0));
        let listener = UnixListener::bind(home.path().join("proxy.sock")).expect("the socket can be bound");
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(listener, target.to_owned(), weather.clone(), connections.clone()));
        Self { home, weather, connections, _tasks: tasks }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.home.path().join("proxy.sock")
    }

    /// Breaks every connection, in both directions at once; what is on its way is gone.
    pub(crate) fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// From now on a new connection ends at once. Those that there are stay.
    pub(crate) fn refuse(&self) {
        self.weather.send_modify(|weather| weather.refuses = true);
    }

    /// From now on no byte moves, and nobody is told.
    pub(crate) fn freeze(&self) {
        self.weather.send_modify(|weather| weather.frozen = true);
    }

    /// From now on every piece of either direction is held up for so long.
    pub(crate) fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// From now on everything goes through: the end of [`refuse`](Self::refuse), [`freeze`](Self::freeze) and
    /// [`delay`](Self::delay).
    pub(crate) fn go_on(&self) {
        self.weather.send_modify(|weather| *weather = Weather { cuts: weather.cuts, ..Weather::default() });
    }

    /// How many connections were relayed so far; those refused do not count.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn listen(
    listener: UnixListener,
    target: PathBuf,
    weather: watch::Sender<Weather>,
    connections: Arc<AtomicUsize>,
) {
    let mut relays = JoinSet::new();
    loop {
        let (near, _) = listener.accept().await.expect("connections can be accepted");
        while relays.try_join_next().is_some() {}
        if weather.borrow().refuses {
            continue;
        }
        connections.fetch_add(1, Ordering::Relaxed);
        let weather = weather.subscribe();
        let target = target.clone();
        relays.spawn(async move {
            let born = weather.borrow().cuts;
            let mut cut = weather.clone();
            tokio::select! {
                // An end in error is as good as any other: both sides see their connection closed.
                _ = relay(near, &target, weather) => {}
                _ = cut.wait_for(|weather| weather.cuts > born) => {}
            }
        });
    }
}

async fn relay(near: UnixStream, target: &Path, weather: watch::Receiver<Weather>) -> io::Result<()> {
    let far = UnixStream::connect(target).await?;
    let (near, far) = (near.into_split(), far.into_split());
    tokio::try_join!(copy(near.0, far.1, weather.clone()), copy(far.0, near.1, weather))?;
    Ok(())
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut buffer).await?;
        // The sender is gone when the proxy is, and this with it.
        let delay = weather.wait_for(|weather| !weather.frozen).await.map_err(io::Error::other)?.delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
    }
}
