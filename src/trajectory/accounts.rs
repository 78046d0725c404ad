//! What each tenant holds, and how much it may.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::totals::{Counts, Part, Totals};
use crate::id::Tenant;

/// How much a tenant may hold at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    pub max_trajectories: usize,
    /// Waiting and running, of all its trajectories.
    pub max_calls_in_flight: usize,
}

impl Default for Quota {
    /// The service's own bounds are all there is.
    fn default() -> Self {
        Self { max_trajectories: usize::MAX, max_calls_in_flight: usize::MAX }
    }
}

/// How much a trajectory's tenant holds beside it, and how much it may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Allowance {
    pub(super) quota: Quota,
    /// That are open, without this one.
    pub(super) other_trajectories: usize,
    /// Waiting and running, without this one's.
    pub(super) other_calls: usize,
}

/// An account for each tenant that has ever had a trajectory, or has a quota. Tenants are few: somebody has given each a
/// token or a certificate.
#[derive(Default)]
pub(super) struct Accounts(Mutex<HashMap<Tenant, Arc<Account>>>);

/// Of one tenant.
#[derive(Default)]
pub(super) struct Account {
    pub(super) totals: Totals,
    quota: Mutex<Quota>,
}

impl Accounts {
    pub(super) fn of(&self, tenant: &Tenant) -> Arc<Account> {
        self.lock().entry(tenant.clone()).or_default().clone()
    }

    pub(super) fn counts(&self, tenant: &Tenant) -> Counts {
        self.lock().get(tenant).map(|account| account.totals.get()).unwrap_or_default()
    }

    /// From now on these hold, and none for tenants that are not among them. Nobody loses what it has.
    pub(super) fn set_quotas(&self, quotas: &HashMap<Tenant, Quota>) {
        let mut accounts = self.lock();
        for tenant in quotas.keys() {
            accounts.entry(tenant.clone()).or_default();
        }
        for (tenant, account) in &*accounts {
            *account.quota() = quotas.get(tenant).copied().unwrap_or_default();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Tenant, Arc<Account>>> {
        // Nothing that can panic runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// For the trajectory that adds this part.
    pub(super) fn allowance(&self, own: &Part) -> Allowance {
        let counts = self.totals.get();
        let others = counts.open_trajectories - u64::from(own.open);
        Allowance {
            quota: *self.quota(),
            other_trajectories: usize::try_from(others).unwrap_or(usize::MAX),
            other_calls: counts.without(own).calls,
        }
    }

    fn quota(&self) -> MutexGuard<'_, Quota> {
        self.quota.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Allowance {
    /// The most that there may be, if one more trajectory would be too many.
    pub(super) fn trajectories_exhausted(&self) -> Option<usize> {
        Some(self.quota.max_trajectories).filter(|max| self.other_trajectories >= *max)
    }

    /// The same of a call, where the trajectory has so many.
    pub(super) fn calls_exhausted(&self, own: usize) -> Option<usize> {
        Some(self.quota.max_calls_in_flight).filter(|max| self.other_calls.saturating_add(own) >= *max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_of_its_tenant_alone_and_can_be_changed() {
        let accounts = Accounts::default();
        let (red, blue) = (Tenant::new("red"), Tenant::new("blue"));
        let part = Part { open: true, waiting: 2, running: 1, ..Part::default() };
        accounts.of(&red).totals.change(&Part::default(), &part);
        let quota = Quota { max_trajectories: 1, max_calls_in_flight: 3 };
        accounts.set_quotas(&HashMap::from([(red.clone(), quota), (blue.clone(), quota)]));
        let another = accounts.of(&red).allowance(&Part::default());
        assert_eq!((another.trajectories_exhausted(), another.calls_exhausted(0)), (Some(1), Some(3)));
        let own = accounts.of(&red).allowance(&part);
        assert_eq!(
            (own.trajectories_exhausted(), own.calls_exhausted(2), own.calls_exhausted(3)),
            (None, None, Some(3))
        );
        let others = accounts.of(&blue).allowance(&Part::default());
        assert_eq!((others.trajectories_exhausted(), others.calls_exhausted(0)), (None, None));

        accounts.set_quotas(&HashMap::from([(blue, quota)]));
        let unbound = accounts.of(&red).allowance(&Part::default());
        assert_eq!((unbound.trajectories_exhausted(), unbound.calls_exhausted(usize::MAX - 4)), (None, None));
        assert_eq!(accounts.counts(&red).open_trajectories, 1, "nobody loses what it has");
        assert_eq!(accounts.counts(&Tenant::anonymous()), Counts::default());
    }
}
