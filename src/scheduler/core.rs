//! Decides which trajectory gets which slot, and how many containers there are. Pure: an event and its time go in,
//! effects come out; no I/O, no clock, no randomness. An event costs the same whether there are a hundred slots or a
//! hundred thousand: trajectories, containers and slots are small numbers that index tables, and whoever drives the
//! core knows their names.
//!
//! What holds after every event:
//! - a slot has at most one trajectory, and a trajectory at most one slot;
//! - a slot that another trajectory had has been wiped since, and a slot that could not be wiped is never given;
//! - free slots go to those who wait in the order of their arrival; a slot with kept files goes to their owner, if he
//!   comes while it is free, and else is wiped as soon as the line needs it, the oldest first;
//! - nobody waits while something free could serve him, and a container is started the moment the line is longer than
//!   what is being wiped and started;
//! - never more than `max_containers`, but for those of an earlier executor in which trajectories still have slots, and
//!   of these none that is too many gives anything; never fewer than `min_containers`, except while they start;
//! - a container that is draining, stopping or lost gives nothing.

mod containers;
mod lists;
mod owners;
mod pool;
mod scaling;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

pub use self::containers::{ContainerCounts, ContainerState, SlotCounts, SlotState};
use self::{
    containers::Slot,
    owners::{Owners, Place},
    pool::Pool,
};
use super::config::PoolConfig;

/// A pool, by its place in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolKey(pub u16);

/// A trajectory, as long as it waits, holds a slot or has one kept. Whoever drives the core chooses the number, small
/// and not in use; [`Effect::Forget`] says when it is not in use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerId(pub u32);

/// A container, for good: a later one in the same place has another stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerKey {
    pool: PoolKey,
    index: u32,
    stamp: u32,
}

impl ContainerKey {
    pub fn pool(self) -> PoolKey {
        self.pool
    }
}

/// One slot of a container, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotKey {
    pub container: ContainerKey,
    pub index: u32,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A trajectory wants a slot. Answered by one `Grant` or `Fail`, unless it leaves. One that waits already goes on
    /// waiting in its place.
    Acquire { pool: PoolKey, owner: OwnerId },
    /// It does not want one any more.
    Leave { owner: OwnerId },
    /// It does not want the files that are kept for it, if there are any and it has not come back for them.
    Forgo { owner: OwnerId },
    /// It gives its slot back.
    Return { slot: SlotKey, owner: OwnerId, how: Return },
    /// So many containers run already, left by an executor before this one, and in so many of them trajectories may
    /// have slots. The first `Start`s that follow are theirs: all of the latter, and others as far as the pool has places.
    Adopt { pool: PoolKey, containers: u32, in_use: u32 },
    /// A started container's agent answers, and has so many slots, all empty.
    ContainerReady { container: ContainerKey, slots: u32 },
    /// A started container's agent answers, and has so many slots, each as an earlier executor has left it. Those that
    /// are not reclaimed are being wiped: `SlotReady` or `SlotQuarantined` follows for each. One container too many is
    /// draining from now on, and stopped at the next `Draining` that finds no trajectory in it.
    ContainerTakenOver { container: ContainerKey, slots: u32 },
    /// A slot of a container that has been taken over is this trajectory's still, if it has no other and waits for none:
    /// see [`Core::has`].
    Reclaim { slot: SlotKey, owner: OwnerId },
    /// A started container did not come to that, and is gone. `jitter` is a random number.
    StartFailed { container: ContainerKey, jitter: u32 },
    /// A container will be taken away.
    Draining { container: ContainerKey },
    /// A container is gone, or cannot be reached any more. `jitter` is a random number.
    Lost { container: ContainerKey, jitter: u32 },
    /// A container that was to be stopped is gone.
    Stopped { container: ContainerKey },
    /// A slot that was released is empty again; or, `kept`, as its owner left it.
    SlotReady { slot: SlotKey, kept: bool },
    /// A slot must never be used again.
    SlotQuarantined { slot: SlotKey },
    /// Time has passed: see [`Core::deadline`].
    Tick,
    /// Everything ends.
    ShutDown,
}

