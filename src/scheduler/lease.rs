//! A slot, as long as a trajectory has it.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{
    core::{OwnerId, Return, SlotKey},
    handle::Command,
};
use crate::{
    id::{Generation, Opening, TrajectoryKey},
    sandbox::client::{Link, SlotHandle},
    tool::{Location, limit::SlotLimit},
};

/// What is known of a container whose agent answers.
pub(super) struct Agent {
    pub(super) link: Link,
    /// Of its first slot.
    pub(super) location: Location,
    pub(super) isolation: Arc<str>,
    pub(super) network_isolated: bool,
    /// Of each slot.
    pub(super) limits: Vec<SlotLimit>,
}

/// A slot that is one trajectory's, and not yet opened. Dropped, it is given back as it is.
pub struct Grant {
    hold: Hold,
    key: TrajectoryKey,
    agent: Arc<Agent>,
    location: Location,
    kept: bool,
}

impl Grant {
    pub(super) fn new(
        commands: mpsc::UnboundedSender<Command>,
        slot: SlotKey,
        owner: OwnerId,
        key: TrajectoryKey,
        agent: Arc<Agent>,
        kept: bool,
    ) -> Self {
        let location = Location { slot: slot.index, ..agent.location.clone() };
        Self { hold: Hold { commands, slot, owner, how: Some(Return::Unused) }, key, agent, location, kept }
    }

    /// Where it is.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The name of its level of isolation.
    pub fn isolation(&self) -> &Arc<str> {
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

    /// Assigns the slot to the trajectory at the agent, as the workspace of this generation, in this life.
    pub fn open(mut self, generation: Generation, opening: Opening) -> Lease {
        self.hold.how = Some(Return::Wipe);
        let slot = self.agent.link.assign(self.location.slot, &self.key, generation, opening);
        Lease { slot, hold: self.hold }
    }

    /// Takes it apart without giving it back: that is left to the caller.
    pub(super) fn disarm(mut self) {
        self.hold.how = None;
    }
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant").field("key", &self.key).field("location", &self.location).finish_non_exhaustive()
    }
}

/// A slot in use. Dropped, it is given back to be wiped.
pub struct Lease {
    slot: SlotHandle,
    hold: Hold,
}

impl Lease {
    /// The slot itself.
    pub fn slot(&mut self) -> &mut SlotHandle {
        &mut self.slot
    }

    /// Gives it back. `keep`: its files stay for this trajectory, as long as nobody else needs the slot.
    pub fn release(mut self, keep: bool) {
        self.hold.how = Some(if keep { Return::Keep } else { Return::Wipe });
    }
}

impl Lease {
    /// Of a slot that was the trajectory's before.
    pub(super) fn again(
        commands: mpsc::UnboundedSender<Command>,
        key: SlotKey,
        owner: OwnerId,
        slot: SlotHandle,
    ) -> Self {
        Self { slot, hold: Hold { commands, slot: key, owner, how: Some(Return::Wipe) } }
    }
}

/// Gives the slot back when it goes.
struct Hold {
    commands: mpsc::UnboundedSender<Command>,
    slot: SlotKey,
    owner: OwnerId,
    /// In which condition; `None` where it is not to be given back.
    how: Option<Return>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(how) = self.how {
            // With the driver gone, so are the containers.
            let _ = self.commands.send(Command::Return { slot: self.slot, owner: self.owner, how });
        }
    }
}
