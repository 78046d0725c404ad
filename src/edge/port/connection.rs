//! One connection, from its first byte to its last.

use std::{convert::Infallible, future::Future, io, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, Response},
};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower::Service as _;

use super::{
    ConnectionLimits, deadline,
    opening::{self, Rewound, Version},
};
use crate::edge::peer::Peer;

/// A stream's window: a batch of some size need not wait for a round trip.
const STREAM_WINDOW: u32 = 1 << 20;
/// A connection's window, which its streams share.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Of a request's headers on HTTP/2: a token, a trace and a trajectory's id take one of them.
const MAX_HEADER_LIST_BYTES: u32 = 16 << 10;
/// Of a request's line and headers on HTTP/1.1, and of what is read or written at once.
const MAX_HTTP1_BUFFER: usize = 128 << 10;
/// Requests that a client has taken back before they were looked at. A trainer whose deadlines pass all at once may do so
/// with many; one that does with more is sent away.
const MAX_PENDING_RESETS: usize = 256;
/// Streams that were ended for a client's mistakes, before it is sent away.
const MAX_FAULTY_STREAMS: usize = 1024;

/// For a client that is refused to go by itself.
const LINGER: Duration = Duration::from_secs(1);

/// Why a connection has ended before its time.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    #[error("it broke before it had said what it wants")]
    Opening(#[source] io::Error),
    #[error("it took too long to say what it wants")]
    Silent,
    #[error("its HTTP broke")]
    Http(#[from] hyper::Error),
}

impl Broken {
    /// Whether one side did not like what the other has shown: somebody may look for the reason.
    pub(super) fn is_refusal(&self) -> bool {
        let Self::Handshake(error) = self else { return false };
        error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
    }
}

/// Serves the connection until either side ends it. After `shutdown` it ends as soon as nothing is under way.
pub(super) async fn serve(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    limits: &ConnectionLimits,
    routes: Router,
    shutdown: &CancellationToken,
) -> Result<(), Broken> {
    let deadline = Instant::now() + limits.handshake_timeout;
    match tls {
        None => {
            let opened = async { opening::read(stream).await.map_err(Broken::Opening) };
            let opened = open(opened, deadline, shutdown).await?;
            speak(opened.flatten(), limits, routes, None, shutdown).await
        }
        Some(config) => {
            let opened = async {
                let stream = match TlsAcceptor::from(config).accept(stream).into_fallible().await {
                    Ok(stream) => stream,
                    Err((error, stream)) => {
                        linger(stream).await;
                        return Err(Broken::Handshake(error));
                    }
                };
                let peer = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(Peer::of);
                let opened = opening::read(stream).await.map_err(Broken::Opening)?;
                Ok(opened.map(|opened| (opened, peer)))
            };
            match open(opened, deadline, shutdown).await?.flatten() {
                Some((opened, peer)) => speak(Some(opened), limits, routes, peer, shutdown).await,
                None => Ok(()),
            }
        }
    }
}

/// Lets the client read why it is refused: what is closed while there is something to read loses what it has said.
async fn linger(mut stream: TcpStream) {
    let gone = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    let _ = timeout(LINGER, gone).await;
}

/// What opens the connection, in its time. None if the end has come.
async fn open<T>(
    opened: impl Future<Output = Result<T, Broken>>,
    deadline: Instant,
    shutdown: &CancellationToken,
) -> Result<Option<T>, Broken> {
    tokio::select! {
        opened = timeout_at(deadline, opened) => match opened {
            Ok(opened) => Ok(Some(opened?)),
            Err(_) => Err(Broken::Silent),
        },
        () = shutdown.cancelled() => Ok(None),
    }
}

async fn speak<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    opened: Option<(Version, Rewound<IO>)>,
    limits: &ConnectionLimits,
    routes: Router,
    peer: Option<Peer>,
    shutdown: &CancellationToken,
) -> Result<(), Broken> {
    let Some((version, io)) = opened else { return Ok(()) };
    let io = TokioIo::new(io);
    let service = service_fn(move |request| answer(routes.clone(), peer.clone(), request));
    match version {
        Version::Http1 => {
            let mut connection = pin!(
                http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(limits.header_timeout)
                    .max_buf_size(MAX_HTTP1_BUFFER)
                    .serve_connection(io, service)
            );
            tokio::select! {
                biased;
                ended = connection.as_mut() => return Ok(ended?),
                () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            Ok(connection.await?)
        }
        Version::Http2 => {
            let mut connection = pin!(
                http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .max_concurrent_streams(limits.max_streams)
                    .max_header_list_size(MAX_HEADER_LIST_BYTES)
                    .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
                    .max_local_error_reset_streams(MAX_FAULTY_STREAMS)
                    .keep_alive_interval(limits.keepalive.interval)
                    .keep_alive_timeout(limits.keepalive.timeout)
                    .serve_connection(io, service)
            );
            tokio::select! {
                biased;
                ended = connection.as_mut() => return Ok(ended?),
                () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            Ok(connection.await?)
        }
    }
}

/// Asks the routes, for as long as the client waits.
async fn answer(
    mut routes: Router,
    peer: Option<Peer>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer);
    }
    match deadline::of(request.headers()) {
        None => routes.call(request).await,
        Some(patience) => match timeout(patience, routes.call(request)).await {
            Ok(answered) => answered,
            Err(_) => Ok(expired(patience)),
        },
    }
}

fn expired(patience: Duration) -> Response<Body> {
    Status::deadline_exceeded(format!("there was no answer within the client's {patience:?}")).into_http()
}
