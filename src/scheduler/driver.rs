//! The task that owns the core: tells it what happens, and carries out what it decides.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::{self, JoinError, JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

use super::{
    config::PoolConfig,
    core::{self, ContainerKey, Core, Effect, Event, Failure, OwnerId, PoolKey, Return, Shortage, SlotKey},
    handle::{Command, Handle, WaitFailure},
    lease::{Agent, Grant},
    names::{Names, Wait},
    status::{ContainerState, ContainerStatus, PoolStatus},
    supervisor::{Report, Supervisor},
};
use crate::{backend::Backend, id::ContainerId, sandbox::client::LinkOptions, tool::Evidence};

/// Between two looks at who in a line has moved.
const POSITIONS_EVERY: Duration = Duration::from_millis(250);
/// Only those nearest to a slot are told how they move: of a longer line nobody could say when a place means anything.
const POSITIONS_TOLD: usize = 1024;
/// When one who found the line full may try again.
const LINE_FULL_RETRY: Duration = Duration::from_secs(1);
/// Commands taken in one go; between two goes everything else has its turn.
const COMMANDS: usize = 256;

struct Pool {
    config: PoolConfig,
    last_start_failure: Option<Arc<Evidence>>,
}

/// A container whose supervisor runs.
struct Watched {
    stop: CancellationToken,
    id: Option<ContainerId>,
    node: String,
    agent: Option<Arc<Agent>>,
    since: SystemTime,
}

/// See the module.
struct Driver {
    core: Core,
    pools: Vec<Pool>,
    names: Names,
    containers: HashMap<ContainerKey, Watched>,
    backend: Arc<dyn Backend>,
    link: LinkOptions,
    commands: mpsc::UnboundedReceiver<Command>,
    /// For leases. Weak, or the driver would keep itself alive.
    to_commands: mpsc::WeakUnboundedSender<Command>,
    reports: mpsc::UnboundedReceiver<(ContainerKey, Report)>,
    to_reports: mpsc::UnboundedSender<(ContainerKey, Report)>,
    supervisors: JoinSet<()>,
    supervised: HashMap<task::Id, ContainerKey>,
    /// When somebody should be told how far he has come.
    positions_at: Option<Instant>,
    closed: bool,
    closing: Vec<oneshot::Sender<()>>,
}

/// Starts the scheduler: the least number of containers of each pool at once, the others as they are needed. Its task
/// ends after [`Handle::shut_down`], when every container is gone.
pub fn spawn(pools: Vec<PoolConfig>, backend: Arc<dyn Backend>, link: LinkOptions) -> (Handle, JoinHandle<()>) {
    // Each bounded by what it carries: see `Command` and `Report`.
    let (to_commands, commands) = mpsc::unbounded_channel();
    let (to_reports, reports) = mpsc::unbounded_channel();
    let names = (0..).map(PoolKey).zip(&pools).map(|(key, pool)| (pool.name.clone(), key)).collect();
    let driver = Driver {
        core: Core::new(pools.iter().cloned()),
        pools: pools.into_iter().map(|config| Pool { config, last_start_failure: None }).collect(),
        names: Names::default(),
        containers: HashMap::new(),
        backend,
        link,
        commands,
        to_commands: to_commands.downgrade(),
        reports,
        to_reports,
        supervisors: JoinSet::new(),
        supervised: HashMap::new(),
        positions_at: None,
        closed: false,
        closing: Vec::new(),
    };
    (Handle::new(to_commands, names), tokio::spawn(driver.run()))
}

