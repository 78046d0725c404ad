//! A world around the core: agents, containers and trajectories that do whatever comes to a random mind, and a plain
//! model of what they know, against which everything that the core does is checked.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::super::*;
use crate::id::PoolName;

const OWNERS: u32 = 12;
const POOLS: u16 = 2;

/// A number that was given to another trajectory since is another trajectory.
type Person = (OwnerId, u32);

#[derive(Debug, Clone, Default)]
struct ModelSlot {
    holder: Option<OwnerId>,
    /// Whose files it has, or had until it was given the last time.
    files: Option<Person>,
    files_before: Option<Person>,
    /// The release that its agent has not answered: whether to keep the files.
    released: Option<bool>,
    quarantined: bool,
    /// Being kept for nobody: whose files these are went elsewhere.
    disowned: bool,
    /// As an earlier executor has left it, and being wiped unless it is claimed.
    left: bool,
}

#[derive(Debug, Clone)]
struct ModelContainer {
    state: ContainerState,
    /// It ran before it was started.
    adopted: bool,
    slots: Vec<ModelSlot>,
}

struct World {
    core: Core,
    rules: Vec<PoolConfig>,
    now: Instant,
    lines: Vec<VecDeque<(OwnerId, Instant)>>,
    /// Those who wait for the files that their agent is about to keep.
    returning: BTreeMap<OwnerId, PoolKey>,
    holding: BTreeMap<OwnerId, SlotKey>,
    containers: BTreeMap<ContainerKey, ModelContainer>,
    gone: Vec<ContainerKey>,
    returned: Vec<(SlotKey, OwnerId)>,
    known: BTreeSet<OwnerId>,
    incarnation: BTreeMap<OwnerId, u32>,
    /// The next starts are of so many that run already.
    adopting: u32,
    closed: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Acquire { pool: u16, owner: u32 },
    Leave(u32),
    Forgo(u32),
    Return { pick: u8, how: Return },
    ReturnAgain { pick: u8, how: Return },
    Started { pick: u8, slots: u32 },
    StartFailed { pick: u8, jitter: u32 },
    Answer { pick: u8 },
    AnswerWrongly { pick: u8 },
    AnswerUnasked { pick: u8, kept: bool },
    Quarantine { pick: u8 },
    Lose { pick: u8, jitter: u32 },
    Drain { pick: u8 },
    Stopped { pick: u8 },
    Adopt { pool: u16, containers: u32, in_use: u32 },
    TakenOver { pick: u8, slots: u32 },
    Reclaim { pick: u8, owner: u32 },
    ReclaimWrongly { pick: u8, owner: u32 },
    Ghost { pick: u8, what: u8 },
    Pass { millis: u64 },
    ShutDown,
}

fn step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![2 => Just(Return::Wipe), 2 => Just(Return::Keep), 1 => Just(Return::Unused)].boxed();
    let pick = any::<u8>();
    prop_oneof![
        300 => (0..POOLS, 0..OWNERS).prop_map(|(pool, owner)| Step::Acquire { pool: pool * (owner % 4 / 3) as u16, owner }),
        60 => (0..OWNERS).prop_map(Step::Leave),
        60 => (0..OWNERS).prop_map(Step::Forgo),
        250 => (pick, how.clone()).prop_map(|(pick, how)| Step::Return { pick, how }),
        20 => (pick, how).prop_map(|(pick, how)| Step::ReturnAgain { pick, how }),
        200 => (pick, 0_u32..4).prop_map(|(pick, slots)| Step::Started { pick, slots: slots.max(slots / 3) }),
        30 => (pick, any::<u32>()).prop_map(|(pick, jitter)| Step::StartFailed { pick, jitter }),
        250 => pick.prop_map(|pick| Step::Answer { pick }),
        10 => pick.prop_map(|pick| Step::AnswerWrongly { pick }),
        20 => (pick, any::<bool>()).prop_map(|(pick, kept)| Step::AnswerUnasked { pick, kept }),
        15 => pick.prop_map(|pick| Step::Quarantine { pick }),
        20 => (pick, any::<u32>()).prop_map(|(pick, jitter)| Step::Lose { pick, jitter }),
        15 => pick.prop_map(|pick| Step::Drain { pick }),
        80 => pick.prop_map(|pick| Step::Stopped { pick }),
        10 => (0..POOLS, 1_u32..4, 0_u32..4)
            .prop_map(|(pool, containers, in_use)| Step::Adopt { pool, containers, in_use: in_use.min(containers) }),
        60 => (pick, 0_u32..4).prop_map(|(pick, slots)| Step::TakenOver { pick, slots }),
        60 => (pick, 0..OWNERS).prop_map(|(pick, owner)| Step::Reclaim { pick, owner }),
        10 => (pick, 0..OWNERS).prop_map(|(pick, owner)| Step::ReclaimWrongly { pick, owner }),
        20 => (pick, 0_u8..5).prop_map(|(pick, what)| Step::Ghost { pick, what }),
        100 => (0_u64..4000).prop_map(|millis| Step::Pass { millis }),
        1 => Just(Step::ShutDown),
    ]
}

