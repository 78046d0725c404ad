//! What is to be known of the places that have tools.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use rustls::pki_types::pem;

/// All of them, and what bounds them together.
#[derive(Debug, Clone)]
pub struct Config {
    pub sources: Vec<SourceConfig>,
    /// Calls that run at once, at all sources together.
    pub max_calls: usize,
    /// How often a source is asked what tools it has.
    pub refresh: Duration,
}

/// What a source speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    ToolServer,
    /// The Model Context Protocol, over streamable HTTP.
    Mcp,
}

/// A ToolServer, or an MCP server.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    pub protocol: Protocol,
    /// For people, and for the journal, which remembers whose a call is.
    pub name: Arc<str>,
    /// With its scheme, without a slash at the end.
    pub url: String,
    pub token: Option<Token>,
    /// Calls that run there at once.
    pub max_calls: usize,
    /// Of one answer, in bytes.
    pub max_answer_bytes: usize,
    /// A file of certificates (PEM) that may have signed its own, beside those of the machine.
    pub ca_cert: Option<PathBuf>,
}

/// Text that is never printed.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl Token {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

/// Why a source cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{name}: {url} is no address")]
    Address { name: Arc<str>, url: String },
    #[error("{name}: the token cannot be sent in a header")]
    Token { name: Arc<str> },
    #[error("{name}: could not set up TLS")]
    Tls {
        name: Arc<str>,
        #[source]
        source: rustls::Error,
    },
    #[error("{name}: could not read certificates from {}", path.display())]
    Certificates {
        name: Arc<str>,
        path: PathBuf,
        #[source]
        source: pem::Error,
    },
    #[error("{name}: a certificate of {} cannot be trusted", path.display())]
    Untrusted {
        name: Arc<str>,
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("{name}: there is no certificate in {}", path.display())]
    NoCertificate { name: Arc<str>, path: PathBuf },
    #[error("{name}: could not make a client")]
    Client {
        name: Arc<str>,
        #[source]
        source: reqwest::Error,
    },
}
