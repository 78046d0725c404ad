//! The task that owns a trajectory: feeds its state what happens, and carries out what the state decides.

use std::{collections::HashMap, future::pending, sync::Arc};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    command::{Answer, Command, OpenCommand},
    connection::{Connection, Heard, Sent},
    directory::Shared,
    request::{OpenError, StreamError},
    state::{Effect, Moment, Place, State, Waiter},
    totals::Part,
};
use crate::{
    id::{CallNumber, TrajectoryKey},
    sandbox::client::{Receipt, SlotEvent},
    scheduler::{Grant, Lease, WaitEvent, WaitFailure, Waiting},
    tool::Verdict,
};

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
    /// A slot that was granted and is about to be opened.
    granted: Option<Grant>,
    lease: Option<Lease>,
    waiters: HashMap<Waiter, oneshot::Sender<Result<Answer, OpenError>>>,
    next_waiter: Waiter,
    releases: Vec<oneshot::Sender<()>>,
    /// What this trajectory adds to the service's totals.
    counted: Part,
}

enum Happening {
    Command(Option<Command>),
    Connection(Heard),
    Wait(WaitEvent),
    Slot(SlotEvent),
    Pressure,
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
            granted: None,
            lease: None,
            waiters: HashMap::new(),
            next_waiter: 0,
            releases: Vec::new(),
            counted: Part::default(),
        }
    }

    /// Runs until only a ledger was left and its time is over, too, or the service ends.
    pub(super) async fn run(mut self) {
        self.count();
        loop {
            let receipt = match self.next().await {
                Happening::Command(Some(command)) => self.on_command(command),
                Happening::Command(None) => return,
                Happening::Connection(heard) => {
                    self.on_heard(heard);
                    None
                }
                Happening::Wait(event) => self.on_wait(event),
                Happening::Slot(event) => self.on_slot(event),
                Happening::Pressure => {
                    self.state.on_pressure(self.moment());
                    None
                }
                Happening::Deadline => {
                    let at = self.moment();
                    if self.state.on_deadline(at) && self.shared.retire(&self.key, &mut self.commands) {
                        return;
                    }
                    None
                }
            };
            // The agent may forget the event only now that its record has been applied.
            drop(receipt);
            // Before anybody is told: whoever has an answer finds it counted.
            self.count();
            self.carry_out();
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
        self.shared.moment(&self.counted)
    }

    fn on_command(&mut self, command: Command) -> Option<Receipt> {
        let at = self.moment();
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
            Command::CancelLabelled { labels, release, reply } => {
                let calls = self.state.on_cancel_labelled(&labels, release.is_some(), at);
                self.releases.extend(release.filter(|_| calls.is_some()));
                // Whoever asked may be gone; it is done all the same.
                let _ = reply.send(calls);
            }
            Command::Describe(reply) => drop(reply.send(self.state.describe())),
            Command::Drain { remaining } => self.state.on_drain(remaining, at),
            Command::DrainDeadline => self.state.on_drain_deadline(at),
        }
        None
    }

    fn on_open(&mut self, command: OpenCommand, at: Moment) {
        let OpenCommand { open, requests, reply } = command;
        let (connection, responses) = Connection::new(requests);
        match self.state.on_open(open, at) {
            Ok(()) => {
                self.arriving = Some(connection);
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

    /// Does what the state wants done, and moves to the connection what it has room for; the state may want more for
    /// that.
    fn carry_out(&mut self) {
        loop {
            self.state.take_effects().into_iter().for_each(|effect| self.act(effect));
            self.flush();
            if !self.state.has_effects() {
                return;
            }
        }
    }

    fn act(&mut self, effect: Effect) {
        match effect {
            Effect::Attach => self.connection = self.arriving.take(),
            Effect::Send(response) => self.with_connection(|connection| connection.post(response)),
            Effect::SendOutput(call, output) => {
                self.with_connection(|connection| connection.post_output(call, output));
            }
            Effect::EndStream(error) => self.end_stream(error),
            Effect::Answer { waiter, result, replayed } => {
                let sequence = result.sequence;
                if let Some(reply) = self.waiters.remove(&waiter)
                    && reply.send(Ok(Answer { result, replayed })).is_ok()
                {
                    self.state.sent(sequence, self.moment());
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
            Effect::OpenSlot(generation) => {
                self.lease = self.granted.take().map(|grant| grant.open(generation));
            }
            Effect::Run(call, order) => self.with_lease(|lease| lease.slot().run(call, order)),
            Effect::CancelRun(call) => self.with_lease(|lease| lease.slot().cancel(call)),
            Effect::Input { call, data, end_of_file } => {
                self.with_lease(|lease| lease.slot().input(call, data, end_of_file));
            }
            Effect::GrantOutput(call, bytes) => self.grant(call, bytes),
            Effect::ResetSlot(generation) => self.with_lease(|lease| lease.slot().reset(generation)),
            Effect::ReleaseSlot { keep } => {
                if let Some(lease) = self.lease.take() {
                    lease.release(keep);
                }
            }
        }
    }

    fn with_connection(&mut self, act: impl FnOnce(&mut Connection)) {
        if let Some(connection) = &mut self.connection {
            act(connection);
        }
    }

    fn with_lease(&mut self, act: impl FnOnce(&mut Lease)) {
        if let Some(lease) = &mut self.lease {
            act(lease);
        }
    }

    fn grant(&mut self, call: CallNumber, bytes: u32) {
        self.with_lease(|lease| lease.slot().grant_output(call, bytes));
    }

    /// Moves to the connection what it has room for.
    fn flush(&mut self) {
        while let Some(connection) = &mut self.connection
            && let Some(sent) = connection.send_one()
        {
            match sent {
                Sent::Result(sequence) => self.state.sent(sequence, self.moment()),
                Sent::Output((call, bytes)) => self.grant(call, bytes),
                Sent::Other => {}
            }
        }
    }

    /// What was sent to a stream still reaches it, at the pace of its client, who holds up nobody else.
    fn end_stream(&mut self, error: Option<StreamError>) {
        let Some(mut connection) = self.connection.take() else { return };
        connection.waiting_output().for_each(|(call, bytes)| self.grant(call, bytes));
        match &error {
            // What waits is for its successor; and clients that do not read must not pile it up.
            Some(StreamError::TakenOver | StreamError::NotReading { .. }) => connection.forget_waiting(),
            Some(StreamError::Malformed { .. } | StreamError::TooLarge { .. }) | None => {}
        }
        self.shared.tasks.spawn(connection.finish(error));
    }

    /// Brings the service's totals up to date with this trajectory.
    fn count(&mut self) {
        self.recount(self.state.part());
    }

    fn recount(&mut self, now: Part) {
        let before = std::mem::replace(&mut self.counted, now);
        if before != now {
            self.shared.count(&before, &now);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // What it answered stays counted.
        let Part { answers, unsuccessful, .. } = self.counted;
        self.recount(Part { answers, unsuccessful, ..Part::default() });
    }
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
