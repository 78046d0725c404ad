//! A request's body: bounded, read in time, and JSON where the request says that it is.

use std::time::Duration;

use axum::{
    body::{Bytes, HttpBody},
    extract::{
        DefaultBodyLimit, FromRequest, Request,
        rejection::{BytesRejection, FailedToBufferBody},
    },
    http::{HeaderMap, header::CONTENT_TYPE},
};
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::timeout;

use super::{field::Fault, refusal::Refusal};

/// The body as one JSON value, whose parts are not looked at yet. Text that is not said to be JSON is a string. `within`:
/// from its first byte to its last.
pub(super) async fn read(mut request: Request, max_bytes: usize, within: Duration) -> Result<Box<RawValue>, Refusal> {
    // Who says beforehand how much it will be need not send it.
    if request.body().size_hint().lower() > max_bytes as u64 {
        return Err(Refusal::TooLarge { max_bytes });
    }
    let said_to_be_json = is_json(request.headers());
    DefaultBodyLimit::max(max_bytes).apply(&mut request);
    let read = timeout(within, Bytes::from_request(request, &())).await.map_err(|_| Refusal::TooSlow)?;
    let bytes = read.map_err(|rejection| match rejection {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => Refusal::TooLarge { max_bytes },
        _ => Refusal::Unreadable,
    })?;
    if bytes.is_empty() {
        return Err(Fault::no_body().into());
    }
    if !said_to_be_json {
        return to_raw_value(&String::from_utf8_lossy(&bytes)).map_err(|_| Refusal::Unreadable);
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| Refusal::Unreadable)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let json: &RawValue = serde_json::from_str(text).map_err(|error| Fault::not_json(text, &error))?;
    Ok(json.to_owned())
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.strip_prefix("application/").is_some_and(|kind| kind == "json" || kind.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::StatusCode, response::IntoResponse};

    use super::*;

    fn request(content_type: Option<&str>, body: impl Into<Body>) -> Request {
        let mut request = Request::new(body.into());
        if let Some(content_type) = content_type {
            request.headers_mut().insert(CONTENT_TYPE, content_type.parse().expect("it is a header"));
        }
        request
    }

    const WITHIN: Duration = Duration::from_secs(7);

    async fn read(request: Request, max_bytes: usize) -> Result<Box<RawValue>, Refusal> {
        super::read(request, max_bytes, WITHIN).await
    }

    async fn refused(request: Request, max_bytes: usize) -> StatusCode {
        read(request, max_bytes).await.expect_err("it is refused").into_response().status()
    }

    #[tokio::test]
    async fn what_is_not_said_to_be_json_is_text() {
        for (content_type, json) in [
            (Some("application/json"), true),
            (Some("APPLICATION/json; charset=utf-8"), true),
            (Some("application/vnd.x+json"), true),
            (Some("text/json"), false),
            (Some("json"), false),
            (Some("application/x-www-form-urlencoded"), false),
            (None, false),
        ] {
            let read = read(request(content_type, "{}"), 10).await.expect("it is read");
            assert_eq!(read.get(), if json { "{}" } else { r#""{}""# }, "{content_type:?}");
        }
        assert_eq!(read(request(None, vec![b'a', 0xff]), 10).await.expect("it is read").get(), "\"a\u{fffd}\"");
    }

    #[tokio::test]
    async fn text_of_no_known_encoding_cannot_be_read() {
        let json = Some("application/json");
        assert_eq!(refused(request(json, vec![b'"', 0xff, b'"']), 10).await, StatusCode::BAD_REQUEST);
        assert_eq!(refused(request(json, ""), 10).await, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(read(request(json, "\u{feff} [1] "), 10).await.expect("it is read").get(), "[1]");
    }

    #[tokio::test]
    async fn a_body_is_bounded_whether_it_says_its_length_or_not() {
        let json = Some("application/json");
        let stream = |count: usize| {
            Body::from_stream(tokio_stream::iter((0..count).map(|_| std::io::Result::Ok(Bytes::from_static(b"1")))))
        };
        assert_eq!(read(request(json, stream(10)), 10).await.expect("it is read").get(), "1111111111");
        assert_eq!(refused(request(json, stream(11)), 10).await, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(refused(request(json, "11111111111"), 10).await, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let slow = Body::from_stream(tokio_stream::pending::<std::io::Result<Bytes>>());
        let begun = tokio::time::Instant::now();
        assert_eq!(refused(request(None, slow), 10).await, StatusCode::REQUEST_TIMEOUT);
        assert_eq!(begun.elapsed().as_secs(), WITHIN.as_secs());
    }
}
