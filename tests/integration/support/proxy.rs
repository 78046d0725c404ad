//! A relay in front of a socket, of this machine or of its network, that behaves like a bad network, on cue.

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
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
};

/// Relays what is sent to [`Proxy::path`] or [`Proxy::address`]; dropped, it ends with all of its connections.
pub(crate) struct Proxy {
    home: TempDir,
    address: String,
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
        let listener = UnixListener::bind(home.path().join("proxy.sock")).expect("the socket can be bound");
        Self::run(Listener::Unix(listener), Target::Unix(target.to_owned()), home, String::new())
    }

    /// In front of whoever listens at this host and port.
    pub(crate) async fn before(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
        let address = listener.local_addr().expect("it has an address").to_string();
        let home = TempDir::new().expect("a directory");
        Self::run(Listener::Tcp(listener), Target::Tcp(target.to_owned()), home, address)
    }

    fn run(listener: Listener, target: Target, home: TempDir, address: String) -> Self {
        let (weather, _) = watch::channel(Weather::default());
        let connections = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(listener, target, weather.clone(), connections.clone()));
        Self { home, address, weather, connections, _tasks: tasks }
    }

    /// Host and port.
    pub(crate) fn address(&self) -> &str {
        &self.address
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

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

#[derive(Clone)]
enum Target {
    Unix(PathBuf),
    Tcp(String),
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Io>> {
        Ok(match self {
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
            Self::Tcp(listener) => Box::new(without_delay(listener.accept().await?.0)?),
        })
    }
}

impl Target {
    async fn connect(&self) -> io::Result<Box<dyn Io>> {
        Ok(match self {
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Self::Tcp(address) => Box::new(without_delay(TcpStream::connect(address).await?)?),
        })
    }
}

fn without_delay(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn listen(listener: Listener, target: Target, weather: watch::Sender<Weather>, connections: Arc<AtomicUsize>) {
    let mut relays = JoinSet::new();
    loop {
        let near = listener.accept().await.expect("connections can be accepted");
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

async fn relay(near: Box<dyn Io>, target: &Target, weather: watch::Receiver<Weather>) -> io::Result<()> {
    let far = target.connect().await?;
    let (near, far) = (tokio::io::split(near), tokio::io::split(far));
    tokio::try_join!(copy(near.0, far.1, weather.clone()), copy(far.0, near.1, weather))?;
    Ok(())
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
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
