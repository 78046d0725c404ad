//! Who may call, and as whom: whoever sends a token that is known here, or has shown a certificate; everybody, where
//! nobody is asked.

mod holder;

use std::sync::{Arc, PoisonError, RwLock};

use axum::http::{Extensions, HeaderMap, header::AUTHORIZATION};

pub use self::holder::{Caller, Holder, TokenDigest};
use super::peer::Peer;
use crate::id::{InvalidId, Tenant};

/// Who may call. Cheap to clone; all clones change together.
#[derive(Clone)]
pub struct Access {
    /// Nobody is asked.
    is_open: bool,
    unasked: Unasked,
    /// Whole at every moment: a request is judged by those before a change or by those after it.
    holders: Arc<RwLock<Arc<[Holder]>>>,
}

/// What everybody may look at, even where callers are asked who they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unasked {
    pub health: bool,
    /// `GET /status` alone: how much there is to do, and with what.
    pub status: bool,
    pub reflection: bool,
    pub metrics: bool,
}

/// Why a caller does not get what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the request has no bearer token")]
    NoToken,
    #[error("the request's authorization is no bearer token")]
    NotBearer,
    #[error("the bearer token is not this service's")]
    WrongToken,
    #[error("the client's certificate has no name")]
    Nameless,
    #[error("the name in the client's certificate {0}")]
    BadName(InvalidId),
    #[error("the label {name}={value} is not one that {tenant} may use")]
    Label { tenant: Tenant, name: String, value: String },
    #[error("{0} may not look at the whole service")]
    NoOperator(Tenant),
}

impl Access {
    /// `is_open`: whoever shows nothing may call, as the anonymous tenant and the service's operator.
    pub fn new(is_open: bool, unasked: Unasked, holders: Vec<Holder>) -> Self {
        Self { is_open, unasked, holders: Arc::new(RwLock::new(holders.into())) }
    }

    /// From now on these may call. Whoever is no longer among them keeps the streams that are open.
    pub fn replace(&self, holders: Vec<Holder>) {
        *self.holders.write().unwrap_or_else(PoisonError::into_inner) = holders.into();
    }

    /// Whom the caller acts for, and what it may. A token that is sent counts, and not the certificate.
    pub(super) fn caller(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Arc<Caller>, Refused> {
        let sent = headers.get(AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
        match extensions.get::<Peer>() {
            _ if !sent.is_empty() && !self.is_open => self.by_token(bearer(sent)?),
            Some(peer) => self.by_name(peer),
            None if self.is_open => Ok(Caller::operator()),
            None => Err(Refused::NoToken),
        }
    }

    /// The same for what everybody may look at, if it is so here: then none.
    pub(super) fn onlooker(
        &self,
        unasked: fn(&Unasked) -> bool,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Option<Arc<Caller>>, Refused> {
        if unasked(&self.unasked) { Ok(None) } else { self.caller(headers, extensions).map(Some) }
    }

    fn by_token(&self, token: &[u8]) -> Result<Arc<Caller>, Refused> {
        let given = TokenDigest::of(token);
        // All are looked at, however early one fits: how long it takes says nothing about which.
        let holders = self.holders();
        let fitting = holders.iter().filter(|holder| holder.has(&given)).fold(None, |_, holder| Some(holder));
        fitting.map(|holder| holder.caller.clone()).ok_or(Refused::WrongToken)
    }

    fn by_name(&self, peer: &Peer) -> Result<Arc<Caller>, Refused> {
        let name = peer.name.as_deref().ok_or(Refused::Nameless)?;
        let tenant = Tenant::parse(name).map_err(Refused::BadName)?;
        let holders = self.holders();
        let known = holders.iter().find(|holder| holder.caller.tenant == tenant);
        Ok(known.map_or_else(|| Caller::unbound(tenant), |holder| holder.caller.clone()))
    }

    fn holders(&self) -> Arc<[Holder]> {
        self.holders.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The token of the header.
fn bearer(header: &[u8]) -> Result<&[u8], Refused> {
    /// The scheme, and what ends it.
    const BEARER: &[u8] = b"bearer ";
    match header.split_at_checked(BEARER.len()) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(BEARER) => Ok(token.trim_ascii()),
        _ => Err(Refused::NotBearer),
    }
}

#[cfg(test)]
mod tests;
