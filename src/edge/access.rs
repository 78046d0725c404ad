//! Who may call: whoever has the token, where there is one.

use subtle::ConstantTimeEq;
use tonic::metadata::MetadataMap;

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
    #[error("the bearer token is not this service's")]
    WrongToken,
}

impl Access {
    /// With no token everybody may call.
    pub fn new(token: Option<&str>) -> Self {
        Self { token: token.map(Into::into) }
    }

    /// Whom the caller acts for.
    pub(super) fn tenant(&self, metadata: &MetadataMap) -> Result<Tenant, Refused> {
        let Some(token) = &self.token else { return Ok(Tenant::anonymous()) };
        let header = metadata.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let given = match header.split_once(' ') {
            Some((scheme, given)) if scheme.eq_ignore_ascii_case("bearer") => given.trim(),
            _ => return Err(Refused::NoToken),
        };
        if bool::from(given.as_bytes().ct_eq(token.as_bytes())) {
            Ok(Tenant::anonymous())
        } else {
            Err(Refused::WrongToken)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(access: &Access, header: Option<&'static str>) -> Result<Tenant, Refused> {
        let mut metadata = MetadataMap::new();
        if let Some(header) = header {
            metadata.insert("authorization", header.parse().expect("it is ASCII"));
        }
        access.tenant(&metadata)
    }

    #[test]
    fn a_token_is_asked_for_only_where_there_is_one() {
        assert!(ask(&Access::new(None), None).is_ok());
        let access = Access::new(Some("s3cret"));
        assert_eq!(ask(&access, None), Err(Refused::NoToken));
        assert_eq!(ask(&access, Some("Basic s3cret")), Err(Refused::NoToken));
        assert_eq!(ask(&access, Some("Bearer wrong")), Err(Refused::WrongToken));
        assert!(ask(&access, Some("bearer   s3cret ")).is_ok());
    }
}
