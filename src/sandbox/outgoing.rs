//! What one side of a link has to say, and how it gets onto whichever connection there is: whatever waits at the moment
//! a connection can take it goes out as one message. So an idle link adds no delay, and a busy one batches.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::session::Outbox;

/// See the module.
pub(super) struct Outgoing<M> {
    state: Mutex<State<M>>,
}

struct State<M> {
    outbox: Outbox<M>,
    /// A message must go out, with or without anything in it: it carries what was received.
    nudged: bool,
    /// The connection that messages go to.
    connection: u64,
    waker: Option<Waker>,
}

/// How much may go out as one.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchLimits {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl<M: prost::Message + Clone> Outgoing<M> {
    pub(super) fn new() -> Self {
        let state = State { outbox: Outbox::new(), nudged: false, connection: 0, waker: None };
        Self { state: Mutex::new(state) }
    }

    /// Bounded by the calls in flight and the windows of their input and output.
    pub(super) fn push(&self, message: M) {
        self.change(|state| state.outbox.push(message));
    }

    /// The other side needs nothing up to this number any more.
    pub(super) fn acknowledge(&self, through: u64) {
        self.lock().outbox.acknowledge(through);
    }

    /// Lets a message go out soon, even an empty one.
    pub(super) fn nudge(&self) {
        self.change(|state| state.nudged = true);
    }

    /// From now on messages go to this connection, whose other side has received so many. Earlier connections end.
    pub(super) fn resume(&self, connection: u64, received: u64) {
        self.change(|state| {
            state.outbox.resume_after(received);
            state.connection = connection;
            state.nudged = true;
        });
    }

    /// The next batch for a connection: the number of its first message, and its messages. `None` if there is a newer
    /// connection.
    pub(super) fn poll_take(
        &self,
        connection: u64,
        limits: BatchLimits,
        cx: &mut Context<'_>,
    ) -> Poll<Option<(u64, Vec<M>)>> {
        let mut state = self.lock();
        if state.connection > connection {
            return Poll::Ready(None);
        }
        let something = state.outbox.waiting() > 0 || state.nudged;
        if state.connection < connection || !something {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.nudged = false;
        Poll::Ready(Some(state.outbox.take(limits.messages, limits.bytes, M::encoded_len)))
    }

    fn change(&self, change: impl FnOnce(&mut State<M>)) {
        let waker = {
            let mut state = self.lock();
            change(&mut state);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        // Each change is whole before the lock is given back.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
