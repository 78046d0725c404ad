//! What much output costs: how fast it passes, and that nobody's memory grows with it.

use std::time::Instant;

use tokio::{runtime::Runtime, task::JoinSet};

use crate::{
    Result,
    load::{self, Trajectory},
    servers::Server,
    support::process,
};

/// Of one call.
const BYTES: u64 = 1_000_000_000;
const AT_ONCE: usize = 64;

pub(crate) fn measure(runtime: &Runtime) -> Result<()> {
    let server = Server::executor_with(&[
        ("SLOTS", "64"),
        ("MIN_CONTAINERS", "1"),
        ("MAX_CONTAINERS", "1"),
        ("DEFAULT_TIMEOUT", "10min"),
    ])?;
    runtime.block_on(async {
        for (calls, each, stream) in
            [(1, BYTES, false), (1, BYTES, true), (AT_ONCE, BYTES / 10, false), (AT_ONCE, BYTES / 10, true)]
        {
            let channel = load::connect(&server.address).await?;
            let begun = Instant::now();
            let mut printing = JoinSet::new();
            for index in 0..calls {
                let name = format!("output-{calls}-{stream}-{index}");
                let mut trajectory = Trajectory::open(channel.clone(), name).await?;
                printing.spawn(async move {
                    trajectory.print(each, stream).await?;
                    trajectory.release().await
                });
            }
            while let Some(ended) = printing.join_next().await {
                ended??;
            }
            let rate = (calls as u64 * each) as f64 / begun.elapsed().as_secs_f64() / 1e6;
            let executor = process::peak_memory(server.pid()) as f64 / 1e6;
            let agents = process::children(server.pid()).into_iter().map(process::peak_memory);
            println!(
                "{calls:3} at once, {:5} MB each, {:10} {rate:6.0} MB/s   peak memory: executor {executor:5.0} MB, \
                 agent {:5.0} MB",
                each / 1_000_000,
                if stream { "streamed" } else { "not sent" },
                agents.sum::<u64>() as f64 / 1e6,
            );
        }
        Ok(())
    })
}
