//! Those who wait: what they are told, and how it ends.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::error;

use super::{
    super::{
        core::{Event, Failure, OwnerId, PoolKey, Return, Shortage, SlotKey},
        handle::WaitFailure,
        lease::Grant,
        names::Wait,
    },
    Driver, Pool,
};
use crate::tool::Evidence;

/// Between two looks at who in a line has moved.
const POSITIONS_EVERY: Duration = Duration::from_millis(250);
/// Only those nearest to a slot are told how they move: of a longer line nobody could say when a place means anything.
const POSITIONS_TOLD: usize = 1024;
/// When one who found the line full may try again.
const LINE_FULL_RETRY: Duration = Duration::from_secs(1);

impl Driver {
    pub(super) fn acquire(&mut self, owner: OwnerId, wait: Wait) {
        let pool = wait.pool;
        if let Some(place) = self.names.wait(owner) {
            // A later wait takes the place of an earlier one of the same trajectory.
            *place = Some(wait);
        }
        self.tell(Event::Acquire { pool, owner });
        let position = self.core.waiting(pool);
        let reason = self.reason(pool);
        if self.core.is_in_line(owner)
            && let Some(Some(wait)) = self.names.wait(owner)
        {
            wait.tell(position, &reason);
            self.positions_at.get_or_insert_with(|| Instant::now() + POSITIONS_EVERY);
        }
    }

    pub(super) fn tell_positions(&mut self) {
        self.positions_at = None;
        for pool in (0..self.pools.len()).map(|index| PoolKey(index as u16)) {
            let reason = self.reason(pool);
            for (position, owner) in (1..).zip(self.core.line(pool).take(POSITIONS_TOLD)) {
                if let Some(Some(wait)) = self.names.wait(owner) {
                    wait.tell(position, &reason);
                }
            }
            if self.core.waiting(pool) > 0 {
                self.positions_at = Some(Instant::now() + POSITIONS_EVERY);
            }
        }
    }

    /// Why somebody waits for a slot of the pool.
    pub(super) fn reason(&self, pool: PoolKey) -> Option<String> {
        let Pool { config, last_start_failure } = self.pool(pool)?;
        match self.core.shortage(pool, Instant::now().into_std())? {
            Shortage::Resetting => Some("slots are being emptied".to_owned()),
            Shortage::Starting => Some("a container is starting".to_owned()),
            Shortage::AtMaximum => {
                Some(format!("all slots are taken, and the pool has its most containers ({})", config.max_containers))
            }
            Shortage::BackingOff => Some(match last_start_failure {
                Some(evidence) => format!("the last container could not be started: {}", evidence.cause),
                None => "the last container died young, and the next is about to start".to_owned(),
            }),
        }
    }

    /// Hands the slot over; one that nobody takes is as good as before.
    pub(super) fn grant(&mut self, owner: OwnerId, slot: SlotKey, kept: bool) -> Option<Event> {
        let unused = Event::Return { slot, owner, how: Return::Unused };
        let agent = self.containers.get(&slot.container).and_then(|watched| watched.agent.clone());
        let key = self.names.key(owner).cloned();
        let wait = self.names.wait(owner).and_then(Option::take);
        let (Some(agent), Some(key), Some(wait), Some(commands)) = (agent, key, wait, self.to_commands.upgrade())
        else {
            return Some(unused);
        };
        // What cannot be delivered goes back at once, before its owner can ask again.
        let undelivered = wait.end.send(Ok(Grant::new(commands, slot, owner, key, agent, kept))).err()?;
        undelivered.ok()?.disarm();
        Some(unused)
    }

    pub(super) fn fail(&mut self, owner: OwnerId, failure: Failure) {
        let Some(wait) = self.names.wait(owner).and_then(Option::take) else { return };
        let evidence = self.pool(wait.pool).and_then(|pool| pool.last_start_failure.clone());
        let failure = match failure {
            Failure::TimedOut => WaitFailure::TimedOut { waited: wait.waited(), evidence },
            Failure::StartFailed { retry_after } => {
                WaitFailure::StartFailed { evidence: evidence.unwrap_or_default(), retry_after }
            }
            Failure::LineFull => WaitFailure::LineFull { retry_after: LINE_FULL_RETRY },
            Failure::HoldsOne => {
                error!("a trajectory asks for a second slot");
                let cause = "the trajectory has a slot already".to_owned();
                let evidence = Arc::new(Evidence { cause, ..Evidence::default() });
                WaitFailure::StartFailed { evidence, retry_after: LINE_FULL_RETRY }
            }
            Failure::ShuttingDown => WaitFailure::ShuttingDown,
        };
        // Whoever has left the line needs no answer.
        let _ = wait.end.send(Err(failure));
    }
}
