//! The task that owns the scheduler's state: feeds the core what happens, and carries out what it decides.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    config::PoolConfig,
    core::{ContainerKey, Core, Effect, SlotKey, Ticket},
    handle::{Grant, Granted, Handle, Message, WaitFailure},
    pool::{Known, Pool, Ready, Waiter},
    supervise::{ContainerNews, News, Supervisor},
};
use crate::{
    backend::Backend,
    id::{PoolName, TrajectoryKey},
    sandbox::client::LinkOptions,
    tool::Location,
};

/// How often those who wait hear of their place.
const TELL_POSITIONS: Duration = Duration::from_millis(250);
/// How many of those in front hear of it each time; the others have longer to wait than this is of interest.
const TOLD: usize = 1000;
/// How long somebody for whom there was no room in the line should stay away.
const LINE_RETRY: Duration = Duration::from_secs(1);

/// Starts the scheduler: a way to it, and its task, which ends after [`Handle::shut_down`].
pub fn spawn(
    pools: Vec<PoolConfig>,
    backend: Arc<dyn Backend>,
    options: LinkOptions,
) -> (Handle, tokio::task::JoinHandle<()>) {
    let (messages, receiver) = mpsc::unbounded_channel();
    let handle = Handle { messages, waiters: Arc::new(AtomicU64::new(0)) };
    let (news, news_receiver) = mpsc::unbounded_channel();
    let driver = Driver {
        handle: handle.clone(),
        messages: receiver,
        news,
        news_receiver,
        backend,
        options,
        pools: pools.into_iter().map(Pool::new).collect(),
        waiters: HashMap::new(),
        supervisors: JoinSet::new(),
        ending: None,
    };
    (handle, tokio::spawn(driver.run()))
}

struct Driver {
    handle: Handle,
    messages: mpsc::UnboundedReceiver<Message>,
    news: mpsc::UnboundedSender<News>,
    news_receiver: mpsc::UnboundedReceiver<News>,
    backend: Arc<dyn Backend>,
    options: LinkOptions,
    pools: Vec<Pool>,
    /// Where in which line a waiter stands.
    waiters: HashMap<u64, (usize, Ticket)>,
    supervisors: JoinSet<()>,
    ending: Option<Vec<oneshot::Sender<()>>>,
}

