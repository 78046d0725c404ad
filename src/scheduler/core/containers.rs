//! The containers of one pool and the states of their slots, with every count and list that follows from them kept up
//! in one place ([`Containers::set`]).
//!
//! ```text
//!           granted            returned              ready
//! Clean ------------> Leased -----+----> Wiping -------------> Clean
//!                       ^         |        ^
//!                       |         |        | somebody needs it
//!                       |         '----> Keeping ----> Kept
//!                       '-------------- the same owner -'
//!
//! any of them, when the agent says that it cannot be used any more: Quarantined, for good
//!
//! of a container that was taken over: Left, and from there Leased, if its owner claims it, or Clean
//! ```

use std::time::Instant;

use super::{
    ContainerKey, OwnerId, PoolKey, SlotKey,
    lists::{Buckets, Links, List},
};

/// Of one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Clean,
    /// `kept`: it came with the owner's files in it.
    Leased {
        owner: OwnerId,
        kept: bool,
    },
    Wiping,
    /// As an earlier executor has left it: being wiped, unless its owner claims it.
    Left,
    /// The agent ends what ran and leaves the files; for nobody, if the owner went elsewhere meanwhile.
    Keeping(Option<OwnerId>),
    Kept(OwnerId),
    Quarantined,
}

/// What a slot is good for just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    Clean,
    Leased,
    /// Being wiped, or about to be kept.
    Resetting,
    /// Free, with its last owner's files.
    Kept,
    Quarantined,
}

impl Slot {
    /// With the trajectory whose slot it is, if it is anybody's.
    pub(super) fn state(self) -> (SlotState, Option<OwnerId>) {
        match self {
            Self::Clean => (SlotState::Clean, None),
            Self::Leased { owner, .. } => (SlotState::Leased, Some(owner)),
            Self::Wiping | Self::Left | Self::Keeping(_) => (SlotState::Resetting, None),
            Self::Kept(owner) => (SlotState::Kept, Some(owner)),
            Self::Quarantined => (SlotState::Quarantined, None),
        }
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    Starting,
    /// Its slots are given away.
    Ready,
    /// Gives nothing new; stopped when the last slot comes back.
    Draining,
    Stopping,
}

/// How many slots are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlotCounts {
    pub clean: u32,
    pub leased: u32,
    /// Being wiped, or about to be kept.
    pub resetting: u32,
    pub kept: u32,
    pub quarantined: u32,
}

impl SlotCounts {
    fn of(&mut self, slot: Slot) -> &mut u32 {
        match slot {
            Slot::Clean => &mut self.clean,
            Slot::Leased { .. } => &mut self.leased,
            Slot::Wiping | Slot::Left | Slot::Keeping(_) => &mut self.resetting,
            Slot::Kept(_) => &mut self.kept,
            Slot::Quarantined => &mut self.quarantined,
        }
    }
}

/// Its first 64 bytes, one cache line, are what events of slots touch.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Container {
    /// Tells it from others that had its place in the table.
    stamp: u32,
    /// None where the place is free.
    state: Option<ContainerState>,
    slots: Box<[Row]>,
    counts: SlotCounts,
    /// The clean slots, each of which names the next. The last that came is given first: what of it the machine
    /// remembers is freshest.
    first_clean: u32,
    /// When it became ready.
    ready_at: Instant,
    /// Since when it has no lease, if it has none.
    idle_since: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    slot: Slot,
    /// Of a clean one; [`NO_SLOT`] after the last.
    next_clean: u32,
}

const NO_SLOT: u32 = u32::MAX;

/// How many containers are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContainerCounts {
    pub starting: u32,
    pub ready: u32,
    pub draining: u32,
    pub stopping: u32,
}

impl ContainerCounts {
    fn of(&mut self, state: ContainerState) -> &mut u32 {
        match state {
            ContainerState::Starting => &mut self.starting,
            ContainerState::Ready => &mut self.ready,
            ContainerState::Draining => &mut self.draining,
            ContainerState::Stopping => &mut self.stopping,
        }
    }

    pub(super) fn present(self) -> u32 {
        self.starting + self.ready + self.draining + self.stopping
    }
}

