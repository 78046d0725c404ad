//! Memory, as the share of it that would be free without the process (Pss).

use std::time::Duration;

use tokio::runtime::Runtime;

use crate::{
    Result,
    load::{self, Trajectory},
    servers::Server,
    support::process,
};

pub(crate) fn measure(runtime: &Runtime) -> Result<()> {
    let executor = Server::executor_with(&[("SLOTS", "10"), ("MIN_CONTAINERS", "1"), ("MAX_CONTAINERS", "1")])?;
    runtime.block_on(async {
        // One call, so that the agent is known to be up.
        let mut first = Trajectory::open(load::connect(&executor.address).await?, "first".to_owned()).await?;
        first.call(load::Kind::True).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let agents: u64 = process::tree(executor.pid()).into_iter().skip(1).map(process::pss).sum();
        println!(
            "idle executor                      {:7.1} MB   goal <= 20",
            process::pss(executor.pid()) as f64 / 1e6
        );
        println!("idle agent of 10 slots             {:7.1} MB   goal <= 15", agents as f64 / 1e6);
        Ok(())
    })
}
