//! The children that are this executor's, and what is known of each.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{api::Allocation, sight::Sight};
use crate::{backend::ids::IdRange, id::ContainerId};

/// How long it is remembered what was seen of a child that nobody claims: another executor's, mostly.
const STRAY: Duration = Duration::from_secs(60);

/// See the module. One writer of sights: whoever hears from Nomad.
#[derive(Default)]
pub(super) struct Registry {
    rewrite: Vec<(String, String)>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    children: HashMap<String, Child>,
    /// Seen of children that are not known (yet): an event may be faster than the answer to its dispatch.
    strays: HashMap<String, (Sight, Instant)>,
    /// Of dispatches under way.
    nonces: HashSet<String>,
    /// Children that are not known, and are being ended.
    ending: HashSet<String>,
}

struct Child {
    sight: watch::Sender<Sight>,
    gone: watch::Sender<bool>,
    /// It is being ended.
    ending: bool,
    /// Its slots' user ids are nobody else's for as long as it may run.
    _ids: IdRange,
}

/// A dispatch under way: what comes of it is not taken for something left over.
pub(super) struct Expected {
    registry: Arc<Registry>,
    nonce: String,
}

impl Registry {
    pub(super) fn new(rewrite: Vec<(String, String)>) -> Self {
        Self { rewrite, inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Each change is whole before the lock is given back.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn expect(self: &Arc<Self>, nonce: &str) -> Expected {
        self.inner().nonces.insert(nonce.to_owned());
        Expected { registry: self.clone(), nonce: nonce.to_owned() }
    }

    pub(super) fn is_expected(&self, nonce: &str) -> bool {
        self.inner().nonces.contains(nonce)
    }

    /// A child is this executor's.
    pub(super) fn claim(&self, child: &str, ids: IdRange) -> watch::Receiver<Sight> {
        let mut inner = self.inner();
        let seen = inner.strays.remove(child).map(|(sight, _)| sight).unwrap_or_default();
        let (sight, receiver) = watch::channel(seen);
        let entry = Child { sight, gone: watch::channel(false).0, ending: false, _ids: ids };
        inner.children.insert(child.to_owned(), entry);
        receiver
    }

    pub(super) fn knows(&self, child: &str) -> bool {
        self.inner().children.contains_key(child)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.inner().children.is_empty()
    }

    /// Takes in what Nomad says of an allocation.
    pub(super) fn see(&self, allocation: &Allocation) {
        let mut inner = self.inner();
        match inner.children.get(&allocation.job_id) {
            Some(child) => {
                child.sight.send_if_modified(|sight| sight.see(allocation, &self.rewrite));
            }
            None => {
                let now = Instant::now();
                inner.strays.retain(|_, (_, since)| now.duration_since(*since) < STRAY);
                let (sight, _) = inner.strays.entry(allocation.job_id.clone()).or_insert((Sight::default(), now));
                sight.see(allocation, &self.rewrite);
            }
        }
    }

    /// A node will not keep its containers.
    pub(super) fn node_leaves(&self, node_id: &str, why: &str) {
        for child in self.inner().children.values() {
            child.sight.send_if_modified(|sight| sight.node_id == node_id && sight.node_leaves(why));
        }
    }

    pub(super) fn sight(&self, child: &str) -> Option<watch::Receiver<Sight>> {
        self.inner().children.get(child).map(|child| child.sight.subscribe())
    }

    /// The child that a container is.
    pub(super) fn child_of(&self, container: &ContainerId) -> Option<String> {
        let inner = self.inner();
        let mut children = inner.children.iter();
        children.find(|(_, child)| child.sight.borrow().allocation == container.as_str()).map(|(id, _)| id.clone())
    }

    /// Becomes true when it is gone; and whether this is the first who wants its end.
    pub(super) fn begin_end(&self, child: &str) -> Option<(watch::Receiver<bool>, bool)> {
        let mut inner = self.inner();
        let child = inner.children.get_mut(child)?;
        Some((child.gone.subscribe(), !std::mem::replace(&mut child.ending, true)))
    }

    /// Whether this child, which is not known, is not being ended already.
    pub(super) fn begin_end_of_stray(&self, child: &str) -> bool {
        self.inner().ending.insert(child.to_owned())
    }

    pub(super) fn stray_ended(&self, child: &str) {
        self.inner().ending.remove(child);
    }

    /// Nothing is left of it.
    pub(super) fn gone(&self, child: &str) {
        if let Some(child) = self.inner().children.remove(child) {
            child.gone.send_replace(true);
        }
    }

    pub(super) fn children(&self) -> Vec<String> {
        self.inner().children.keys().cloned().collect()
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.registry.inner().nonces.remove(&self.nonce);
    }
}