#[derive(Debug)]
pub(super) struct Containers {
    pool: PoolKey,
    table: Vec<Container>,
    /// Free places in the table.
    vacant: Vec<u32>,
    /// The ready ones, by the number of their clean slots.
    by_clean: Buckets,
    /// The ready ones without a lease, longest idle first.
    idle: List,
    idle_links: Vec<Links>,
    counts: ContainerCounts,
    /// Of the ready ones.
    slots: SlotCounts,
}

impl Containers {
    pub(super) fn new(pool: PoolKey) -> Self {
        Self {
            pool,
            table: Vec::new(),
            vacant: Vec::new(),
            by_clean: Buckets::default(),
            idle: List::EMPTY,
            idle_links: Vec::new(),
            counts: ContainerCounts::default(),
            slots: SlotCounts::default(),
        }
    }

    pub(super) fn counts(&self) -> ContainerCounts {
        self.counts
    }

    /// Of the ready ones.
    pub(super) fn slot_counts(&self) -> SlotCounts {
        self.slots
    }

    /// `None` if it is gone.
    pub(super) fn state(&self, key: ContainerKey) -> Option<ContainerState> {
        self.get(key).and_then(|container| container.state)
    }

    pub(super) fn slot_counts_of(&self, key: ContainerKey) -> Option<SlotCounts> {
        self.get(key).filter(|container| container.state.is_some()).map(|container| container.counts)
    }

    /// When it became ready; meaningless before.
    pub(super) fn ready_at(&self, key: ContainerKey) -> Option<Instant> {
        self.get(key).map(|container| container.ready_at)
    }

    /// `None` if its container is gone or has no such slot.
    pub(super) fn slot(&self, key: SlotKey) -> Option<Slot> {
        self.get(key.container)?.slots.get(key.index as usize).map(|row| row.slot)
    }

    fn get(&self, key: ContainerKey) -> Option<&Container> {
        self.table.get(key.index as usize).filter(|container| container.stamp == key.stamp)
    }

    fn key(&self, index: u32) -> ContainerKey {
        ContainerKey { pool: self.pool, index, stamp: self.table[index as usize].stamp }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = ContainerKey> + '_ {
        let present = |(_, container): &(u32, &Container)| container.state.is_some();
        (0..).zip(&self.table).filter(present).map(|(index, _)| self.key(index))
    }

