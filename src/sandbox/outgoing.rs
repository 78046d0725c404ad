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
    /// Of every connection that waits: an old one may be asked again before it is dropped, and must not push out the
    /// one that follows it. Bounded by the connections that have not been dropped yet.
    wakers: Vec<Waker>,
}

/// How much may go out as one.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchLimits {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl<M: prost::Message + Clone> Outgoing<M> {
    pub(super) fn new() -> Self {
        let state = State { outbox: Outbox::new(), nudged: false, connection: 0, wakers: Vec::new() };
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

    /// Nothing goes out any more, and every connection ends.
    pub(super) fn close(&self) {
        self.change(|state| state.connection = u64::MAX);
    }

    /// The next batch for a connection: the number of its first message, and its messages. `None` if there is a newer
    /// connection, or none is wanted.
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
            if !state.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.wakers.push(cx.waker().clone());
            }
            return Poll::Pending;
        }
        state.nudged = false;
        Poll::Ready(Some(state.outbox.take(limits.messages, limits.bytes, M::encoded_len)))
    }

    fn change(&self, change: impl FnOnce(&mut State<M>)) {
        let wakers = {
            let mut state = self.lock();
            change(&mut state);
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        // Each change is whole before the lock is given back.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    use super::*;

    const LIMITS: BatchLimits = BatchLimits { messages: 10, bytes: 1000 };

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll(outgoing: &Outgoing<u32>, connection: u64, woken: &Arc<Woken>) -> Poll<Option<(u64, Vec<u32>)>> {
        outgoing.poll_take(connection, LIMITS, &mut Context::from_waker(&woken.clone().into()))
    }

    #[test]
    fn a_new_connection_is_woken_though_the_old_one_waits_too() {
        let outgoing = Outgoing::new();
        let (old, new) = (Arc::<Woken>::default(), Arc::<Woken>::default());
        outgoing.resume(1, 0);
        assert_eq!(poll(&outgoing, 1, &old), Poll::Ready(Some((1, vec![]))));
        assert!(poll(&outgoing, 2, &new).is_pending());
        assert!(poll(&outgoing, 1, &old).is_pending());
        outgoing.push(7);
        assert_eq!((old.0.load(Ordering::Relaxed), new.0.load(Ordering::Relaxed)), (1, 1));
        assert!(poll(&outgoing, 2, &new).is_pending());
        assert_eq!(poll(&outgoing, 1, &old), Poll::Ready(Some((1, vec![7]))));
        assert!(poll(&outgoing, 1, &old).is_pending());
        outgoing.resume(2, 0);
        assert_eq!(new.0.load(Ordering::Relaxed), 2);
        assert_eq!(poll(&outgoing, 1, &old), Poll::Ready(None));
        assert_eq!(poll(&outgoing, 2, &new), Poll::Ready(Some((1, vec![7]))));
        assert!(poll(&outgoing, 2, &new).is_pending());
        outgoing.close();
        assert_eq!(new.0.load(Ordering::Relaxed), 3);
        assert_eq!(poll(&outgoing, 2, &new), Poll::Ready(None));
    }
}