fn rules() -> impl Strategy<Value = PoolConfig> {
    (1_u32..4, 0_u32..3, 0_u32..4, 1_u32..4, any::<bool>(), 0_usize..8).prop_map(
        |(slots, min, more, starting, spread, line)| PoolConfig {
            name: PoolName::new(""),
            slots_per_container: slots,
            min_containers: min,
            max_containers: (min + more).max(1),
            acquire_timeout: Duration::from_secs(5),
            scale_down_after: Duration::from_secs(3),
            max_starting: starting,
            start_timeout: Duration::from_secs(30),
            spread,
            max_waiting: line,
        },
    )
}

fn pick<T>(from: impl IntoIterator<Item = T>, pick: u8) -> Option<T> {
    let mut all: Vec<T> = from.into_iter().collect();
    if all.is_empty() { None } else { Some(all.swap_remove(usize::from(pick) % all.len())) }
}

impl World {
    fn new(rules: Vec<PoolConfig>) -> Self {
        Self {
            core: Core::new(rules.clone()),
            lines: rules.iter().map(|_| VecDeque::new()).collect(),
            rules,
            now: Instant::now(),
            returning: BTreeMap::new(),
            holding: BTreeMap::new(),
            containers: BTreeMap::new(),
            gone: Vec::new(),
            returned: Vec::new(),
            known: BTreeSet::new(),
            incarnation: BTreeMap::new(),
            adopting: 0,
            closed: false,
        }
    }

    fn person(&self, owner: OwnerId) -> Person {
        (owner, self.incarnation.get(&owner).copied().unwrap_or(0))
    }

    fn slot(&mut self, key: SlotKey) -> Option<&mut ModelSlot> {
        self.containers.get_mut(&key.container)?.slots.get_mut(key.index as usize)
    }

    fn slots(&self) -> impl Iterator<Item = (SlotKey, &ModelSlot)> {
        self.containers.iter().flat_map(|(container, model)| {
            (0..).zip(&model.slots).map(|(index, slot)| (SlotKey { container: *container, index }, slot))
        })
    }

    fn in_state(&self, state: ContainerState) -> Vec<ContainerKey> {
        self.containers.iter().filter(|(_, model)| model.state == state).map(|(key, _)| *key).collect()
    }

    fn count(&self, pool: PoolKey, states: &[ContainerState]) -> u32 {
        let is = |(key, model): &(&ContainerKey, &ModelContainer)| key.pool() == pool && states.contains(&model.state);
        self.containers.iter().filter(is).count() as u32
    }

    fn count_adopted(&self, pool: PoolKey) -> usize {
        self.containers.iter().filter(|(key, model)| key.pool() == pool && model.adopted).count()
    }

    /// It neither waits nor holds a slot, and nothing is kept for it.
    fn is_out(&self, owner: OwnerId) -> bool {
        let person = Some(self.person(owner));
        let ready = |key: SlotKey| self.containers[&key.container].state == ContainerState::Ready;
        let kept = self.slots().any(|(key, slot)| {
            let kept = slot.holder.is_none() && slot.released != Some(false) && !slot.quarantined && !slot.disowned;
            slot.files == person && kept && ready(key)
        });
        let waits = self.lines.iter().flatten().any(|(other, _)| *other == owner);
        !kept && !waits && !self.holding.contains_key(&owner) && !self.returning.contains_key(&owner)
    }

