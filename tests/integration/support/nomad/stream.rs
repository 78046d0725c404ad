//! The event stream: `{}` at once and every thirty seconds, and a line for each change that is wanted.

use std::{io, sync::Arc, time::Duration};

use axum::{body::Body, http::header, response::Response};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use super::{
    access,
    http::{Call, text},
    world::Shared,
};

type Line = Result<String, io::Error>;

/// Topic and key; each may be `*`.
struct Wanted(Vec<(String, String)>);

impl Wanted {
    fn takes(&self, event: &Value) -> bool {
        let is = |wanted: &str, value: &Value| wanted == "*" || value == wanted;
        let key = |wanted: &str| {
            is(wanted, &event["Key"]) || event["FilterKeys"].as_array().into_iter().flatten().any(|key| key == wanted)
        };
        self.0.iter().any(|(topic, name)| is(topic, &event["Topic"]) && key(name))
    }
}

fn respond(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache"));
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}

/// Opened even if it is refused: then nothing ever comes.
pub(super) fn open(shared: &Arc<Shared>, call: Call) -> Response {
    let mut wanted = Vec::new();
    for (_, topic) in call.query.iter().filter(|(name, _)| name == "topic") {
        match *topic.split(':').collect::<Vec<_>>() {
            [topic] => wanted.push((topic.to_owned(), "*".to_owned())),
            [topic, key] => wanted.push((topic.to_owned(), key.to_owned())),
            _ => {
                let cause = format!("Invalid key value pair for topic, topic: {topic}");
                return text(400, &format!("Invalid topic query: error parsing topics: {cause}"));
            }
        }
    }
    if wanted.is_empty() {
        wanted.push(("*".to_owned(), "*".to_owned()));
    }
    if !matches!(call.get("namespace"), "" | "default" | "*") {
        wanted.clear();
    }
    let index = call.get("index");
    let Ok(index) = (if index.is_empty() { Ok(0) } else { index.parse::<u64>() }) else {
        return text(400, &format!("Unable to parse index: strconv.Atoi: parsing {index:?}: invalid syntax"));
    };
    let (lines, receiver) = mpsc::channel(16);
    shared.runtime.spawn(serve(shared.clone(), call, Wanted(wanted), index, lines));
    respond(Body::from_stream(ReceiverStream::new(receiver).map(|line: Line| line.map(|line| line + "\n"))))
}

async fn serve(shared: Arc<Shared>, call: Call, wanted: Wanted, index: u64, lines: mpsc::Sender<Line>) {
    let mut changes = shared.changes.subscribe();
    let mut next_beat = Instant::now();
    let (cuts, generation, mut last) = {
        let world = shared.world();
        // The backlog begins at the last entry that is not beyond the index asked for.
        let before = world.log.iter().map(|(known, _)| *known).filter(|known| *known <= index).max();
        let from = before.map_or(0, |known| known - 1);
        (world.cues.cuts, world.generation, from)
    };
    // Entries may share an index: those at the cursor were taken whole.
    loop {
        changes.borrow_and_update();
        let mut batch: Vec<String> = Vec::new();
        let (silent, cut) = {
            let world = shared.world();
            let refused = access::refusal(&world, &shared.options.acl, &call).is_some();
            let silent = refused || world.cues.silent || world.cues.hang;
            if !silent {
                if Instant::now() >= next_beat {
                    batch.push("{}".to_owned());
                    next_beat = Instant::now() + Duration::from_secs(30);
                }
                for (index, events) in world.log.iter().filter(|(index, _)| *index > last && !world.cues.no_leader) {
                    let events: Vec<&Value> = events.iter().filter(|event| wanted.takes(event)).collect();
                    if !events.is_empty() {
                        batch.push(json!({ "Events": events, "Index": index }).to_string());
                    }
                }
                if !world.cues.no_leader {
                    last = world.log.back().map_or(last, |(index, _)| last.max(*index));
                }
            }
            (silent, world.cues.cuts != cuts || world.generation != generation || world.closed)
        };
        if cut {
            let _ = lines.send(Err(io::ErrorKind::ConnectionReset.into())).await;
            return;
        }
        for line in batch {
            if lines.send(Ok(line)).await.is_err() {
                return;
            }
        }
        let beat = if silent { Instant::now() + Duration::from_secs(3600) } else { next_beat };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(beat) => {}
            () = lines.closed() => return,
        }
    }
}
