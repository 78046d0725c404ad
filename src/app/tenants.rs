//! Those who may call, as the rooms are told of them: the edge who they are, and the trajectories how much they may.

use std::{collections::HashMap, path::Path, sync::Arc};

use crate::{
    edge::{Access, Caller, Holder, TokenDigest, Unasked},
    id::Tenant,
    settings::{self, Mistakes, Secret, Settings, TenantSettings},
    trajectory::{Directory, Quota},
};

pub(super) fn access(settings: &Settings) -> Access {
    let open = settings.access.open;
    let unasked =
        Unasked { health: open.health, status: open.status, reflection: open.reflection, metrics: open.metrics };
    Access::new(!settings.asks_callers(), unasked, holders(settings.token.as_ref(), &settings.access.tenants))
}

/// Reads the file again, so that these are the tenants from now on. Says who they are, or why all stays as it was.
pub(super) fn reload(
    path: &Path,
    own: Option<&Secret>,
    access: &Access,
    directory: &Directory,
) -> Result<String, String> {
    let tenants = settings::tenants(path, own)
        .map_err(|mistakes| format!("the tenants stay as they were: {}", Mistakes(mistakes)))?;
    directory.set_quotas(&quotas(&tenants));
    access.replace(holders(own, &tenants));
    Ok(format!("{} names {} tenants, with {} tokens", path.display(), tenants.len(), tokens(&tenants)))
}

pub(super) fn quotas(tenants: &[TenantSettings]) -> HashMap<Tenant, Quota> {
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

fn tokens(tenants: &[TenantSettings]) -> usize {
    tenants.iter().map(|tenant| tenant.tokens.len()).sum()
}
