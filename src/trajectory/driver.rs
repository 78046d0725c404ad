//! The task that owns a trajectory: feeds its state what happens, and carries out what the state decides.

use std::{
    collections::{HashMap, VecDeque},
    future::pending,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tokio_stream::StreamExt;

use super::{
    directory::Shared,
    request::{Call, Open, OpenError, Request, Requests, Response, StreamError, StreamFault},
    state::{Description, Effect, Moment, Place, State, Tally, Waiter},
};
use crate::{
    id::{CallNumber, Sequence, TrajectoryKey},
    sandbox::client::{Receipt, SlotEvent},
    scheduler::{Lease, WaitEvent, WaitFailure, Waiting},
    tool::{CallResult, Verdict},
};

/// How many messages may wait between a trajectory and its client's connection; the log and the windows of live
/// output bound what waits behind them.
const RESPONSES: usize = 8;

/// What the attached client receives. It ends after an error.
pub type Responses = mpsc::Receiver<Result<Response, Box<StreamError>>>;

/// The answer to a unary call.
#[derive(Debug)]
pub struct Answer {
    pub result: Arc<CallResult>,
    /// It had ended before, and this is the stored result.
    pub replayed: bool,
}

pub(super) enum Command {
    Open(Box<OpenCommand>),
    Execute { call: Box<Call>, require_existing: bool, reply: oneshot::Sender<Result<Answer, OpenError>> },
    Release { keep: bool, reply: oneshot::Sender<()> },
    Describe(oneshot::Sender<Description>),
    Drain { remaining: Duration },
    DrainDeadline,
}

pub(super) struct OpenCommand {
    pub(super) open: Open,
    /// The trajectory was made for this stream.
    pub(super) fresh: bool,
    pub(super) requests: Requests,
    pub(super) reply: oneshot::Sender<Result<Responses, OpenError>>,
}

/// The attached stream.
struct Connection {
    /// `None` after the client's half-close.
    requests: Option<Requests>,
    responses: mpsc::Sender<Result<Response, Box<StreamError>>>,
    outbox: VecDeque<Outgoing>,
}

struct Outgoing {
    response: Response,
    /// The call whose output this is, and how much of it: it may send as much again once this has left.
    output: Option<(CallNumber, u32)>,
}

/// See the module.
pub(super) struct Driver {
    key: TrajectoryKey,
    shared: Arc<Shared>,
    state: State,
    commands: mpsc::Receiver<Command>,
    connection: Option<Connection>,
    /// The stream that is being attached.
    arriving: Option<Connection>,
    waiting: Option<Waiting>,
    lease: Option<Lease>,
    waiters: HashMap<Waiter, oneshot::Sender<Result<Answer, OpenError>>>,
    next_waiter: Waiter,
    releases: Vec<oneshot::Sender<()>>,
    /// What this trajectory adds to the service's totals.
    counted: Counted,
}

#[derive(Default)]
struct Counted {
    waiting: usize,
    running: usize,
    bytes: u64,
    open: bool,
}

enum Happening {
    Command(Option<Command>),
    Request(Option<Result<Request, StreamFault>>),
    Writable,
    Detached,
    Wait(WaitEvent),
    Slot(SlotEvent),
    Deadline,
}

impl Driver {
    pub(super) fn new(
        key: TrajectoryKey,
        shared: Arc<Shared>,
        state: State,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        Self {
            key,
            shared,
            state,
            commands,
            connection: None,
            arriving: None,
            waiting: None,
            lease: None,
            waiters: HashMap::new(),
            next_waiter: 0,
            releases: Vec::new(),
            counted: Counted::default(),
        }
    }

    /// Runs until only a ledger was left and its time is over, too, or the service ends.
    pub(super) async fn run(mut self) {
        loop {
            let receipt = match self.next().await {
                Happening::Command(Some(command)) => self.on_command(command),
                Happening::Command(None) => return,
                Happening::Request(request) => self.on_request(request),
                Happening::Writable => None,
                Happening::Detached => {
                    self.detach();
                    None
                }
                Happening::Wait(event) => self.on_wait(event),
                Happening::Slot(event) => self.on_slot(event),
                Happening::Deadline => {
                    let at = self.shared.moment();
                    if self.state.on_deadline(at) && self.shared.retire(&self.key, &mut self.commands) {
                        return;
                    }
                    None
                }
            };
            self.carry_out();
            // The agent may forget the event only now that its record has been applied.
            drop(receipt);
            self.flush();
            self.count();
        }
    }

    async fn next(&mut self) -> Happening {
        let deadline = self.state.deadline().map(Instant::from_std);
        let (requests, responses) = match &mut self.connection {
            Some(connection) => (
                connection.requests.as_mut(),
                Some((&connection.responses, !connection.outbox.is_empty())),
            ),
            None => (None, None),
        };
        // Fair between its branches, so that none of them starves another.
        tokio::select! {
            command = self.commands.recv() => Happening::Command(command),
            request = async {
                match requests {
                    Some(requests) => requests.next().await,
                    None => pending().await,
                }
            } => Happening::Request(request),
            happening = async {
                match responses {
                    Some((responses, true)) => match responses.reserve().await {
                        Ok(_) => Happening::Writable,
                        Err(_) => Happening::Detached,
                    },
                    Some((responses, false)) => {
                        responses.closed().await;
                        Happening::Detached
                    }
                    None => pending().await,
                }
            } => happening,
            event = async {
                match &mut self.waiting {
                    Some(waiting) => waiting.next().await,
                    None => pending().await,
                }
            } => Happening::Wait(event),
            event = async {
                match &mut self.lease {
                    Some(lease) => lease.slot().next().await,
                    None => pending().await,
                }
            } => Happening::Slot(event),
            () = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => pending().await,
                }
            } => Happening::Deadline,
        }
    }

    fn on_command(&mut self, command: Command) -> Option<Receipt> {
        let at = self.shared.moment();
        match command {
            Command::Open(command) => self.on_open(*command, at),
            Command::Execute { call, require_existing, reply } => {
                self.next_waiter += 1;
                let waiter = self.next_waiter;
                match self.state.on_execute(*call, require_existing, waiter, at) {
                    Ok(()) => {
                        self.waiters.insert(waiter, reply);
                    }
                    // A caller that has gone away needs no answer.
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            Command::Release { keep, reply } => {
                self.releases.push(reply);
                self.state.on_release(keep, at);
            }
            Command::Describe(reply) => drop(reply.send(self.state.describe())),
            Command::Drain { remaining } => self.state.on_drain(remaining, at),
            Command::DrainDeadline => self.state.on_drain_deadline(at),
        }
        None
    }

    fn on_open(&mut self, command: OpenCommand, at: Moment) {
        let OpenCommand { open, fresh, requests, reply } = command;
        let (sender, responses) = mpsc::channel(RESPONSES);
        let connection = Connection { requests: Some(requests), responses: sender, outbox: VecDeque::new() };
        match self.state.on_open(open, fresh, at) {
            Ok(()) => {
                self.arriving = Some(connection);
                // If the client is gone already, the closed channel says so.
                drop(reply.send(Ok(responses)));
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn on_request(&mut self, request: Option<Result<Request, StreamFault>>) -> Option<Receipt> {
        let at = self.shared.moment();
        match request {
            Some(Ok(request)) => self.state.on_request(request, at),
            Some(Err(StreamFault::Lost)) => self.detach(),
            Some(Err(StreamFault::Malformed { field, description })) => {
                self.state.on_stream_fault(StreamError::Malformed { field, description }, at);
            }
            Some(Err(StreamFault::TooLarge { description })) => {
                self.state.on_stream_fault(StreamError::TooLarge { description }, at);
            }
            None => {
                if let Some(connection) = &mut self.connection {
                    connection.requests = None;
                }
                self.state.on_half_close(at);
            }
        }
        None
    }

    fn detach(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.outbox.iter().for_each(|outgoing| self.grant(outgoing.output));
        }
        self.state.on_detached(self.shared.moment());
    }

    fn on_wait(&mut self, event: WaitEvent) -> Option<Receipt> {
        let at = self.shared.moment();
        match event {
            WaitEvent::Position { position, reason } => self.state.on_position(position, reason),
            WaitEvent::Granted(lease) => {
                self.waiting = None;
                let place = place(&lease);
                self.lease = Some(lease);
                self.state.on_granted(place, at);
            }
            WaitEvent::Failed(failure) => {
                self.waiting = None;
                self.state.on_wait_failed(verdict(failure), at);
            }
        }
        None
    }

    fn on_slot(&mut self, event: SlotEvent) -> Option<Receipt> {
        let at = self.shared.moment();
        match event {
            SlotEvent::Output { call, stderr, offset, data } => self.state.on_output(call, stderr, offset, data),
            SlotEvent::Ended { call, ending, receipt } => {
                self.state.on_ended(call, ending, at);
                return Some(receipt);
            }
            SlotEvent::Reset => self.state.on_slot_reset(at),
            SlotEvent::SlotLost { cause } => self.state.on_slot_lost(cause, at),
            SlotEvent::ContainerLost(evidence) => self.state.on_container_lost(&evidence, at),
        }
        None
    }

    fn carry_out(&mut self) {
        for effect in self.state.take_effects() {
            match effect {
                Effect::Attach => self.connection = self.arriving.take(),
                Effect::Send(response) => self.post(Outgoing { response, output: None }),
                Effect::SendOutput(call, output) => {
                    let bytes = u32::try_from(output.data.len()).unwrap_or(u32::MAX);
                    self.post(Outgoing { response: Response::Output(Box::new(output)), output: Some((call, bytes)) });
                }
                Effect::EndStream(error) => self.end_stream(error),
                Effect::Answer { waiter, result, replayed } => {
                    let sequence = result.sequence;
                    if let Some(reply) = self.waiters.remove(&waiter)
                        && reply.send(Ok(Answer { result, replayed })).is_ok()
                        && sequence > Sequence(0)
                    {
                        self.state.sent(sequence, self.shared.moment());
                    }
                }
                // Whoever does not wait any more needs no answer.
                Effect::Released => {
                    for reply in self.releases.drain(..) {
                        let _ = reply.send(());
                    }
                }
                Effect::Acquire(pool) => self.waiting = Some(self.shared.scheduler.acquire(&pool, &self.key)),
                Effect::LeaveLine => self.waiting = None,
                Effect::OpenSlot(generation) => self.with_lease(|lease| lease.open(generation)),
                Effect::Run(call, order) => self.with_lease(|lease| lease.slot().run(call, order)),
                Effect::CancelRun(call) => self.with_lease(|lease| lease.slot().cancel(call)),
                Effect::Input { call, data, end_of_file } => {
                    self.with_lease(|lease| lease.slot().input(call, data, end_of_file));
                }
                Effect::GrantOutput(call, bytes) => self.grant(Some((call, bytes))),
                Effect::ResetSlot(generation) => self.with_lease(|lease| lease.slot().reset(generation)),
                Effect::ReleaseSlot { keep } => {
                    if let Some(lease) = self.lease.take() {
                        lease.release(keep);
                    }
                }
            }
        }
    }

    fn with_lease(&mut self, act: impl FnOnce(&mut Lease)) {
        if let Some(lease) = &mut self.lease {
            act(lease);
        }
    }

    fn grant(&mut self, output: Option<(CallNumber, u32)>) {
        if let Some((call, bytes)) = output {
            self.with_lease(|lease| lease.slot().grant_output(call, bytes));
        }
    }

    fn post(&mut self, outgoing: Outgoing) {
        if let Some(connection) = &mut self.connection {
            connection.outbox.push_back(outgoing);
        }
    }

    /// Moves to the connection what it has room for.
    fn flush(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        while !connection.outbox.is_empty()
            && let Ok(permit) = connection.responses.try_reserve()
            && let Some(Outgoing { response, output }) = connection.outbox.pop_front()
        {
            if let Response::Result { result, .. } = &response {
                self.state.sent(result.sequence, self.shared.moment());
            }
            permit.send(Ok(response));
            if let (Some((call, bytes)), Some(lease)) = (output, &mut self.lease) {
                lease.slot().grant_output(call, bytes);
            }
        }
    }

    /// What was sent to a stream still reaches it, at the pace of its client, who holds up nobody else.
    fn end_stream(&mut self, error: Option<StreamError>) {
        let Some(Connection { responses, outbox, .. }) = self.connection.take() else { return };
        outbox.iter().for_each(|outgoing| self.grant(outgoing.output));
        let last = error.map(|error| Err(Box::new(error)));
        self.shared.tasks.spawn(async move {
            for message in outbox.into_iter().map(|outgoing| Ok(outgoing.response)).chain(last) {
                if responses.send(message).await.is_err() {
                    return;
                }
            }
        });
    }

    /// Brings the service's totals up to date with this trajectory.
    fn count(&mut self) {
        let (waiting, running) = self.state.load();
        let now = Counted { waiting, running, bytes: self.state.kept_bytes(), open: self.state.is_open() };
        self.recount(now);
        let Tally { answers, unsuccessful } = self.state.take_tally();
        self.shared.totals.answered(answers, unsuccessful);
    }

    fn recount(&mut self, now: Counted) {
        let totals = &self.shared.totals;
        totals.waiting.change(self.counted.waiting as u64, now.waiting as u64);
        totals.running.change(self.counted.running as u64, now.running as u64);
        totals.bytes.change(self.counted.bytes, now.bytes);
        totals.open.change(u64::from(self.counted.open), u64::from(now.open));
        self.counted = now;
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.recount(Counted::default());
    }
}

fn place(lease: &Lease) -> Place {
    Place {
        location: lease.location().clone(),
        isolation: lease.isolation().into(),
        network_isolated: lease.network_isolated(),
    }
}

fn verdict(failure: WaitFailure) -> Verdict {
    match failure {
        WaitFailure::TimedOut { waited, evidence } => Verdict::slot_timeout(waited, evidence),
        WaitFailure::StartFailed { evidence, retry_after } => Verdict::container_start_failed(retry_after, evidence),
        WaitFailure::LineFull { retry_after } => {
            Verdict::queue_full("too many trajectories wait for a slot", Some(retry_after))
        }
        WaitFailure::ShuttingDown => Verdict::draining(None),
    }
}
