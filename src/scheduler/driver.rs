//! The task that owns the core: tells it what happens, and carries out what it decides.

mod adoption;
mod containers;
mod overview;
mod waits;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::{self, JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    claim::{Claim, FormerOwners},
    config::PoolConfig,
    core::{ContainerKey, Core, Effect, Event, PoolKey},
    handle::{Command, Handle},
    lease::Agent,
    names::{Names, Wait},
    supervisor::Report,
};
use crate::{
    backend::{Backend, Container},
    id::{ContainerId, PoolName},
    sandbox::client::LinkOptions,
    tool::Evidence,
};

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
    /// Of its slots, until the agent has answered.
    claims: Vec<Claim>,
    /// Of a container that was taken over, until the agent has answered.
    former_owners: Option<mpsc::UnboundedSender<FormerOwners>>,
    since: SystemTime,
}

/// See the module.
struct Driver {
    core: Core,
    pools: Vec<Pool>,
    names: Names,
    containers: HashMap<ContainerKey, Watched>,
    backend: Arc<dyn Backend>,
    /// They run already, and are started next, the last one first.
    adopted: Vec<Container>,
    /// Of slots in containers that run already and are about to be taken over.
    claims: HashMap<ContainerId, Vec<Claim>>,
    /// Whoever wants to hear of them, if anybody does; none once there is nothing more to take over.
    former_owners: Option<mpsc::UnboundedSender<FormerOwners>>,
    /// Nobody watches over containers any more.
    leave: CancellationToken,
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
    handing_over: Option<oneshot::Sender<()>>,
}

/// Starts the scheduler: what runs already is adopted, and with it the slots that trajectories claim; the least number of
/// containers of each pool is started at once, and the others as they are needed. Every claim is answered, as soon as it
/// is known what has become of its slot. Where there may have been more trajectories than are known, `former_owners` hears
/// whose slots agents say that they were, known or not; it is closed once every agent that was there has answered or is
/// given up.
///
/// Its task ends after [`Handle::shut_down`], when every container is gone; and never after [`Handle::hand_over`].
pub fn spawn(
    pools: Vec<PoolConfig>,
    backend: Arc<dyn Backend>,
    link: LinkOptions,
    adopted: Vec<(PoolName, Container)>,
    claims: Vec<Claim>,
    former_owners: Option<mpsc::UnboundedSender<FormerOwners>>,
) -> (Handle, JoinHandle<()>) {
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
        adopted: Vec::new(),
        claims: adoption::by_container(claims),
        former_owners,
        leave: CancellationToken::new(),
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
        handing_over: None,
    };
    (Handle::new(to_commands, names), tokio::spawn(driver.run(adopted)))
}

impl Driver {
    async fn run(mut self, adopted: Vec<(PoolName, Container)>) {
        self.adopt(adopted);
        self.tell(Event::Tick);
        let mut batch = Vec::new();
        while !(self.closed && self.supervisors.is_empty()) {
            if let Some(reply) = self.handing_over.take() {
                self.supervisors.join_all().await;
                self.backend.leave().await;
                // Whoever does not wait for it any more needs no answer.
                let _ = reply.send(());
                // Nobody hears that his wait or his claim has ended: it goes on under the next executor.
                return std::future::pending().await;
            }
            let deadline = self.core.deadline().map(Instant::from_std).into_iter().chain(self.positions_at).min();
            tokio::select! {
                // What has happened to containers comes before what is asked for because of it.
                biased;
                Some((container, report)) = self.reports.recv() => self.on_report(container, report),
                Some(ended) = self.supervisors.join_next_with_id() => self.on_supervisor_ended(ended),
                () = async {
                    match deadline {
                        Some(deadline) => sleep_until(deadline).await,
                        None => std::future::pending().await,
                    }
                } => self.on_deadline(),
                count = self.commands.recv_many(&mut batch, COMMANDS), if !self.commands.is_closed() || !self.closed => {
                    if count == 0 {
                        self.shut_down();
                    }
                    batch.reverse();
                    while let Some(command) = batch.pop_if(|_| self.handing_over.is_none()) {
                        self.on_command(command);
                    }
                }
            }
        }
        self.backend.close().await;
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
            Command::Forgo(owner) => {
                if let Some(owner) = self.names.find(&owner) {
                    self.tell(Event::Forgo { owner });
                }
            }
            Command::Return { slot, owner, how } => self.tell(Event::Return { slot, owner, how }),
            // Whoever does not wait for it any more needs no answer.
            Command::Status(reply) => drop(reply.send(self.status())),
            Command::Overview(tenant, extent, reply) => drop(reply.send(self.overview(&tenant, extent))),
            Command::HandOver(reply) => self.hand_over(reply),
            Command::ShutDown(reply) => {
                self.closing.push(reply);
                self.shut_down();
            }
        }
    }

    /// Whoever waits goes on waiting, and who gives his slot back is not heard: for all that anybody knows, nothing
    /// happens any more.
    fn hand_over(&mut self, reply: oneshot::Sender<()>) {
        self.leave.cancel();
        self.handing_over = Some(reply);
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

    fn pool(&self, pool: PoolKey) -> Option<&Pool> {
        self.pools.get(usize::from(pool.0))
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
}
