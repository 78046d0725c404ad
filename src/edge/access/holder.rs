//! Those who may call, and what each may.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, LazyLock},
};

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use super::Refused;
use crate::id::Tenant;

/// What a token is known by: its SHA-256. So comparing takes as long for any, whatever its length, and nothing that is
/// kept opens anything.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenDigest(pub [u8; 32]);

impl TokenDigest {
    pub fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(***)")
    }
}

/// Whom a request acts for, and what it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub tenant: Tenant,
    /// The values that each label of its trajectories may have; `*` is any. None: any label.
    pub labels: Option<BTreeMap<String, Vec<String>>>,
    /// Looks at the whole service, and not at its own part of it alone.
    pub is_operator: bool,
}

/// Somebody who may call.
#[derive(Debug, Clone)]
pub struct Holder {
    pub caller: Arc<Caller>,
    /// Any of them will do. None: only a certificate with the tenant's name will.
    pub tokens: Vec<TokenDigest>,
}

impl Caller {
    /// Whoever has the service's own token, or calls a service that asks nobody.
    pub(super) fn operator() -> Arc<Self> {
        static OPERATOR: LazyLock<Arc<Caller>> =
            LazyLock::new(|| Arc::new(Caller { tenant: Tenant::anonymous(), labels: None, is_operator: true }));
        OPERATOR.clone()
    }

    /// A tenant about which nothing is said.
    pub(super) fn unbound(tenant: Tenant) -> Arc<Self> {
        Arc::new(Self { tenant, labels: None, is_operator: false })
    }

    /// Whether it may look at the whole service.
    pub(in crate::edge) fn must_be_operator(&self) -> Result<(), Refused> {
        if self.is_operator { Ok(()) } else { Err(Refused::NoOperator(self.tenant.clone())) }
    }

    /// Whether a trajectory of its may have these labels.
    pub(in crate::edge) fn may_use(&self, labels: &BTreeMap<String, String>) -> Result<(), Refused> {
        let Some(own) = &self.labels else { return Ok(()) };
        let may = |name: &String, value: &String| {
            own.get(name).is_some_and(|values| values.iter().any(|own| own == "*" || own == value))
        };
        match labels.iter().find(|(name, value)| !may(name, value)) {
            None => Ok(()),
            Some((name, value)) => {
                Err(Refused::Label { tenant: self.tenant.clone(), name: name.clone(), value: value.clone() })
            }
        }
    }
}

impl Holder {
    /// Whoever has the service's own token.
    pub fn operator(token: TokenDigest) -> Self {
        Self { caller: Caller::operator(), tokens: vec![token] }
    }

    /// Looks at all its tokens, however early one fits.
    pub(super) fn has(&self, given: &TokenDigest) -> bool {
        let fits = |fits: Choice, token: &TokenDigest| fits | token.0.ct_eq(&given.0);
        self.tokens.iter().fold(Choice::from(0), fits).into()
    }
}
