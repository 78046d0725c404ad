//! A script in the shell that stays, against the same in a shell of its own, in turns.

use std::time::Instant;

use tokio::runtime::Runtime;

use crate::{
    Result,
    load::{self, Trajectory},
    micros, ratio,
    servers::Server,
};

const ROUNDS: usize = 2000;
const TOOLS: [&str; 2] = ["bash", "terminal_stateful"];
const GOAL: f64 = 2_000.0;

pub(crate) fn measure(runtime: &Runtime) -> Result<()> {
    let server = Server::executor()?;
    runtime.block_on(async {
        let mut trajectory = Trajectory::open(load::connect(&server.address).await?, "terminal".to_owned()).await?;
        let mut times = [Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS)];
        // The first makes the shell.
        for round in 0..=ROUNDS {
            for (tool, times) in TOOLS.into_iter().zip(&mut times) {
                let begun = Instant::now();
                trajectory.tool(tool, r#"{"command":"echo hi"}"#).await?;
                if round > 0 {
                    times.push(begun.elapsed());
                }
            }
        }
        let [(own, own_p99), (stays, stays_p99)] = times.map(load::percentiles);
        println!("bash: echo hi                p50 {:7.0} us   p99 {:7.0} us", micros(own), micros(own_p99));
        println!(
            "terminal_stateful: echo hi   p50 {:7.0} us   p99 {:7.0} us   goal <= {GOAL:.0} us   p50 / bash {:5.2}",
            micros(stays),
            micros(stays_p99),
            ratio(stays, own)
        );
        trajectory.release().await
    })
}
