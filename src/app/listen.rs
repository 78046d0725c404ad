//! The service's port.

use std::{io, net::SocketAddr};

use tokio::net::TcpListener;

/// Why the port cannot be had, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("could not listen on {address}: {}", advice(source.kind()))]
pub(super) struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

pub(super) async fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError { address, source })
}

fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrInUse => "stop what listens there, or choose another port with --listen",
        io::ErrorKind::PermissionDenied => "choose a port of 1024 or more with --listen, or add CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address: choose one that it has with --listen",
        _ => "choose another address with --listen",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::chain;

    #[tokio::test]
    async fn a_port_that_cannot_be_had_says_what_to_do() {
        let first = listen(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        let address = first.local_addr().expect("its address");
        let said = chain(&listen(address).await.expect_err("it is taken"));
        assert!(said.starts_with(&format!("could not listen on {address}: stop what listens there")), "{said}");
        assert!(said.contains("in use"), "the cause is told: {said}");
        // Of a range for examples in documents, which no machine has.
        let said = chain(&listen(SocketAddr::from(([192, 0, 2, 1], 0))).await.expect_err("it is nobody's"));
        assert!(said.contains("no such address"), "{said}");
    }
}
