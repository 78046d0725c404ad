//! How soon a slot can be given on: from the request to empty it until it is empty and verified, its old files being
//! deleted behind that.

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::{
    Result,
    load::{self, Kind, Trajectory},
    micros,
    servers::Server,
};

const ROUNDS: usize = 40;
/// And so many files in each.
const DIRECTORIES: usize = 100;

pub(crate) fn measure(runtime: &Runtime) -> Result<()> {
    let server = Server::executor_with(&[("SLOTS", "4"), ("MAX_CONTAINERS", "1")])?;
    runtime.block_on(async {
        let mut trajectory = Trajectory::open(load::connect(&server.address).await?, "reset".to_owned()).await?;
        trajectory.call(Kind::Write).await?;
        for (directories, name, pause) in [
            (0, "empty workspace", Duration::ZERO),
            (DIRECTORIES, "10,000 files, at rest", Duration::from_millis(500)),
            (DIRECTORIES, "10,000 files, at once", Duration::ZERO),
        ] {
            let mut times = Vec::with_capacity(ROUNDS);
            for _ in 0..ROUNDS {
                trajectory.fill(DIRECTORIES, directories).await?;
                tokio::time::sleep(pause).await;
                let start = Instant::now();
                trajectory.reset().await?;
                times.push(start.elapsed());
            }
            // What a machine that does nothing else would need, mostly.
            let best = times.iter().min().copied().unwrap_or_default();
            let (median, p99) = load::percentiles(times);
            println!(
                "reset, {name:22} p50 {:7.0} us   p99 {:7.0} us   best {:7.0} us   goal <= 5000",
                micros(median),
                micros(p99),
                micros(best)
            );
        }
        trajectory.release().await
    })
}