    /// What is being kept for this one will be wiped.
    fn disown(&mut self, person: Person) {
        let slots = self.containers.values_mut().flat_map(|container| &mut container.slots);
        for slot in slots.filter(|slot| slot.files == Some(person) && slot.released == Some(true)) {
            slot.disowned = true;
        }
    }

    /// One too many gives nothing.
    fn has_started(&mut self, container: ContainerKey, slots: u32, slot: ModelSlot) {
        let pool = container.pool();
        let useful = self.count(pool, &[ContainerState::Starting, ContainerState::Ready]);
        let too_many = useful > self.rules[usize::from(pool.0)].max_containers;
        let model = self.containers.get_mut(&container).expect("it is there");
        model.state = if too_many && slots > 0 { ContainerState::Draining } else { ContainerState::Ready };
        model.slots = vec![slot; slots as usize];
    }

    fn remove(&mut self, container: ContainerKey) {
        if self.containers.remove(&container).is_some() {
            self.holding.retain(|_, slot| slot.container != container);
            self.gone.push(container);
        }
    }

    fn act(&mut self, step: Step) {
        match step {
            Step::Acquire { pool, owner } => {
                let (pool, owner) = (PoolKey(pool), OwnerId(owner));
                let waits = self.lines.iter().flatten().any(|(other, _)| *other == owner);
                if !waits && !self.holding.contains_key(&owner) && !self.returning.contains_key(&owner) {
                    let person = self.person(owner);
                    let ready = |key: SlotKey| self.containers[&key.container].state == ContainerState::Ready;
                    let about_to_be_kept = self.slots().any(|(key, slot)| {
                        let his = slot.released == Some(true) && slot.files == Some(person) && !slot.disowned;
                        his && key.container.pool() == pool && ready(key)
                    });
                    let resetting = self
                        .slots()
                        .filter(|(key, slot)| key.container.pool() == pool && ready(*key) && slot.released.is_some())
                        .count();
                    if about_to_be_kept && self.lines[usize::from(pool.0)].len() < resetting && !self.closed {
                        self.returning.insert(owner, pool);
                    } else {
                        self.lines[usize::from(pool.0)].push_back((owner, self.now));
                        self.disown(person);
                    }
                }
                self.known.insert(owner);
                self.tell(Event::Acquire { pool, owner });
                // Whoever loses what was kept for him was let in before, so that he joins a full line too.
                let line = &self.lines[usize::from(pool.0)];
                let joined = !waits && line.back().is_some_and(|(last, _)| *last == owner);
                assert!(!joined || line.len() <= self.rules[usize::from(pool.0)].max_waiting, "the line is full");
            }
            Step::Leave(owner) => {
                let owner = OwnerId(owner);
                self.lines.iter_mut().for_each(|line| line.retain(|(other, _)| *other != owner));
                self.returning.remove(&owner);
                self.tell(Event::Leave { owner });
            }
            Step::Forgo(owner) => self.tell(Event::Forgo { owner: OwnerId(owner) }),
            Step::Return { pick: which, how } => {
                let Some((owner, slot)) = pick(self.holding.clone(), which) else { return };
                self.holding.remove(&owner);
                self.returned.push((slot, owner));
                let model = self.slot(slot).expect("a held slot is there");
                model.holder = None;
                if how == Return::Unused {
                    model.files = model.files_before;
                }
                self.tell(Event::Return { slot, owner, how });
            }
            Step::ReturnAgain { pick: which, how } => {
                let Some((slot, owner)) = pick(self.returned.clone(), which) else { return };
                if self.holding.get(&owner) != Some(&slot) {
                    self.tell(Event::Return { slot, owner, how });
                }
            }
            Step::Started { pick: which, slots } => {
                let Some(container) = pick(self.in_state(ContainerState::Starting), which) else { return };
                self.has_started(container, slots, ModelSlot::default());
                self.tell(Event::ContainerReady { container, slots });
            }
            Step::StartFailed { pick: which, jitter } => {
                let mut candidates = self.in_state(ContainerState::Starting);
                candidates.extend(self.in_state(ContainerState::Stopping));
                let Some(container) = pick(candidates, which) else { return };
                self.remove(container);
                self.tell(Event::StartFailed { container, jitter });
            }
            Step::Answer { pick: which } => {
                let released = self.slots().filter(|(_, slot)| slot.released.is_some()).map(|(key, _)| key);
                let Some(slot) = pick(released.collect::<Vec<_>>(), which) else { return };
                self.answer(slot);
            }
            Step::AnswerWrongly { pick: which } => {
                let released = self.slots().filter(|(_, slot)| slot.released.is_some()).map(|(key, _)| key);
                let Some(slot) = pick(released.collect::<Vec<_>>(), which) else { return };
                let ready = self.containers[&slot.container].state == ContainerState::Ready;
                let model = self.slot(slot).expect("it is there");
                let keep = model.released.take().expect("it was released");
                // A container that gives nothing does not listen.
                model.left &= !ready;
                if keep {
                    model.files = None;
                } else if ready {
                    model.quarantined = true;
                }
                self.tell(Event::SlotReady { slot, kept: !keep });
            }
            Step::AnswerUnasked { pick: which, kept } => {
                let quiet = self.slots().filter(|(_, slot)| slot.released.is_none()).map(|(key, _)| key);
                let Some(slot) = pick(quiet.collect::<Vec<_>>(), which) else { return };
                self.tell(Event::SlotReady { slot, kept });
            }
            Step::Quarantine { pick: which } => {
                let Some(slot) = pick(self.slots().map(|(key, _)| key).collect::<Vec<_>>(), which) else { return };
                let model = self.slot(slot).expect("it is there");
                if model.holder.is_none() {
                    (model.quarantined, model.released, model.left) = (true, None, false);
                }
                self.tell(Event::SlotQuarantined { slot });
            }
            Step::Lose { pick: which, jitter } => {
                let Some(container) = pick(self.containers.keys().copied().collect::<Vec<_>>(), which) else { return };
                if matches!(self.containers[&container].state, ContainerState::Ready | ContainerState::Draining) {
                    self.remove(container);
                }
                self.tell(Event::Lost { container, jitter });
            }
            Step::Drain { pick: which } => {
                let Some(container) = pick(self.containers.keys().copied().collect::<Vec<_>>(), which) else { return };
                let model = self.containers.get_mut(&container).expect("it is there");
                if model.state == ContainerState::Ready {
                    model.state = ContainerState::Draining;
                }
                self.tell(Event::Draining { container });
            }
            Step::Stopped { pick: which } => {
                let Some(container) = pick(self.in_state(ContainerState::Stopping), which) else { return };
                self.remove(container);
                self.tell(Event::Stopped { container });
            }
            Step::Adopt { pool, containers, in_use } => {
                let pool = PoolKey(pool);
                let adopted = |world: &Self| world.count_adopted(pool);
                let before = (self.containers.keys().filter(|key| key.pool() == pool).count() as u32, adopted(self));
                let places = self.rules[usize::from(pool.0)].max_containers.saturating_sub(before.0);
                let taken = if self.closed { 0 } else { containers.min(places.max(in_use)) };
                self.adopting = taken;
                self.tell(Event::Adopt { pool, containers, in_use });
                assert_eq!(adopted(self), before.1 + taken as usize, "all in use, and as many as there are places for");
            }
            Step::TakenOver { pick: which, slots } => {
                let Some(container) = pick(self.in_state(ContainerState::Starting), which) else { return };
                let left = ModelSlot { released: Some(false), left: true, ..ModelSlot::default() };
                self.has_started(container, slots, left);
                self.tell(Event::ContainerTakenOver { container, slots });
            }
            Step::Reclaim { pick: which, owner } => {
                let owner = OwnerId(owner);
                let serves = |key: &SlotKey| {
                    matches!(self.containers[&key.container].state, ContainerState::Ready | ContainerState::Draining)
                };
                let left = self.slots().filter(|(key, slot)| slot.left && serves(key)).map(|(key, _)| key);
                let Some(slot) = pick(left.collect::<Vec<_>>(), which) else { return };
                let (free, person) = (self.is_out(owner), self.person(owner));
                if free {
                    let reclaimed = ModelSlot {
                        holder: Some(owner),
                        files: Some(person),
                        files_before: Some(person),
                        ..ModelSlot::default()
                    };
                    *self.slot(slot).expect("it is there") = reclaimed;
                    self.holding.insert(owner, slot);
                }
                self.known.insert(owner);
                self.tell(Event::Reclaim { slot, owner });
                assert_eq!(self.core.has(owner, slot), free);
            }
            Step::ReclaimWrongly { pick: which, owner } => {
                let owner = OwnerId(owner);
                let others = self.slots().filter(|(_, slot)| !slot.left).map(|(key, _)| key).collect::<Vec<_>>();
                let Some(slot) = pick(others, which).filter(|slot| self.holding.get(&owner) != Some(slot)) else {
                    return;
                };
                self.known.insert(owner);
                self.tell(Event::Reclaim { slot, owner });
                assert!(!self.core.has(owner, slot), "it is not as an earlier executor has left it");
            }
            Step::Ghost { pick: which, what } => {
                let Some(container) = pick(self.gone.clone(), which) else { return };
                let slot = SlotKey { container, index: 0 };
                self.tell(match what {
                    0 => Event::Lost { container, jitter: 0 },
                    1 => Event::ContainerReady { container, slots: 3 },
                    2 => Event::StartFailed { container, jitter: 0 },
                    3 => Event::SlotReady { slot, kept: false },
                    _ => Event::Stopped { container },
                });
            }
            Step::Pass { millis } => {
                self.now += Duration::from_millis(millis);
                self.tell(Event::Tick);
                assert!(self.core.deadline().is_none_or(|at| at > self.now), "a tick left something for now");
            }
            Step::ShutDown => {
                self.closed = true;
                self.tell(Event::ShutDown);
            }
        }
    }

