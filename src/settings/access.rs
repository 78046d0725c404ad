//! Who may call, and what for nobody is asked.

use std::{fmt, path::PathBuf};

use super::{
    ConnectionSettings, Settings, TenantSettings, TlsSettings,
    convert::{self, Written},
    reader::Reader,
};

/// Beside the service's own token.
#[derive(Debug, Clone, Default)]
pub struct AccessSettings {
    /// Where those are named who have tokens or certificates of their own.
    pub tokens_file: Option<PathBuf>,
    /// As the file has them.
    pub tenants: Vec<TenantSettings>,
    pub open: OpenEndpoints,
}

/// What needs no token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenEndpoints {
    pub health: bool,
    /// `GET /status` alone.
    pub status: bool,
    pub reflection: bool,
    pub metrics: bool,
}

impl Settings {
    /// Whether callers must show who they are.
    pub fn asks_callers(&self) -> bool {
        let certificates = self.connections.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        self.has_tokens() || certificates
    }

    /// Whether whoever calls has shown who it is.
    pub(super) fn knows_callers(&self) -> bool {
        self.has_tokens() || self.connections.tls.as_ref().is_some_and(TlsSettings::mutual)
    }

    pub(super) fn has_tokens(&self) -> bool {
        self.token.is_some() || self.access.tokens_file.is_some()
    }
}

pub(super) fn build(r: &mut Reader<'_>, connections: &ConnectionSettings) -> AccessSettings {
    let tokens_file = r.optional("tokens_file", convert::path);
    // The old system's status is open to all; but one tenant must not see how the others do.
    let tenants = tokens_file.is_some() || connections.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    let usual = OpenEndpoints { health: true, status: !tenants, ..OpenEndpoints::default() };
    let open = r.optional("open_endpoints", endpoints).unwrap_or(usual);
    // The tenants are read once it is known where they are.
    AccessSettings { tokens_file, tenants: Vec::new(), open }
}

/// As it is written.
impl fmt::Display for OpenEndpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { health, status, reflection, metrics } = *self;
        let all = [("health", health), ("status", status), ("reflection", reflection), ("metrics", metrics)];
        let open: Vec<_> = all.into_iter().filter(|(_, open)| *open).map(|(name, _)| name).collect();
        f.write_str(if open.is_empty() { "none".to_owned() } else { open.join(",") }.as_str())
    }
}

fn endpoints(written: Written<'_>) -> Result<OpenEndpoints, String> {
    let mut open = OpenEndpoints::default();
    for name in convert::list(written)? {
        match name.as_str() {
            "none" => {}
            "health" => open.health = true,
            "status" => open.status = true,
            "reflection" => open.reflection = true,
            "metrics" => open.metrics = true,
            other => {
                return Err(format!("must be none, or some of health, status, reflection, metrics, and has {other:?}"));
            }
        }
    }
    Ok(open)
}
