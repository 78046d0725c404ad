//! What a server says by itself, for as long as its session is in use: of that, that its tools have changed.
//!
//! Nothing depends on it. A server that has no such stream, or whose stream breaks, is asked for its tools in its turn.

use std::{sync::Arc, time::Duration};

use reqwest::header::{ACCEPT, HeaderMap};
use tokio::time::{Instant, sleep, timeout};

use super::{
    answer::{self, Heard},
    events::Events,
    session::Post,
};
use crate::external::http::LIST_TIMEOUT;

const MIN_PAUSE: Duration = Duration::from_secs(1);
/// Between two streams of a server that ends them as soon as they are there.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Ends where there is nothing to be heard. `headers`: the session's, which does not last for its sake.
pub(super) async fn listen(post: Arc<Post>, headers: HeaderMap) {
    let mut pause = MIN_PAUSE;
    for stream in 0.. {
        let began = Instant::now();
        let request = post.http.get(post.url.clone()).headers(headers.clone());
        let response = request.header(ACCEPT, "text/event-stream").send();
        match timeout(LIST_TIMEOUT, response).await {
            Ok(Ok(response)) if response.status().is_success() => {
                if stream > 0 {
                    // It may have said so while nobody listened.
                    post.tell_changed();
                }
                hear(&post, Events::of(response, post.max_answer_bytes)).await;
            }
            // No such stream, or no such session: what is asked next in it finds out which.
            Ok(Ok(response)) if response.status().is_client_error() => return,
            _ => {}
        }
        if began.elapsed() > MAX_PAUSE {
            pause = MIN_PAUSE;
        }
        // Jittered, so that not all executors come at once to a server that has just started.
        sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// To the stream's end, however it ends.
async fn hear(post: &Post, mut events: Events) {
    while let Ok(Some(message)) = events.next().await {
        events.count_anew();
        if matches!(answer::heard(message.as_bytes(), None), Ok(Heard::ToolsChanged)) {
            post.tell_changed();
        }
    }
}
