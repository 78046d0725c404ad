//! The listening socket: it can be closed and opened again, and its connections can be cut.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use std::sync::Arc;

/// What the fixture holds of the door.
#[derive(Clone)]
pub(super) struct Doorman {
    open: watch::Sender<bool>,
    is_listening: Arc<AtomicBool>,
    /// The parent of each connection's own.
    cut: Arc<Mutex<CancellationToken>>,
}

/// The door itself, which the server accepts from.
pub(super) struct Door {
    address: SocketAddr,
    listener: Option<TcpListener>,
    open: watch::Receiver<bool>,
    doorman: Doorman,
}

pub(super) fn door(listener: TcpListener) -> io::Result<(Doorman, Door)> {
    let (open, opened) = watch::channel(true);
    let doorman = Doorman { open, is_listening: Arc::new(AtomicBool::new(true)), cut: Arc::default() };
    let address = listener.local_addr()?;
    Ok((doorman.clone(), Door { address, listener: Some(listener), open: opened, doorman }))
}

impl Doorman {
    /// Returns when it is so.
    pub(super) fn set_open(&self, open: bool) {
        self.open.send_replace(open);
        let asked = Instant::now();
        while self.is_listening.load(Ordering::Acquire) != open && asked.elapsed() < Duration::from_secs(1) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The same, without waiting for it: for what runs where the door does.
    pub(super) fn will_open(&self) {
        self.open.send_replace(true);
    }

    pub(super) fn cut_all(&self) {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *cut).cancel();
    }

    fn line(&self) -> Line {
        Line(self.cut.lock().unwrap_or_else(PoisonError::into_inner).child_token())
    }
}

impl Listener for Door {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        loop {
            if !*self.open.borrow_and_update() {
                self.listener = None;
                self.doorman.is_listening.store(false, Ordering::Release);
                let _ = self.open.changed().await;
                continue;
            }
            let Some(listener) = &self.listener else {
                match TcpListener::bind(self.address).await {
                    Ok(listener) => self.listener = Some(listener),
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
                continue;
            };
            self.doorman.is_listening.store(true, Ordering::Release);
            tokio::select! {
                accepted = listener.accept() => {
                    if let Ok((stream, address)) = accepted {
                        let line = self.doorman.line();
                        let cut = Box::pin(line.0.clone().cancelled_owned());
                        return (Wire { stream, cut, line }, address);
                    }
                }
                _ = self.open.changed() => {}
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// Cuts one connection: a handler finds it beside its request.
#[derive(Clone)]
pub(super) struct Line(pub(super) CancellationToken);

impl Connected<IncomingStream<'_, Door>> for Line {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        stream.io().line.clone()
    }
}

/// A connection that ends when it is cut.
pub(super) struct Wire {
    stream: TcpStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    line: Line,
}

impl Wire {
    fn poll_cut(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_cut(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_cut(context)?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_cut(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
