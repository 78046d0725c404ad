//! The messages in a stream of events, as they come.

use std::{
    error::Error as _,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http_body_util::BodyDataStream;
use reqwest::{Body, Response};
use sse_stream::{Error, Sse, SseByteStream};
use tokio_stream::{Stream, StreamExt as _};

use crate::external::http::Unanswered;

/// See the module. What is read is bounded: in all, or between one message and the next.
pub(super) struct Events {
    events: Pin<Box<dyn Stream<Item = Result<Sse, Error>> + Send>>,
    read: Arc<AtomicUsize>,
}

impl Events {
    pub(super) fn of(response: Response, max_bytes: usize) -> Self {
        let read = Arc::new(AtomicUsize::new(0));
        let counted = read.clone();
        let chunks = BodyDataStream::new(Body::from(response)).map(move |chunk| {
            let chunk = chunk.map_err(|error| {
                let cause = error.source().map_or(String::new(), |source| source.to_string());
                io::Error::other(format!("the answer breaks off: {cause}"))
            })?;
            if counted.fetch_add(chunk.len(), Ordering::Relaxed) + chunk.len() > max_bytes {
                return Err(io::Error::other(format!("the answer is larger than {max_bytes} bytes")));
            }
            Ok(chunk)
        });
        Self { events: Box::pin(SseByteStream::new(chunks)), read }
    }

    /// The next message; none at the stream's end.
    pub(super) async fn next(&mut self) -> Result<Option<String>, Unanswered> {
        while let Some(event) = self.events.next().await {
            let data = event.map_err(|error| Unanswered::protocol(error.to_string()))?.data;
            // An event without data says where to go on from.
            if let Some(data) = data.filter(|data| !data.is_empty()) {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// From here on, as many bytes may come as at the beginning.
    pub(super) fn count_anew(&self) {
        self.read.store(0, Ordering::Relaxed);
    }
}
