//! One slot's task: assigns it, runs calls in it, empties it. Requests are carried out in the order in which they came;
//! calls run beside one another.
//!
//! ```text
//!            assign                    release keep
//!   Clean ------------> Assigned ------------------------> Kept
//!     ^  <-- release --'  |  ^ '-- its processes die --.    | assign by the same owner: Assigned
//!     |                   |  '-- reset --.             v    | release: Clean
//!     '---- release ------+------------- Lost <--------'----'  its processes die: Lost
//!                          '-- cannot be emptied: Quarantined, for good
//! ```
//!
//! Invariants: every run is answered by exactly one CallEnded; a slot is clean only with an empty workspace and new
//! processes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{
    call::{Call, Control},
    files,
};
use crate::{
    pb::sandbox::{
        Event, RunCall, SlotLost, SlotQuarantined, SlotReady, SlotSnapshot, SlotState, event, request::Request,
    },
    sandbox::{
        outgoing::Outgoing,
        slot::{Runner, Slot, SlotConfig, SlotError, empty_trash, trash_beside},
        wire,
    },
    tool::job::{End, Ending, Job, Phases},
};

/// Runners that wait for a call: the next one in order finds one, and so does one beside it.
const IDLE_RUNNERS: usize = 2;
/// How long cancelled calls may take before the slot is ended under them.
const PATIENCE: Duration = Duration::from_secs(2);

/// The way to a slot's task.
#[derive(Clone)]
pub(super) struct SlotHandle {
    /// Bounded by the calls in flight and what a process may leave unread of its input.
    requests: mpsc::UnboundedSender<Request>,
    snapshot: Arc<Mutex<SlotSnapshot>>,
}

impl SlotHandle {
    pub(super) fn ask(&self, request: Request) {
        // Its task ends with the agent, and then nobody waits for an answer.
        let _ = self.requests.send(request);
    }