    /// The agent does as it was told.
    fn answer(&mut self, slot: SlotKey) {
        let ready = self.containers[&slot.container].state == ContainerState::Ready;
        let model = self.slot(slot).expect("it is there");
        let kept = model.released.take().expect("it was released");
        model.left &= !ready;
        if !kept {
            model.files = None;
        }
        self.tell(Event::SlotReady { slot, kept });
    }

    fn tell(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.core.handle(event, self.now, &mut effects);
        for effect in effects {
            self.carry_out(effect, event);
        }
        // Whose files could not be kept stands in line from then on.
        for pool in (0..POOLS).map(PoolKey) {
            let line: Vec<_> = self.core.line(pool).collect();
            for owner in line {
                if self.returning.remove(&owner) == Some(pool) {
                    self.lines[usize::from(pool.0)].push_back((owner, self.now));
                }
            }
        }
        self.check();
    }

    fn carry_out(&mut self, effect: Effect, event: Event) {
        match effect {
            Effect::Grant { owner, slot, kept } => {
                let pool = slot.container.pool();
                if self.returning.remove(&owner).is_some() {
                    let line = &mut self.lines[usize::from(pool.0)];
                    if kept { line.push_front((owner, self.now)) } else { line.push_back((owner, self.now)) }
                }
                let line = &mut self.lines[usize::from(pool.0)];
                let position = line.iter().position(|(other, _)| *other == owner).expect("it waits");
                assert!(kept || position == 0, "out of turn");
                line.remove(position);
                let person = self.person(owner);
                assert_eq!(self.holding.insert(owner, slot), None, "it has two slots");
                assert_eq!(self.containers[&slot.container].state, ContainerState::Ready);
                let model = self.slot(slot).expect("there is such a slot");
                assert_eq!((model.holder, model.released, model.quarantined), (None, None, false));
                assert_eq!(model.files, kept.then_some(person), "somebody else's files");
                (model.holder, model.disowned) = (Some(owner), false);
                (model.files_before, model.files) = (model.files, Some(person));
            }
            Effect::Fail { owner, failure } => {
                if failure == Failure::HoldsOne {
                    return assert!(self.holding.contains_key(&owner));
                }
                if let Some(pool) = self.returning.remove(&owner) {
                    self.lines[usize::from(pool.0)].push_back((owner, self.now));
                }
                let (pool, position) = (0..POOLS)
                    .find_map(|pool| {
                        let line = &self.lines[usize::from(pool)];
                        Some((PoolKey(pool), line.iter().position(|(other, _)| *other == owner)?))
                    })
                    .expect("it waits");
                let rules = &self.rules[usize::from(pool.0)];
                let line = &mut self.lines[usize::from(pool.0)];
                let (_, since) = line.remove(position).expect("it is there");
                match failure {
                    Failure::TimedOut => assert!(self.now >= since + rules.acquire_timeout && position == 0),
                    Failure::LineFull => {
                        assert!(line.len() >= rules.max_waiting && position == line.len());
                        assert!(matches!(event, Event::Acquire { .. }));
                    }
                    Failure::StartFailed { retry_after } => {
                        assert!(retry_after > Duration::ZERO);
                        assert_eq!(self.count(pool, &[ContainerState::Starting, ContainerState::Ready]), 0);
                    }
                    Failure::ShuttingDown => assert!(self.closed),
                    Failure::HoldsOne => unreachable!("dealt with above"),
                }
            }
            Effect::Release { slot, keep } => {
                let model = self.slot(slot).expect("there is such a slot");
                assert_eq!((model.holder, model.released, model.quarantined), (None, None, false));
                (model.released, model.disowned) = (Some(keep), false);
            }
            Effect::Start { container } => {
                assert!(!self.closed);
                let adopted = self.adopting > 0;
                self.adopting = self.adopting.saturating_sub(1);
                let pool = container.pool();
                let there = self.containers.keys().filter(|key| key.pool() == pool).count() as u32;
                assert!(adopted || there < self.rules[usize::from(pool.0)].max_containers, "one too many is asked for");
                let model = ModelContainer { state: ContainerState::Starting, adopted, slots: Vec::new() };
                assert!(self.containers.insert(container, model).is_none(), "a key of its own");
                assert!(!self.gone.contains(&container), "a key of its own");
            }
            Effect::Stop { container } => {
                let pool = container.pool();
                let model = self.containers.get_mut(&container).expect("it is there");
                let before = std::mem::replace(&mut model.state, ContainerState::Stopping);
                assert_ne!(before, ContainerState::Stopping, "it is stopped once");
                let usable = model.slots.iter().any(|slot| !slot.quarantined);
                if !self.closed {
                    assert!(model.slots.iter().all(|slot| slot.holder.is_none()), "somebody uses it");
                    if before == ContainerState::Ready && usable {
                        let left = self.count(pool, &[ContainerState::Starting, ContainerState::Ready]);
                        assert!(left >= self.rules[usize::from(pool.0)].min_containers);
                        assert!(self.lines[usize::from(pool.0)].is_empty());
                    }
                }
            }
            Effect::Forget(owner) => {
                assert!(self.known.remove(&owner), "forgotten once");
                assert!(!self.holding.contains_key(&owner));
                assert!(self.lines.iter().flatten().all(|(other, _)| *other != owner));
                assert!(!self.returning.contains_key(&owner));
                *self.incarnation.entry(owner).or_default() += 1;
            }
        }
    }

