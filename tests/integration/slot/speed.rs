//! What a call in a slot costs beside a plain spawn; printed, not judged.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::bed::{Bed, shell};
use tool_executor::sandbox::slot::Stdio as CallStdio;

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
    let (mut spawns, mut calls, mut slots) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut child =
            Command::new("/bin/sh").args(["-c", "true"]).stdin(Stdio::null()).stdout(null()).stderr(null()).spawn();
        assert!(child.as_mut().unwrap().wait().unwrap().success());
        spawns.push(start.elapsed());

        let start = Instant::now();
        let stdio = CallStdio { stdin: None, stdout: null().into(), stderr: null().into() };
        bed.runner.start(&shell("true"), stdio).await.unwrap();
        bed.runner.ended().await.unwrap();
        calls.push(start.elapsed());
    }
    for _ in 0..ROUNDS / 10 {
        let start = Instant::now();
        let one = Bed::new().await;
        one.slot.destroy().await.unwrap();
        slots.push(start.elapsed());
    }
    let (spawn, call) = (median(spawns), median(calls));
    println!("spawn {spawn:?}, call {call:?}, ratio {:.2}", call.as_secs_f64() / spawn.as_secs_f64());
    println!("slot made, with a runner, and destroyed: {:?}", median(slots));
    bed.end().await;
}