    pub(super) fn snapshot(&self) -> SlotSnapshot {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// See the module.
pub(super) struct SlotTask {
    index: u32,
    config: SlotConfig,
    events: Arc<Outgoing<Event>>,
    end: CancellationToken,
    requests: mpsc::UnboundedReceiver<Request>,
    snapshot: Arc<Mutex<SlotSnapshot>>,
    state: State,
    /// None only where it could not be made.
    slot: Option<Slot>,
    idle: Vec<Runner>,
    running: JoinSet<(u64, Option<Runner>)>,
    controls: HashMap<u64, mpsc::UnboundedSender<Control>>,
    /// Empties what resets have left behind, one at a time.
    sweeping: Option<tokio::task::JoinHandle<()>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Clean,
    Assigned { owner: String, generation: u64 },
    Kept { owner: String, generation: u64 },
    Lost,
    Quarantined,
}

impl SlotTask {
    /// Makes the slot and its first runner.
    pub(super) async fn new(
        index: u32,
        config: SlotConfig,
        events: Arc<Outgoing<Event>>,
        end: CancellationToken,
    ) -> Result<(Self, SlotHandle), SlotError> {
        let (sender, requests) = mpsc::unbounded_channel();
        let snapshot = Arc::new(Mutex::new(SlotSnapshot::default()));
        let handle = SlotHandle { requests: sender, snapshot: snapshot.clone() };
        let mut task = Self {
            index,
            config,
            events,
            end,
            requests,
            snapshot,
            state: State::Clean,
            slot: None,
            idle: Vec::new(),
            running: JoinSet::new(),
            controls: HashMap::new(),
            sweeping: None,
        };
        task.make().await?;
        task.picture();
        Ok((task, handle))
    }

    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => self.on_request(request).await,
                    None => break,
                },
                Some(ended) = self.running.join_next() => self.on_ended(ended),
                () = lost(self.slot.as_ref()) => self.on_lost().await,
                () = self.end.cancelled() => break,
            }
            self.picture();
        }
        self.end_calls().await;
        self.idle.clear();
        if let Some(slot) = self.slot.take()
            && let Err(error) = slot.destroy().await
        {
            warn!(slot = self.index, error = &error as &dyn std::error::Error, "could not end the slot");
        }
        self.running.join_all().await;
        if let Some(sweeping) = self.sweeping {
            // An error means that it has panicked, which is logged already.
            let _ = sweeping.await;
        }
    }

    async fn on_request(&mut self, request: Request) {
        match request {
            Request::Assign(assign) => self.assign(assign.owner, assign.generation),
            Request::Run(run) => self.start(run).await,
            Request::Input(input) => {
                self.control(input.call, Control::Input { data: input.data, end_of_file: input.end_of_file });
            }
            Request::Cancel(cancel) => self.control(cancel.call, Control::Cancel),
            Request::GrantOutput(grant) => self.control(grant.call, Control::Grant(grant.bytes)),
            Request::Reset(reset) => self.reset(reset.generation).await,
            Request::Release(release) => self.release(release.keep).await,
            Request::Shutdown(_) => self.end.cancel(),
        }
    }

    fn assign(&mut self, owner: String, generation: u64) {
        match &self.state {
            State::Clean => self.state = State::Assigned { owner, generation },
            State::Kept { owner: keeper, .. } if *keeper == owner => self.state = State::Assigned { owner, generation },
            other => {
                let cause = format!("the slot was given away while it was {other:?}");
                error!(slot = self.index, cause);
                self.tell(event::Event::Lost(SlotLost { slot: self.index, cause }));
            }
        }
    }

    async fn start(&mut self, run: RunCall) {
        let arrived = Instant::now();
        let number = run.call;
        let order = match wire::to_order(run) {
            Ok(order) => order,
            Err(error) => return self.refuse(number, error.to_string()),
        };
        let (State::Assigned { .. }, Some(slot)) = (&self.state, &self.slot) else {
            return self.refuse(number, format!("the slot is {:?}", self.state));
        };
        match order.job {
            Job::ReadFile { path, max_bytes } => {
                let ending = files::read(&slot.workspace(), &path, max_bytes);
                self.tell_ended(number, ending);
            }
            Job::WriteFile { path, content } => {
                let ending = files::write(&slot.workspace(), &path, &content);
                self.tell_ended(number, ending);
            }
            Job::Process(process) => {
                let runner = match self.idle.pop() {
                    Some(runner) => runner,
                    None => match slot.runner().await {
                        Ok(runner) => runner,
                        Err(error) => return self.refuse(number, format!("no runner could be made: {error}")),
                    },
                };
                let (controls, control) = mpsc::unbounded_channel();
                self.controls.insert(number, controls);
                let call = Call {
                    slot: self.index,
                    number,
                    process,
                    timeout: order.timeout,
                    limits: order.limits,
                    stream_output: order.stream_output,
                    max_pending_input: order.max_pending_input as usize,
                    arrived,
                    events: self.events.clone(),
                };
                self.running.spawn(async move { (number, call.run(runner, control).await) });
            }
        }
    }

    fn control(&self, call: u64, control: Control) {
        // One that has ended meanwhile needs nothing.
        if let Some(controls) = self.controls.get(&call) {
            let _ = controls.send(control);
        }
    }

    fn on_ended(&mut self, ended: Result<(u64, Option<Runner>), tokio::task::JoinError>) {
        match ended {
            Ok((number, runner)) => {
                self.controls.remove(&number);
                self.idle.extend(runner.filter(|_| self.idle.len() < IDLE_RUNNERS));
            }
            Err(error) => error!(slot = self.index, error = &error as &dyn std::error::Error, "a call's task failed"),
        }
    }

    /// The slot's first process has died by itself, and everything in it.
    async fn on_lost(&mut self) {
        let cause = "the slot's processes were killed from outside".to_owned();
        warn!(slot = self.index, cause);
        self.retire().await;
        match self.state {
            State::Clean => {
                // Nobody has anything in it: make it again, and say nothing.
                if let Err(error) = self.make().await {
                    self.quarantine(&error);
                }
            }
            State::Assigned { .. } => {
                self.state = State::Lost;
                self.tell(event::Event::Lost(SlotLost { slot: self.index, cause }));
            }
            State::Kept { .. } => self.state = State::Lost,
            State::Lost | State::Quarantined => {}
        }
    }

    async fn reset(&mut self, generation: u64) {
        let owner = match &self.state {
            State::Assigned { owner, .. } => owner.clone(),
            _ => String::new(),
        };
        match self.wipe().await {
            Ok(()) => {
                self.state = State::Assigned { owner, generation };
                self.tell(event::Event::Ready(SlotReady { slot: self.index, released: false, kept: false }));
            }
            Err(error) => {
                self.state = State::Lost;
                let cause = format!("it could not be emptied: {error}");
                self.tell(event::Event::Lost(SlotLost { slot: self.index, cause }));
            }
        }
    }

    async fn release(&mut self, keep: bool) {
        self.end_calls().await;
        let kept = match &self.state {
            State::Assigned { owner, generation } if keep => {
                Some(State::Kept { owner: owner.clone(), generation: *generation })
            }
            State::Kept { .. } if keep => Some(self.state.clone()),
            _ => None,
        };
        if let Some(kept) = kept {
            self.state = kept;
            return self.tell(event::Event::Ready(SlotReady { slot: self.index, released: true, kept: true }));
        }
        match self.wipe().await {
            Ok(()) => {
                self.state = State::Clean;
                self.tell(event::Event::Ready(SlotReady { slot: self.index, released: true, kept: false }));
            }
            Err(error) => self.quarantine(&error),
        }
    }

    fn quarantine(&mut self, error: &SlotError) {
        error!(slot = self.index, error = error as &dyn std::error::Error, "the slot is never used again");
        self.state = State::Quarantined;
        let cause = format!("{error}");
        self.tell(event::Event::Quarantined(SlotQuarantined { slot: self.index, cause }));
    }

    /// Ends everything in the slot and makes it anew, with an empty workspace.
    async fn wipe(&mut self) -> Result<(), SlotError> {
        self.end_calls().await;
        self.idle.clear();
        if let Some(slot) = self.slot.take() {
            slot.destroy().await?;
        }
        // What still ran has ended with the slot.
        while let Some(ended) = self.running.join_next().await {
            self.on_ended(ended);
        }
        self.idle.clear();
        let made = self.make().await;
        self.sweep();
        made
    }

    async fn make(&mut self) -> Result<(), SlotError> {
        let slot = Slot::create(&self.config).await?;
        self.idle.push(slot.runner().await?);
        self.slot = Some(slot);
        Ok(())
    }

    /// What is left of a slot that died: its workspace goes out of the way.
    async fn retire(&mut self) {
        self.idle.clear();
        if let Some(slot) = self.slot.take()
            && let Err(error) = slot.destroy().await
        {
            warn!(slot = self.index, error = &error as &dyn std::error::Error, "could not clear away a dead slot");
        }
        self.sweep();
    }

    /// Deletes old workspaces behind everybody's back.
    fn sweep(&mut self) {
        if self.sweeping.as_ref().is_some_and(|sweeping| !sweeping.is_finished()) {
            return; // The next one takes what this leaves.
        }
        let trash = trash_beside(&self.config.directory);
        self.sweeping = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = empty_trash(&trash) {
                warn!(error = &error as &dyn std::error::Error, "could not delete old workspaces");
            }
        }));
    }

    async fn end_calls(&mut self) {
        for controls in self.controls.values() {
            let _ = controls.send(Control::Cancel);
        }
        let ended = async {
            while let Some(ended) = self.running.join_next().await {
                self.on_ended(ended);
            }
        };
        if tokio::time::timeout(PATIENCE, ended).await.is_err() {
            warn!(slot = self.index, "calls did not end in {PATIENCE:?}: the slot is ended under them");
        }
    }

    fn refuse(&self, call: u64, why: String) {
        self.tell_ended(call, Ending { end: End::NotRun(why), phases: Phases::default() });
    }

    fn tell_ended(&self, call: u64, ending: Ending) {
        self.tell(event::Event::Ended(wire::from_ending(self.index, call, ending)));
    }

    fn tell(&self, event: event::Event) {
        self.events.push(Event { event: Some(event) });
    }

    /// What an executor that attaches is told of the slot.
    fn picture(&self) {
        let (state, owner, generation) = match &self.state {
            State::Clean => (SlotState::Clean, "", 0),
            State::Assigned { owner, generation } => (SlotState::Assigned, &**owner, *generation),
            State::Kept { owner, generation } => (SlotState::Kept, &**owner, *generation),
            State::Lost => (SlotState::Lost, "", 0),
            State::Quarantined => (SlotState::Quarantined, "", 0),
        };
        let mut snapshot = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        snapshot.set_state(state);
        if snapshot.owner != owner {
            owner.clone_into(&mut snapshot.owner);
        }
        snapshot.generation = generation;
        snapshot.running_calls.clear();
        snapshot.running_calls.extend(self.controls.keys());
    }
}

async fn lost(slot: Option<&Slot>) {
    match slot {
        Some(slot) => slot.lost().await,
        None => std::future::pending().await,
    }
}
