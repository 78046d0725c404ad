//! The task that owns a trajectory: feeds its state what happens, and carries out what the state decides.

mod act;
mod counting;
#[cfg(feature = "otlp")]
mod export;
mod outside;
mod payloads;
mod reclaiming;
mod recording;
pub(super) mod spans;
mod transfers;

use std::{collections::HashMap, future::pending, sync::Arc};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use self::spans::CallSpans;
use self::{
    outside::{Outside, OutsideEvent},
    reclaiming::Reclaiming,
};
use super::{
    accounts::Account,
    command::{Answer, Command, OpenCommand},
    connection::{Connection, Heard},
    directory::Shared,
    request::{OpenError, StreamError},
    start::Start,
    state::{Moment, Place, State, Waiter},
    totals::Part,
};
use crate::{
    id::TrajectoryKey,
    journal::Entry,
    sandbox::client::{Receipt, SlotEvent},
    scheduler::{Grant, Lease, Reclaimed, WaitEvent, WaitFailure, Waiting},
    tool::{Evidence, Verdict},
};

/// See the module.
pub(super) struct Driver {
    key: TrajectoryKey,
    shared: Arc<Shared>,
    /// Its tenant's.
    account: Arc<Account>,
    state: State,
    /// None once it is over.
    journal: Option<Entry>,
    commands: mpsc::Receiver<Command>,
    connection: Option<Connection>,
    /// The stream that is being attached.
    arriving: Option<Connection>,
    waiting: Option<Waiting>,
    /// A slot that was granted and is about to be opened.
    granted: Option<Grant>,
    lease: Option<Lease>,
    /// A slot that it had under an executor before this one.
    reclaiming: Option<Reclaiming>,
    outside: Outside,
    waiters: HashMap<Waiter, oneshot::Sender<Result<Answer, OpenError>>>,
    next_waiter: Waiter,
    releases: Vec<oneshot::Sender<()>>,
    /// Each ends with a transfer of files.
    transfers: JoinSet<()>,
    spans: CallSpans,
    /// What this trajectory adds to the service's totals.
    counted: Part,
}

enum Happening {
    Command(Option<Command>),
    Connection(Heard),
    Wait(WaitEvent),
    Reclaimed(Result<Reclaimed, Arc<Evidence>>),
    Slot(SlotEvent),
    Outside(OutsideEvent),
    TransferEnded,
    Pressure,
    CheckpointWanted,
    Deadline,
}

impl Driver {
    pub(super) fn new(start: Start, shared: Arc<Shared>, commands: mpsc::Receiver<Command>) -> Self {
        let Start { key, state, journal, trace, reclaim } = start;
        let reclaiming = reclaim.map(Reclaiming::new);
        let mut driver = Self {
            account: shared.accounts.of(&key.tenant),
            spans: CallSpans::new(&key, trace),
            key,
            shared,
            state,
            journal: Some(journal),
            commands,
            connection: None,
            arriving: None,
            waiting: None,
            granted: None,
            lease: None,
            reclaiming,
            outside: Outside::default(),
            waiters: HashMap::new(),
            next_waiter: 0,
            releases: Vec::new(),
            transfers: JoinSet::new(),
            counted: Part::default(),
        };
        // At once: whoever finds it finds it counted.
        driver.count();
        driver
    }

    /// Runs until only a ledger was left and its time is over, too, or the service ends.
    pub(super) async fn run(mut self) {
        self.carry_out().await;
        loop {
            let receipt = match self.next().await {
                Happening::Command(Some(Command::HandOver)) => return self.hand_over(),
                Happening::Command(Some(command)) => self.on_command(command),
                Happening::Command(None) => return,
                Happening::Connection(heard) => {
                    self.on_heard(heard);
                    None
                }
                Happening::Wait(event) => self.on_wait(event),
                Happening::Reclaimed(answer) => {
                    self.on_reclaimed(answer);
                    None
                }
                Happening::Slot(event) => self.on_slot(event),
                Happening::Outside(event) => {
                    self.on_outside(event);
                    None
                }
                Happening::TransferEnded => {
                    self.state.on_transfer_ended(self.moment());
                    None
                }
                Happening::Pressure => {
                    self.state.on_pressure(self.moment());
                    None
                }
                Happening::CheckpointWanted => {
                    self.checkpoint().await;
                    None
                }
                Happening::Deadline => {
                    let at = self.moment();
                    if self.state.on_deadline(at)
                        && self.shared.retire(&self.key, &mut self.commands, &mut self.journal)
                    {
                        return;
                    }
                    None
                }
            };
            // Before anything is waited for: others judge by it how much there is room for.
            self.recount(self.state.part());
            self.record().await;
            // The agent may forget the event only now that its record is kept.
            drop(receipt);
            // Before anybody is told: whoever has an answer finds it counted.
            self.count();
            self.carry_out().await;
            self.count();
        }
    }

