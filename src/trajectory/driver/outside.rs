//! Calls of tools that run elsewhere: waiting for room there, and running. Each is a task of this trajectory's.

use std::{collections::HashMap, future::pending, sync::Arc};

use tokio::task::{AbortHandle, JoinSet};

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
        let handle = self.tasks.spawn(async move { OutsideEvent::Room(number, tools.room(&source).await) });
        self.handles.insert(number, handle);
    }

    /// In the room that it was given.
    pub(super) fn run(&mut self, key: &TrajectoryKey, number: CallNumber, outgoing: Outgoing) {
        let Some(room) = self.rooms.remove(&number) else { return };
        let Outgoing { id, call, timeout } = outgoing;
        let request = Request { trajectory_id: key.id.to_string(), call_id: id, call, timeout };
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
