//! Whether slow calls delay quick ones: trajectories of `true`, alone and beside others that sleep; and what the same
//! does to bare processes, which is the machine's own part in it.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{runtime::Runtime, task::JoinHandle};
use tool_executor::pb::toolexecutor::{ReleaseRequest, tool_executor_client::ToolExecutorClient};

use crate::{
    Result, floor,
    load::{self, Kind, Trajectory},
    servers::Server,
    turns::middle,
};

const QUICK: usize = 100;
const SLOW: usize = 50;
const ROUNDS: usize = 7;
const TIME: Duration = Duration::from_secs(4);

pub(crate) fn measure(runtime: &Runtime) -> Result<()> {
    let slots = (QUICK + SLOW).div_ceil(2).to_string();
    let server = Server::executor_with(&[("SLOTS", &slots), ("MIN_CONTAINERS", "2"), ("MAX_CONTAINERS", "2")])?;
    let mut executor = Vec::new();
    let mut machine = Vec::new();
    for round in 0..ROUNDS {
        executor.push(runtime.block_on(async {
            let alone = load::many_trajectories(&server.address, Kind::True, QUICK, TIME).await?.p99;
            let sleepers = sleepers(&server, round).await?;
            let beside = load::many_trajectories(&server.address, Kind::True, QUICK, TIME).await?.p99;
            end(&server, sleepers, round).await?;
            Result::Ok((alone, beside))
        })?);
        let alone = floor::spawns_at_once(QUICK, TIME).p99;
        let sleeping = Sleeping::start()?;
        let beside = floor::spawns_at_once(QUICK, TIME).p99;
        drop(sleeping);
        machine.push((alone, beside));
    }
    for (name, rounds) in [("executor", executor), ("bare processes", machine)] {
        let ratio = middle(rounds.iter().map(|(alone, beside)| beside.as_secs_f64() / alone.as_secs_f64()));
        let alone = middle(rounds.iter().map(|(alone, _)| alone.as_secs_f64() * 1e3));
        println!(
            "{name:16} p99 of `true` beside {SLOW} of `sleep 5`, to alone ({alone:5.1} ms): {ratio:5.2}   goal <= 1.20"
        );
    }
    Ok(())
}

/// Trajectories that sleep, one call after another.
async fn sleepers(server: &Server, round: usize) -> Result<Vec<JoinHandle<Result<()>>>> {
    let channel = load::connect(&server.address).await?;
    let mut tasks = Vec::new();
    for index in 0..SLOW {
        let mut trajectory = Trajectory::open(channel.clone(), format!("slow-{round}-{index}")).await?;
        // Its slot is there before anything is measured.
        trajectory.call(Kind::Write).await?;
        tasks.push(tokio::spawn(async move {
            loop {
                trajectory.call(Kind::Sleep).await?;
            }
        }));
    }
    Ok(tasks)
}

/// Gives their slots back.
async fn end(server: &Server, sleepers: Vec<JoinHandle<Result<()>>>, round: usize) -> Result<()> {
    let mut client = ToolExecutorClient::new(load::connect(&server.address).await?);
    for (index, sleeper) in sleepers.into_iter().enumerate() {
        sleeper.abort();
        let trajectory_id = format!("slow-{round}-{index}");
        client.release(ReleaseRequest { trajectory_id, ..ReleaseRequest::default() }).await?;
    }
    Ok(())
}

struct Sleeping(Vec<Child>);

impl Sleeping {
    fn start() -> Result<Self> {
        let sleep = || Command::new("/bin/sleep").arg("5").stdin(Stdio::null()).spawn();
        Ok(Self((0..SLOW).map(|_| sleep()).collect::<std::io::Result<_>>()?))
    }
}

impl Drop for Sleeping {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
