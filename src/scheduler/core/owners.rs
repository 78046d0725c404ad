//! Trajectories as the core sees them: where each stands, the lines of those that wait, and the lists of those whose
//! files are kept.

use std::{collections::HashMap, time::Instant};

use super::{
    Effect, OwnerId, PoolKey, SlotKey,
    lists::{Links, List, Table},
};

/// Where a trajectory stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Out,
    /// In a line.
    Waiting,
    /// It came back for the files that its agent is about to keep: it waits for that one slot, in no line.
    Returning,
    Holding,
}

/// One of a million: two of them fill a cache line, and none lies across two.
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
struct Owner {
    /// When it joined the line; of one that waits.
    since: Instant,
    links: Links,
    /// Whose line it is in; of one that waits.
    pool: PoolKey,
    place: Place,
    /// It has a row in `kept`.
    has_kept: bool,
}

impl Table for Vec<Owner> {
    fn links(&self, row: u32) -> Links {
        self[row as usize].links
    }

    fn links_mut(&mut self, row: u32) -> &mut Links {
        &mut self[row as usize].links
    }
}

/// All trajectories that wait, hold a slot or have one kept. Every other one is forgotten, so that its number can be
/// given to another.
///
/// One that waits in a line has nothing kept: it would have been given that. So one pair of links serves both kinds of
/// list.
#[derive(Debug)]
pub(super) struct Owners {
    table: Vec<Owner>,
    pools: Vec<Lists>,
    /// The free slot that has a trajectory's files, or is about to be free with them.
    kept: HashMap<OwnerId, SlotKey>,
}

/// Of one pool.
#[derive(Debug, Clone, Copy)]
struct Lists {
    /// Those that wait.
    line: List,
    /// Those whose kept slot others may be given, the oldest first.
    kept: List,
}

impl Owners {
    pub(super) fn new(pools: usize) -> Self {
        let lists = Lists { line: List::EMPTY, kept: List::EMPTY };
        Self { table: Vec::new(), pools: vec![lists; pools], kept: HashMap::new() }
    }

    /// Makes sure that this one has a row.
    pub(super) fn admit(&mut self, owner: OwnerId, now: Instant) {
        let rows = owner.0 as usize + 1;
        if self.table.len() < rows {
            let (links, pool, place) = (Links::NONE, PoolKey(0), Place::Out);
            self.table.resize(rows, Owner { since: now, links, pool, place, has_kept: false });
        }
    }

    pub(super) fn place(&self, owner: OwnerId) -> Place {
        self.table.get(owner.0 as usize).map_or(Place::Out, |row| row.place)
    }

    pub(super) fn kept(&self, owner: OwnerId) -> Option<SlotKey> {
        let row = self.table.get(owner.0 as usize)?;
        if row.has_kept { self.kept.get(&owner).copied() } else { None }
    }

    fn lists(&self, pool: PoolKey) -> &Lists {
        &self.pools[usize::from(pool.0)]
    }

    pub(super) fn waiting(&self, pool: PoolKey) -> u32 {
        self.lists(pool).line.len()
    }

    pub(super) fn line(&self, pool: PoolKey) -> impl Iterator<Item = OwnerId> + '_ {
        self.lists(pool).line.iter(&self.table).map(OwnerId)
    }

    /// Who has waited for longest.
    pub(super) fn next(&self, pool: PoolKey) -> Option<OwnerId> {
        self.lists(pool).line.first().map(OwnerId)
    }

    /// Since when the one who has waited for longest waits.
    pub(super) fn waiting_since(&self, pool: PoolKey) -> Option<Instant> {
        self.lists(pool).line.first().map(|row| self.table[row as usize].since)
    }

    /// The one whose files have been kept for longest.
    pub(super) fn oldest_kept(&self, pool: PoolKey) -> Option<OwnerId> {
        self.lists(pool).kept.first().map(OwnerId)
    }

    /// To the end of the line.
    pub(super) fn join(&mut self, owner: OwnerId, pool: PoolKey, now: Instant) {
        let row = &mut self.table[owner.0 as usize];
        (row.place, row.pool, row.since) = (Place::Waiting, pool, now);
        self.pools[usize::from(pool.0)].line.push_last(&mut self.table, owner.0);
    }

    /// It waits for what is about to be kept for it.
    pub(super) fn await_kept(&mut self, owner: OwnerId) {
        self.put(owner, Place::Returning);
    }

    /// Out of the line, or off the slot.
    pub(super) fn step_out(&mut self, owner: OwnerId, effects: &mut Vec<Effect>) {
        self.put(owner, Place::Out);
        self.forget_if_out(owner, effects);
    }

    /// Off the slot, which is kept for it next.
    pub(super) fn step_aside(&mut self, owner: OwnerId) {
        self.put(owner, Place::Out);
    }

    /// Onto a slot.
    pub(super) fn take(&mut self, owner: OwnerId) {
        self.put(owner, Place::Holding);
    }

    fn put(&mut self, owner: OwnerId, place: Place) {
        let row = &mut self.table[owner.0 as usize];
        let (before, pool) = (std::mem::replace(&mut row.place, place), row.pool);
        if before == Place::Waiting {
            self.pools[usize::from(pool.0)].line.remove(&mut self.table, owner.0);
        }
    }

    /// A slot will be kept, once its agent says so.
    pub(super) fn reserve_kept(&mut self, owner: OwnerId, slot: SlotKey) {
        self.table[owner.0 as usize].has_kept = true;
        self.kept.insert(owner, slot);
    }

    /// A slot is kept and free: it may be given to others, wiped, from now on. Its owner must not wait.
    pub(super) fn offer_kept(&mut self, owner: OwnerId, slot: SlotKey) {
        self.reserve_kept(owner, slot);
        self.pools[usize::from(slot.container.pool.0)].kept.push_last(&mut self.table, owner.0);
    }

    /// Nothing is kept for it any more; `offered` if others might have been given it.
    pub(super) fn drop_kept(&mut self, owner: OwnerId, offered: bool, effects: &mut Vec<Effect>) {
        self.take_kept(owner, offered);
        self.forget_if_out(owner, effects);
    }

    /// As [`Self::drop_kept`], for one that takes a slot or joins a line next.
    pub(super) fn take_kept(&mut self, owner: OwnerId, offered: bool) {
        self.table[owner.0 as usize].has_kept = false;
        if let Some(slot) = self.kept.remove(&owner)
            && offered
        {
            self.pools[usize::from(slot.container.pool.0)].kept.remove(&mut self.table, owner.0);
        }
    }

    pub(super) fn forget_if_out(&self, owner: OwnerId, effects: &mut Vec<Effect>) {
        let row = &self.table[owner.0 as usize];
        if row.place == Place::Out && !row.has_kept {
            effects.push(Effect::Forget(owner));
        }
    }
}