impl Driver {
    async fn run(mut self) {
        for pool in 0..self.pools.len() {
            self.act(pool, |core, now, effects| core.begin(now, effects));
        }
        let mut positions = interval(TELL_POSITIONS);
        positions.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = self.pools.iter().filter_map(|pool| pool.core.deadline()).min();
            let somebody_waits = !self.waiters.is_empty();
            tokio::select! {
                // The driver itself holds a sender.
                Some(message) = self.messages.recv() => self.on_message(message),
                Some(News { pool, container, event }) = self.news_receiver.recv() => self.on_news(pool, container, event),
                Some(ended) = self.supervisors.join_next() => {
                    if let Err(error) = ended {
                        warn!(error = &error as &dyn std::error::Error, "the watch over a container failed");
                    }
                }
                _ = positions.tick(), if somebody_waits => self.tell_positions(),
                () = async {
                    match deadline {
                        Some(deadline) => sleep_until(deadline.into()).await,
                        None => std::future::pending().await,
                    }
                } => self.on_time(),
            }
            if self.ended() {
                return;
            }
        }
    }

    /// Tells the core of something, and carries out what it decides.
    fn act<T>(&mut self, pool: usize, act: impl FnOnce(&mut Core<TrajectoryKey>, Instant, &mut Vec<Effect>) -> T) -> T {
        let mut effects = Vec::new();
        let now = tokio::time::Instant::now().into_std();
        let answer = act(&mut self.pools[pool].core, now, &mut effects);
        effects.into_iter().for_each(|effect| self.carry_out(pool, effect));
        answer
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Acquire { waiter, pool, owner, positions, outcome } => {
                self.acquire(&pool, Waiter { waiter, owner, positions, told: None, outcome });
            }
            Message::Leave { waiter } => {
                if let Some((pool, ticket)) = self.waiters.remove(&waiter) {
                    self.pools[pool].waiting.remove(&ticket);
                    self.pools[pool].core.leave(ticket);
                }
            }
            Message::Release { pool, slot, keep_for } => {
                self.act(pool, |core, now, effects| core.release(slot, keep_for, now, effects));
            }
            Message::Status(reply) => {
                // Whoever does not wait any more needs no answer.
                let _ = reply.send(self.pools.iter().map(Pool::status).collect());
            }
            Message::ShutDown(reply) => {
                self.ending.get_or_insert_default().push(reply);
                for pool in 0..self.pools.len() {
                    for (_, waiter) in self.pools[pool].waiting.drain() {
                        let _ = waiter.outcome.send(Err(WaitFailure::ShuttingDown));
                    }
                    self.act(pool, |core, _, effects| core.shut_down(effects));
                }
                self.waiters.clear();
            }
        }
    }

    fn acquire(&mut self, name: &PoolName, waiter: Waiter) {
        let pool = self.pools.iter().position(|pool| pool.config.name == *name);
        // The edge lets nobody ask for a pool that there is not.
        let Some(pool) = pool.filter(|_| self.ending.is_none()) else {
            let _ = waiter.outcome.send(Err(WaitFailure::ShuttingDown));
            return;
        };
        let now = tokio::time::Instant::now().into_std();
        let mut effects = Vec::new();
        let mut joined = None;
        match self.pools[pool].core.acquire(waiter.owner.clone(), now, &mut effects) {
            Ok(ticket) => {
                self.waiters.insert(waiter.waiter, (pool, ticket));
                self.pools[pool].waiting.insert(ticket, waiter);
                joined = Some(ticket);
            }
            Err(super::core::LineFull) => {
                let _ = waiter.outcome.send(Err(WaitFailure::LineFull { retry_after: LINE_RETRY }));
            }
        }
        effects.into_iter().for_each(|effect| self.carry_out(pool, effect));
        // Whoever did not get a slot at once is told where they stand: at the end of the line.
        let pool = &mut self.pools[pool];
        if let Some(ticket) = joined
            && pool.waiting.contains_key(&ticket)
        {
            let position = u32::try_from(pool.core.counts().waiting).unwrap_or(u32::MAX);
            let reason = pool.reason();
            pool.tell(ticket, position, reason);
        }
    }

    fn on_news(&mut self, pool: usize, container: ContainerKey, event: ContainerNews) {
        let jitter = fastrand::f64();
        match event {
            ContainerNews::Ready { id, node, link, attached } => {
                self.pools[pool].last_failure = None;
                if let Some(known) = self.pools[pool].containers.get_mut(&container) {
                    known.since = SystemTime::now();
                    let (isolation, network_isolated) = (attached.isolation.into(), attached.network_isolated);
                    known.ready = Some(Ready { id, node, link, isolation, network_isolated });
                }
                self.act(pool, |core, now, effects| core.container_ready(container, now, effects));
            }
            ContainerNews::Failed(evidence) => {
                warn!(cause = evidence.cause, stderr = evidence.stderr_tail, "a container could not be started");
                self.pools[pool].last_failure = Some(evidence);
                self.pools[pool].containers.remove(&container);
                self.act(pool, |core, now, effects| core.container_failed(container, jitter, now, effects));
            }
            ContainerNews::Draining => {
                if let Some(known) = self.pools[pool].containers.get_mut(&container) {
                    known.since = SystemTime::now();
                }
                self.act(pool, |core, now, effects| core.container_draining(container, now, effects));
            }
            ContainerNews::SlotReady { slot: index } => {
                let slot = SlotKey { container, index };
                self.act(pool, |core, now, effects| core.slot_ready(slot, now, effects));
            }
            ContainerNews::SlotQuarantined { slot: index, cause } => {
                warn!(slot = index, cause, "a slot is never used again");
                let slot = SlotKey { container, index };
                self.act(pool, |core, now, effects| core.slot_quarantined(slot, now, effects));
            }
            // Its place is free for another at once; what is left of it goes away behind.
            ContainerNews::Lost | ContainerNews::Gone => {
                self.pools[pool].containers.remove(&container);
                self.act(pool, |core, now, effects| core.container_gone(container, jitter, now, effects));
            }
        }
    }

    fn on_time(&mut self) {
        for pool in 0..self.pools.len() {
            self.act(pool, |core, now, effects| core.on_time(now, effects));
        }
    }

    fn carry_out(&mut self, pool: usize, effect: Effect) {
        match effect {
            Effect::Grant { ticket, slot, kept } => self.grant(pool, ticket, slot, kept),
            Effect::TimedOut(ticket) => {
                let failure = self.failure(pool);
                if let Some(waiter) = self.forget(pool, ticket) {
                    // Whoever does not wait any more needs no answer.
                    let _ = waiter.outcome.send(Err(failure));
                }
            }
            Effect::Start(container) => {
                let stop = CancellationToken::new();
                let known = Known { stop: stop.clone(), since: SystemTime::now(), ready: None };
                let state = &mut self.pools[pool];
                state.containers.insert(container, known);
                let supervisor = Supervisor {
                    pool_index: pool,
                    pool: state.config.name.clone(),
                    key: container,
                    backend: self.backend.clone(),
                    options: self.options.clone(),
                    start_timeout: state.config.start_timeout,
                    stop,
                    news: self.news.clone(),
                };
                self.supervisors.spawn(supervisor.run());
            }
            Effect::Stop(container) => {
                if let Some(known) = self.pools[pool].containers.get(&container) {
                    known.stop.cancel();
                }
            }
            Effect::Release { slot, keep } => {
                let known = self.pools[pool].containers.get(&slot.container);
                if let Some(ready) = known.and_then(|known| known.ready.as_ref()) {
                    ready.link.release(slot.index, keep);
                }
            }
        }
    }

    fn grant(&mut self, pool: usize, ticket: Ticket, slot: SlotKey, kept: bool) {
        let Some(waiter) = self.forget(pool, ticket) else { return };
        let known = self.pools[pool].containers.get(&slot.container);
        let Some(ready) = known.and_then(|known| known.ready.as_ref()) else { return };
        let location = Location { container: ready.id.clone(), node: ready.node.clone(), slot: slot.index };
        let granted = Granted {
            pool,
            slot,
            owner: waiter.owner,
            location,
            isolation: ready.isolation.clone(),
            network_isolated: ready.network_isolated,
            kept,
            link: ready.link.clone(),
        };
        // If nobody waits any more, the grant comes back and gives itself back.
        let _ = waiter.outcome.send(Ok(Grant::new(self.handle.clone(), granted)));
    }

    fn forget(&mut self, pool: usize, ticket: Ticket) -> Option<Waiter> {
        let waiter = self.pools[pool].waiting.remove(&ticket)?;
        self.waiters.remove(&waiter.waiter);
        Some(waiter)
    }

    /// Why somebody has waited in vain.
    fn failure(&self, pool: usize) -> WaitFailure {
        let pool = &self.pools[pool];
        let waited = pool.config.acquire_timeout;
        match &pool.last_failure {
            Some(evidence) => {
                let now = tokio::time::Instant::now().into_std();
                let retry_at = pool.core.retry_at().unwrap_or(now);
                let retry_after = retry_at.saturating_duration_since(now);
                WaitFailure::StartFailed { evidence: evidence.clone(), retry_after }
            }
            None => WaitFailure::TimedOut { waited },
        }
    }

    fn tell_positions(&mut self) {
        for pool in &mut self.pools {
            if pool.waiting.is_empty() {
                continue;
            }
            let reason = pool.reason();
            let tickets: Vec<Ticket> = pool.core.waiting().take(TOLD).collect();
            for (position, ticket) in (1..).zip(tickets) {
                pool.tell(ticket, position, reason.clone());
            }
        }
    }

    /// Whether everything that was started has ended, as it was asked to.
    fn ended(&mut self) -> bool {
        let Some(waiting) = &mut self.ending else { return false };
        if !self.supervisors.is_empty() {
            return false;
        }
        for reply in waiting.drain(..) {
            let _ = reply.send(());
        }
        true
    }
}