    fn check(&self) {
        for (pool, rules) in (0..).map(PoolKey).zip(&self.rules) {
            let line = &self.lines[usize::from(pool.0)];
            assert!(self.core.line(pool).eq(line.iter().map(|(owner, _)| *owner)), "the line is in order of arrival");
            assert_eq!(self.core.waiting(pool) as usize, line.len());
            self.check_containers(pool, rules, line.len() as u32);
            if let Some((_, since)) = line.front() {
                assert!(self.core.deadline().is_some_and(|at| at <= *since + rules.acquire_timeout));
            }
        }
    }

    fn check_containers(&self, pool: PoolKey, rules: &PoolConfig, waiting: u32) {
        let mut ready = SlotCounts::default();
        for (key, model) in self.containers.iter().filter(|(key, _)| key.pool() == pool) {
            assert_eq!(self.core.container_state(*key), Some(model.state));
            if model.state != ContainerState::Ready {
                continue;
            }
            let mut counts = SlotCounts::default();
            for slot in &model.slots {
                *match (slot.quarantined, slot.holder, slot.released, slot.files) {
                    (true, ..) => &mut counts.quarantined,
                    (false, Some(_), ..) => &mut counts.leased,
                    (false, None, Some(_), _) => &mut counts.resetting,
                    (false, None, None, Some(_)) => &mut counts.kept,
                    (false, None, None, None) => &mut counts.clean,
                } += 1;
            }
            assert_eq!(self.core.slot_counts(*key), Some(counts), "a slot is lost or made up");
            ready.clean += counts.clean;
            ready.resetting += counts.resetting;
            ready.kept += counts.kept;
        }
        use ContainerState::{Draining, Ready, Starting, Stopping};
        let (starting, present) =
            (self.count(pool, &[Starting]), self.count(pool, &[Starting, Ready, Draining, Stopping]));
        assert_eq!(self.core.containers(pool).count() as u32, present);
        assert!(present <= rules.max_containers || self.count_adopted(pool) > 0);
        assert!(self.count(pool, &[Ready]) <= rules.max_containers, "one too many gives slots");
        let asked = |key: &&ContainerKey| key.pool() == pool && !self.containers[*key].adopted;
        let asked = self.in_state(Starting).iter().filter(asked).count();
        assert!(asked <= rules.max_starting as usize, "what runs already does not count, and holds up what does not");
        if self.closed {
            return;
        }
        assert!(waiting == 0 || ready.clean == 0, "somebody waits and a slot is free");
        assert!(waiting <= ready.resetting || ready.kept == 0, "somebody waits and a slot could be wiped");
        let may_start = starting < rules.max_starting && present < rules.max_containers;
        if may_start && !self.core.pools[usize::from(pool.0)].is_backing_off(self.now) && !self.core_is_fresh(pool) {
            assert!(waiting <= ready.resetting + starting * rules.slots_per_container, "a start is due");
            assert!(self.count(pool, &[Starting, Ready]) >= rules.min_containers, "a start is due");
        }
    }