    pub(super) fn add(&mut self, now: Instant) -> ContainerKey {
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.table.push(Container {
                stamp: 0,
                state: None,
                slots: Box::default(),
                counts: SlotCounts::default(),
                first_clean: NO_SLOT,
                ready_at: now,
                idle_since: now,
            });
            let places = self.table.len();
            self.by_clean.make_rows(places);
            self.idle_links.push(Links::NONE);
            places as u32 - 1
        });
        self.table[index as usize].state = Some(ContainerState::Starting);
        self.counts.starting += 1;
        self.key(index)
    }

    /// A starting one has its slots, all of which are like this one.
    pub(super) fn make_ready(&mut self, key: ContainerKey, slots: u32, slot: Slot, now: Instant) {
        let container = &mut self.table[key.index as usize];
        let next = |index| if index + 1 < slots { index + 1 } else { NO_SLOT };
        container.slots = (0..slots).map(|index| Row { slot, next_clean: next(index) }).collect();
        container.first_clean = if slots > 0 && slot == Slot::Clean { 0 } else { NO_SLOT };
        *container.counts.of(slot) = slots;
        (container.ready_at, container.idle_since) = (now, now);
        self.move_to(key.index, Some(ContainerState::Ready));
    }

    /// To a later state; whatever its slots' owners need to be told, is the caller's business.
    pub(super) fn move_on(&mut self, key: ContainerKey, state: ContainerState) {
        self.move_to(key.index, Some(state));
    }

    /// Takes it out, and frees its place.
    pub(super) fn remove(&mut self, key: ContainerKey) {
        self.move_to(key.index, None);
        let container = &mut self.table[key.index as usize];
        container.stamp = container.stamp.wrapping_add(1);
        container.slots = Box::default();
        container.first_clean = NO_SLOT;
        container.counts = SlotCounts::default();
        self.vacant.push(key.index);
    }

    fn move_to(&mut self, index: u32, state: Option<ContainerState>) {
        let container = &mut self.table[index as usize];
        let before = std::mem::replace(&mut container.state, state);
        let counts = container.counts;
        if let Some(before) = before {
            *self.counts.of(before) -= 1;
        }
        if let Some(state) = state {
            *self.counts.of(state) += 1;
        }
        let (was_ready, is_ready) = (before == Some(ContainerState::Ready), state == Some(ContainerState::Ready));
        if was_ready && !is_ready {
            self.by_clean.remove(counts.clean, index);
            if counts.leased == 0 {
                self.idle.remove(&mut self.idle_links, index);
            }
            self.slots.subtract(counts);
        }
        if is_ready && !was_ready {
            self.by_clean.insert(counts.clean, index);
            if counts.leased == 0 {
                self.idle.push_last(&mut self.idle_links, index);
            }
            self.slots.add(counts);
        }
    }

    /// The clean slot to give next: of the fullest container that has one, so that others can fall idle; or with
    /// `spread` of the emptiest.
    pub(super) fn choose_clean(&self, spread: bool) -> Option<SlotKey> {
        let container = if spread { self.by_clean.greatest() } else { self.by_clean.least() }?;
        Some(SlotKey { container: self.key(container), index: self.table[container as usize].first_clean })
    }

    /// Changes a slot, and every count and list with it. The slot must be there.
    pub(super) fn set(&mut self, key: SlotKey, to: Slot, now: Instant) {
        let index = key.container.index;
        let container = &mut self.table[index as usize];
        let from = std::mem::replace(&mut container.slots[key.index as usize].slot, to);
        let (clean, leased) = (container.counts.clean, container.counts.leased);
        *container.counts.of(from) -= 1;
        *container.counts.of(to) += 1;
        if from == Slot::Clean {
            container.unlink_clean(key.index);
        }
        if to == Slot::Clean {
            container.slots[key.index as usize].next_clean = container.first_clean;
            container.first_clean = key.index;
        }
        if leased > 0 && container.counts.leased == 0 {
            container.idle_since = now;
        }
        if container.state != Some(ContainerState::Ready) {
            return;
        }
        let counts = container.counts;
        *self.slots.of(from) -= 1;
        *self.slots.of(to) += 1;
        if clean != counts.clean {
            self.by_clean.remove(clean, index);
            self.by_clean.insert(counts.clean, index);
        }
        match (leased, counts.leased) {
            (0, 1..) => self.idle.remove(&mut self.idle_links, index),
            (1.., 0) => self.idle.push_last(&mut self.idle_links, index),
            _ => {}
        }
    }

    /// The container that has been idle for longest, and since when.
    pub(super) fn longest_idle(&self) -> Option<(ContainerKey, Instant)> {
        let index = self.idle.first()?;
        Some((self.key(index), self.table[index as usize].idle_since))
    }

    pub(super) fn slots_of(&self, key: ContainerKey) -> impl Iterator<Item = (SlotKey, Slot)> + '_ {
        let slots = self.get(key).map_or(&[][..], |container| &container.slots);
        (0..).zip(slots).map(move |(index, row)| (SlotKey { container: key, index }, row.slot))
    }
}

impl Container {
    /// Takes a slot out of the chain of the clean ones: it is the first, unless it was quarantined.
    fn unlink_clean(&mut self, slot: u32) {
        let after = self.slots[slot as usize].next_clean;
        let mut at = self.first_clean;
        if at == slot {
            self.first_clean = after;
            return;
        }
        while let Some(row) = self.slots.get_mut(at as usize) {
            at = row.next_clean;
            if at == slot {
                row.next_clean = after;
            }
        }
    }
}

impl SlotCounts {
    fn add(&mut self, other: Self) {
        self.clean += other.clean;
        self.leased += other.leased;
        self.resetting += other.resetting;
        self.kept += other.kept;
        self.quarantined += other.quarantined;
    }

    fn subtract(&mut self, other: Self) {
        self.clean -= other.clean;
        self.leased -= other.leased;
        self.resetting -= other.resetting;
        self.kept -= other.kept;
        self.quarantined -= other.quarantined;
    }
}
