//! Where an agent listens.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsFd,
};

use rustix::net::{AddressFamily, SocketType, sockopt};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{
    Error,
    server::{Router, TcpIncoming},
};

/// As many connections as may wait to be accepted.
const BACKLOG: i32 = 16;

pub(super) enum Listener {
    Unix(UnixListener),
    Tcp(tokio::net::TcpListener),
}

impl Listener {
    /// The socket that whoever started the agent has bound, so that a connection can be made before the agent is up.
    pub(super) fn inherited() -> io::Result<Self> {
        let listener = std::os::unix::net::UnixListener::from(io::stdin().as_fd().try_clone_to_owned()?);
        // Fails unless it is a socket that was bound.
        listener.local_addr()?;
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener).map(Self::Unix)
    }

    /// All of this machine's addresses, of both kinds where there are both: which of them is published is not the
    /// agent's to know.
    pub(super) fn on(port: u16) -> io::Result<Self> {
        let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener = bind(AddressFamily::INET6, both).or_else(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Err(error),
            _ => bind(AddressFamily::INET, (Ipv4Addr::UNSPECIFIED, port).into()),
        })?;
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener).map(Self::Tcp)
    }

    /// Until it cannot any more.
    pub(super) async fn serve(self, server: Router) -> Result<(), Error> {
        match self {
            Self::Unix(listener) => server.serve_with_incoming(UnixListenerStream::new(listener)).await,
            Self::Tcp(listener) => {
                server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))).await
            }
        }
    }
}

fn bind(family: AddressFamily, address: SocketAddr) -> io::Result<TcpListener> {
    let socket = rustix::net::socket_with(family, SocketType::STREAM, rustix::net::SocketFlags::CLOEXEC, None)?;
    if family == AddressFamily::INET6 {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}
