//! Calls of tools that run elsewhere: waiting for room there, and running. Each is a task of this trajectory's.

use std::{
    collections::HashMap,
    future::{Future as _, pending},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::task::{AbortHandle, JoinError, JoinSet};
use tracing::error;

use super::Driver;
use crate::{
    external::{Handle, Request, Room},
    id::{CallNumber, TrajectoryKey},
    tool::ExternalEnding,
    trajectory::state::Outgoing,
};

/// Dropped, all of it is given up.
#[derive(Default)]
pub(super) struct Outside {
    tasks: JoinSet<OutsideEvent>,
    handles: HashMap<CallNumber, AbortHandle>,
    rooms: HashMap<CallNumber, Room>,
}

pub(super) enum OutsideEvent {
    Room(CallNumber, Room),
    Ended(CallNumber, ExternalEnding),
    /// Its task has panicked, and says with what.
    Broken(CallNumber, String),
}

impl Outside {
    pub(super) fn ask(&mut self, tools: Handle, number: CallNumber, source: Arc<str>) {
        let mut room = Box::pin(async move { tools.room(&source).await });
        // Its place in the line is that of its asking, whenever its task comes to run.
        let at_once = room.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let handle = self.tasks.spawn(async move {
            let room = match at_once {
                Poll::Ready(room) => room,
                Poll::Pending => room.await,
            };
            OutsideEvent::Room(number, room)
        });
        self.handles.insert(number, handle);
    }

    /// In the room that it was given.
    pub(super) fn run(&mut self, key: &TrajectoryKey, number: CallNumber, outgoing: Outgoing) {
        let Some(room) = self.rooms.remove(&number) else { return };
        let Outgoing { id, call, timeout } = outgoing;
        let request = Request { trajectory_id: key.to_string(), call_id: id, call, timeout };
        let handle = self.tasks.spawn(async move { OutsideEvent::Ended(number, room.run(request).await) });
        self.handles.insert(number, handle);
    }

    pub(super) fn give_up(&mut self, number: CallNumber) {
        self.rooms.remove(&number);
        if let Some(handle) = self.handles.remove(&number) {
            handle.abort();
        }
    }

    /// Never, while there is nothing.
    pub(super) async fn next(&mut self) -> OutsideEvent {
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok(event) => return event,
                Err(error) => {
                    let has_it =
                        |(number, handle): (&CallNumber, &AbortHandle)| (handle.id() == error.id()).then_some(*number);
                    // Of those that were given up nobody waits for an end.
                    if let Some(number) = self.handles.iter().find_map(has_it) {
                        return OutsideEvent::Broken(number, said(error));
                    }
                }
            }
        }
        pending().await
    }

    /// The room is there for whoever runs the call next.
    pub(super) fn keep(&mut self, number: CallNumber, room: Room) {
        if self.handles.remove(&number).is_some() {
            self.rooms.insert(number, room);
        }
    }

    pub(super) fn ended(&mut self, number: CallNumber) {
        self.handles.remove(&number);
    }
}

/// Why a task did not come to its end. Its place in the source is in the log already.
fn said(error: JoinError) -> String {
    let text = error.try_into_panic().ok().and_then(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        text.or_else(|| panic.downcast_ref::<String>().cloned())
    });
    match text {
        Some(text) => format!("the task that had the external call panicked: {text}"),
        None => "the task that had the external call did not come to its end".to_owned(),
    }
}

impl Driver {
    pub(super) fn on_outside(&mut self, event: OutsideEvent) {
        let at = self.moment();
        match event {
            OutsideEvent::Room(call, room) => {
                self.outside.keep(call, room);
                self.state.on_outside_room(call, at);
            }
            OutsideEvent::Ended(call, ending) => {
                self.outside.ended(call);
                self.state.on_external_ended(call, ending, at);
            }
            OutsideEvent::Broken(call, cause) => {
                error!(trajectory = %self.key.id, cause, "an external call is answered without its end");
                self.outside.ended(call);
                self.state.on_outside_broken(call, &cause, at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_with_its_call_and_what_was_given_up_is_not() {
        let mut outside = Outside::default();
        let given_up = CallNumber(1);
        outside.handles.insert(given_up, outside.tasks.spawn(pending()));
        outside.give_up(given_up);
        let broken = CallNumber(2);
        outside.handles.insert(broken, outside.tasks.spawn(async { panic!("at {}", "noon") }));
        let OutsideEvent::Broken(number, cause) = outside.next().await else { panic!("it has no other end") };
        assert_eq!(number, broken);
        assert!(cause.ends_with("panicked: at noon"), "{cause}");
    }
}
