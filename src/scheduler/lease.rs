//! A slot, as long as a trajectory has it.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{
    core::{OwnerId, Return, SlotKey},
    handle::Command,
};
use crate::{
    id::{Generation, TrajectoryKey},
    sandbox::client::{Link, SlotHandle},
    tool::Location,
};

/// What is known of a container whose agent answers.
pub(super) struct Agent {
    pub(super) link: Link,
    /// Of its first slot.
    pub(super) location: Location,
    pub(super) isolation: String,
    pub(super) network_isolated: bool,
}

/// A slot that belongs to one trajectory. Dropped, it is given back: as it was if it was never opened, else to be wiped.
pub struct Lease {
    commands: mpsc::UnboundedSender<Command>,
    slot: SlotKey,
    owner: OwnerId,
    key: TrajectoryKey,
    agent: Arc<Agent>,
    location: Location,
    kept: bool,
    handle: Option<SlotHandle>,
    given_back: bool,
}

impl Lease {
    pub(super) fn new(
        commands: mpsc::UnboundedSender<Command>,
        slot: SlotKey,
        owner: OwnerId,
        key: TrajectoryKey,
        agent: Arc<Agent>,
        kept: bool,
    ) -> Self {
        let location = Location { slot: slot.index, ..agent.location.clone() };
        Self { commands, slot, owner, key, agent, location, kept, handle: None, given_back: false }
    }

    /// Where it is.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The name of its level of isolation.
    pub fn isolation(&self) -> &str {
        &self.agent.isolation
    }

    /// Whether it has no network.
    pub fn network_isolated(&self) -> bool {
        self.agent.network_isolated
    }

    /// Whether it has the files that this trajectory left there; else it is empty.
    pub fn kept(&self) -> bool {
        self.kept
    }

    /// Assigns the slot to the trajectory at the agent, with the number of its workspace. Once, before anything else
    /// is done with it.
    pub fn open(&mut self, generation: Generation) {
        self.opened(generation);
    }

    /// The slot itself. One that was never opened is opened here, for the workspace before the first.
    pub fn slot(&mut self) -> &mut SlotHandle {
        self.opened(Generation::default())
    }

    fn opened(&mut self, generation: Generation) -> &mut SlotHandle {
        self.handle.get_or_insert_with(|| self.agent.link.assign(self.slot.index, &self.key, generation))
    }

    /// Gives it back. `keep`: its files stay for this trajectory, as long as nobody else needs the slot.
    pub fn release(mut self, keep: bool) {
        let how = match (&self.handle, keep) {
            (Some(_), true) => Return::Keep,
            (Some(_), false) => Return::Wipe,
            (None, true) => Return::Unused,
            (None, false) => {
                if self.kept {
                    Return::Wipe
                } else {
                    Return::Unused
                }
            }
        };
        self.give_back(how);
    }

    /// Takes it apart without giving it back: that is left to the caller.
    pub(super) fn undelivered(mut self) -> (SlotKey, OwnerId) {
        self.given_back = true;
        (self.slot, self.owner)
    }

    fn give_back(&mut self, how: Return) {
        if !std::mem::replace(&mut self.given_back, true) {
            // With the driver gone, the container is, too.
            let _ = self.commands.send(Command::Return { slot: self.slot, owner: self.owner, how });
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.give_back(if self.handle.is_some() { Return::Wipe } else { Return::Unused });
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("key", &self.key).field("location", &self.location).finish_non_exhaustive()
    }
}
