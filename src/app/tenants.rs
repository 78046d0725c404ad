//! Those who may call, as the rooms are told of them: the edge who they are, and the trajectories how much they may.

use std::{collections::HashMap, fmt::Display, path::Path, sync::Arc};

use tracing::{info, warn};

use super::reload::Reload;
use crate::{
    edge::{Access, Caller, Holder, TokenDigest, Unasked},
    id::Tenant,
    settings::{self, AccessSettings, Secret, ServeFlags, Settings, TenantSettings},
    trajectory::{Directory, Quota},
};

/// Who may call to begin with, and how much.
pub(super) fn access(settings: &Settings, directory: &Directory) -> Access {
    let AccessSettings { tokens_file, tenants, open } = &settings.access;
    if let Some(path) = tokens_file {
        info!("{}", told(path, tenants));
    }
    let unasked =
        Unasked { health: open.health, status: open.status, reflection: open.reflection, metrics: open.metrics };
    directory.set_quotas(&quotas(tenants));
    Access::new(!settings.asks_callers(), unasked, holders(settings.token.as_ref(), tenants))
}

/// Reads the service's own token and the file of tenants again, so that these are those who may call from then on. What
/// has mistakes changes nothing. None where nobody is asked.
pub(super) fn reload(settings: &Settings, flags: ServeFlags, access: &Access, directory: &Directory) -> Option<Reload> {
    if !settings.asks_callers() {
        return None;
    }
    let (access, directory) = (access.clone(), directory.clone());
    let (had_own, tokens_file) = (settings.token.is_some(), settings.access.tokens_file.clone());
    Some(Box::new(move || {
        let stay = |why: &dyn Display| format!("tokens and tenants stay as they were: {why}");
        let Settings { token, access: read, .. } =
            settings::read(flags.clone()).map_err(|mistakes| stay(&mistakes))?.settings;
        // Other settings follow from it, such as whether slots have a network.
        if token.is_some() != had_own {
            return Err(stay(&"whether the service has a token of its own changes with a restart alone"));
        }
        if read.tokens_file != tokens_file {
            return Err(stay(&"tokens_file changes with a restart alone"));
        }
        if let Some(warning) = read.tokens_file.as_deref().and_then(settings::tenants_warning) {
            warn!("{warning}");
        }
        directory.set_quotas(&quotas(&read.tenants));
        access.replace(holders(token.as_ref(), &read.tenants));
        let of_file = read.tokens_file.as_deref().map(|path| told(path, &read.tenants));
        Ok(of_file.unwrap_or_else(|| "the service's own token has been read again".to_owned()))
    }))
}

/// How many there are, in words.
pub(super) fn told(path: &Path, tenants: &[TenantSettings]) -> String {
    let tokens: usize = tenants.iter().map(|tenant| tenant.tokens.len()).sum();
    format!("tenants: {}, tokens: {tokens}, of {}", tenants.len(), path.display())
}

fn quotas(tenants: &[TenantSettings]) -> HashMap<Tenant, Quota> {
    let quota = |tenant: &TenantSettings| Quota {
        max_trajectories: tenant.max_trajectories.unwrap_or(usize::MAX),
        max_calls_in_flight: tenant.max_calls_in_flight.unwrap_or(usize::MAX),
    };
    tenants.iter().map(|tenant| (tenant.name.clone(), quota(tenant))).collect()
}

fn holders(own: Option<&Secret>, tenants: &[TenantSettings]) -> Vec<Holder> {
    let own = own.map(|token| Holder::operator(TokenDigest::of(token.reveal().as_bytes())));
    let named = tenants.iter().map(|tenant| Holder {
        caller: Arc::new(Caller {
            tenant: tenant.name.clone(),
            labels: tenant.labels.clone(),
            is_operator: tenant.operator,
        }),
        tokens: tenant.tokens.iter().copied().map(TokenDigest).collect(),
    });
    own.into_iter().chain(named).collect()
}
