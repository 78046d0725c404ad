//! A backend whose containers do what a test says.

use std::{
    collections::{HashMap, VecDeque},
    future::pending,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tool_executor::{
    backend::{Address, AdoptError, Backend, Container, ContainerEvent, Endpoint, StartError, Token},
    id::{ContainerId, PoolName},
    tool::Evidence,
};

use super::agent::{Asked, FakeAgent, Manner, TOKEN, Told};
use crate::support::client::PATIENCE;

/// What comes of a start.
#[derive(Debug, Clone)]
pub(super) enum Start {
    Good(Manner),
    /// There is a container, and no agent in it.
    Deaf,
    Fails(&'static str),
    Never,
}

pub(super) struct FakeBackend {
    slots: u32,
    /// What the agents of new containers say.
    told: Told,
    directory: tempfile::TempDir,
    asked: mpsc::UnboundedSender<Asked>,
    asked_receiver: tokio::sync::Mutex<mpsc::UnboundedReceiver<Asked>>,
    state: Mutex<State>,
    left: Mutex<Vec<(PoolName, Container)>>,
    closed: AtomicBool,
    left_alone: AtomicBool,
    /// How many have been started, and how many stopped.
    counts: watch::Sender<(usize, usize)>,
}

#[derive(Default)]
struct State {
    plan: VecDeque<Start>,
    running: HashMap<ContainerId, Running>,
    order: Vec<ContainerId>,
}

struct Running {
    events: mpsc::Sender<ContainerEvent>,
    agent: Option<FakeAgent>,
}

impl FakeBackend {
    pub(super) fn new(slots: u32) -> Self {
        let (asked, asked_receiver) = mpsc::unbounded_channel();
        Self {
            slots,
            told: Told::new(slots),
            directory: tempfile::tempdir().expect("a directory"),
            asked,
            asked_receiver: tokio::sync::Mutex::new(asked_receiver),
            state: Mutex::default(),
            left: Mutex::default(),
            closed: AtomicBool::new(false),
            left_alone: AtomicBool::new(false),
            counts: watch::channel((0, 0)).0,
        }
    }

    /// What comes of the next starts; those after them are good.
    pub(super) fn plan(self, starts: impl IntoIterator<Item = Start>) -> Self {
        self.state().plan = starts.into_iter().collect();
        self
    }

    /// The agents of new containers say so.
    pub(super) fn starts_with(self, told: Told) -> Self {
        Self { told, ..self }
    }

    /// An earlier executor has left a container of this pool.
    pub(super) fn leave(self, pool: &str) -> Self {
        let told = Told::used(self.slots);
        self.leave_with(pool, Some((told, Manner::Good)))
    }

    /// An earlier executor has left a container of this pool with an agent that says so and behaves so, or is deaf.
    pub(super) fn leave_with(self, pool: &str, agent: Option<(Told, Manner)>) -> Self {
        let container = self.run(agent);
        self.left.lock().expect("no test has panicked with it").push((PoolName::new(pool), container));
        self
    }

    pub(super) fn left(&self) -> Vec<(PoolName, Container)> {
        std::mem::take(&mut *self.left.lock().expect("no test has panicked with it"))
    }

    pub(super) fn is_left_alone(&self) -> bool {
        self.left_alone.load(Ordering::Relaxed)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn run(&self, agent: Option<(Told, Manner)>) -> Container {
        let id = ContainerId::random();
        let socket = self.directory.path().join(id.as_str());
        let agent = agent.map(|(told, manner)| FakeAgent::start(socket.clone(), told, manner, self.asked.clone()));
        let (events, receiver) = mpsc::channel(4);
        let mut state = self.state();
        state.running.insert(id.clone(), Running { events, agent });
        state.order.push(id.clone());
        let endpoint = Endpoint::new(Address::Unix(socket), Token::new(TOKEN));
        Container { id, node: "here".to_owned(), endpoint, events: receiver }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test has panicked with it")
    }

    pub(super) async fn asked(&self) -> Asked {
        let mut asked = self.asked_receiver.lock().await;
        timeout(PATIENCE, asked.recv()).await.expect("it is asked in time").expect("the sender is here")
    }

    /// Of the container that was started as the n-th.
    pub(super) fn id(&self, index: usize) -> ContainerId {
        self.state().order[index].clone()
    }

    pub(super) async fn event(&self, container: &ContainerId, event: ContainerEvent) {
        let events = self.state().running[container].events.clone();
        events.send(event).await.expect("somebody watches over it");
    }

    /// Whether nothing has been asked that was not seen.
    pub(super) async fn asked_nothing(&self) -> bool {
        self.asked_receiver.lock().await.try_recv().is_err()
    }

    pub(super) fn kill_agent(&self, container: &ContainerId) {
        self.state().running[container].agent.as_ref().expect("it has one").kill();
    }

    pub(super) async fn until_started(&self, starts: usize) {
        let mut counts = self.counts.subscribe();
        timeout(PATIENCE, counts.wait_for(|(started, _)| *started >= starts))
            .await
            .expect("in time")
            .expect("it is here");
    }

    pub(super) async fn until_stopped(&self, stops: usize) {
        let mut counts = self.counts.subscribe();
        timeout(PATIENCE, counts.wait_for(|(_, stopped)| *stopped >= stops))
            .await
            .expect("in time")
            .expect("it is here");
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state().running.is_empty()
    }
}

#[tonic::async_trait]
impl Backend for FakeBackend {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn start(&self, _pool: &PoolName) -> Result<Container, StartError> {
        let start = self.state().plan.pop_front().unwrap_or(Start::Good(Manner::Good));
        self.counts.send_modify(|(started, _)| *started += 1);
        let manner = match start {
            Start::Good(manner) => Some(manner),
            Start::Deaf => None,
            Start::Fails(cause) => {
                return Err(StartError { evidence: Evidence { cause: cause.to_owned(), ..Evidence::default() } });
            }
            Start::Never => pending().await,
        };
        Ok(self.run(manner.map(|manner| (self.told.clone(), manner))))
    }

    async fn adopt(&self) -> Result<Vec<(PoolName, Container)>, AdoptError> {
        Ok(self.left())
    }

    async fn stop(&self, container: &ContainerId) {
        let Some(running) = self.state().running.remove(container) else { return };
        if let Some(agent) = running.agent {
            agent.kill();
        }
        let last = Evidence { stderr_tail: "its last words".to_owned(), ..Evidence::default() };
        // Whoever has stopped it does not listen, mostly.
        let _ = running.events.try_send(ContainerEvent::Lost(last));
        self.counts.send_modify(|(_, stopped)| *stopped += 1);
    }

    async fn leave(&self) {
        self.left_alone.store(true, Ordering::Relaxed);
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}
