//! Each rule by itself, with the smallest history that shows it.

use std::time::{Duration, Instant};

use super::super::*;
use crate::id::PoolName;

const POOL: PoolKey = PoolKey(0);
const A: OwnerId = OwnerId(0);
const B: OwnerId = OwnerId(1);
const C: OwnerId = OwnerId(2);

fn rules() -> PoolConfig {
    PoolConfig {
        name: PoolName::new(""),
        slots_per_container: 2,
        min_containers: 0,
        max_containers: 3,
        acquire_timeout: Duration::from_secs(30),
        scale_down_after: Duration::from_secs(60),
        max_starting: 2,
        start_timeout: Duration::from_secs(30),
        spread: false,
        max_waiting: 100,
    }
}

struct Bench {
    core: Core,
    now: Instant,
}

impl Bench {
    fn new(rules: PoolConfig) -> Self {
        let mut new = Self { core: Core::new([rules]), now: Instant::now() };
        new.tell(Event::Tick);
        new
    }

    /// With one container of two slots, which holds nobody.
    fn ready(rules: PoolConfig) -> (Self, ContainerKey) {
        let mut new = Self::new(PoolConfig { min_containers: 1, ..rules });
        let container = new.core.containers(POOL).next().expect("the least number is started");
        new.tell(Event::ContainerReady { container, slots: 2 });
        (new, container)
    }

    fn tell(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.core.handle(event, self.now, &mut effects);
        effects
    }

    fn acquire(&mut self, owner: OwnerId) -> Vec<Effect> {
        self.tell(Event::Acquire { pool: POOL, owner })
    }

    fn granted(&mut self, owner: OwnerId) -> SlotKey {
        match self.acquire(owner)[..] {
            [Effect::Grant { owner: to, slot, .. }] if to == owner => slot,
            ref other => panic!("{other:?}"),
        }
    }

    fn give_back(&mut self, owner: OwnerId, slot: SlotKey, how: Return) -> Vec<Effect> {
        self.tell(Event::Return { slot, owner, how })
    }

    fn pass(&mut self, time: Duration) -> Vec<Effect> {
        self.now += time;
        self.tell(Event::Tick)
    }
}

fn started(effects: &[Effect]) -> Vec<ContainerKey> {
    let start = |effect: &Effect| match effect {
        Effect::Start { container } => Some(*container),
        _ => None,
    };
    effects.iter().filter_map(start).collect()
}

#[test]
fn the_least_number_of_containers_starts_by_itself() {
    let mut core = Core::new([PoolConfig { min_containers: 2, ..rules() }]);
    let mut effects = Vec::new();
    core.handle(Event::Tick, Instant::now(), &mut effects);
    assert_eq!(started(&effects).len(), 2);
}

#[test]
fn a_slot_that_comes_back_goes_to_whoever_has_waited_longest() {
    let (mut bench, _) = Bench::ready(PoolConfig { max_containers: 1, ..rules() });
    let slot = bench.granted(A);
    bench.granted(OwnerId(7));
    assert_eq!((bench.acquire(B), bench.acquire(C)), (vec![], vec![]));
    let effects = bench.give_back(A, slot, Return::Wipe);
    assert_eq!(effects, [Effect::Release { slot, keep: false }, Effect::Forget(A)]);
    let effects = bench.tell(Event::SlotReady { slot, kept: false });
    assert_eq!(effects, [Effect::Grant { owner: B, slot, kept: false }]);
    assert!(bench.core.line(POOL).eq([C]));
}

#[test]
fn containers_start_at_once_when_the_line_is_longer_than_what_is_coming() {
    let mut bench = Bench::new(rules());
    assert_eq!(started(&bench.acquire(OwnerId(0))).len(), 1);
    assert_eq!(started(&bench.acquire(OwnerId(1))).len(), 0, "its second slot is for this one");
    assert_eq!(started(&bench.acquire(OwnerId(2))).len(), 1);
    assert_eq!(started(&bench.acquire(OwnerId(3))).len(), 0);
    assert_eq!(started(&bench.acquire(OwnerId(4))).len(), 0, "two start already");
    let container = bench.core.containers(POOL).next().unwrap();
    let effects = bench.tell(Event::ContainerReady { container, slots: 2 });
    assert_eq!(started(&effects).len(), 1, "and one of them was ready");
}

