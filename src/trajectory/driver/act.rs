//! What the state wants done.

use super::Driver;
use crate::{
    id::CallNumber,
    scheduler::Lease,
    trajectory::{
        command::Answer,
        connection::{Connection, Sent},
        request::StreamError,
        state::Effect,
    },
};

impl Driver {
    /// Does what the state wants done, and moves to the connection what it has room for; the state may want more for
    /// that.
    pub(super) async fn carry_out(&mut self) {
        loop {
            self.record().await;
            self.state.take_effects().into_iter().for_each(|effect| self.act(effect));
            self.flush();
            if !self.state.has_effects() {
                return;
            }
        }
    }

    pub(super) fn act(&mut self, effect: Effect) {
        match (effect, &mut self.reclaiming) {
            (effect @ (Effect::CancelRun(_) | Effect::Input { .. } | Effect::GrantOutput(..)), Some(reclaiming)) => {
                reclaiming.defer(effect);
            }
            (effect, _) => self.do_now(effect),
        }
    }

    fn do_now(&mut self, effect: Effect) {
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
                self.spans.released();
                for reply in self.releases.drain(..) {
                    let _ = reply.send(());
                }
            }
            Effect::Acquire(pool) => self.waiting = Some(self.shared.scheduler.acquire(&pool, &self.key)),
            Effect::LeaveLine => self.waiting = None,
            Effect::OpenSlot(generation) => {
                let opening = self.state.opening();
                self.lease = self.granted.take().map(|grant| grant.open(generation, opening));
            }
            Effect::Run(call, order) => self.with_lease(|lease| lease.slot().run(call, order)),
            Effect::CancelRun(call) => self.with_lease(|lease| lease.slot().cancel(call)),
            Effect::AskOutside(call, source) => self.outside.ask(self.shared.tools.clone(), call, source),
            Effect::RunExternal(call, outgoing) => self.outside.run(&self.key, call, *outgoing),
            Effect::DropExternal(call) => self.outside.give_up(call),
            Effect::Input { call, data, end_of_file } => {
                self.with_lease(|lease| lease.slot().input(call, data, end_of_file));
            }
            Effect::GrantOutput(call, bytes) => self.grant(call, bytes),
            Effect::ResetSlot(generation) => self.with_lease(|lease| lease.slot().reset(generation)),
            Effect::ForgoKept => self.shared.scheduler.forgo(&self.key),
            Effect::ReleaseSlot { keep } => {
                // Whoever finds that nobody waits for the answer gives the slot back.
                self.reclaiming = None;
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

    pub(super) fn grant(&mut self, call: CallNumber, bytes: u32) {
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
    pub(super) fn end_stream(&mut self, error: Option<StreamError>) {
        let Some(mut connection) = self.connection.take() else { return };
        connection.waiting_output().for_each(|(call, bytes)| self.grant(call, bytes));
        match &error {
            // What waits is for its successor; and clients that do not read must not pile it up.
            Some(StreamError::TakenOver | StreamError::NotReading { .. }) => connection.forget_waiting(),
            Some(StreamError::Malformed { .. } | StreamError::TooLarge { .. } | StreamError::HandedOver) | None => {}
        }
        self.shared.tasks.spawn(connection.finish(error));
    }
}
