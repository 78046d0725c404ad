//! What a cluster in between costs: the same executor with its containers as allocations of a Nomad on this machine,
//! against local ones, in turns so that the machine's mood is the same for both.
//!
//! The Nomad is the stand-in of the tests, which answers and places as a real one was recorded to; what is measured of
//! calls does not pass through it. With `NOMAD_ADDR` set to a real one (raw_exec allowed), that is used.

use std::{
    env,
    net::TcpStream,
    time::{Duration, Instant},
};

use tool_executor::pb::toolexecutor::{GetStatusRequest, PoolStatus, tool_executor_client::ToolExecutorClient};

use crate::{
    Result,
    load::Kind,
    micros,
    servers::Server,
    support::nomad::{Nomad, Options},
    turns::{self, Plan},
};

const ROUNDS: usize = 5;
const PLAN: Plan = Plan { rounds: ROUNDS, calls: 500, trajectories: 0, time: Duration::ZERO };
const AT_ONCE: u32 = 20;
const IDLE: Duration = Duration::from_secs(20);

pub(crate) fn measure(runtime: &tokio::runtime::Runtime) -> Result<()> {
    let stand_in = env::var("NOMAD_ADDR")
        .is_err()
        .then(|| Nomad::start_with(Options { task_start: Duration::from_millis(1), ..Options::default() }));
    let address = env::var("NOMAD_ADDR").ok().or(stand_in.as_ref().map(Nomad::address)).ok_or("no Nomad")?;
    runtime.block_on(calls(&address))?;
    runtime.block_on(starts(&address, stand_in.as_ref()))
}

fn over(address: &str, settings: &[(&str, &str)]) -> Result<Server> {
    let common = [
        ("NOMAD_ADDRESS", address),
        ("DRIVER", "raw_exec"),
        ("AGENT", "present"),
        ("AGENT_PATH", env!("CARGO_BIN_EXE_tool-executor")),
        ("CPU", "20"),
        ("MEMORY", "256MiB"),
    ];
    Server::executor_with(&[&common[..], settings].concat())
}

async fn calls(address: &str) -> Result<()> {
    let pool = [("SLOTS", "60"), ("MIN_CONTAINERS", "1"), ("MAX_CONTAINERS", "1")];
    let (local, nomad) = (Server::executor_with(&pool)?, over(address, &pool)?);
    until(&nomad, |pool| pool.available_slots == 60).await?;
    for (kind, name) in [(Kind::True, "bash true"), (Kind::Read, "read_file 1 KB")] {
        let ratios = turns::compare(&local.address, &nomad.address, kind, &PLAN).await?;
        println!(
            "{name:20} local p50 {:6.0} us; over Nomad, to that {:5.2}   goal <= 1.10",
            micros(ratios.first_median),
            ratios.median
        );
    }
    Ok(())
}

async fn starts(address: &str, stand_in: Option<&Nomad>) -> Result<()> {
    let server = over(address, &[("SLOTS", "1"), ("MIN_CONTAINERS", "1"), ("MAX_CONTAINERS", "1")])?;
    if let Some(nomad) = stand_in {
        let mut late = Vec::new();
        for round in 0..ROUNDS {
            let before = nomad.allocations().len();
            let server = over(
                address,
                &[
                    ("SLOTS", "1"),
                    ("MIN_CONTAINERS", "1"),
                    ("MAX_CONTAINERS", "1"),
                    ("EXECUTOR_ID", &format!("start-{round}")),
                ],
            )?;
            let port = loop {
                match nomad.allocations().get(before).and_then(|allocation| allocation.port) {
                    Some(port) => break port,
                    None => tokio::task::yield_now().await,
                }
            };
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let answers = Instant::now();
            until(&server, |pool| pool.available_slots == 1).await?;
            late.push(answers.elapsed());
        }
        println!(
            "ready after its port answers: {:.1} ms, slots made and looked for among it   goal <= 50",
            turns::middle(late.iter().map(Duration::as_secs_f64)) * 1e3
        );
    }
    until(&server, |pool| pool.available_slots == 1).await?;
    if let Some(nomad) = stand_in {
        let before = nomad.requests().len();
        tokio::time::sleep(IDLE).await;
        let asked = nomad.requests().len() - before;
        println!("an idle executor asks Nomad {:.2} times a second   goal <= 1", asked as f64 / IDLE.as_secs_f64());
    }
    drop(server);
    let count = AT_ONCE.to_string();
    let begun = Instant::now();
    let many = over(
        address,
        &[("SLOTS", "1"), ("MIN_CONTAINERS", &count), ("MAX_CONTAINERS", &count), ("MAX_STARTING", &count)],
    )?;
    until(&many, |pool| pool.available_slots == AT_ONCE).await?;
    println!("{AT_ONCE} containers at once, from the executor's start: {:.2} s", begun.elapsed().as_secs_f64());
    Ok(())
}

async fn until(server: &Server, done: impl Fn(&PoolStatus) -> bool) -> Result<()> {
    let mut client = ToolExecutorClient::connect(format!("http://{}", server.address)).await?;
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_secs(60) {
        let status = client.get_status(GetStatusRequest {}).await?.into_inner();
        if status.pools.first().is_some_and(&done) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Err("it did not come to that in a minute".into())
}