#[test]
fn slots_are_packed_or_spread() {
    for (spread, same) in [(false, true), (true, false)] {
        let (mut bench, first) = Bench::ready(PoolConfig { spread, ..rules() });
        bench.granted(A);
        bench.granted(B);
        let [second] = started(&bench.acquire(C))[..] else { panic!("it starts one") };
        bench.tell(Event::ContainerReady { container: second, slots: 4 });
        bench.give_back(A, SlotKey { container: first, index: 0 }, Return::Unused);
        // One is free in the first, three in the second.
        assert_eq!(bench.granted(A).container == first, same);
    }
}

#[test]
fn an_idle_container_goes_after_its_time_and_the_last_ones_stay() {
    let (mut bench, first) = Bench::ready(rules());
    bench.granted(A);
    let slot = bench.granted(B);
    let [second] = started(&bench.acquire(C))[..] else { panic!("it starts one") };
    bench.tell(Event::ContainerReady { container: second, slots: 2 });
    assert_eq!(bench.core.deadline(), None, "nobody is idle");
    bench.give_back(B, slot, Return::Wipe);
    bench.give_back(C, SlotKey { container: second, index: 0 }, Return::Wipe);
    assert_eq!(bench.core.deadline(), Some(bench.now + rules().scale_down_after));
    assert_eq!(bench.pass(rules().scale_down_after - Duration::from_millis(1)), []);
    assert_eq!(bench.pass(Duration::from_millis(1)), [Effect::Stop { container: second }]);
    bench.tell(Event::Stopped { container: second });
    bench.give_back(A, SlotKey { container: first, index: 0 }, Return::Wipe);
    assert_eq!(bench.pass(rules().scale_down_after * 2), []);
}

#[test]
fn kept_files_go_to_their_owner_and_to_nobody_else() {
    let (mut bench, _) = Bench::ready(PoolConfig { max_containers: 1, ..rules() });
    let slot = bench.granted(A);
    assert_eq!(bench.give_back(A, slot, Return::Keep), [Effect::Release { slot, keep: true }]);
    bench.tell(Event::SlotReady { slot, kept: true });
    let other = bench.granted(B);
    assert_ne!(other, slot, "the clean one goes first");
    assert_eq!(bench.acquire(A), [Effect::Grant { owner: A, slot, kept: true }]);
    bench.give_back(A, slot, Return::Keep);
    bench.tell(Event::SlotReady { slot, kept: true });
    assert_eq!(bench.acquire(C), [Effect::Release { slot, keep: false }, Effect::Forget(A)]);
    assert_eq!(bench.tell(Event::SlotReady { slot, kept: false }), [Effect::Grant { owner: C, slot, kept: false }]);
}

#[test]
fn kept_files_go_when_their_owner_does_not_want_them() {
    let (mut bench, _) = Bench::ready(PoolConfig { max_containers: 1, ..rules() });
    let slot = bench.granted(A);
    assert_eq!(bench.tell(Event::Forgo { owner: A }), [], "it has its slot");
    bench.give_back(A, slot, Return::Keep);
    bench.tell(Event::SlotReady { slot, kept: true });
    let wiped = [Effect::Release { slot, keep: false }, Effect::Forget(A)];
    assert_eq!(bench.tell(Event::Forgo { owner: A }), wiped);
    assert_eq!(bench.tell(Event::Forgo { owner: A }), []);
    bench.tell(Event::SlotReady { slot, kept: false });
    // Before the agent has kept them, too.
    let slot = bench.granted(B);
    bench.give_back(B, slot, Return::Keep);
    assert_eq!(bench.tell(Event::Forgo { owner: B }), [Effect::Forget(B)]);
    assert_eq!(bench.tell(Event::SlotReady { slot, kept: true }), [Effect::Release { slot, keep: false }]);
    // Whoever came back for them wants them.
    bench.tell(Event::SlotReady { slot, kept: false });
    let slot = bench.granted(A);
    bench.give_back(A, slot, Return::Keep);
    bench.acquire(A);
    assert_eq!(bench.tell(Event::Forgo { owner: A }), []);
    assert_eq!(bench.tell(Event::SlotReady { slot, kept: true }), [Effect::Grant { owner: A, slot, kept: true }]);
}

