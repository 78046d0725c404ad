//! How a person logs in: a browser sends no bearer token, so that a page's password is the token, of any user name.
//!
//! Pages alone take it. A browser sends it along with whatever another site makes it ask of this one, and no site may
//! have it run calls.

use std::sync::Arc;

use axum::http::{
    Extensions, HeaderMap, HeaderValue,
    header::{ACCEPT, AUTHORIZATION},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::super::access::{Access, Caller, Refused};

const BASIC: &[u8] = b"basic ";

/// Whom the caller acts for, by a bearer token, by a password that is one, or by a certificate.
pub(super) fn caller(access: &Access, headers: &HeaderMap, extensions: &Extensions) -> Result<Arc<Caller>, Refused> {
    match headers.get(AUTHORIZATION).and_then(password) {
        Some(bearer) => access.caller(&HeaderMap::from_iter([(AUTHORIZATION, bearer)]), extensions),
        None => access.caller(headers, extensions),
    }
}

/// The password of a header, as the header of a bearer; none if the scheme is another.
fn password(header: &HeaderValue) -> Option<HeaderValue> {
    let (scheme, encoded) = header.as_bytes().split_at_checked(BASIC.len())?;
    if !scheme.eq_ignore_ascii_case(BASIC) {
        return None;
    }
    let decoded = STANDARD.decode(encoded.trim_ascii()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let mut bearer = HeaderValue::from_bytes(&[b"Bearer ", &decoded[colon + 1..]].concat()).ok()?;
    bearer.set_sensitive(true);
    Some(bearer)
}

/// Whether the client is one for people: it says that it reads pages.
pub(super) fn is_browser(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = accepted.flat_map(|value| value.split(','));
    kinds.any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/html")))
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::access::{Holder, TokenDigest, Unasked},
        *,
    };

    fn ask(token: Option<&str>, header: &str) -> Result<Arc<Caller>, Refused> {
        let value = HeaderValue::from_str(header).expect("it is a header");
        let holders = token.map(|token| Holder::operator(TokenDigest::of(token.as_bytes())));
        let access = Access::new(token.is_none(), Unasked::default(), holders.into_iter().collect());
        caller(&access, &HeaderMap::from_iter([(AUTHORIZATION, value)]), &Extensions::new())
    }

    fn basic(login: &str) -> String {
        format!("Basic {}", STANDARD.encode(login))
    }

    #[test]
    fn a_password_is_the_token() {
        assert!(ask(Some("s3cret"), &basic("anybody:s3cret")).is_ok());
        assert!(ask(Some("s3:cret"), &basic(":s3:cret")).is_ok());
        assert!(ask(Some("s3cret"), &basic("s3cret:").replace("Basic", "bAsIc")).is_err());
        assert!(ask(Some("s3cret"), "Bearer s3cret").is_ok());
        assert!(ask(None, &basic("anybody:anything")).is_ok(), "there is no token");
    }

    #[test]
    fn nothing_else_is() {
        for login in ["s3cret:", "s3cret", "", ":", "a:b", ":s3cret\n", ":s3cret\0"] {
            assert!(ask(Some("s3cret"), &basic(login)).is_err(), "{login:?}");
        }
        for header in ["Basic s3cret", "Basic", "Basic ====", "Digest s3cret", ""] {
            assert!(ask(Some("s3cret"), header).is_err(), "{header:?}");
        }
    }

    #[test]
    fn a_browser_says_that_it_reads_pages() {
        let is_browser =
            |accept: &'static str| is_browser(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]));
        assert!(is_browser("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
        assert!(is_browser("application/json, TEXT/HTML;q=0.1"));
        for accept in ["*/*", "application/json", "text/*", "", "text/htmlx"] {
            assert!(!is_browser(accept), "{accept}");
        }
    }
}
