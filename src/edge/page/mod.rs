//! The status page, for people: the service at `/`, a trajectory at `/trajectories/ID`, and what changes of both as
//! server-sent events. Everything comes from this program; a page without the script shows the same and stays as it is.
//!
//! ```text
//! scheduler, directory, history --Source--> Snapshot --render--> sections --Hub, once a second--> all viewers
//! ```
//!
//! Nothing is gathered while nobody looks, but for the [`History`], which every answer adds to. A tenant sees his own
//! trajectories and faults, and of the rest the pools; an operator also the times and rates of all.

mod chart;
mod format;
mod history;
mod hub;
mod login;
mod overview;
mod render;
mod snapshot;
mod waterfall;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    extract::{Path, Query, State},
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Redirect, Response, Sse, sse::KeepAlive},
    routing::get,
};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

pub use self::history::History;
use self::{hub::Hub, render::Sections, snapshot::Source};
use super::{
    access::{Access, Caller, Refused},
    gateway,
};
use crate::{
    id::{Tenant, TrajectoryId, TrajectoryKey},
    scheduler,
    trajectory::Directory,
};

/// How long a page may take to be made: a trajectory may be busy with a disk that is slow.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between signs of life, which also find those out who are gone.
const SIGNS_OF_LIFE: Duration = Duration::from_secs(15);

/// Nothing but what this program serves, and no other site has the page in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What a page is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Topic {
    /// What an operator sees is more, and a reload may make of one a tenant like others while its page is open.
    Overview {
        tenant: Tenant,
        is_operator: bool,
    },
    Trajectory(TrajectoryKey),
}

#[derive(Clone)]
struct Page {
    access: Access,
    source: Arc<Source>,
    hub: Arc<Hub>,
}

/// The pages. They end with `closing`.
pub(super) fn router(
    access: Access,
    directory: Directory,
    scheduler: scheduler::Handle,
    history: Arc<History>,
    backend: &'static str,
    closing: CancellationToken,
) -> Router {
    let source = Source { directory, scheduler, history, backend, started: tokio::time::Instant::now() };
    let page = Page { access, source: Arc::new(source), hub: Arc::new(Hub::new(closing)) };
    Router::new()
        .route("/", get(home))
        .route("/trajectories", get(find))
        .route("/trajectories/{*id}", get(trajectory))
        .route("/events", get(events))
        .route("/page.css", get(async || asset("text/css; charset=utf-8", include_str!("page.css"))))
        .route("/page.js", get(async || asset("text/javascript; charset=utf-8", include_str!("page.js"))))
        .with_state(page)
        .method_not_allowed_fallback(gateway::method_not_allowed)
}