/// In which condition a slot comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// It was never used: it is as it was given.
    Unused,
    Wipe,
    /// Its files should stay for their owner, as long as nobody else needs the slot.
    Keep,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The slot is this trajectory's. `kept`: with the files that it left there.
    Grant { owner: OwnerId, slot: SlotKey, kept: bool },
    /// This trajectory does not wait any more.
    Fail { owner: OwnerId, failure: Failure },
    /// The agent must end what runs in the slot and wipe it, or keep its files. Answered by `SlotReady` or
    /// `SlotQuarantined`.
    Release { slot: SlotKey, keep: bool },
    /// Start a container. Answered by `ContainerReady`, `StartFailed`, or after a `Stop` by `Stopped`.
    Start { container: ContainerKey },
    /// Stop a container. Answered by `Stopped`.
    Stop { container: ContainerKey },
    /// The number of this trajectory may be given to another.
    Forget(OwnerId),
}

/// Why somebody gets no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// None was free for the pool's `acquire_timeout`.
    TimedOut,
    /// There is no container, and the last one could not be started; the next is tried after so long.
    StartFailed {
        retry_after: Duration,
    },
    /// Too many wait already.
    LineFull,
    /// It holds a slot.
    HoldsOne,
    ShuttingDown,
}

/// Why somebody waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Containers start.
    Starting,
    /// The last start failed; the next is tried in a while.
    BackingOff,
    /// The pool has as many containers as it may.
    AtMaximum,
    /// Slots are being wiped for those who wait.
    Resetting,
}

/// See the module.
#[derive(Debug)]
pub struct Core {
    pools: Vec<Pool>,
    owners: Owners,
}

/// What an event may touch beside its pool.
struct Turn<'a> {
    owners: &'a mut Owners,
    effects: &'a mut Vec<Effect>,
    now: Instant,
}

impl Core {
    /// Nothing starts before the first event. There may be as many pools as a [`PoolKey`] can tell apart.
    pub fn new(pools: impl IntoIterator<Item = PoolConfig>) -> Self {
        let pools: Vec<_> = (0..).zip(pools).map(|(key, rules)| Pool::new(PoolKey(key), rules)).collect();
        Self { owners: Owners::new(pools.len()), pools }
    }

    /// Takes in what happened, and adds what follows to `effects`, which are to be carried out in order. `now` never
    /// goes back. What makes no sense (any more) has no effect.
    pub fn handle(&mut self, event: Event, now: Instant, effects: &mut Vec<Effect>) {
        let Self { pools, owners } = self;
        let mut turn = Turn { owners, effects, now };
        match event {
            Event::Acquire { pool, owner } => {
                turn.owners.admit(owner, now);
                // What is kept for it in another pool is of no use to it any more.
                if turn.owners.place(owner) == Place::Out
                    && let Some(kept) = turn.owners.kept(owner)
                    && kept.container.pool != pool
                    && let Some(other) = pools.get_mut(usize::from(kept.container.pool.0))
                {
                    other.give_up_kept(owner, kept, &mut turn);
                }
                if let Some(pool) = pools.get_mut(usize::from(pool.0)) {
                    pool.acquire(owner, &mut turn);
                }
            }
            Event::Leave { owner } => {
                if matches!(turn.owners.place(owner), Place::Waiting | Place::Returning) {
                    turn.owners.step_out(owner, turn.effects);
                }
            }
            Event::Forgo { owner } => {
                if turn.owners.place(owner) == Place::Out
                    && let Some(kept) = turn.owners.kept(owner)
                {
                    on(pools, kept.container, |pool| pool.give_up_kept(owner, kept, &mut turn));
                    turn.owners.forget_if_out(owner, turn.effects);
                }
            }
            Event::Return { slot, owner, how } => {
                on(pools, slot.container, |pool| pool.take_back(slot, owner, how, &mut turn));
            }
            Event::Adopt { pool, containers, in_use } => {
                if let Some(pool) = pools.get_mut(usize::from(pool.0)) {
                    pool.adopt(containers, in_use, &mut turn);
                }
            }
            Event::ContainerReady { container, slots } => {
                on(pools, container, |pool| pool.container_ready(container, slots, &mut turn));
            }
            Event::ContainerTakenOver { container, slots } => {
                on(pools, container, |pool| pool.container_taken_over(container, slots, &mut turn));
            }
            Event::Reclaim { slot, owner } => {
                turn.owners.admit(owner, now);
                on(pools, slot.container, |pool| pool.reclaim(slot, owner, &mut turn));
                turn.owners.forget_if_out(owner, turn.effects);
            }
            Event::StartFailed { container, jitter } => {
                on(pools, container, |pool| pool.start_failed(container, jitter, &mut turn));
            }
            Event::Draining { container } => on(pools, container, |pool| pool.drain(container, &mut turn)),
            Event::Lost { container, jitter } => on(pools, container, |pool| pool.lose(container, jitter, &mut turn)),
            Event::Stopped { container } => on(pools, container, |pool| pool.stopped(container, &mut turn)),
            Event::SlotReady { slot, kept } => {
                on(pools, slot.container, |pool| pool.slot_ready(slot, kept, &mut turn));
            }
            Event::SlotQuarantined { slot } => on(pools, slot.container, |pool| pool.quarantine(slot, &mut turn)),
            Event::Tick => pools.iter_mut().for_each(|pool| pool.tick(&mut turn)),
            Event::ShutDown => pools.iter_mut().for_each(|pool| pool.shut_down(&mut turn)),
        }
    }

