//! One slot's task: assigns it, runs calls in it, empties it. Requests are carried out in the order in which they came;
//! calls run beside one another. What the slot may become is in [`super::state`].
//!
//! Invariants: every run is answered by exactly one CallEnded; before a release or a reset is answered, nothing that
//! ran in the slot is left, and everything that ran is answered.

mod making;
mod start;

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::{self, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{
    admission::Admission,
    ahead::Ahead,
    call::Control,
    calls::{Calls, agent_failed},
    gauge::Gauge,
    handle::{Asked, SlotHandle},
    precedence::Precedence,
    sessions::Sessions,
    state::{Holder, State},
    sweeper::Sweeper,
};
use crate::{
    pb::sandbox::{
        AssignSlot, Event, LastAssignment, SendInput, SlotLost, SlotQuarantined, SlotReady, SlotSnapshot, event,
        request::Request,
    },
    sandbox::{
        outgoing::Outgoing,
        slot::{Runner, Slot, SlotConfig, SlotError},
        wire,
    },
    tool::{
        Executed, chain,
        job::{End, Ending, Phases},
    },
};

/// Runners that wait for a call: the next one in order finds one, and so does one beside it.
const IDLE_RUNNERS: usize = 2;

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
    precedence: Option<Arc<Precedence>>,
    agent: Agent,
    requests: mpsc::UnboundedReceiver<Asked>,
    snapshot: Arc<Mutex<SlotSnapshot>>,
    state: State,
    /// Whom it was assigned to last, and with which workspace.
    last: LastAssignment,
    /// None only where it could not be made.
    slot: Option<Slot>,
    ahead: Ahead,
    idle: Vec<Runner>,
    /// The tasks of `calls`.
    running: JoinSet<Option<Runner>>,
    calls: Calls,
    sessions: Sessions,
    transfers: Admission,
}

type New = (SlotTask, SlotHandle);

impl SlotTask {
    /// Makes the slot and its first runner.
    pub(super) async fn new(
        index: u32,
        config: SlotConfig,
        gauge: Gauge,
        precedence: Option<Arc<Precedence>>,
        agent: Agent,
    ) -> Result<New, SlotError> {
        let (handle, requests, snapshot) = SlotHandle::new();
        let transfers = Admission::new(config.limits.transfers);
        let mut task = Self {
            index,
            config,
            gauge,
            precedence,
            agent,
            requests,
            snapshot,
            state: State::Clean,
            last: LastAssignment::default(),
            slot: None,
            ahead: Ahead::default(),
            idle: Vec::new(),
            running: JoinSet::new(),
            calls: Calls::default(),
            sessions: Sessions::default(),
            transfers,
        };
        task.make().await?;
        task.warm_up().await?;
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
                    Some(Asked::Transfer(asking)) => self.transfers.ask(asking),
                    None => break,
                },
                Some(ended) = self.running.join_next_with_id() => self.on_ended(ended),
                () = lost(self.slot.as_ref()) => self.on_lost().await,
                () = end.cancelled() => break,
            }
            self.admit();
            self.picture();
            // While the word that the slot has been emptied is on its way.
            if self.idle.is_empty()
                && self.running.is_empty()
                && let Err(error) = self.warm_up().await
            {
                warn!(slot = self.index, error = &error as &dyn Error, "could not make a runner");
            }
        }
        self.calls.cancel();
        drop(self.ahead.take().await);
        if let Err(error) = self.clear().await {
            warn!(slot = self.index, error = &error as &dyn Error, "could not end the slot");
        }
    }

    fn settle(&self, done: oneshot::Sender<()>) {
        self.calls.tell_all(|| Control::Anew);
        self.picture();
        // Whoever asked may be gone.
        let _ = done.send(());
    }

    async fn on_request(&mut self, request: Request) {
        match request {
            Request::Assign(assign) => {
                let AssignSlot { owner, generation, opening, .. } = assign;
                self.last = LastAssignment { owner: owner.clone(), generation, opening };
                let to = Holder { owner, generation };
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

    /// Lets transfers begin that the slot is ready for.
    fn admit(&mut self) {
        let Self { transfers, state, slot, gauge, .. } = self;
        transfers.admit(state, || slot.as_ref().map(|slot| (slot.workspace(), gauge.allowance())));
    }

    /// What an executor that attaches is told of the slot.
    fn picture(&self) {
        let snapshot = self.state.snapshot(self.calls.numbers());
        let last_event = self.agent.events.last();
        let last_assignment = Some(self.last.clone());
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) =
            SlotSnapshot { last_event, last_assignment, ..snapshot };
    }
}

async fn lost(slot: Option<&Slot>) {
    match slot {
        Some(slot) => slot.lost().await,
        None => std::future::pending().await,
    }
}
