//! Who may call: whoever has the token, where there is one.

use axum::http::{HeaderMap, header::AUTHORIZATION};
use subtle::ConstantTimeEq;

use crate::id::Tenant;

/// The service's token, if it has one.
#[derive(Clone)]
pub struct Access {
    token: Option<Box<str>>,
}

/// Why a caller is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the request has no bearer token")]
    NoToken,
    #[error("the request's authorization is no bearer token")]
    NotBearer,
    #[error("the bearer token is not this service's")]
    WrongToken,
}

impl Access {
    /// With no token everybody may call.
    pub fn new(token: Option<&str>) -> Self {
        Self { token: token.map(Into::into) }
    }

    /// Whom the caller acts for.
    pub(super) fn tenant(&self, headers: &HeaderMap) -> Result<Tenant, Refused> {
        let Some(token) = &self.token else { return Ok(Tenant::anonymous()) };
        let header = headers.get(AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
        if header.is_empty() {
            return Err(Refused::NoToken);
        }
        let given = match header.split_at_checked(BEARER.len()) {
            Some((scheme, given)) if scheme.eq_ignore_ascii_case(BEARER) => given.trim_ascii(),
            _ => return Err(Refused::NotBearer),
        };
        if bool::from(given.ct_eq(token.as_bytes())) { Ok(Tenant::anonymous()) } else { Err(Refused::WrongToken) }
    }
}

/// The scheme, and what ends it.
const BEARER: &[u8] = b"bearer ";

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn ask(access: &Access, header: Option<&'static str>) -> Result<Tenant, Refused> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(AUTHORIZATION, HeaderValue::from_static(header));
        }
        access.tenant(&headers)
    }

    #[test]
    fn a_token_is_asked_for_only_where_there_is_one() {
        assert!(ask(&Access::new(None), None).is_ok());
        let access = Access::new(Some("s3cret"));
        assert_eq!(ask(&access, None), Err(Refused::NoToken));
        assert_eq!(ask(&access, Some("")), Err(Refused::NoToken));
        assert_eq!(ask(&access, Some("Basic s3cret")), Err(Refused::NotBearer));
        assert_eq!(ask(&access, Some("Bearer")), Err(Refused::NotBearer));
        assert_eq!(ask(&access, Some("Bearer wrong")), Err(Refused::WrongToken));
        assert!(ask(&access, Some("bearer   s3cret ")).is_ok());
    }
}
