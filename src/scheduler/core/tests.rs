//! The core, driven at random against a model of the world, and by hand where a rule is easier shown.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::*;
use crate::id::PoolName;

const SLOTS: u32 = 2;

fn config() -> PoolConfig {
    PoolConfig {
        name: PoolName::new(""),
        slots_per_container: SLOTS,
        min_containers: 1,
        max_containers: 3,
        acquire_timeout: Duration::from_secs(30),
        scale_down_after: Duration::from_secs(60),
        max_starting: 2,
        start_timeout: Duration::from_secs(30),
        spread: false,
        max_waiting: 6,
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Life {
    Starting,
    Ready,
    Draining,
    Stopping,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Use {
    Empty,
    Leased(u8),
    Kept(u8),
    Wiping,
    Broken,
}

/// The world as it would be if the effects were carried out. It panics where one must not be.
struct World {
    core: Core<u8>,
    start: Instant,
    at: Duration,
    containers: Vec<(ContainerKey, Life, Vec<Use>)>,
    /// Everything that was ever started, for news that come too late.
    all: Vec<ContainerKey>,
    line: VecDeque<(Ticket, u8)>,
    ending: bool,
}

impl World {
    fn new(config: PoolConfig) -> Self {
        let core = Core::new(config);
        let mut world = Self {
            core,
            start: Instant::now(),
            at: Duration::ZERO,
            containers: Vec::new(),
            all: Vec::new(),
            line: VecDeque::new(),
            ending: false,
        };
        world.act(Core::begin);
        world
    }

    fn act<T>(&mut self, act: impl FnOnce(&mut Core<u8>, Instant, &mut Vec<Effect>) -> T) -> T {
        let mut effects = Vec::new();
        let answer = act(&mut self.core, self.start + self.at, &mut effects);
        effects.into_iter().for_each(|effect| self.carry_out(effect));
        self.check();
        answer
    }

    fn find(&mut self, key: ContainerKey) -> &mut (ContainerKey, Life, Vec<Use>) {
        self.containers.iter_mut().find(|(other, ..)| *other == key).expect("only what is there is spoken of")
    }

    fn slot(&mut self, slot: SlotKey) -> &mut Use {
        &mut self.find(slot.container).2[slot.index as usize]
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Grant { ticket, slot, kept } => {
                let place = self.line.iter().position(|(other, _)| *other == ticket).expect("somebody waits");
                assert!(kept || place == 0, "first come, first served");
                let (_, owner) = self.line.remove(place).expect("it is there");
                assert_eq!(self.find(slot.container).1, Life::Ready, "only a ready container gives slots");
                let expected = if kept { Use::Kept(owner) } else { Use::Empty };
                let found = std::mem::replace(self.slot(slot), Use::Leased(owner));
                assert_eq!(found, expected, "a slot has one owner, and no files of another");
            }
            Effect::TimedOut(ticket) => {
                assert_eq!(self.line.pop_front().map(|(first, _)| first), Some(ticket), "the first waits longest");
            }
            Effect::Start(key) => {
                assert!(!self.ending, "nothing is started at the end");
                self.containers.push((key, Life::Starting, Vec::new()));
                self.all.push(key);
            }
            Effect::Stop(key) => {
                let (_, life, uses) = self.find(key);
                assert_ne!(std::mem::replace(life, Life::Stopping), Life::Stopping, "it is told once");
                let used = uses.iter().any(|slot| matches!(slot, Use::Leased(_)));
                assert!(self.ending || !used, "nobody's slot is taken away");
            }
            Effect::Release { slot, keep } => {
                let found = *self.slot(slot);
                *self.slot(slot) = match (found, keep) {
                    (Use::Leased(owner), true) => Use::Kept(owner),
                    (Use::Leased(_) | Use::Kept(_), false) => Use::Wiping,
                    other => panic!("it is nobody's to give back: {other:?}"),
                };
            }
        }
    }

    fn check(&self) {
        let config = config();
        let count = |wanted: &dyn Fn(Life) -> bool| self.containers.iter().filter(|(_, life, _)| wanted(*life)).count();
        assert!(count(&|_| true) <= config.max_containers as usize, "never more than the maximum");
        let starting = count(&|life| life == Life::Starting);
        assert!(starting <= config.max_starting as usize);
        let uses = |wanted: &dyn Fn(Life, Use) -> bool| {
            let slots = self.containers.iter().flat_map(|(_, life, uses)| uses.iter().map(|slot| (*life, *slot)));
            slots.filter(|(life, slot)| wanted(*life, *slot)).count()
        };
        let counts = self.core.counts();
        assert_eq!(counts.waiting, self.line.len());
        let free = |life, slot| life == Life::Ready && matches!(slot, Use::Empty | Use::Kept(_));
        assert_eq!(counts.available as usize, uses(&free));
        assert_eq!(counts.acquired as usize, uses(&|_, slot| matches!(slot, Use::Leased(_))));
        assert_eq!(counts.quarantined as usize, uses(&|_, slot| slot == Use::Broken));
        assert_eq!(counts.starting as usize, starting * SLOTS as usize);
        if self.ending {
            return;
        }
        if !self.line.is_empty() {
            assert_eq!(
                uses(&|life, slot| life == Life::Ready && slot == Use::Empty),
                0,
                "nothing free while one waits"
            );
            let wiping = uses(&|life, slot| life == Life::Ready && slot == Use::Wiping);
            let kept = uses(&|life, slot| life == Life::Ready && matches!(slot, Use::Kept(_)));
            assert!(kept == 0 || wiping >= self.line.len(), "kept files do not keep others waiting");
        }
        let backing_off = self.core.retry_at().is_some_and(|at| self.start + self.at < at);
        let up = count(&|life| matches!(life, Life::Starting | Life::Ready));
        let room = count(&|_| true) < config.max_containers as usize && starting < config.max_starting as usize;
        if !backing_off && room {
            assert!(up >= config.min_containers as usize, "never fewer than the minimum");
            let wiping = uses(&|life, slot| life == Life::Ready && slot == Use::Wiping);
            assert!(self.line.len() <= wiping + starting * SLOTS as usize, "more is started at once");
        }
    }

    fn owns(&self, owner: u8) -> bool {
        self.line.iter().any(|(_, other)| *other == owner)
            || self.containers.iter().any(|(.., uses)| uses.contains(&Use::Leased(owner)))
    }

    fn acquire(&mut self, owner: u8) {
        // The ticket is known only afterwards, and effects come with it: the line is told in between.
        let mut effects = Vec::new();
        let now = self.start + self.at;
        if let Ok(ticket) = self.core.acquire(owner, now, &mut effects) {
            self.line.push_back((ticket, owner));
        } else {
            assert!(self.line.len() < 7, "the line is bounded");
        }
        effects.into_iter().for_each(|effect| self.carry_out(effect));
        self.check();
    }

    fn slots(&self, wanted: impl Fn(Use) -> bool) -> Vec<SlotKey> {
        let slots = self.containers.iter().filter(|(_, life, _)| *life != Life::Starting).flat_map(|(key, _, uses)| {
            (0..).zip(uses).map(|(index, slot)| (SlotKey { container: *key, index }, *slot))
        });
        slots.filter(|(_, slot)| wanted(*slot)).map(|(key, _)| key).collect()
    }
}

fn pick<T: Copy>(from: &[T], choice: u8) -> Option<T> {
    (!from.is_empty()).then(|| from[choice as usize % from.len()])
}

#[derive(Debug, Clone)]
enum Step {
    Acquire(u8),
    Leave(u8),
    Release(u8, bool),
    SlotReady(u8),
    SlotBroken(u8),
    Ready(u8),
    Failed(u8),
    Gone(u8),
    Draining(u8),
    Late(u8, u8),
    Wait(u16),
    ShutDown,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..14_u8).prop_map(Step::Acquire),
        2 => any::<u8>().prop_map(Step::Leave),
        6 => (any::<u8>(), any::<bool>()).prop_map(|(slot, keep)| Step::Release(slot, keep)),
        6 => any::<u8>().prop_map(Step::SlotReady),
        1 => any::<u8>().prop_map(Step::SlotBroken),
        6 => any::<u8>().prop_map(Step::Ready),
        1 => any::<u8>().prop_map(Step::Failed),
        2 => any::<u8>().prop_map(Step::Gone),
        1 => any::<u8>().prop_map(Step::Draining),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(key, what)| Step::Late(key, what)),
        3 => (0..100_u16).prop_map(Step::Wait),
    ]
}

