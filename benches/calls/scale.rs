//! What it costs that many trajectories are open: memory of each, and time of a call beside them.

use std::time::Duration;

use tokio::runtime::Runtime;

use crate::{
    Result,
    load::{self, Kind, Trajectory},
    servers::Server,
    support::process::pss,
    turns::{self, Plan},
};

const FEW: usize = 10;
const MANY: usize = 10_000;
/// As many as share a connection.
const STREAMS: usize = 100;
const PLAN: Plan = Plan { rounds: 9, calls: 400, trajectories: 50, time: Duration::from_secs(1) };

pub(crate) fn measure(runtime: &Runtime) -> Result<()> {
    let (few, many) = (Server::executor()?, Server::executor()?);
    runtime.block_on(async {
        for server in [&few, &many] {
            load::one_trajectory(&server.address, Kind::Read, 100).await?;
        }
        let _few = open(&few, FEW).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = pss(many.pid());
        let _many = open(&many, MANY).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let each = pss(many.pid()).saturating_sub(before) as f64 / MANY as f64;
        println!(
            "open and idle, {MANY} over {} connections: {:5.1} KiB each   goal <= 20",
            MANY / STREAMS,
            each / 1024.0
        );
        for (kind, name) in [(Kind::True, "bash true"), (Kind::Read, "read_file 1 KB")] {
            let ratios = turns::compare(&few.address, &many.address, kind, &PLAN).await?;
            println!(
                "{name:20} beside {MANY} open ones, to beside {FEW}: p50 {:5.2}   time per call, 50 at once {:5.2}   \
                 goal <= 1.20",
                ratios.median,
                1.0 / ratios.rate
            );
        }
        Ok(())
    })
}

async fn open(server: &Server, count: usize) -> Result<Vec<Trajectory>> {
    let mut open = Vec::with_capacity(count);
    let mut channel = load::connect(&server.address).await?;
    for index in 0..count {
        if index % STREAMS == 0 {
            channel = load::connect(&server.address).await?;
        }
        open.push(Trajectory::open(channel.clone(), format!("idle-{index}")).await?);
    }
    Ok(open)
}
