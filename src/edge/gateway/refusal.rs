//! Everything but a 200: each says what is wrong under `detail`, as the old system's framework did.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt;

use super::{
    super::{access, status},
    field::Fault,
};
use crate::{
    tool::{CallResult, Outcome},
    trajectory::DirectoryError,
};

/// Why a request is not answered with what it asks for.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The caller does not show who it is, or may not have what it asks for.
    Access(access::Refused),
    NotFound,
    MethodNotAllowed,
    /// The body is broken off, or no text.
    Unreadable,
    TooLarge {
        max_bytes: usize,
    },
    TooSlow,
    /// The body is not what the endpoint takes.
    Unprocessable(Vec<Fault>),
    /// The same request may do later.
    Unavailable {
        text: String,
        retry_after: Duration,
    },
    /// No new trajectory has anything to hope for.
    NotServing,
    Internal,
}

impl Refusal {
    /// A call that was refused at the door, and that only time is needed for: nothing has come of it, so that it may be
    /// sent again as it is. Every other end of a call is its result.
    pub(super) fn of(result: &CallResult) -> Option<Self> {
        let fault = result.fault.as_ref()?;
        let refused = result.sequence.0 == 0 && result.outcome == Outcome::NoCapacity && fault.retryable;
        refused.then(|| Self::Unavailable {
            text: result.error.clone(),
            retry_after: fault.retry_after.unwrap_or_default(),
        })
    }
}

impl From<access::Refused> for Refusal {
    fn from(refused: access::Refused) -> Self {
        Self::Access(refused)
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Unprocessable(vec![fault])
    }
}

/// As gRPC's clients are told it: what helps is the same.
impl From<DirectoryError> for Refusal {
    fn from(error: DirectoryError) -> Self {
        let status = status::directory(&error);
        match status.code() {
            Code::Unavailable | Code::ResourceExhausted => Self::Unavailable {
                text: status.message().to_owned(),
                retry_after: status.get_details_retry_info().and_then(|info| info.retry_delay).unwrap_or_default(),
            },
            _ => Self::Internal,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let detail = |code: StatusCode, text: &str| (code, Json(json!({ "detail": text }))).into_response();
        match self {
            Self::Access(refused) => {
                let unauthorized = |text: &str| {
                    let mut response = detail(StatusCode::UNAUTHORIZED, text);
                    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                    response
                };
                match refused {
                    access::Refused::NoToken => unauthorized("Missing Authorization header"),
                    access::Refused::NotBearer => unauthorized("Invalid Authorization header"),
                    access::Refused::Nameless | access::Refused::BadName(_) => unauthorized(&refused.to_string()),
                    access::Refused::WrongToken => detail(StatusCode::FORBIDDEN, "Invalid token"),
                    access::Refused::Label { .. } | access::Refused::NoOperator(_) => {
                        detail(StatusCode::FORBIDDEN, &refused.to_string())
                    }
                }
            }
            Self::NotFound => detail(StatusCode::NOT_FOUND, "Not Found"),
            Self::MethodNotAllowed => detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"),
            Self::Unreadable => detail(StatusCode::BAD_REQUEST, "There was an error parsing the body"),
            Self::TooLarge { max_bytes } => {
                let text = format!("Request body too large (max {max_bytes} bytes)");
                detail(StatusCode::PAYLOAD_TOO_LARGE, &text)
            }
            Self::TooSlow => detail(StatusCode::REQUEST_TIMEOUT, "The request body did not come in time"),
            Self::Unprocessable(faults) => Fault::response(&faults),
            Self::Unavailable { text, retry_after } => {
                let mut response = detail(StatusCode::SERVICE_UNAVAILABLE, &text);
                response.headers_mut().insert(header::RETRY_AFTER, whole_seconds(retry_after).into());
                response
            }
            Self::NotServing => {
                (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "not serving"}))).into_response()
            }
            Self::Internal => detail(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"),
        }
    }
}

/// HTTP knows no parts of a second, and a client that is told 0 would not wait at all.
fn whole_seconds(duration: Duration) -> u64 {
    (duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{
        id::{CallId, Generation, Sequence},
        tool::{Executed, Timings, Verdict},
        trajectory::OpenError,
    };

    fn refusal(verdict: Verdict, sequence: u64) -> Option<Response> {
        let timings = Timings::none(SystemTime::UNIX_EPOCH);
        let result = verdict.into_result(CallId::random(), Sequence(sequence), Generation(1), timings);
        Refusal::of(&result).map(IntoResponse::into_response)
    }

    #[test]
    fn what_was_refused_for_now_may_come_again() {
        let full = |retry_after| Verdict::queue_full("64 calls wait already", retry_after);
        for (verdict, seconds) in [
            (Verdict::draining(None), "1"),
            (full(Some(Duration::from_millis(200))), "1"),
            (full(Some(Duration::from_millis(2_001))), "3"),
        ] {
            let response = refusal(verdict, 0).expect("it is refused");
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()[header::RETRY_AFTER], seconds);
        }
    }

    #[test]
    fn the_end_of_a_call_is_a_result() {
        assert!(refusal(Verdict::queue_full("its log is full", Some(Duration::ZERO)), 7).is_none(), "it was accepted");
        assert!(refusal(Verdict::queue_full("too many calls", None), 0).is_none(), "for good");
        assert!(refusal(Verdict::slot_timeout(Duration::from_secs(30), None), 1).is_none());
        assert!(refusal(Verdict::workspace_gone(None), 0).is_none());
        assert!(refusal(Verdict::result_dropped(), 0).is_none());
        assert!(refusal(Verdict::internal(Executed::No, "agent"), 1).is_none());
    }

    #[test]
    fn a_trajectory_that_cannot_be_opened_now_is_503() {
        for (error, code, seconds) in [
            (OpenError::Draining.into(), 503, Some("5")),
            (OpenError::HandedOver.into(), 503, Some("5")),
            (OpenError::Releasing.into(), 503, Some("1")),
            (OpenError::TooMany { max: 1 }.into(), 503, Some("5")),
            (OpenError::TooManyOfTenant { max: 1 }.into(), 503, Some("5")),
            (OpenError::DiskFull.into(), 503, Some("5")),
            (DirectoryError::Failed, 500, None),
        ] {
            let response = Refusal::from(error).into_response();
            assert_eq!(response.status(), code);
            let told = response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().expect("it is ASCII"));
            assert_eq!(told, seconds);
        }
    }
}
