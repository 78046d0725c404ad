//! What one side of a link has to say, and how it gets onto whichever connection there is: whatever waits at the moment
//! a connection can take it goes out as one message. So an idle link adds no delay, and a busy one batches.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::session::{Mismatch, Outbox};

/// See the module.
pub(super) struct Outgoing<M> {
    state: Mutex<State<M>>,
}

struct State<M> {
    outbox: Outbox<M>,
    /// A message must go out, with or without anything in it: it carries what was received.
    nudged: bool,
    /// The connection that messages go to; none before the first.
    connection: u64,
    /// Of the latest connection that has waited for something. An earlier one must not take its place: its end is not
    /// in a hurry.
    waker: Option<(u64, Waker)>,
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

    /// The message's number. What is kept is bounded by the calls in flight and the windows of their input and output.
    pub(super) fn push(&self, message: M) -> u64 {
        self.change(|state| state.outbox.push(message))
    }

    /// The other side needs nothing up to this number any more.
    pub(super) fn acknowledge(&self, through: u64) {
        self.lock().outbox.acknowledge(through);
    }

    /// Looks at what has not been acknowledged, each with its number.
    pub(super) fn look<T>(&self, look: impl FnOnce(&mut dyn Iterator<Item = (u64, &M)>) -> T) -> T {
        look(&mut self.lock().outbox.kept())
    }

    /// The number of the last message; 0 if there was none.
    pub(super) fn last(&self) -> u64 {
        self.lock().outbox.last()
    }

    /// Everything up to this number has been acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.lock().outbox.acknowledged()
    }

    /// Lets a message go out soon, even an empty one.
    pub(super) fn nudge(&self) {
        self.change(|state| state.nudged = true);
    }

    /// From now on messages go to this connection, whose other side has received so many. Earlier connections end.
    pub(super) fn resume(&self, connection: u64, received: u64) -> Result<(), Mismatch> {
        self.change(|state| {
            state.outbox.resume_after(received)?;
            state.connection = connection;
            state.nudged = true;
            Ok(())
        })
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
            if state.waker.as_ref().is_none_or(|(latest, _)| *latest <= connection) {
                state.waker = Some((connection, cx.waker().clone()));
            }
            return Poll::Pending;
        }
        state.nudged = false;
        Poll::Ready(Some(state.outbox.take(limits.messages, limits.bytes, M::encoded_len)))
    }

    fn change<T>(&self, change: impl FnOnce(&mut State<M>) -> T) -> T {
        let (waker, changed) = {
            let mut state = self.lock();
            let changed = change(&mut state);
            (state.waker.take(), changed)
        };
        if let Some((_, waker)) = waker {
            waker.wake();
        }
        changed
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

    fn poll(outgoing: &Outgoing<String>, connection: u64, woken: &Arc<Woken>) -> Poll<Option<(u64, Vec<String>)>> {
        outgoing.poll_take(connection, LIMITS, &mut Context::from_waker(&woken.clone().into()))
    }

    #[test]
    fn an_attempt_waits_until_it_is_the_connection_and_is_woken_whoever_else_is_polled() {
        let outgoing = Outgoing::new();
        let (old, new) = (Arc::<Woken>::default(), Arc::<Woken>::default());
        outgoing.push("a".to_owned());
        assert_eq!(poll(&outgoing, 2, &new), Poll::Pending);
        assert_eq!(poll(&outgoing, 1, &old), Poll::Pending);
        assert_eq!(outgoing.resume(2, 0), Ok(()));
        assert_eq!((old.0.load(Ordering::Relaxed), new.0.load(Ordering::Relaxed)), (0, 1));
        assert_eq!(poll(&outgoing, 1, &old), Poll::Ready(None));
        assert_eq!(poll(&outgoing, 2, &new), Poll::Ready(Some((1, vec!["a".to_owned()]))));
    }

    #[test]
    fn what_was_not_received_goes_to_the_next_connection() {
        let outgoing = Outgoing::new();
        let woken = Arc::<Woken>::default();
        assert_eq!(["a", "b"].map(|message| outgoing.push(message.to_owned())), [1, 2]);
        assert_eq!(outgoing.resume(1, 0), Ok(()));
        assert!(matches!(poll(&outgoing, 1, &woken), Poll::Ready(Some((1, both))) if both.len() == 2));
        assert_eq!(poll(&outgoing, 1, &woken), Poll::Pending);
        assert_eq!(outgoing.resume(2, 1), Ok(()));
        assert_eq!(poll(&outgoing, 2, &woken), Poll::Ready(Some((2, vec!["b".to_owned()]))));
        assert!(outgoing.resume(3, 3).is_err());
        assert_eq!(poll(&outgoing, 2, &woken), Poll::Pending);
        let before = woken.0.load(Ordering::Relaxed);
        outgoing.close();
        assert_eq!(woken.0.load(Ordering::Relaxed), before + 1);
        assert_eq!(poll(&outgoing, 2, &woken), Poll::Ready(None));
    }
}