impl Driver {
    async fn run(mut self) {
        self.tell(Event::Tick);
        let mut batch = Vec::new();
        while !(self.closed && self.supervisors.is_empty()) {
            let deadline = self.core.deadline().map(Instant::from_std).into_iter().chain(self.positions_at).min();
            tokio::select! {
                count = self.commands.recv_many(&mut batch, COMMANDS), if !self.commands.is_closed() || !self.closed => {
                    if count == 0 {
                        self.shut_down();
                    }
                    for command in batch.drain(..) {
                        self.on_command(command);
                    }
                }
                Some((container, report)) = self.reports.recv() => self.on_report(container, report),
                Some(ended) = self.supervisors.join_next_with_id() => self.on_supervisor_ended(ended),
                () = async {
                    match deadline {
                        Some(deadline) => sleep_until(deadline).await,
                        None => std::future::pending().await,
                    }
                } => self.on_deadline(),
            }
        }
        for reply in self.closing {
            // Whoever does not wait for it any more needs no answer.
            let _ = reply.send(());
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Acquire { pool, owner, ticket, end, position } => {
                let number = self.names.number(owner);
                let wait = Wait { ticket, pool, since: Instant::now(), end, position };
                self.acquire(number, wait);
            }
            Command::Leave { owner, ticket } => {
                let Some(number) = self.names.find(&owner) else { return };
                if let Some(wait) = self.names.wait(number)
                    && wait.as_ref().is_some_and(|wait| wait.ticket == ticket)
                {
                    *wait = None;
                    self.tell(Event::Leave { owner: number });
                }
            }
            Command::Return { slot, owner, how } => self.tell(Event::Return { slot, owner, how }),
            // Whoever does not wait for it any more needs no answer.
            Command::Status(reply) => drop(reply.send(self.status())),
            Command::ShutDown(reply) => {
                self.closing.push(reply);
                self.shut_down();
            }
        }
    }

    fn acquire(&mut self, owner: OwnerId, wait: Wait) {
        let pool = wait.pool;
        if let Some(place) = self.names.wait(owner) {
            // A later wait takes the place of an earlier one of the same trajectory.
            *place = Some(wait);
        }
        self.tell(Event::Acquire { pool, owner });
        let position = self.core.waiting(pool);
        let reason = self.reason(pool);
        if self.core.is_in_line(owner)
            && let Some(Some(wait)) = self.names.wait(owner)
        {
            wait.tell(position, &reason);
            self.positions_at.get_or_insert_with(|| Instant::now() + POSITIONS_EVERY);
        }
    }

