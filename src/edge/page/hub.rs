//! Live pages. Each page that somebody looks at has one task, which makes its sections anew once a second and ends
//! with the last viewer; all viewers share what it makes. A viewer is sent the sections that differ from those that it
//! was sent last: one that is slow skips what was between, and costs no memory.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::response::sse::Event;
use serde_json::{Map, Value};
use tokio::{
    sync::{Semaphore, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_stream::{Stream, StreamExt as _, wrappers::WatchStream};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug_span};

use super::{
    Topic,
    render::{Section, Sections},
};

/// Between two makings.
const EVERY: Duration = Duration::from_secs(1);
/// Of all pages together.
const VIEWERS: usize = 64;

type Feed = watch::Sender<Option<Arc<Sections>>>;

/// See the module.
pub(super) struct Hub {
    feeds: Mutex<HashMap<Topic, Arc<Feed>>>,
    viewers: Arc<Semaphore>,
    /// Everybody is to go.
    closing: CancellationToken,
}

impl Hub {
    pub(super) fn new(closing: CancellationToken) -> Self {
        Self { feeds: Mutex::default(), viewers: Arc::new(Semaphore::new(VIEWERS)), closing }
    }

    /// What a viewer of the page is sent; `None` if there are too many. `make`: the sections of the page as they are;
    /// none if they cannot be had just now.
    pub(super) fn watch<M, F>(
        self: &Arc<Self>,
        topic: Topic,
        make: M,
    ) -> Option<impl Stream<Item = Result<Event, Infallible>> + Send + use<M, F>>
    where
        M: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Option<Sections>> + Send + 'static,
    {
        let permit = self.viewers.clone().try_acquire_owned().ok()?;
        let mut sent: Sections = Vec::new();
        let sections = WatchStream::new(self.feed(topic, make)).filter_map(|sections| sections);
        Some(sections.filter_map(move |sections| {
            let _held = &permit;
            let changed = changes(&sent, &sections)?;
            sent.clone_from(&sections);
            Some(Ok(Event::default().event("sections").data(changed)))
        }))
    }

    fn feed<F>(
        self: &Arc<Self>,
        topic: Topic,
        make: impl Fn() -> F + Send + Sync + 'static,
    ) -> watch::Receiver<Option<Arc<Sections>>>
    where
        F: Future<Output = Option<Sections>> + Send + 'static,
    {
        let mut feeds = self.lock();
        if let Some(feed) = feeds.get(&topic) {
            return feed.subscribe();
        }
        let (feed, receiver) = watch::channel(None);
        let feed = Arc::new(feed);
        feeds.insert(topic.clone(), feed.clone());
        drop(feeds);
        let hub = self.clone();
        tokio::spawn(async move { hub.run(topic, feed, make).await }.instrument(debug_span!("status page")));
        receiver
    }

    async fn run<F>(self: Arc<Self>, topic: Topic, feed: Arc<Feed>, make: impl Fn() -> F)
    where
        F: Future<Output = Option<Sections>>,
    {
        // However it ends, the next viewer finds a page that lives.
        let registered = Registered { hub: self, topic, feed };
        let Registered { hub, topic, feed } = &registered;
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let made = tokio::select! {
                // Streams end with the feed.
                () = hub.closing.cancelled() => return,
                made = async { ticks.tick().await; make().await } => made,
            };
            if let Some(made) = made {
                feed.send_replace(Some(Arc::new(made)));
            }
            let mut feeds = hub.lock();
            // Nobody can come meanwhile.
            if feed.receiver_count() == 0 {
                feeds.remove(topic);
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Topic, Arc<Feed>>> {
        // No code that can panic runs under the lock.
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A page that lives.
struct Registered {
    hub: Arc<Hub>,
    topic: Topic,
    feed: Arc<Feed>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut feeds = self.hub.lock();
        // It may have left already, and another have come.
        if feeds.get(&self.topic).is_some_and(|feed| Arc::ptr_eq(feed, &self.feed)) {
            feeds.remove(&self.topic);
        }
    }
}

/// By the names of the sections; `None` if there are no changes.
fn changes(sent: &[Section], now: &[Section]) -> Option<String> {
    let is_new = |section: &&Section| !sent.contains(section);
    let changed: Map<String, Value> =
        now.iter().filter(is_new).map(|section| (section.name.to_owned(), section.html.clone().into())).collect();
    (!changed.is_empty()).then(|| Value::Object(changed).to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::id::Tenant;

    fn overview(is_operator: bool) -> Topic {
        Topic::Overview { tenant: Tenant::anonymous(), is_operator }
    }

    fn section(name: &'static str, html: &str) -> Section {
        Section { name, html: html.to_owned() }
    }

    #[test]
    fn what_has_changed_is_sent_alone() {
        let before = [section("a", "1"), section("b", "1")];
        assert_eq!(changes(&before, &before), None);
        let after = [section("a", "1"), section("b", "<\"\n>")];
        assert_eq!(changes(&before, &after).as_deref(), Some(r#"{"b":"<\"\n>"}"#));
    }

    #[tokio::test(start_paused = true)]
    async fn all_viewers_share_a_page_and_it_ends_with_the_last() {
        let hub = Arc::new(Hub::new(CancellationToken::new()));
        let made = Arc::new(AtomicUsize::new(0));
        let watch = || {
            let made = made.clone();
            hub.watch(overview(true), move || {
                let count = made.fetch_add(1, Ordering::Relaxed).to_string();
                async move { Some(vec![section("a", &count)]) }
            })
        };
        let mut viewers: Vec<_> = (0..VIEWERS).map(|_| Box::pin(watch().expect("there is room"))).collect();
        assert!(watch().is_none(), "there are too many");
        for viewer in &mut viewers {
            assert!(viewer.next().await.is_some());
        }
        assert_eq!(made.load(Ordering::Relaxed), 1, "it was made for all of them");
        for _ in 0..10 {
            assert!(viewers[0].next().await.is_some());
        }
        assert_eq!(made.load(Ordering::Relaxed), 11, "the others, who do not read, cost nothing");
        drop(viewers);
        tokio::time::sleep(EVERY * 3).await;
        let at_the_end = made.load(Ordering::Relaxed);
        tokio::time::sleep(EVERY * 10).await;
        assert_eq!(made.load(Ordering::Relaxed), at_the_end, "nobody looks");
        assert!(hub.lock().is_empty());
        assert!(watch().is_some(), "there is room again");
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_operator_sees_is_for_operators() {
        let hub = Arc::new(Hub::new(CancellationToken::new()));
        let watch = |is_operator, html: &'static str| {
            let viewer = hub.watch(overview(is_operator), move || async move { Some(vec![section("a", html)]) });
            viewer.expect("there is room")
        };
        let mut operator = Box::pin(watch(true, "all"));
        assert!(operator.next().await.is_some());
        let mut tenant = Box::pin(watch(false, "own"));
        assert!(tenant.next().await.is_some());
        let shown = |is_operator| {
            let feeds = hub.lock();
            feeds[&overview(is_operator)].borrow().as_ref().expect("it was made")[0].html.clone()
        };
        assert_eq!((shown(true), shown(false)), ("all".to_owned(), "own".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn viewers_go_when_the_service_ends() {
        let closing = CancellationToken::new();
        let hub = Arc::new(Hub::new(closing.clone()));
        let viewer = hub.watch(overview(true), || async { Some(vec![section("a", "")]) });
        let mut viewer = Box::pin(viewer.expect("there is room"));
        assert!(viewer.next().await.is_some());
        closing.cancel();
        assert!(viewer.next().await.is_none());
    }
}