#[test]
fn nothing_is_kept_while_others_wait() {
    let (mut bench, _) = Bench::ready(PoolConfig { max_containers: 1, ..rules() });
    let slot = bench.granted(A);
    bench.granted(B);
    bench.acquire(C);
    assert_eq!(bench.give_back(A, slot, Return::Keep), [Effect::Release { slot, keep: false }, Effect::Forget(A)]);
}

#[test]
fn an_owner_who_comes_back_before_the_agent_has_answered_gets_his_files() {
    let (mut bench, _) = Bench::ready(PoolConfig { max_containers: 1, ..rules() });
    let slot = bench.granted(A);
    bench.granted(B);
    bench.give_back(A, slot, Return::Keep);
    assert_eq!(bench.acquire(A), []);
    assert_eq!(bench.tell(Event::SlotReady { slot, kept: true }), [Effect::Grant { owner: A, slot, kept: true }]);
}

#[test]
fn an_owner_who_comes_back_gets_his_files_rather_than_a_clean_slot() {
    let (mut bench, _) = Bench::ready(rules());
    let slot = bench.granted(A);
    bench.give_back(A, slot, Return::Keep);
    assert_eq!(bench.acquire(A), [], "the other slot is clean");
    assert_eq!(bench.acquire(B).len(), 1, "and others get it");
    assert_eq!(bench.tell(Event::SlotReady { slot, kept: true }), [Effect::Grant { owner: A, slot, kept: true }]);
}

#[test]
fn files_that_could_not_be_kept_are_not_said_to_be() {
    let (mut bench, _) = Bench::ready(rules());
    let slot = bench.granted(A);
    bench.give_back(A, slot, Return::Keep);
    bench.acquire(A);
    assert_eq!(bench.tell(Event::SlotReady { slot, kept: false }), [Effect::Grant { owner: A, slot, kept: false }]);
}

#[test]
fn an_unused_slot_is_as_it_was() {
    let (mut bench, _) = Bench::ready(PoolConfig { max_containers: 1, ..rules() });
    let slot = bench.granted(A);
    assert_eq!(bench.give_back(A, slot, Return::Unused), [Effect::Forget(A)]);
    assert_eq!(bench.granted(B), slot);
    bench.give_back(B, slot, Return::Keep);
    bench.tell(Event::SlotReady { slot, kept: true });
    bench.granted(B);
    assert_eq!(bench.give_back(B, slot, Return::Unused), []);
    assert_eq!(bench.acquire(B), [Effect::Grant { owner: B, slot, kept: true }]);
}

#[test]
fn idle_containers_go_at_once_although_somebody_comes_back_to_one_of_them() {
    let mut bench = Bench::new(PoolConfig { max_starting: 3, ..rules() });
    for container in started(&bench.tell(Event::Adopt { pool: POOL, containers: 3, in_use: 0 })) {
        bench.tell(Event::ContainerReady { container, slots: 1 });
    }
    let held = [A, B, C].map(|owner| (owner, bench.granted(owner)));
    for ((owner, slot), how) in held.into_iter().zip([Return::Keep, Return::Unused, Return::Unused]) {
        bench.give_back(owner, slot, how);
    }
    assert_eq!(bench.acquire(A), [], "it waits for what is being kept for it");
    let effects = bench.pass(rules().scale_down_after);
    let stopped = effects.iter().filter(|effect| matches!(effect, Effect::Stop { .. })).count();
    let granted = effects.iter().filter(|effect| matches!(effect, Effect::Grant { owner: A, kept: false, .. })).count();
    assert_eq!((stopped, granted), (2, 1), "{effects:?}");
    assert_eq!(bench.core.deadline(), None);
}

#[test]
fn whoever_waits_too_long_is_told_so() {
    let mut bench = Bench::new(rules());
    bench.acquire(A);
    bench.now += Duration::from_secs(10);
    bench.acquire(B);
    assert_eq!(bench.core.deadline(), Some(bench.now + Duration::from_secs(20)));
    assert_eq!(
        bench.pass(Duration::from_secs(20)),
        [Effect::Fail { owner: A, failure: Failure::TimedOut }, Effect::Forget(A)]
    );
    assert!(bench.core.line(POOL).eq([B]));
}

#[test]
fn the_line_is_bounded() {
    let mut bench = Bench::new(PoolConfig { max_waiting: 2, ..rules() });
    bench.acquire(A);
    bench.acquire(B);
    assert_eq!(bench.acquire(C), [Effect::Fail { owner: C, failure: Failure::LineFull }, Effect::Forget(C)]);
    bench.tell(Event::Leave { owner: A });
    assert_eq!(bench.acquire(C), []);
}

