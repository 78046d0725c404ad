//! Why a call failed, by what the caller should do about it.

use std::{path::PathBuf, time::Duration};

/// A client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("could not read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} holds no PEM {what}")]
    Empty { path: PathBuf, what: &'static str },
    #[error("{path} is not PEM")]
    Pem { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("{path} holds a certificate that cannot be trusted")]
    Root { path: PathBuf, source: rustls::Error },
    #[error("this machine has no certificate authorities: name one")]
    NoRoots,
    #[error("a client certificate and its key go together")]
    HalfIdentity,
    #[error("the client certificate and its key cannot be used")]
    Identity(#[source] rustls::Error),
    #[error("could not set up TLS")]
    Tls(#[source] rustls::Error),
    #[error("{0:?} is no DNS name that a certificate could be for")]
    ServerName(String),
    #[error("{0} cannot be sent in a header")]
    Header(&'static str),
    #[error("could not make an HTTP client")]
    Http(#[source] reqwest::Error),
}

/// A call failed. The text is the server's, or that of the connection, cut short and without secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// It may go well later.
    #[error("{call}: {text}")]
    Retryable { call: &'static str, text: String, may_have_applied: bool },
    #[error("{call}: no answer within {after:?}")]
    TimedOut { call: &'static str, after: Duration, may_have_applied: bool },
    /// There was no connection: nothing has happened at the server.
    #[error("{call}: could not connect: {text}")]
    Unreachable { call: &'static str, text: String },
    /// Someone else was faster: look again.
    #[error("{call}: {text}")]
    Conflict { call: &'static str, text: String },
    /// The token does not suffice.
    #[error("{call}: {text}{}", needed(*capability))]
    Denied { call: &'static str, text: String, capability: Option<&'static str> },
    /// What the call is about is not there; of a dispatch, its template (a stopped one is not there either).
    #[error("{call}: {text}")]
    NotFound { call: &'static str, text: String },
    /// It will not go well later.
    #[error("{call}: {text}")]
    Invalid { call: &'static str, text: String },
    /// The answer is none of Nomad's, or was cut. Of a write, it may have applied.
    #[error("{call}: an answer that makes no sense: {text}")]
    Malformed { call: &'static str, text: String },
}

fn needed(capability: Option<&str>) -> String {
    capability.map(|capability| format!(" (the token needs {capability})")).unwrap_or_default()
}

impl ApiError {
    /// Its name, for whoever counts.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Retryable { .. } => "retryable",
            Self::TimedOut { .. } => "timed_out",
            Self::Unreachable { .. } => "unreachable",
            Self::Conflict { .. } => "conflict",
            Self::Denied { .. } => "denied",
            Self::NotFound { .. } => "not_found",
            Self::Invalid { .. } => "invalid",
            Self::Malformed { .. } => "malformed",
        }
    }

    /// Whether a write may have happened all the same.
    pub fn may_have_applied(&self) -> bool {
        match self {
            Self::Retryable { may_have_applied, .. } | Self::TimedOut { may_have_applied, .. } => *may_have_applied,
            Self::Malformed { .. } => true,
            Self::Unreachable { .. }
            | Self::Conflict { .. }
            | Self::Denied { .. }
            | Self::NotFound { .. }
            | Self::Invalid { .. } => false,
        }
    }

    /// Whether the same call may go well later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Retryable { .. } | Self::TimedOut { .. } | Self::Unreachable { .. } | Self::Malformed { .. } => true,
            Self::Conflict { .. } | Self::Denied { .. } | Self::NotFound { .. } | Self::Invalid { .. } => false,
        }
    }
}
