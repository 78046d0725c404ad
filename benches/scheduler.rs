//! The scheduler's core alone, as a pure function: how many events a second it takes, and how that changes with its
//! size. A million trajectories come, wait, get a slot, give it back and go; slots are emptied; now and then a
//! container is lost.
//!
//! `cargo bench --bench scheduler`

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use tool_executor::{
    id::PoolName,
    scheduler::{
        PoolConfig,
        core::{ContainerKey, Core, Effect, SlotKey},
    },
};

const TRAJECTORIES: u64 = 1_000_000;
const SLOTS_PER_CONTAINER: u32 = 10;
/// One in so many events loses a container.
const LOSSES: u64 = 100_000;

fn main() {
    let mut costs = Vec::new();
    for slots in [100, 10_000, 100_000] {
        let (events, time) = run(slots);
        let cost = time.as_secs_f64() * 1e9 / events as f64;
        let rate = events as f64 / time.as_secs_f64();
        println!(
            "{slots:7} slots, {TRAJECTORIES} trajectories: {cost:6.0} ns an event, {rate:9.0} events/s   goal >= 1000000"
        );
        costs.push(cost);
    }
    println!("cost at 100,000 slots / cost at 100: {:.2}   goal < 2", costs[2] / costs[0]);
}

fn run(slots: u32) -> (u64, Duration) {
    let containers = slots / SLOTS_PER_CONTAINER;
    let mut core = Core::new(PoolConfig {
        name: PoolName::new(""),
        slots_per_container: SLOTS_PER_CONTAINER,
        min_containers: containers,
        max_containers: containers,
        acquire_timeout: Duration::from_secs(1 << 20),
        scale_down_after: Duration::from_secs(60),
        max_starting: containers,
        start_timeout: Duration::from_secs(30),
        spread: false,
        max_waiting: TRAJECTORIES as usize,
    });
    let start = Instant::now();
    let mut effects = Vec::new();
    let (mut leased, mut wiping): (VecDeque<SlotKey>, VecDeque<SlotKey>) = Default::default();
    let mut starting: Vec<ContainerKey> = Vec::new();
    let mut events = 0_u64;
    let mut next_owner = 0_u64;
    core.begin(start, &mut effects);
    // The whole line stands there from the beginning: a million trajectories wait, less those who have a slot.
    while next_owner < TRAJECTORIES {
        core.acquire(next_owner, start, &mut effects).expect("the line takes them all");
        next_owner += 1;
    }
    let begun = Instant::now();
    while events < 4 * TRAJECTORIES {
        for effect in effects.drain(..) {
            match effect {
                Effect::Grant { slot, .. } => leased.push_back(slot),
                Effect::Release { slot, .. } => wiping.push_back(slot),
                Effect::Start(container) => starting.push(container),
                Effect::Stop(_) | Effect::TimedOut(_) => {}
            }
        }
        let now = start + Duration::from_micros(events);
        events += 1;
        if let Some(container) = starting.pop() {
            core.container_ready(container, now, &mut effects);
        } else if events.is_multiple_of(LOSSES)
            && let Some(slot) = leased.front()
        {
            core.container_gone(slot.container, 0.0, now, &mut effects);
        } else if events.is_multiple_of(3) {
            let _ = core.acquire(next_owner, now, &mut effects);
            next_owner += 1;
        } else if events % 3 == 1
            && let Some(slot) = wiping.pop_front()
        {
            core.slot_ready(slot, now, &mut effects);
        } else if let Some(slot) = leased.pop_front() {
            core.release(slot, None, now, &mut effects);
        }
    }
    (events, begun.elapsed())
}
