//! Where an agent is, and what opens it.

use std::{fmt, path::PathBuf, sync::Arc};

/// How to reach an agent.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub address: Address,
    pub token: Token,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
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