#[test]
fn failed_starts_back_off_and_nobody_waits_for_nothing() {
    let mut bench = Bench::new(rules());
    let [container] = started(&bench.acquire(A))[..] else { panic!("it starts one") };
    let effects = bench.tell(Event::StartFailed { container, jitter: u32::MAX });
    let failure = Failure::StartFailed { retry_after: Duration::from_millis(100) };
    assert_eq!(effects, [Effect::Fail { owner: A, failure }, Effect::Forget(A)]);
    bench.now += Duration::from_millis(40);
    let failure = Failure::StartFailed { retry_after: Duration::from_millis(60) };
    assert_eq!(bench.acquire(B), [Effect::Fail { owner: B, failure }, Effect::Forget(B)]);
    bench.now += Duration::from_millis(60);
    assert_eq!(started(&bench.acquire(B)).len(), 1, "the time is over");
}

#[test]
fn a_failed_start_is_tried_again_for_those_who_wait_beside_a_good_container() {
    let (mut bench, _) = Bench::ready(rules());
    bench.granted(A);
    bench.granted(B);
    let [container] = started(&bench.acquire(C))[..] else { panic!("it starts one") };
    assert_eq!(bench.tell(Event::StartFailed { container, jitter: 0 }), []);
    assert_eq!(bench.core.shortage(POOL, bench.now), Some(Shortage::BackingOff));
    assert_eq!(bench.core.deadline(), Some(bench.now + Duration::from_millis(50)));
    assert_eq!(started(&bench.pass(Duration::from_millis(50))).len(), 1);
}

#[test]
fn a_lost_container_is_replaced_and_its_leases_are_void() {
    let (mut bench, container) = Bench::ready(rules());
    bench.pass(Duration::from_secs(11));
    let slot = bench.granted(A);
    let effects = bench.tell(Event::Lost { container, jitter: 0 });
    assert_eq!(effects[0], Effect::Forget(A));
    let [next] = started(&effects)[..] else { panic!("the least number is kept") };
    bench.tell(Event::ContainerReady { container: next, slots: 2 });
    let again = bench.granted(A);
    assert_eq!(bench.give_back(A, slot, Return::Wipe), [], "that lease is void");
    assert_eq!(bench.give_back(A, again, Return::Wipe).len(), 2);
}

#[test]
fn containers_that_die_young_are_not_replaced_at_once() {
    let (mut bench, container) = Bench::ready(rules());
    assert_eq!(bench.tell(Event::Lost { container, jitter: 0 }), []);
    assert_eq!(bench.acquire(A), [], "it did start, so this one may hope");
    assert_eq!(started(&bench.pass(Duration::from_millis(50))).len(), 1);
}

#[test]
fn a_draining_container_gives_nothing_and_stops_with_its_last_lease() {
    let (mut bench, container) = Bench::ready(rules());
    let slot = bench.granted(A);
    assert_eq!(started(&bench.tell(Event::Draining { container })).len(), 1);
    assert_eq!(bench.acquire(B), []);
    let effects = bench.give_back(A, slot, Return::Keep);
    let release = Effect::Release { slot, keep: false };
    assert_eq!(effects, [release, Effect::Forget(A), Effect::Stop { container }]);
}

#[test]
fn a_container_without_a_usable_slot_is_replaced() {
    let (mut bench, container) = Bench::ready(rules());
    let slot = bench.granted(A);
    bench.tell(Event::SlotQuarantined { slot: SlotKey { container, index: 1 } });
    bench.give_back(A, slot, Return::Wipe);
    let effects = bench.tell(Event::SlotQuarantined { slot });
    assert_eq!(effects[0], Effect::Stop { container });
    assert_eq!(started(&effects).len(), 1);
}

/// With so many containers of an earlier executor, of two slots each, all taken over and in use.
fn taken_over(rules: PoolConfig, containers: u32) -> (Bench, Vec<ContainerKey>) {
    let mut bench = Bench::new(rules);
    let started = started(&bench.tell(Event::Adopt { pool: POOL, containers, in_use: containers }));
    for container in &started {
        assert_eq!(bench.tell(Event::ContainerTakenOver { container: *container, slots: 2 }), []);
    }
    (bench, started)
}

