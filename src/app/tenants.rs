//! Those who may call, as the rooms are told of them: the edge who they are, and the trajectories how much they may.

use std::{collections::HashMap, path::Path, sync::Arc};

use tracing::{info, warn};

use super::reload::Reload;
use crate::{
    edge::{Access, Caller, Holder, TokenDigest, Unasked},
    id::Tenant,
    settings::{self, AccessSettings, Mistakes, Secret, Settings, TenantSettings},
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

/// Reads the file of tenants again, if there is one, so that these are the tenants from then on. A file that has
/// mistakes changes nothing.
pub(super) fn reload(settings: &Settings, access: &Access, directory: &Directory) -> Option<Reload> {
    let path = settings.access.tokens_file.clone()?;
    let (own, access, directory) = (settings.token.clone(), access.clone(), directory.clone());
    Some(Box::new(move || {
        let tenants = settings::tenants(&path, own.as_ref())
            .map_err(|mistakes| format!("the tenants stay as they were: {}", Mistakes(mistakes)))?;
        if let Some(warning) = settings::tenants_warning(&path) {
            warn!("{warning}");
        }
        directory.set_quotas(&quotas(&tenants));
        access.replace(holders(own.as_ref(), &tenants));
        Ok(told(&path, &tenants))
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