    fn shut_down(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.tell(Event::ShutDown);
        }
    }

    fn on_deadline(&mut self) {
        self.tell(Event::Tick);
        if self.positions_at.is_some_and(|at| at <= Instant::now()) {
            self.tell_positions();
        }
    }

    fn tell_positions(&mut self) {
        self.positions_at = None;
        for pool in (0..self.pools.len()).map(|index| PoolKey(index as u16)) {
            let reason = self.reason(pool);
            for (position, owner) in (1..).zip(self.core.line(pool).take(POSITIONS_TOLD)) {
                if let Some(Some(wait)) = self.names.wait(owner) {
                    wait.tell(position, &reason);
                }
            }
            if self.core.waiting(pool) > 0 {
                self.positions_at = Some(Instant::now() + POSITIONS_EVERY);
            }
        }
    }

    /// Why somebody waits for a slot of the pool.
    fn reason(&self, pool: PoolKey) -> Option<String> {
        let Pool { config, last_start_failure } = self.pool(pool)?;
        match self.core.shortage(pool, Instant::now().into_std())? {
            Shortage::Resetting => Some("slots are being emptied".to_owned()),
            Shortage::Starting => Some("a container is starting".to_owned()),
            Shortage::AtMaximum => {
                Some(format!("all slots are taken, and the pool has its most containers ({})", config.max_containers))
            }
            Shortage::BackingOff => Some(match last_start_failure {
                Some(evidence) => format!("the last container could not be started: {}", evidence.cause),
                None => "the last container died young, and the next is about to start".to_owned(),
            }),
        }
    }

    fn pool(&self, pool: PoolKey) -> Option<&Pool> {
        self.pools.get(usize::from(pool.0))
    }

    fn on_report(&mut self, container: ContainerKey, report: Report) {
        let watched = self.containers.get_mut(&container);
        match report {
            Report::Launched { id, node } => {
                if let Some(watched) = watched {
                    (watched.id, watched.node) = (Some(id), node);
                }
            }
            Report::Ready { link, location, attached } => {
                let Some(watched) = watched else { return };
                let crate::sandbox::client::Attached { isolation, network_isolated, slots } = attached;
                info!(container = %location.container, slots, isolation, network_isolated, "a container is ready");
                watched.agent = Some(Arc::new(Agent { link, location, isolation: isolation.into(), network_isolated }));
                watched.since = SystemTime::now();
                if let Some(pool) = self.pools.get_mut(usize::from(container.pool().0)) {
                    pool.last_start_failure = None;
                }
                self.tell(Event::ContainerReady { container, slots });
            }
            Report::Failed(evidence) => {
                let Evidence { cause, events, stderr_tail, .. } = &evidence;
                warn!(cause, ?events, stderr_tail, "a container could not be started");
                if let Some(pool) = self.pools.get_mut(usize::from(container.pool().0)) {
                    pool.last_start_failure = Some(Arc::new(evidence));
                }
                self.tell(Event::StartFailed { container, jitter: fastrand::u32(..) });
            }
            Report::Draining => {
                self.changed(container);
                self.tell(Event::Draining { container });
            }
            Report::SlotReady { slot, kept } => {
                self.tell(Event::SlotReady { slot: SlotKey { container, index: slot }, kept });
            }
            Report::SlotQuarantined { slot, cause } => {
                warn!(container = %self.name(container), slot, cause, "a slot is never used again");
                self.tell(Event::SlotQuarantined { slot: SlotKey { container, index: slot } });
            }
            Report::Lost(evidence) => {
                let Evidence { cause, events, stderr_tail, .. } = &*evidence;
                warn!(container = %self.name(container), cause, ?events, stderr_tail, "a container is lost");
                self.changed(container);
                self.tell(Event::Lost { container, jitter: fastrand::u32(..) });
            }
            Report::Stopped => {
                debug!(container = %self.name(container), "a container is stopped");
                self.tell(Event::Stopped { container });
            }
        }
    }

    fn name(&self, container: ContainerKey) -> String {
        self.containers.get(&container).and_then(|watched| watched.id.as_ref()).map_or_else(String::new, ContainerId::to_string)
    }

    /// It came into another state.
    fn changed(&mut self, container: ContainerKey) {
        if let Some(watched) = self.containers.get_mut(&container) {
            watched.since = SystemTime::now();
        }
    }

    fn on_supervisor_ended(&mut self, ended: Result<(task::Id, ()), JoinError>) {
        // What it said last comes before its end.
        while let Ok((container, report)) = self.reports.try_recv() {
            self.on_report(container, report);
        }
        let (id, failed) = match ended {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error)),
        };
        let Some(container) = self.supervised.remove(&id) else { return };
        let watched = self.containers.remove(&container);
        if let Some(failed) = failed {
            error!(
                error = &failed as &dyn std::error::Error,
                "a container's supervisor failed: it is watched no longer"
            );
            let cause = "the executor failed to watch over it".to_owned();
            if let Some(agent) = watched.and_then(|watched| watched.agent) {
                agent.link.lose(&Arc::new(Evidence { cause, ..Evidence::default() }));
            }
            // Whatever state it was in.
            self.tell(Event::Stopped { container });
        }
    }

    /// Tells the core, and carries out what follows, and what follows from that.
    fn tell(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        let mut effects = Vec::new();
        while let Some(event) = events.pop_front() {
            self.core.handle(event, Instant::now().into_std(), &mut effects);
            for effect in effects.drain(..) {
                events.extend(self.carry_out(effect));
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Grant { owner, slot, kept } => return self.grant(owner, slot, kept),
            Effect::Fail { owner, failure } => self.fail(owner, failure),
            Effect::Release { slot, keep } => {
                let watched = self.containers.get(&slot.container);
                if let Some(agent) = watched.and_then(|watched| watched.agent.as_ref()) {
                    agent.link.release(slot.index, keep);
                }
            }
            Effect::Start { container } => self.start(container),
            Effect::Stop { container } => {
                self.changed(container);
                if let Some(watched) = self.containers.get(&container) {
                    watched.stop.cancel();
                }
            }
            Effect::Forget(owner) => self.names.forget(owner),
        }
        None
    }

    /// Hands the slot over; one that nobody takes is as good as before.
    fn grant(&mut self, owner: OwnerId, slot: SlotKey, kept: bool) -> Option<Event> {
        let unused = Event::Return { slot, owner, how: Return::Unused };
        let agent = self.containers.get(&slot.container).and_then(|watched| watched.agent.clone());
        let key = self.names.key(owner).cloned();
        let wait = self.names.wait(owner).and_then(Option::take);
        let (Some(agent), Some(key), Some(wait), Some(commands)) = (agent, key, wait, self.to_commands.upgrade())
        else {
            return Some(unused);
        };
        // What cannot be delivered goes back at once, before its owner can ask again.
        let undelivered = wait.end.send(Ok(Grant::new(commands, slot, owner, key, agent, kept))).err()?;
        undelivered.ok()?.disarm();
        Some(unused)
    }

    fn fail(&mut self, owner: OwnerId, failure: Failure) {
        let Some(wait) = self.names.wait(owner).and_then(Option::take) else { return };
        let evidence = self.pool(wait.pool).and_then(|pool| pool.last_start_failure.clone());
        let failure = match failure {
            Failure::TimedOut => WaitFailure::TimedOut { waited: wait.waited(), evidence },
            Failure::StartFailed { retry_after } => {
                WaitFailure::StartFailed { evidence: evidence.unwrap_or_default(), retry_after }
            }
            Failure::LineFull => WaitFailure::LineFull { retry_after: LINE_FULL_RETRY },
            Failure::HoldsOne => {
                error!("a trajectory asks for a second slot");
                let cause = "the trajectory has a slot already".to_owned();
                let evidence = Arc::new(Evidence { cause, ..Evidence::default() });
                WaitFailure::StartFailed { evidence, retry_after: LINE_FULL_RETRY }
            }
            Failure::ShuttingDown => WaitFailure::ShuttingDown,
        };
        // Whoever has left the line needs no answer.
        let _ = wait.end.send(Err(failure));
    }

    fn start(&mut self, container: ContainerKey) {
        let Some(Pool { config, .. }) = self.pool(container.pool()) else { return };
        let stop = CancellationToken::new();
        let supervisor = Supervisor {
            key: container,
            pool: config.name.clone(),
            start_timeout: config.start_timeout,
            backend: self.backend.clone(),
            link: self.link.clone(),
            stop: stop.clone(),
            reports: self.to_reports.clone(),
        };
        let span = info_span!("container", pool = %config.name);
        let task = self.supervisors.spawn(supervisor.run().instrument(span));
        self.supervised.insert(task.id(), container);
        let (node, since) = (String::new(), SystemTime::now());
        self.containers.insert(container, Watched { stop, id: None, node, agent: None, since });
    }

    fn status(&self) -> Vec<PoolStatus> {
        (0..).map(PoolKey).zip(&self.pools).map(|(key, pool)| self.pool_status(key, pool)).collect()
    }

    fn pool_status(&self, key: PoolKey, pool: &Pool) -> PoolStatus {
        let mut status = PoolStatus {
            name: pool.config.name.clone(),
            total_slots: 0,
            available_slots: 0,
            acquired_slots: 0,
            starting_slots: 0,
            resetting_slots: 0,
            quarantined_slots: 0,
            waiting_trajectories: self.core.waiting(key),
            min_containers: pool.config.min_containers,
            max_containers: pool.config.max_containers,
            containers: Vec::new(),
            last_start_failure: pool.last_start_failure.as_ref().map(|evidence| evidence.cause.clone()),
        };
        for (container, watched) in self.containers.iter().filter(|(container, _)| container.pool() == key) {
            let counts = self.core.slot_counts(*container).unwrap_or_default();
            let (state, available) = match self.core.container_state(*container) {
                Some(core::ContainerState::Starting) => {
                    status.starting_slots += pool.config.slots_per_container;
                    (ContainerState::Starting, 0)
                }
                Some(core::ContainerState::Ready) => (ContainerState::Ready, counts.clean + counts.kept),
                Some(core::ContainerState::Draining | core::ContainerState::Stopping) => (ContainerState::Draining, 0),
                // It is being cleared away.
                None => continue,
            };
            status.available_slots += available;
            status.acquired_slots += counts.leased;
            status.resetting_slots += counts.resetting;
            status.quarantined_slots += counts.quarantined;
            status.containers.push(ContainerStatus {
                id: watched.id.clone(),
                node: watched.node.clone(),
                state,
                isolation: watched.agent.as_ref().map_or_else(String::new, |agent| agent.isolation.to_string()),
                total_slots: counts.clean + counts.leased + counts.resetting + counts.kept + counts.quarantined,
                available_slots: available,
                since: watched.since,
            });
        }
        status.containers.sort_by(|one, other| one.id.cmp(&other.id));
        status.total_slots = status.available_slots
            + status.acquired_slots
            + status.starting_slots
            + status.resetting_slots
            + status.quarantined_slots;
        status
    }
}
