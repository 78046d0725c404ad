//! Hears from Nomad: the stream of events as a hint, which is quick and has gaps, and the list as the truth, at every
//! start of a stream, from time to time, and when somebody cannot wait.
//!
//! A Nomad that is silent changes nothing: what runs goes on, and whether it does is its agent's to say. A container is
//! gone when Nomad says that it is, never because Nomad says nothing.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::{
    Shared,
    api::{ApiError, EventStream, NodeStub, Payload},
    template,
};

/// Between looks at the list while the stream is up.
const RESYNC: Duration = Duration::from_secs(30);
/// While it is down.
const POLL: Duration = Duration::from_secs(2);
/// However much is asked for.
const LEAST_GAP: Duration = Duration::from_secs(1);
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct Watch {
    shared: Arc<Shared>,
    /// This client may look at nodes.
    nodes: bool,
    last_index: u64,
    /// Nomad has not answered since.
    silent: bool,
    listed_at: Option<Instant>,
}

impl Watch {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, nodes: true, last_index: 0, silent: false, listed_at: None }
    }

    /// Until the backend closes.
    pub(super) async fn run(mut self) {
        let closing = self.shared.closing.clone();
        tokio::select! {
            () = self.watch() => {}
            () = closing.cancelled() => {}
        }
    }

    async fn watch(&mut self) {
        let mut delay = FIRST_DELAY;
        loop {
            self.look().await;
            let topics: &[&str] = if self.nodes { &["Allocation:*", "Node:*"] } else { &["Allocation:*"] };
            let mut stream = self.shared.client.events(topics, self.last_index);
            if self.listen(&mut stream).await {
                delay = FIRST_DELAY;
            }
            self.last_index = stream.last_index();
            drop(stream);
            // Meanwhile the list must do.
            let again = Instant::now() + delay + delay.mul_f64(fastrand::f64() / 2.0);
            delay = (delay * 2).min(LONGEST_DELAY);
            while Instant::now() < again {
                sleep(POLL.min(again.saturating_duration_since(Instant::now()))).await;
                if !self.shared.registry.is_empty() {
                    self.look().await;
                }
            }
        }
    }

    /// Until the stream ends; whether it was ever up.
    async fn listen(&mut self, stream: &mut EventStream) -> bool {
        let mut up = false;
        loop {
            let due = self.listed_at.map_or_else(Instant::now, |at| at + RESYNC);
            tokio::select! {
                heard = stream.next() => match heard {
                    Ok(events) => {
                        if !std::mem::replace(&mut up, true) {
                            // What happened before it was up.
                            self.look().await;
                        }
                        for event in events.events {
                            match event.payload {
                                Payload::Allocation(allocation) => self.shared.registry.see(&allocation),
                                Payload::Node(node) => self.see_node(&node),
                                Payload::Evaluation(_) | Payload::Job(_) | Payload::Other => {}
                            }
                        }
                    }
                    Err(end) => {
                        info!(reason = %end, "no events from Nomad for now");
                        return up;
                    }
                },
                () = self.shared.nudge.notified() => {
                    if self.listed_at.is_none_or(|at| at.elapsed() >= LEAST_GAP) {
                        self.look().await;
                    }
                }
                () = sleep_until(due) => self.look().await,
            }
        }
    }

    /// Asks for the truth.
    async fn look(&mut self) {
        let looked = self.try_look().await;
        self.listed_at = Some(Instant::now());
        match looked {
            Ok(()) => {
                if std::mem::take(&mut self.silent) {
                    info!("Nomad answers again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.silent, true) {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "Nomad does not answer as it should: what runs goes on, and nothing new starts"
                    );
                }
            }
        }
    }

    async fn try_look(&mut self) -> Result<(), ApiError> {
        let listed = self.shared.client.allocations(&self.shared.filter("Job.ParentID")).await?;
        for allocation in &listed.value {
            self.shared.registry.see(allocation);
        }
        if listed.index < self.last_index {
            // Nomad has begun anew, and its events with it.
            self.last_index = 0;
        }
        if self.nodes {
            match self.shared.client.nodes().await {
                Ok(nodes) => nodes.iter().for_each(|node| self.see_node(node)),
                Err(ApiError::Denied { .. }) => {
                    info!("this token may not look at nodes: a drain is noticed when Nomad stops what is there");
                    self.nodes = false;
                }
                Err(error) => return Err(error),
            }
        }
        self.sweep().await
    }

    fn see_node(&self, node: &NodeStub) {
        let why = if node.drain {
            format!("its node {} is drained", node.name)
        } else if node.scheduling_eligibility == "ineligible" {
            format!("its node {} takes nothing new", node.name)
        } else {
            return;
        };
        self.shared.registry.node_leaves(&node.id, &why);
    }

    /// Ends what bears this executor's name and is not known to it: a dispatch that counted twice or was given up, a
    /// container that was given up while Nomad was silent.
    async fn sweep(&self) -> Result<(), ApiError> {
        if !self.shared.may_sweep() {
            return Ok(());
        }
        let jobs = self.shared.client.jobs(&self.shared.own_children()).await?;
        for job in jobs {
            let nonce = job.meta.get(template::NONCE).map_or("", String::as_str);
            if self.shared.registry.knows(&job.id) || self.shared.registry.is_expected(nonce) {
                continue;
            }
            if !job.stop && job.status != "dead" {
                warn!(child = job.id, "ends a container that nobody knows of");
            }
            self.shared.end_soon(job.id);
        }
        Ok(())
    }
}