    async fn next(&mut self) -> Happening {
        let deadline = self.state.deadline().map(Instant::from_std);
        let connection = self.connection.as_mut();
        // Fair between its branches, so that none of them starves another.
        tokio::select! {
            command = self.commands.recv() => Happening::Command(command),
            heard = async {
                match connection {
                    Some(connection) => connection.next().await,
                    None => pending().await,
                }
            } => Happening::Connection(heard),
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
            event = self.outside.next() => Happening::Outside(event),
            Some(_) = self.transfers.join_next() => Happening::TransferEnded,
            answer = async {
                match &mut self.reclaiming {
                    Some(reclaiming) => (&mut reclaiming.answer).await,
                    None => pending().await,
                }
            } => Happening::Reclaimed(answer.unwrap_or_else(|_| Err(nobody_asked()))),
            () = async {
                match &self.journal {
                    Some(journal) => journal.checkpoint_wanted().await,
                    None => pending().await,
                }
            } => Happening::CheckpointWanted,
            () = async {
                if self.state.can_let_go() { self.shared.pressure.notified().await } else { pending().await }
            } => Happening::Pressure,
            () = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => pending().await,
                }
            } => Happening::Deadline,
        }
    }

    fn moment(&self) -> Moment {
        self.shared.moment(&self.account, &self.counted)
    }

    fn on_command(&mut self, command: Command) -> Option<Receipt> {
        let at = self.moment();
        match command {
            Command::Open(command) => self.on_open(*command, at),
            Command::Execute { call, require_existing, trace, reply } => {
                self.spans.asked(&call.id, trace);
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
            Command::CancelLabelled { labels, release, reply } => {
                let calls = self.state.on_cancel_labelled(&labels, release.is_some(), at);
                self.releases.extend(release.filter(|_| calls.is_some()));
                // Whoever asked may be gone; it is done all the same.
                let _ = reply.send(calls);
            }
            Command::Files(reply) => self.on_files(reply, at),
            Command::Describe(reply) => drop(reply.send(self.state.describe())),
            Command::Inspect(limit, reply) => drop(reply.send(self.state.inspect(limit, at))),
            Command::Drain { remaining } => self.state.on_drain(remaining, at),
            Command::DrainDeadline => self.state.on_drain_deadline(at),
            // It ends the task.
            Command::HandOver => {}
        }
        None
    }

    /// All that has happened is kept, so that whoever comes next knows it.
    fn hand_over(&mut self) {
        self.end_stream(Some(StreamError::HandedOver));
        for (_, reply) in self.waiters.drain() {
            // A caller that has gone away needs no answer.
            let _ = reply.send(Err(OpenError::HandedOver));
        }
    }

    fn on_open(&mut self, command: OpenCommand, at: Moment) {
        let OpenCommand { open, requests, reply } = command;
        let (connection, responses) = Connection::new(requests);
        let trace = open.trace.clone();
        match self.state.on_open(open, at) {
            Ok(()) => {
                self.arriving = Some(connection);
                self.spans.attached(trace);
                // If the client is gone already, the closed channel says so.
                drop(reply.send(Ok(responses)));
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn on_heard(&mut self, heard: Heard) {
        let at = self.moment();
        match heard {
            Heard::Request(request) => {
                let unread = self.connection.as_ref().map_or(0, Connection::unread);
                self.state.on_request(request, unread, at);
            }
            Heard::Malformed(error) => self.state.on_stream_fault(error, at),
            Heard::HalfClose => self.state.on_half_close(at),
            // The flush that follows makes use of it.
            Heard::Writable => {}
            Heard::Gone => self.detach(),
        }
    }

    fn detach(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.waiting_output().for_each(|(call, bytes)| self.grant(call, bytes));
        }
        self.state.on_detached(self.moment());
    }

    fn on_wait(&mut self, event: WaitEvent) -> Option<Receipt> {
        let at = self.moment();
        match event {
            WaitEvent::Position { position, reason } => self.state.on_position(position, reason),
            WaitEvent::Granted(grant) => {
                self.waiting = None;
                let place = place(&grant);
                self.granted = Some(grant);
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
        let at = self.moment();
        match event {
            SlotEvent::Output { call, stderr, offset, data } => self.state.on_output(call, stderr, offset, data, at),
            SlotEvent::Ended { call, ending, receipt } => {
                self.state.on_ended(call, ending, at);
                return Some(receipt);
            }
            SlotEvent::Reset => self.state.on_slot_reset(at),
            SlotEvent::SlotLost { cause } => self.state.on_slot_lost(cause, at),
            SlotEvent::ContainerDraining(cause) => self.state.on_container_draining(&cause),
            SlotEvent::ContainerLost(evidence) => self.state.on_container_lost(&evidence, at),
        }
        None
    }

    fn on_reclaimed(&mut self, answer: Result<Reclaimed, Arc<Evidence>>) {
        let Some(reclaiming) = self.reclaiming.take() else { return };
        let at = self.moment();
        match answer {
            Ok(Reclaimed { mut lease, location, isolation, network_isolated, calls, is_exact }) => {
                self.state.running_orders().for_each(|(call, order)| lease.slot().resume(call, order));
                self.lease = Some(lease);
                reclaiming.into_deferred().into_iter().for_each(|effect| self.act(effect));
                self.state.on_reclaimed(Place { location, isolation, network_isolated }, &calls, is_exact, at);
            }
            Err(evidence) => self.state.on_not_reclaimed(&evidence, at),
        }
    }
}

/// The scheduler has ended before it asked the agent.
fn nobody_asked() -> Arc<Evidence> {
    let cause = "the executor ended before it found the trajectory's slot again".to_owned();
    Arc::new(Evidence { cause, ..Evidence::default() })
}

fn place(grant: &Grant) -> Place {
    Place {
        location: grant.location().clone(),
        isolation: grant.isolation().clone(),
        network_isolated: grant.network_isolated(),
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