    /// When a [`Event::Tick`] has something to do, if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        self.pools.iter().filter_map(|pool| pool.deadline(&self.owners)).min()
    }

    /// Whether this slot is this trajectory's.
    pub fn has(&self, owner: OwnerId, slot: SlotKey) -> bool {
        let pool = self.pools.get(usize::from(slot.container.pool.0));
        matches!(pool.and_then(|pool| pool.containers.slot(slot)), Some(Slot::Leased { owner: holder, .. }) if holder == owner)
    }

    /// How many wait for a slot of the pool.
    pub fn waiting(&self, pool: PoolKey) -> u32 {
        self.owners.waiting(pool)
    }

    /// Whether this one waits in a line.
    pub fn is_in_line(&self, owner: OwnerId) -> bool {
        self.owners.place(owner) == Place::Waiting
    }

    /// Those who wait for a slot of the pool, the next first.
    pub fn line(&self, pool: PoolKey) -> impl Iterator<Item = OwnerId> + '_ {
        self.owners.line(pool)
    }

    /// Why they wait, if anybody does.
    pub fn shortage(&self, pool: PoolKey, now: Instant) -> Option<Shortage> {
        (self.owners.waiting(pool) > 0).then(|| self.pools[usize::from(pool.0)].shortage(&self.owners, now))
    }

    /// Where a container is in its life; `None` if it is gone.
    pub fn container_state(&self, container: ContainerKey) -> Option<ContainerState> {
        self.pools.get(usize::from(container.pool.0))?.containers.state(container)
    }

    /// The slots of a container; `None` if it is gone.
    pub fn slot_counts(&self, container: ContainerKey) -> Option<SlotCounts> {
        self.pools.get(usize::from(container.pool.0))?.containers.slot_counts_of(container)
    }

    /// The slots of a container in their order, each with the trajectory whose it is; none if it is gone or starts.
    pub fn slots(&self, container: ContainerKey) -> impl Iterator<Item = (SlotState, Option<OwnerId>)> + '_ {
        let pool = self.pools.get(usize::from(container.pool.0));
        pool.into_iter().flat_map(move |pool| pool.containers.slots_of(container)).map(|(_, slot)| slot.state())
    }

    /// How many containers a pool has.
    pub fn container_counts(&self, pool: PoolKey) -> ContainerCounts {
        self.pools[usize::from(pool.0)].containers.counts()
    }

    /// The containers of a pool.
    pub fn containers(&self, pool: PoolKey) -> impl Iterator<Item = ContainerKey> + '_ {
        self.pools[usize::from(pool.0)].containers.keys()
    }
}

fn on(pools: &mut [Pool], container: ContainerKey, act: impl FnOnce(&mut Pool)) {
    if let Some(pool) = pools.get_mut(usize::from(container.pool.0)) {
        act(pool);
    }
}
