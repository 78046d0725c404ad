//! The names behind the core's numbers for trajectories, and who of them waits to be told something.

use std::{collections::HashMap, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::{
    core::{OwnerId, PoolKey},
    handle::{Position, WaitFailure},
    lease::Grant,
};
use crate::id::TrajectoryKey;

/// The driver's side of a [`Waiting`](super::Waiting).
pub(super) struct Wait {
    pub(super) ticket: u64,
    pub(super) pool: PoolKey,
    pub(super) since: Instant,
    pub(super) end: oneshot::Sender<Result<Grant, WaitFailure>>,
    pub(super) position: watch::Sender<Position>,
}

impl Wait {
    pub(super) fn waited(&self) -> Duration {
        self.since.elapsed()
    }

    /// Tells it where it stands and why, if that differs enough from what it was told: by an eighth, or at all near the
    /// end of the line.
    pub(super) fn tell(&self, position: u32, reason: &Option<String>) {
        self.position.send_if_modified(|told| {
            let moved = told.position.abs_diff(position);
            let far = moved > 0 && (position <= 8 || moved >= told.position / 8);
            let matters = far || told.reason != *reason;
            if matters {
                *told = Position { position, reason: reason.clone() };
            }
            matters
        });
    }
}

struct Named {
    key: TrajectoryKey,
    wait: Option<Wait>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Names {
    numbers: HashMap<TrajectoryKey, OwnerId>,
    named: Vec<Option<Named>>,
    free: Vec<OwnerId>,
}

impl Names {
    /// The number of this trajectory, a new one if it has none.
    pub(super) fn number(&mut self, key: TrajectoryKey) -> OwnerId {
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.named.push(None);
            OwnerId(self.named.len() as u32 - 1)
        });
        self.numbers.insert(key.clone(), number);
        self.named[number.0 as usize] = Some(Named { key, wait: None });
        number
    }

    pub(super) fn find(&self, key: &TrajectoryKey) -> Option<OwnerId> {
        self.numbers.get(key).copied()
    }

    pub(super) fn key(&self, number: OwnerId) -> Option<&TrajectoryKey> {
        self.named.get(number.0 as usize)?.as_ref().map(|named| &named.key)
    }

    pub(super) fn wait(&mut self, number: OwnerId) -> Option<&mut Option<Wait>> {
        self.named.get_mut(number.0 as usize)?.as_mut().map(|named| &mut named.wait)
    }

    /// How long it has waited, if it waits.
    pub(super) fn waited(&self, number: OwnerId) -> Option<Duration> {
        self.named.get(number.0 as usize)?.as_ref()?.wait.as_ref().map(Wait::waited)
    }

    /// The number may be given to another.
    pub(super) fn forget(&mut self, number: OwnerId) {
        if let Some(named) = self.named.get_mut(number.0 as usize).and_then(Option::take) {
            self.numbers.remove(&named.key);
            self.free.push(number);
        }
    }
}