/// What a browser is told beside a page.
fn sealed(response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// No secret, and the same for everybody.
fn asset(kind: &'static str, content: &'static str) -> Response {
    sealed(([(header::CONTENT_TYPE, kind)], content))
}

fn html(status: StatusCode, text: String) -> Response {
    sealed((status, Html(text)))
}

/// A browser asks its user for a password; anybody else is told what every endpoint tells.
fn refused(refused: Refused, headers: &HeaderMap) -> Response {
    if !login::is_browser(headers) {
        return gateway::refused(refused);
    }
    let text = "The password is the service's token; any user name will do.";
    let mut response = html(StatusCode::UNAUTHORIZED, render::sorry("Who are you?", text));
    let challenge = HeaderValue::from_static("Basic realm=\"tool-executor\", charset=\"UTF-8\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

fn busy() -> Response {
    let text = "The service is too busy to say how it does. Try again in a moment.";
    let mut response = html(StatusCode::SERVICE_UNAVAILABLE, render::sorry("Busy", text));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    response
}

fn not_found() -> Response {
    let text = "It was never opened here, or nothing is left of it: results are kept for one lease after its end.";
    html(StatusCode::NOT_FOUND, render::sorry("There is no such trajectory", text))
}

impl Page {
    /// `None` if it takes too long.
    async fn overview(self, caller: Arc<Caller>) -> Option<(Sections, SystemTime)> {
        let snapshot = tokio::time::timeout(PATIENCE, self.source.snapshot(&caller)).await.ok()?;
        Some((overview::sections(&snapshot), snapshot.at))
    }

    /// `None` if it takes too long; no sections if there is no such trajectory.
    async fn trajectory(self, key: TrajectoryKey) -> Option<Option<(Sections, SystemTime)>> {
        let seen = tokio::time::timeout(PATIENCE, self.source.trajectory(&key)).await.ok()?;
        let at = SystemTime::now();
        Some(seen.map(|seen| (waterfall::sections(&key.id, &seen, at), at)))
    }
}

/// A page for a browser; for all others, the old system's greeting, which needs no token.
async fn home(State(page): State<Page>, headers: HeaderMap, extensions: Extensions) -> Response {
    if !login::is_browser(&headers) {
        return ([(header::VARY, "Accept")], gateway::greeting().await).into_response();
    }
    let caller = match login::caller(&page.access, &headers, &extensions) {
        Ok(caller) => caller,
        Err(error) => return refused(error, &headers),
    };
    let Some((sections, at)) = page.overview(caller).await else { return busy() };
    let text = render::document("tool-executor", &sections, Some("/events"), at);
    sealed(([(header::VARY, "Accept")], Html(text)))
}

#[derive(Deserialize)]
struct Find {
    #[serde(default)]
    id: String,
}

/// The form's way to a trajectory. Who names none is shown all.
async fn find(Query(Find { id }): Query<Find>) -> Response {
    if id.trim().is_empty() {
        return sealed(Redirect::to("/"));
    }
    match TrajectoryId::parse(id.trim()) {
        Ok(id) => sealed(Redirect::to(&render::address(id.as_str()))),
        Err(_) => not_found(),
    }
}

async fn trajectory(
    State(page): State<Page>,
    Path(id): Path<String>,
    headers: HeaderMap,
    extensions: Extensions,
) -> Response {
    let caller = match login::caller(&page.access, &headers, &extensions) {
        Ok(caller) => caller,
        Err(error) => return refused(error, &headers),
    };
    let Ok(id) = TrajectoryId::parse(&id) else { return not_found() };
    let events = format!("/events?trajectory={}", id.as_str().replace('/', "%2F"));
    let title = format!("{id} · tool-executor");
    match page.trajectory(TrajectoryKey { tenant: caller.tenant.clone(), id }).await {
        Some(Some((sections, at))) => html(StatusCode::OK, render::document(&title, &sections, Some(&events), at)),
        Some(None) => not_found(),
        None => busy(),
    }
}

#[derive(Deserialize)]
struct Watch {
    trajectory: Option<String>,
}

/// What changes of a page from now on, at most once a second: an event `sections` has a JSON object, by the ids of the
/// elements, of what is inside them now.
async fn events(
    State(page): State<Page>,
    Query(watch): Query<Watch>,
    headers: HeaderMap,
    extensions: Extensions,
) -> Response {
    let caller = match login::caller(&page.access, &headers, &extensions) {
        Ok(caller) => caller,
        Err(error) => return refused(error, &headers),
    };
    let hub = page.hub.clone();
    let keep_alive = KeepAlive::new().interval(SIGNS_OF_LIFE);
    let stream = match watch.trajectory {
        None => {
            let topic = Topic::Overview { tenant: caller.tenant.clone(), is_operator: caller.is_operator };
            let make = move || {
                let made = page.clone().overview(caller.clone());
                async { made.await.map(|(sections, _)| sections) }
            };
            hub.watch(topic, make).map(|stream| Sse::new(stream).keep_alive(keep_alive).into_response())
        }
        Some(id) => {
            let Ok(id) = TrajectoryId::parse(&id) else { return not_found() };
            let key = TrajectoryKey { tenant: caller.tenant.clone(), id };
            let topic = Topic::Trajectory(key.clone());
            let make = move || {
                let made = page.clone().trajectory(key.clone());
                async { made.await?.map(|(sections, _)| sections) }
            };
            hub.watch(topic, make).map(|stream| Sse::new(stream).keep_alive(keep_alive).into_response())
        }
    };
    // Those in between must not wait for more before they pass on what there is.
    let passed_on = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    stream.map_or_else(busy, |stream| sealed(([passed_on], stream)))
}
