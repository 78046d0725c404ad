//! What a call costs from the executor's side of the link; printed, not judged.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tool_executor::{
    id::CallNumber,
    sandbox::client::{SlotEvent, SlotHandle},
    tool::job::{Job, Order},
};

use super::bed::{assign, attach, next, shell};
use crate::support::agent::Agent;

const ROUNDS: usize = 1000;

async fn round(slot: &mut SlotHandle, number: u64, order: Order) -> Duration {
    let start = Instant::now();
    slot.run(CallNumber(number), order);
    loop {
        if let SlotEvent::Ended { .. } = next(slot).await {
            return start.elapsed();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn calls_and_files_alone_and_beside_one_another() {
    const SLOTS: u32 = 10;
    let agent = Agent::start(SLOTS);
    let connected = attach(agent.socket()).await;
    println!("agent and helpers, idle: {} KiB Pss", agent.pss() >> 10);
    let mut slots: Vec<SlotHandle> = (0..SLOTS).map(|slot| assign(&connected.link, slot)).collect();
    let file = Order { job: Job::WriteFile { path: "f".to_owned(), content: vec![b'x'; 1024].into() }, ..shell("") };
    let read = Order { job: Job::ReadFile { path: "f".to_owned(), max_bytes: 100_000 }, ..shell("") };
    let mut number = 0;
    for (name, order) in [("true", shell("true")), ("write 1 KB", file), ("read 1 KB", read)] {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            number += 1;
            times.push(round(&mut slots[0], number, order.clone()).await);
        }
        times.sort();
        println!("{name}: median {:?}, p99 {:?}", times[ROUNDS / 2], times[ROUNDS * 99 / 100]);

        let start = Instant::now();
        let mut tasks = JoinSet::new();
        for mut slot in slots.drain(..) {
            let order = order.clone();
            tasks.spawn(async move {
                for number in 0..ROUNDS as u64 {
                    round(&mut slot, 1_000_000 + number, order.clone()).await;
                }
                slot
            });
        }
        slots = tasks.join_all().await;
        let calls = f64::from(SLOTS) * ROUNDS as f64;
        println!("{name}: {SLOTS} slots beside one another: {:.0}/s", calls / start.elapsed().as_secs_f64());
    }
    println!("agent and helpers, afterwards: {} KiB Pss", agent.pss() >> 10);
}
