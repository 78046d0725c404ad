//! One slot's task: assigns it, runs calls in it, empties it. Requests are carried out in the order in which they came;
//! calls run beside one another. What the slot may become is in [`super::state`].
//!
//! Invariants: every run is answered by exactly one CallEnded; before a release or a reset is answered, nothing that
//! ran in the slot is left, and everything that ran is answered.

mod start;

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::{self, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{
    call::Control,
    calls::{Calls, agent_failed},
    gauge::Gauge,
    handle::{Asked, SlotHandle},
    sessions::Sessions,
    state::{Holder, State},
    sweeper::Sweeper,
};
use crate::{
    pb::sandbox::{Event, SendInput, SlotLost, SlotQuarantined, SlotReady, SlotSnapshot, event, request::Request},
    sandbox::{
        outgoing::Outgoing,
        slot::{Runner, Slot, SlotConfig, SlotError, have_processes},
        wire,
    },
    tool::{
        Executed, chain,
        job::{End, Ending, Phases},
    },
};

/// Runners that wait for a call: the next one in order finds one, and so does one beside it.
const IDLE_RUNNERS: usize = 2;
/// How long cancelled calls may take before the slot is ended under them.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the slot's user may have processes before the slot is made.
const LEAVING: Duration = Duration::from_secs(1);

/// What a slot's task needs of the agent.
#[derive(Clone)]
pub(super) struct Agent {
    pub(super) events: Arc<Outgoing<Event>>,
    pub(super) sweeper: Sweeper,
    /// The agent ends.
    pub(super) end: CancellationToken,
}

/// See the module.
pub(super) struct SlotTask {
    index: u32,
    config: SlotConfig,
    gauge: Gauge,
    agent: Agent,
    requests: mpsc::UnboundedReceiver<Asked>,
    snapshot: Arc<Mutex<SlotSnapshot>>,
    state: State,
    /// None only where it could not be made.
    slot: Option<Slot>,
    idle: Vec<Runner>,
    /// The tasks of `calls`.
    running: JoinSet<Option<Runner>>,
    calls: Calls,
    sessions: Sessions,
}

type New = (SlotTask, SlotHandle);

impl SlotTask {
    /// Makes the slot and its first runner.
    pub(super) async fn new(index: u32, config: SlotConfig, gauge: Gauge, agent: Agent) -> Result<New, SlotError> {
        let (handle, requests, snapshot) = SlotHandle::new();
        let mut task = Self {
            index,
            config,
            gauge,
            agent,
            requests,
            snapshot,
            state: State::Clean,
            slot: None,
            idle: Vec::new(),
            running: JoinSet::new(),
            calls: Calls::default(),
            sessions: Sessions::default(),
        };
        task.make().await?;
        task.picture();
        Ok((task, handle))
    }

    /// Until the agent ends; then nothing is left of the slot.
    pub(super) async fn run(mut self) {
        let end = self.agent.end.clone();
        loop {
            tokio::select! {
                asked = self.requests.recv() => match asked {
                    Some(Asked::Request(request)) => self.on_request(request).await,
                    Some(Asked::Settle(done)) => self.settle(done),
                    None => break,
                },
                Some(ended) = self.running.join_next_with_id() => self.on_ended(ended),
                () = lost(self.slot.as_ref()) => self.on_lost().await,
                () = end.cancelled() => break,
            }
            self.picture();
        }
        self.calls.cancel();
        if let Err(error) = self.clear().await {
            warn!(slot = self.index, error = &error as &dyn Error, "could not end the slot");
        }
    }

    /// All that was asked before has been dealt with.
    fn settle(&self, done: oneshot::Sender<()>) {
        self.calls.tell_all(|| Control::Anew);
        self.picture();
        // Whoever asked may be gone.
        let _ = done.send(());
    }

    async fn on_request(&mut self, request: Request) {
        match request {
            Request::Assign(assign) => {
                let to = Holder { owner: assign.owner, generation: assign.generation };
                if let Err(cause) = self.state.assign(to) {
                    self.tell_lost(cause);
                }
            }
            Request::Run(run) => self.start(run).await,
            Request::Input(SendInput { call, over_limit: true, .. }) => self.calls.tell(call, Control::InputLost),
            Request::Input(SendInput { call, data, end_of_file, .. }) => {
                self.calls.tell(call, Control::Input { data, end_of_file });
            }
            Request::Cancel(cancel) => self.calls.tell(cancel.call, Control::Cancel),
            Request::GrantOutput(grant) => self.calls.tell(grant.call, Control::Grant(grant.bytes)),
            Request::Reset(reset) => self.reset(reset.generation).await,
            Request::Release(release) => self.release(release.keep).await,
            Request::Shutdown(_) => self.agent.end.cancel(),
        }
    }

    fn on_ended(&mut self, ended: Result<(task::Id, Option<Runner>), JoinError>) {
        match ended {
            Ok((task, runner)) => {
                self.calls.remove(task);
                self.idle.extend(runner.filter(|_| self.idle.len() < IDLE_RUNNERS));
            }
            Err(failed) => {
                error!(slot = self.index, error = &failed as &dyn Error, "a call's task failed");
                if let Some(number) = self.calls.remove(failed.id()) {
                    self.answer(number, agent_failed("the call's task failed".to_owned(), Executed::Unknown));
                }
            }
        }
    }

    /// The slot's first process has died by itself, and everything in it.
    async fn on_lost(&mut self) {
        let cause = "the slot's processes were killed from outside".to_owned();
        if let Err(error) = self.clear().await {
            warn!(slot = self.index, error = &error as &dyn Error, "could not clear away a dead slot");
        }
        if self.state.lose() {
            self.tell_lost(cause);
        } else if self.state == State::Clean
            && let Err(error) = self.remake().await
        {
            self.quarantine(&error);
        }
    }

    async fn reset(&mut self, generation: u64) {
        let Some(holder) = self.state.to_be_reset() else {
            return self.tell_lost(format!("the slot cannot be emptied for its holder: it is {}", self.state));
        };
        let holder = Holder { generation, ..holder.clone() };
        match self.wipe().await {
            Ok(()) => {
                self.state = State::Assigned(holder);
                self.tell_ready(false, false);
            }
            Err(error) => {
                // The scheduler hears of it when its holder gives it back.
                let cause = self.set_aside(&error);
                self.tell_lost(format!("it could not be emptied: {cause}"));
            }
        }
    }

    async fn release(&mut self, keep: bool) {
        // By a reset that failed, or under an executor that came before.
        if let State::Quarantined(cause) = &self.state {
            return self.tell_quarantined(cause.clone());
        }
        if keep {
            self.end_calls().await;
            if self.state.keep() {
                return self.tell_ready(true, true);
            }
        }
        match self.wipe().await {
            Ok(()) => {
                self.state = State::Clean;
                self.tell_ready(true, false);
            }
            Err(error) => self.quarantine(&error),
        }
    }

    fn quarantine(&mut self, error: &SlotError) {
        let cause = self.set_aside(error);
        self.tell_quarantined(cause);
    }

    /// From now on nothing runs in it. Says why.
    fn set_aside(&mut self, error: &SlotError) -> String {
        error!(slot = self.index, error = error as &dyn Error, "the slot is never used again");
        let cause = chain(error);
        self.state = State::Quarantined(cause.clone());
        cause
    }

    /// Ends everything in the slot and makes it anew, with an empty workspace.
    async fn wipe(&mut self) -> Result<(), SlotError> {
        self.end_calls().await;
        self.clear().await?;
        self.remake().await
    }

    /// Where too many old workspaces are still to be deleted, it waits for some to be: none may fill the disk.
    async fn remake(&mut self) -> Result<(), SlotError> {
        self.agent.sweeper.room().await?;
        match self.make().await {
            // Perhaps with what is being deleted.
            Err(error) if error.is_full_disk() => {
                warn!(slot = self.index, error = &error as &dyn Error, "the disk is full: waits for deletions");
                self.agent.sweeper.emptied().await?;
                self.make().await
            }
            made => made,
        }
    }

    /// The keeper of the new slot verifies from inside that it is clean; what it cannot see is verified here.
    async fn make(&mut self) -> Result<(), SlotError> {
        if let Some(id) = self.config.host_id {
            alone(id).await?;
        }
        let slot = Slot::create(&self.config).await?;
        self.idle.push(slot.runner().await?);
        self.gauge.renew(&self.config, slot.workspace());
        self.slot = Some(slot);
        Ok(())
    }

    /// Ends the slot, and what still runs in it; its workspace goes out of the way.
    async fn clear(&mut self) -> Result<(), SlotError> {
        self.idle.clear();
        let Some(slot) = self.slot.take() else { return Ok(()) };
        let destroyed = slot.destroy().await;
        self.agent.sweeper.sweep();
        self.sessions.end().await;
        destroyed?;
        self.join_calls().await;
        // Those that such calls gave back.
        self.idle.clear();
        Ok(())
    }

    async fn end_calls(&mut self) {
        self.calls.cancel();
        if tokio::time::timeout(PATIENCE, self.join_calls()).await.is_err() {
            warn!(slot = self.index, "calls did not end in {PATIENCE:?}: the slot is ended under them");
        }
        self.sessions.end().await;
    }

    async fn join_calls(&mut self) {
        while let Some(ended) = self.running.join_next_with_id().await {
            self.on_ended(ended);
        }
    }

    fn answer(&self, call: u64, end: End) {
        self.tell_ended(call, Ending { end, phases: Phases::default() });
    }

    fn tell_ended(&self, call: u64, ending: Ending) {
        self.tell(event::Event::Ended(wire::from_ending(self.index, call, ending)));
    }

    fn tell_ready(&self, released: bool, kept: bool) {
        self.tell(event::Event::Ready(SlotReady { slot: self.index, released, kept }));
    }

    fn tell_lost(&self, cause: String) {
        warn!(slot = self.index, cause, "the slot is lost to its holder");
        self.tell(event::Event::Lost(SlotLost { slot: self.index, cause }));
    }

    fn tell_quarantined(&self, cause: String) {
        self.tell(event::Event::Quarantined(SlotQuarantined { slot: self.index, cause }));
    }

    fn tell(&self, event: event::Event) {
        self.agent.events.push(Event { event: Some(event) });
    }

    /// What an executor that attaches is told of the slot.
    fn picture(&self) {
        let snapshot = self.state.snapshot(self.calls.numbers());
        let last_event = self.agent.events.last();
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = SlotSnapshot { last_event, ..snapshot };
    }
}

/// Waits for what an agent that was killed, and had these users before, has left and is dying.
async fn alone(user: u32) -> Result<(), SlotError> {
    let asked = Instant::now();
    while have_processes(user..user + 1) {
        if asked.elapsed() > LEAVING {
            return Err(SlotError::UserHasProcesses(user));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn lost(slot: Option<&Slot>) {
    match slot {
        Some(slot) => slot.lost().await,
        None => std::future::pending().await,
    }
}
