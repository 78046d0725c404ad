//! Calls of tools that run elsewhere: waiting for room there, and running. Each is a task of this trajectory's.

use std::{
    collections::HashMap,
    future::{Future as _, pending},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::task::{AbortHandle, JoinSet};

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
            // Those that were given up end with an error.
            if let Ok(event) = ended {
                return event;
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
        }
    }
}
