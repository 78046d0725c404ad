//! Where an agent is, and what opens it.

use std::{fmt, path::PathBuf, sync::Arc};

use tonic::transport::ClientTlsConfig;

use crate::sandbox::tls;
pub use crate::sandbox::tls::CertificateError;

/// How to reach an agent.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub address: Address,
    pub token: Token,
    tls: Option<ClientTlsConfig>,
}

impl Endpoint {
    /// On a channel that nobody else can look into: a socket of this machine's file system.
    pub fn new(address: Address, token: Token) -> Self {
        Self { address, token, tls: None }
    }

    /// Over a network: both ends prove that they know the token, and nobody between them can read what they say.
    pub fn private(address: Address, token: Token) -> Result<Self, CertificateError> {
        let tls = Some(tls::client(token.reveal())?);
        Ok(Self { address, token, tls })
    }

    pub(super) fn tls(&self) -> Option<&ClientTlsConfig> {
        self.tls.as_ref()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    /// Host (an IPv6 address in brackets) and port.
    Tcp(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp(authority) => authority.fmt(f),
        }
    }
}

/// A shared secret, which is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

impl Token {
    pub fn new(secret: &str) -> Self {
        Self(secret.into())
    }

    /// For whoever must send or compare it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}