fn take(world: &mut World, step: Step) {
    let keys = |world: &World, wanted: &[Life]| -> Vec<ContainerKey> {
        world.containers.iter().filter(|(_, life, _)| wanted.contains(life)).map(|(key, ..)| *key).collect()
    };
    match step {
        Step::Acquire(owner) if !world.ending && !world.owns(owner) => world.acquire(owner),
        Step::Leave(choice) => {
            let line: Vec<Ticket> = world.line.iter().map(|(ticket, _)| *ticket).collect();
            if let Some(ticket) = pick(&line, choice) {
                world.line.retain(|(other, _)| *other != ticket);
                world.act(|core, _, _| core.leave(ticket));
                world.act(|core, _, _| core.leave(ticket));
            }
        }
        Step::Release(choice, keep) => {
            if let Some(slot) = pick(&world.slots(|slot| matches!(slot, Use::Leased(_))), choice) {
                let owner = match *world.slot(slot) {
                    Use::Leased(owner) => Some(owner),
                    _ => None,
                };
                world.act(|core, now, effects| core.release(slot, owner.filter(|_| keep), now, effects));
            }
        }
        Step::SlotReady(choice) => {
            if let Some(slot) = pick(&world.slots(|slot| slot == Use::Wiping), choice) {
                *world.slot(slot) = Use::Empty;
                world.act(|core, now, effects| core.slot_ready(slot, now, effects));
            }
        }
        Step::SlotBroken(choice) => {
            if let Some(slot) = pick(&world.slots(|slot| slot == Use::Wiping), choice) {
                *world.slot(slot) = Use::Broken;
                world.act(|core, now, effects| core.slot_quarantined(slot, now, effects));
            }
        }
        Step::Ready(choice) => {
            if let Some(key) = pick(&keys(world, &[Life::Starting]), choice) {
                *world.find(key) = (key, Life::Ready, vec![Use::Empty; SLOTS as usize]);
                world.act(|core, now, effects| core.container_ready(key, now, effects));
            }
        }
        Step::Failed(choice) => {
            if let Some(key) = pick(&keys(world, &[Life::Starting]), choice) {
                world.containers.retain(|(other, ..)| *other != key);
                world.act(|core, now, effects| core.container_failed(key, 0.5, now, effects));
            }
        }
        Step::Gone(choice) => {
            if let Some(key) = pick(&keys(world, &[Life::Ready, Life::Draining, Life::Stopping]), choice) {
                world.containers.retain(|(other, ..)| *other != key);
                world.act(|core, now, effects| core.container_gone(key, 0.5, now, effects));
            }
        }
        Step::Draining(choice) => {
            if let Some(key) = pick(&keys(world, &[Life::Ready]), choice) {
                let (_, life, uses) = world.find(key);
                *life = Life::Draining;
                uses.iter_mut().filter(|slot| matches!(slot, Use::Kept(_))).for_each(|slot| *slot = Use::Empty);
                world.act(|core, now, effects| core.container_draining(key, now, effects));
            }
        }
        Step::Late(choice, what) => {
            let gone: Vec<ContainerKey> = world.all.clone();
            let alive = keys(world, &[Life::Starting, Life::Ready, Life::Draining, Life::Stopping]);
            let gone: Vec<ContainerKey> = gone.into_iter().filter(|key| !alive.contains(key)).collect();
            if let Some(container) = pick(&gone, choice) {
                let slot = SlotKey { container, index: u32::from(what) % SLOTS };
                world.act(|core, now, effects| match what % 6 {
                    0 => core.release(slot, Some(0), now, effects),
                    1 => core.slot_ready(slot, now, effects),
                    2 => core.container_ready(container, now, effects),
                    3 => core.container_gone(container, 0.5, now, effects),
                    4 => core.container_draining(container, now, effects),
                    _ => core.container_failed(container, 0.5, now, effects),
                });
            }
        }
        Step::Wait(seconds) => {
            world.at += Duration::from_secs(u64::from(seconds));
            world.act(Core::on_time);
        }
        Step::ShutDown => {
            world.ending = true;
            world.act(|core, _, effects| core.shut_down(effects));
        }
        Step::Acquire(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn the_invariants_hold(steps in proptest::collection::vec(step(), 1..150), spread in any::<bool>()) {
        let mut world = World::new(PoolConfig { spread, ..config() });
        steps.into_iter().for_each(|step| take(&mut world, step));
        take(&mut world, Step::ShutDown);
        prop_assert!(world.containers.iter().all(|(_, life, _)| *life == Life::Stopping), "everything is told to end");
    }

    #[test]
    fn whoever_waits_is_served_once_slots_come_back(steps in proptest::collection::vec(step(), 1..100)) {
        let mut world = World::new(config());
        steps.into_iter().for_each(|step| take(&mut world, step));
        // From here on all goes well: everything starts, is emptied, given back.
        for _ in 0..100 {
            if world.line.is_empty() {
                break;
            }
            for choice in 0..4 {
                take(&mut world, Step::Ready(choice));
                take(&mut world, Step::SlotReady(choice));
                take(&mut world, Step::Release(choice, false));
            }
            let stopping: Vec<ContainerKey> = world
                .containers
                .iter()
                .filter(|(_, life, uses)| *life == Life::Stopping || uses.iter().all(|slot| *slot == Use::Broken) && *life != Life::Starting)
                .map(|(key, ..)| *key)
                .collect();
            for key in stopping {
                world.containers.retain(|(other, ..)| *other != key);
                world.act(|core, now, effects| core.container_gone(key, 0.5, now, effects));
            }
            if let Some(at) = world.core.retry_at() {
                world.at = world.at.max(at.saturating_duration_since(world.start));
                world.act(|core, now, effects| core.on_time(now, effects));
            }
        }
        let waiting: BTreeMap<u64, u8> = world.line.iter().map(|(ticket, owner)| (ticket.0, *owner)).collect();
        prop_assert!(waiting.is_empty(), "still waiting: {:?}", waiting);
    }
}

fn ready(config: PoolConfig) -> World {
    let mut world = World::new(config);
    take(&mut world, Step::Ready(0));
    world
}

#[test]
fn placement_packs_and_spreads() {
    for (spread, expected) in [(false, 1), (true, 2)] {
        let mut world = ready(PoolConfig { spread, min_containers: 2, ..config() });
        take(&mut world, Step::Ready(0));
        world.acquire(1);
        world.acquire(2);
        let used = world.containers.iter().filter(|(.., uses)| uses.iter().any(|slot| matches!(slot, Use::Leased(_))));
        assert_eq!(used.count(), expected);
    }
}

#[test]
fn an_idle_container_goes_after_its_time_and_the_minimum_stays() {
    let mut world = ready(config());
    (0..4).for_each(|owner| world.acquire(owner));
    take(&mut world, Step::Ready(0));
    for _ in 0..4 {
        take(&mut world, Step::Release(0, false));
        take(&mut world, Step::SlotReady(0));
    }
    let deadline = world.core.deadline().expect("it looks again");
    world.at = deadline - world.start;
    world.act(Core::on_time);
    let stopping = world.containers.iter().filter(|(_, life, _)| *life == Life::Stopping).count();
    assert_eq!((stopping, world.containers.len()), (1, 2));
}

#[test]
fn kept_files_wait_for_their_owner_until_somebody_needs_the_slot() {
    let mut world = ready(PoolConfig { max_containers: 1, ..config() });
    world.acquire(1);
    world.acquire(2);
    take(&mut world, Step::Release(0, true));
    world.acquire(1);
    assert_eq!(world.slots(|slot| slot == Use::Leased(1)).len(), 1, "its owner gets it back at once");
    let slot = world.slots(|slot| slot == Use::Leased(1))[0];
    world.act(|core, now, effects| core.release(slot, Some(1), now, effects));
    world.acquire(3);
    assert_eq!(world.slots(|slot| slot == Use::Wiping).len(), 1, "another one has it emptied");
    take(&mut world, Step::SlotReady(0));
    assert_eq!(world.slots(|slot| slot == Use::Leased(3)).len(), 1);
}

#[test]
fn failed_starts_are_tried_again_later_and_later() {
    let mut world = World::new(config());
    let mut waits = Vec::new();
    for _ in 0..10 {
        take(&mut world, Step::Failed(0));
        assert!(world.containers.is_empty(), "not at once");
        let at = world.core.deadline().expect("it will try again") - world.start;
        waits.push(at - world.at);
        world.at = at;
        world.act(Core::on_time);
        assert_eq!(world.containers.len(), 1);
    }
    assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
    assert!(waits[9] <= scaling::MAX_BACKOFF);
}