#[test]
fn a_claimed_slot_is_its_owners_and_the_others_are_wiped_before_they_are_given() {
    let (mut bench, containers) = taken_over(PoolConfig { max_containers: 1, ..rules() }, 1);
    let [claimed, other] = [0, 1].map(|index| SlotKey { container: containers[0], index });
    assert_eq!(bench.tell(Event::Reclaim { slot: claimed, owner: A }), []);
    assert!(bench.core.has(A, claimed) && !bench.core.has(B, claimed));
    assert_eq!(bench.tell(Event::Reclaim { slot: claimed, owner: B }), [Effect::Forget(B)], "it is another's");
    assert_eq!(bench.tell(Event::Reclaim { slot: other, owner: A }), [], "nobody has two");
    assert!(!bench.core.has(A, other));
    assert_eq!(bench.acquire(B), [], "nothing is clean");
    assert_eq!(bench.core.shortage(POOL, bench.now), Some(Shortage::Resetting));
    let granted = Effect::Grant { owner: B, slot: other, kept: false };
    assert_eq!(bench.tell(Event::SlotReady { slot: other, kept: false }), [granted]);
    let release = Effect::Release { slot: claimed, keep: false };
    assert_eq!(bench.give_back(A, claimed, Return::Wipe), [release, Effect::Forget(A)]);
}

#[test]
fn a_slot_that_is_being_wiped_cannot_be_claimed() {
    let (mut bench, _) = Bench::ready(rules());
    let slot = bench.granted(A);
    bench.give_back(A, slot, Return::Wipe);
    assert_eq!(bench.tell(Event::Reclaim { slot, owner: A }), [Effect::Forget(A)]);
    assert!(!bench.core.has(A, slot));
}

#[test]
fn containers_in_use_are_taken_over_however_many_there_may_be_and_those_too_many_drain() {
    let (mut bench, containers) = taken_over(PoolConfig { max_containers: 1, ..rules() }, 3);
    let state = |bench: &Bench, index: usize| bench.core.container_state(containers[index]);
    let expected = [ContainerState::Draining, ContainerState::Draining, ContainerState::Ready];
    assert_eq!([0, 1, 2].map(|index| state(&bench, index)), expected.map(Some));
    let slot = SlotKey { container: containers[0], index: 0 };
    bench.tell(Event::Reclaim { slot, owner: A });
    assert_eq!(bench.tell(Event::Draining { container: containers[0] }), [], "somebody has a slot in it");
    let stop = |index: usize| Effect::Stop { container: containers[index] };
    assert_eq!(bench.tell(Event::Draining { container: containers[1] }), [stop(1)], "and nobody in this one");
    bench.tell(Event::SlotReady { slot: SlotKey { index: 1, ..slot }, kept: false });
    assert_eq!(bench.acquire(B), [], "it gives nothing");
    let effects = bench.give_back(A, slot, Return::Wipe);
    assert_eq!(effects, [Effect::Release { slot, keep: false }, Effect::Forget(A), stop(0)]);
}

#[test]
fn those_that_nobody_uses_are_taken_over_as_far_as_there_is_room() {
    let mut bench = Bench::new(PoolConfig { max_containers: 2, ..rules() });
    assert_eq!(started(&bench.tell(Event::Adopt { pool: POOL, containers: 3, in_use: 1 })).len(), 2);
}

#[test]
fn nobody_gets_two_slots() {
    let (mut bench, _) = Bench::ready(rules());
    bench.granted(A);
    assert_eq!(bench.acquire(A), [Effect::Fail { owner: A, failure: Failure::HoldsOne }]);
}

#[test]
fn at_the_end_everybody_is_told_and_everything_stops() {
    let (mut bench, container) = Bench::ready(PoolConfig { max_containers: 1, ..rules() });
    bench.granted(A);
    bench.granted(B);
    bench.acquire(C);
    let fail = Effect::Fail { owner: C, failure: Failure::ShuttingDown };
    assert_eq!(bench.tell(Event::ShutDown), [fail, Effect::Forget(C), Effect::Stop { container }]);
    assert_eq!(bench.acquire(C), [fail, Effect::Forget(C)]);
    assert_eq!(bench.tell(Event::Stopped { container }), [Effect::Forget(A), Effect::Forget(B)]);
}
