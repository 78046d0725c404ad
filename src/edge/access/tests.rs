use std::collections::BTreeMap;

use axum::http::HeaderValue;

use super::*;

fn digest(token: &str) -> TokenDigest {
    TokenDigest::of(token.as_bytes())
}

fn holder(name: &str, tokens: &[&str]) -> Holder {
    let caller = Caller { tenant: Tenant::new(name), labels: None, is_operator: name == "watcher" };
    Holder { caller: Arc::new(caller), tokens: tokens.iter().map(|token| digest(token)).collect() }
}

fn request(header: Option<&str>, certificate: Option<Option<&str>>) -> (HeaderMap, Extensions) {
    let (mut headers, mut extensions) = (HeaderMap::new(), Extensions::new());
    if let Some(header) = header {
        headers.insert(AUTHORIZATION, HeaderValue::from_str(header).expect("it can be sent"));
    }
    if let Some(name) = certificate {
        extensions.insert(Peer { name: name.map(str::to_owned) });
    }
    (headers, extensions)
}

/// Who is let in with this header, and this name in a certificate.
fn ask(access: &Access, header: Option<&str>, certificate: Option<Option<&str>>) -> Result<String, Refused> {
    let (headers, extensions) = request(header, certificate);
    access.caller(&headers, &extensions).map(|caller| caller.tenant.to_string())
}

#[test]
fn a_token_is_asked_for_only_where_somebody_is_asked() {
    let open = Access::new(true, Unasked::default(), Vec::new());
    assert_eq!(ask(&open, None, None), Ok(String::new()));
    assert_eq!(ask(&open, Some("Basic x"), None), Ok(String::new()));
    let access = Access::new(false, Unasked::default(), vec![Holder::operator(digest("s3cret"))]);
    assert_eq!(ask(&access, None, None), Err(Refused::NoToken));
    assert_eq!(ask(&access, Some(""), None), Err(Refused::NoToken));
    assert_eq!(ask(&access, Some("Basic s3cret"), None), Err(Refused::NotBearer));
    assert_eq!(ask(&access, Some("Bearer"), None), Err(Refused::NotBearer));
    assert_eq!(ask(&access, Some("Bearer "), None), Err(Refused::WrongToken));
    assert_eq!(ask(&access, Some("Bearer wrong"), None), Err(Refused::WrongToken));
    assert_eq!(ask(&access, Some("bearer   s3cret "), None), Ok(String::new()));
    let nobody = Access::new(false, Unasked::default(), Vec::new());
    assert_eq!(ask(&nobody, None, None), Err(Refused::NoToken), "a file that names nobody lets nobody in");
    assert_eq!(ask(&nobody, Some("Bearer s3cret"), None), Err(Refused::WrongToken));
}

#[test]
fn a_token_has_the_name_of_its_holder() {
    let access = Access::new(false, Unasked::default(), vec![holder("red", &["old", "new"]), holder("blue", &["b"])]);
    let named = |name: &str| Ok(name.to_owned());
    for (token, tenant) in [("old", "red"), ("new", "red"), ("b", "blue")] {
        assert_eq!(ask(&access, Some(&format!("Bearer {token}")), None), named(tenant));
    }
    let clone = access.clone();
    access.replace(vec![holder("red", &["new"]), holder("green", &["b"])]);
    assert_eq!(ask(&clone, Some("Bearer old"), None), Err(Refused::WrongToken));
    assert_eq!(ask(&clone, Some("Bearer new"), None), named("red"));
    assert_eq!(ask(&clone, Some("Bearer b"), None), named("green"));
}

#[test]
fn a_certificate_will_do() {
    let access = Access::new(false, Unasked::default(), vec![holder("red", &["r"]), holder("watcher", &[])]);
    let named = |name: &str| Ok(name.to_owned());
    assert_eq!(ask(&access, None, Some(Some("spiffe://trainer/7"))), named("spiffe://trainer/7"));
    assert_eq!(ask(&access, Some("Bearer r"), Some(Some("blue"))), named("red"), "the token that is sent counts");
    assert_eq!(ask(&access, Some("Bearer x"), Some(Some("blue"))), Err(Refused::WrongToken));
    assert_eq!(ask(&access, None, Some(None)), Err(Refused::Nameless));
    assert_eq!(ask(&access, None, Some(Some(""))), Err(Refused::BadName(InvalidId::Empty)));
    assert_eq!(ask(&access, None, Some(Some("a\nb"))), Err(Refused::BadName(InvalidId::Control('\n'))));
    let caller = |name: &'static str| {
        let (headers, extensions) = request(None, Some(Some(name)));
        access.caller(&headers, &extensions).expect("it is let in")
    };
    assert!(caller("watcher").is_operator, "what is said of a tenant counts, whatever it shows");
    assert!(!caller("other").is_operator);
    let open = Access::new(true, Unasked::default(), Vec::new());
    assert_eq!(ask(&open, Some("Bearer x"), Some(Some("blue"))), named("blue"));
}

#[test]
fn who_looks_at_the_whole_service() {
    let holders = vec![Holder::operator(digest("own")), holder("red", &["r"]), holder("watcher", &["w"])];
    let access = Access::new(false, Unasked { health: true, ..Unasked::default() }, holders);
    let look = |unasked: fn(&Unasked) -> bool, header: Option<&str>| {
        let (headers, extensions) = request(header, None);
        let caller = access.onlooker(unasked, &headers, &extensions)?;
        caller.map_or(Ok(()), |caller| caller.must_be_operator())
    };
    assert_eq!(look(|unasked| unasked.health, None), Ok(()));
    assert_eq!(look(|unasked| unasked.metrics, None), Err(Refused::NoToken));
    let red = Refused::NoOperator(Tenant::new("red"));
    assert_eq!(look(|unasked| unasked.metrics, Some("Bearer r")), Err(red));
    for token in ["own", "w"] {
        assert_eq!(look(|unasked| unasked.metrics, Some(&format!("Bearer {token}"))), Ok(()));
    }
}

#[test]
fn labels_are_those_that_a_tenant_may_use() {
    let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    let any = Caller { tenant: Tenant::new("red"), labels: None, is_operator: false };
    assert_eq!(any.may_use(&labels(&[("team", "blue")])), Ok(()));
    let own = [("team", vec!["red", "rot"]), ("run", vec!["*"]), ("none", vec![])];
    let own = own.map(|(name, values)| (name.to_owned(), values.into_iter().map(str::to_owned).collect()));
    let bound = Caller { labels: Some(own.into()), ..any };
    for may in [&[][..], &[("team", "red")], &[("team", "rot"), ("run", "7")]] {
        assert_eq!(bound.may_use(&labels(may)), Ok(()), "{may:?}");
    }
    for may_not in [("team", "blue"), ("team", "*"), ("none", ""), ("other", "red")] {
        let refused = bound.may_use(&labels(&[("run", "1"), may_not])).expect_err("it is not its own");
        let (name, value) = may_not;
        assert_eq!(refused.to_string(), format!("the label {name}={value} is not one that red may use"));
    }
}
