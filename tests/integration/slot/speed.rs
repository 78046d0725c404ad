//! What a call in a slot costs beside a plain spawn; printed, not judged.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tool_executor::sandbox::slot::{Slot, SlotConfig, Stdio as CallStdio};

use super::bed::{Bed, config, shell};

const ROUNDS: usize = 500;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::test]
#[ignore = "a measurement"]
async fn a_call_beside_a_plain_spawn() {
    let mut bed = Bed::new().await;
    let null = || std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
    let (mut spawns, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut child =
            Command::new("/bin/sh").args(["-c", "true"]).stdin(Stdio::null()).stdout(null()).stderr(null()).spawn();
        assert!(child.as_mut().unwrap().wait().unwrap().success());
        spawns.push(start.elapsed());

        let start = Instant::now();
        let stdio = CallStdio { stdin: None, stdout: null().into(), stderr: null().into() };
        bed.runner.start(&shell("true"), stdio).unwrap();
        bed.runner.ended().await.unwrap();
        calls.push(start.elapsed());
    }
    let (spawn, call) = (median(spawns), median(calls));
    println!("spawn {spawn:?}, call {call:?}, ratio {:.2}", call.as_secs_f64() / spawn.as_secs_f64());
    bed.end().await;
}

#[tokio::test]
#[ignore = "a measurement"]
async fn a_slot_from_its_making_to_its_end() {
    for network in [true, false] {
        let mut phases = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS / 5 {
            let home = tempfile::tempdir().unwrap();
            let config = SlotConfig { network, ..config(home.path().join("slots/0")) };
            let mut start = Instant::now();
            let mut lap = |phase: usize| {
                phases[phase].push(start.elapsed());
                start = Instant::now();
            };
            let slot = Slot::create(&config).await.unwrap();
            lap(0);
            let runner = slot.runner().await.unwrap();
            lap(1);
            slot.destroy().await.unwrap();
            lap(2);
            drop(runner);
        }
        let [made, runner, ended] = phases.map(median);
        println!("network {network}: slot made {made:?}, runner made {runner:?}, slot ended {ended:?}");
    }
}
