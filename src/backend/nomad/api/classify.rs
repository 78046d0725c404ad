//! What an answer that is no success means. Nomad says most of it in plain text, under the status 500.

use super::{call::Call, error::ApiError};

/// Of the server's text, in a message.
const MAX_TEXT_CHARS: usize = 500;

/// It has not happened, and may later.
const NOT_NOW: [&str; 7] = [
    "No cluster leader",
    "Not ready to serve consistent reads",
    "No path to region",
    "no servers",
    "failed to get conn",
    "dial tcp",
    "rate limit",
];
/// It may have happened.
const IN_DOUBT: [&str; 12] = [
    "EOF",
    "leadership",
    "node is not the leader",
    "timed out",
    "i/o timeout",
    "deadline exceeded",
    "context canceled",
    "connection reset",
    "broken pipe",
    "session shutdown",
    "stream closed",
    "use of closed network connection",
];

/// The error of an answer whose status is not 200.
pub(super) fn classify(call: &Call, status: u16, text: &str) -> ApiError {
    let has = |part: &str| text.contains(part);
    let any = |parts: &[&str]| parts.iter().any(|part| has(part));
    let call_name = call.name;
    let text = shorten(status, text);
    let retryable = |applied: bool| ApiError::Retryable {
        call: call_name,
        text: text.clone(),
        may_have_applied: applied && call.writes(),
    };
    let denied = || ApiError::Denied { call: call_name, text: text.clone(), capability: call.capability };
    match status {
        401 | 403 => denied(),
        404 => ApiError::NotFound { call: call_name, text },
        408 | 429 => retryable(false),
        502..=504 => retryable(true),
        500 if has("Enforcing job modify index") => ApiError::Conflict { call: call_name, text },
        // Forwarded to another server, which refuses the token.
        500 if has("Permission denied") => denied(),
        // So that nobody learns which allocations there are.
        500 if has("Unknown allocation") => denied(),
        500 if has("parameterized job not found") || (has("Specified job") && has("is stopped")) => {
            ApiError::NotFound { call: call_name, text }
        }
        500 if any(&NOT_NOW) => retryable(false),
        500 if text_is_of_validation(&text) => ApiError::Invalid { call: call_name, text },
        500 if any(&IN_DOUBT) => retryable(true),
        // Nothing is known of it.
        500 if text.starts_with("status ") => retryable(true),
        _ => ApiError::Invalid { call: call_name, text },
    }
}

/// What is wrong with a job may quote anything.
fn text_is_of_validation(text: &str) -> bool {
    text.contains("error occurred:") || text.contains("errors occurred:")
}

/// A line or two, for people.
fn shorten(status: u16, text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.is_empty() {
        return format!("status {status}");
    }
    match words.char_indices().nth(MAX_TEXT_CHARS) {
        Some((end, _)) => format!("{}...", &words[..end]),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::call::Effect, *};

    fn of(effect: Effect, status: u16, text: &str) -> ApiError {
        classify(&Call { name: "call", capability: Some("read-job"), effect }, status, text)
    }

    #[test]
    fn what_may_have_applied_is_told_of_writes_alone() {
        let applied = |effect, text| of(effect, 500, text).may_have_applied();
        assert!(applied(Effect::Once, "rpc error: EOF"));
        assert!(applied(Effect::Repeatable, "leadership lost while committing log"));
        assert!(!applied(Effect::Read, "rpc error: EOF"));
        assert!(!applied(Effect::Once, "No cluster leader"));
        assert!(!applied(Effect::Once, "rpc error: failed to get conn: dial tcp: i/o timeout"));
    }

    #[test]
    fn the_text_decides_under_500() {
        let of = |text| of(Effect::Read, 500, text);
        assert!(matches!(of("Enforcing job modify index 0: job already exists"), ApiError::Conflict { .. }));
        assert!(matches!(of("rpc error: Permission denied"), ApiError::Denied { capability: Some("read-job"), .. }));
        assert!(matches!(of("UUID must be 36 characters"), ApiError::Invalid { .. }));
        assert!(matches!(of("1 error occurred: * bad template: unexpected EOF"), ApiError::Invalid { .. }));
        assert!(matches!(of(""), ApiError::Retryable { .. }));
    }

    #[test]
    fn a_status_decides_where_it_can() {
        let of = |status| of(Effect::Once, status, "");
        assert!(matches!(of(401), ApiError::Denied { .. }));
        assert!(matches!(of(429), ApiError::Retryable { may_have_applied: false, .. }));
        assert!(matches!(of(503), ApiError::Retryable { may_have_applied: true, .. }));
        assert!(matches!(of(307), ApiError::Invalid { .. }));
    }

    #[test]
    fn a_text_is_short_and_one_line() {
        let error = of(Effect::Read, 400, &format!("a\n\t b {}", "é".repeat(2000)));
        let ApiError::Invalid { text, .. } = error else { panic!("{error}") };
        assert!(text.starts_with("a b é"));
        assert_eq!(text.chars().count(), MAX_TEXT_CHARS + 3);
    }
}
