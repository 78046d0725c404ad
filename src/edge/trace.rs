//! Finds the caller's own trace among the headers of its request.

use std::sync::Arc;

use axum::http::HeaderMap;

use crate::id::TraceParent;

/// None where there is none, or it is malformed: that is no reason to refuse a request.
pub(super) fn trace_parent(headers: &HeaderMap) -> Option<Arc<TraceParent>> {
    let mut parents = headers.get_all("traceparent").iter();
    let (Some(parent), None) = (parents.next(), parents.next()) else { return None };
    let states: Option<Vec<&str>> = headers.get_all("tracestate").iter().map(|state| state.to_str().ok()).collect();
    TraceParent::parse(parent.to_str().ok()?, &states.unwrap_or_default().join(",")).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(all: &[(&'static str, &'static [u8])]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static [u8])| {
            (name.parse().expect("a name"), value[..].try_into().expect("a value"))
        };
        all.iter().map(pair).collect()
    }

    #[test]
    fn states_are_joined_and_parents_are_not() {
        let parent = ("traceparent", PARENT.as_bytes());
        let found = |all: &[_]| trace_parent(&headers(all)).map(|parent| parent.state().to_owned());
        assert_eq!(found(&[parent]).as_deref(), Some(""));
        assert_eq!(found(&[parent, ("tracestate", b"a=1"), ("tracestate", b"b=2")]).as_deref(), Some("a=1,b=2"));
        assert_eq!(found(&[parent, ("tracestate", b"a=\xe9")]).as_deref(), Some(""));
        assert_eq!(found(&[parent, parent]), None);
        assert_eq!(found(&[("traceparent", b"\xe9")]), None);
        assert_eq!(found(&[("tracestate", b"a=1")]), None);
    }
}