    /// Nothing starts before the first event of a pool.
    fn core_is_fresh(&self, pool: PoolKey) -> bool {
        self.containers.keys().chain(&self.gone).all(|key| key.pool() != pool)
    }

    /// Everybody behaves from now on: whoever waits is served or told why not, and nothing is left at the end.
    fn finish(mut self) {
        for _ in 0..200 {
            while let Some(container) = self.in_state(ContainerState::Starting).first() {
                let container = *container;
                let slots = self.rules[usize::from(container.pool().0)].slots_per_container;
                self.has_started(container, slots, ModelSlot::default());
                self.tell(Event::ContainerReady { container, slots });
            }
            for slot in self.slots().filter(|(_, slot)| slot.released.is_some()).map(|(key, _)| key).collect::<Vec<_>>()
            {
                if self.slot(slot).is_some_and(|slot| slot.released.is_some()) {
                    self.answer(slot);
                }
            }
            while !self.holding.is_empty() {
                self.act(Step::Return { pick: 0, how: Return::Wipe });
            }
            while !self.in_state(ContainerState::Stopping).is_empty() {
                self.act(Step::Stopped { pick: 0 });
            }
            self.act(Step::Pass { millis: 1 });
            if self.lines.iter().any(|line| !line.is_empty()) && self.in_state(ContainerState::Starting).is_empty() {
                self.act(Step::Pass { millis: 100 });
            }
        }
        assert!(self.lines.iter().all(VecDeque::is_empty) && self.returning.is_empty(), "somebody waits for ever");
        if !self.closed {
            self.act(Step::ShutDown);
        }
        while !self.in_state(ContainerState::Stopping).is_empty() {
            self.act(Step::Stopped { pick: 0 });
        }
        assert!(self.containers.is_empty() && self.core.deadline().is_none());
        assert!(self.known.is_empty(), "{:?} were never forgotten", self.known);
        for owner in (0..OWNERS).map(OwnerId) {
            self.lines[0].push_back((owner, self.now));
            self.known.insert(owner);
            self.tell(Event::Acquire { pool: PoolKey(0), owner });
            assert!(!self.known.contains(&owner), "nobody is let in any more");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn holds_over_any_history(
        rules in prop::collection::vec(rules(), usize::from(POOLS)),
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let mut world = World::new(rules);
        for step in steps {
            world.act(step);
        }
        world.finish();
    }
}
