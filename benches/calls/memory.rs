//! Idle memory, as the share of it that would be free without the process (Pss).

use std::{collections::HashMap, fs, time::Duration};

use tokio::runtime::Runtime;

use crate::{
    Result,
    load::{self, Trajectory},
    servers::Server,
};

pub(crate) fn measure(runtime: &Runtime, streams: usize) -> Result<()> {
    let executor = Server::executor_with(&[("SLOTS", "10"), ("MIN_CONTAINERS", "1"), ("MAX_CONTAINERS", "1")])?;
    runtime.block_on(async {
        let channel = load::connect(&executor.address).await?;
        // One call, so that the agent is known to be up.
        let mut first = Trajectory::open(channel.clone(), "first".to_owned()).await?;
        first.call(load::Kind::True).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = pss(executor.pid())?;
        println!("idle executor                      {:7.1} MB   goal <= 20", before as f64 / 1e6);
        let agents: u64 = descendants(executor.pid())?.into_iter().filter_map(|pid| pss(pid).ok()).sum();
        println!("idle agent of 10 slots             {:7.1} MB   goal <= 15", agents as f64 / 1e6);
        let mut open = Vec::new();
        for index in 0..streams {
            open.push(Trajectory::open(channel.clone(), format!("idle-{index}")).await?);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let each = pss(executor.pid())?.saturating_sub(before) as f64 / streams as f64;
        println!("idle open stream                   {:7.1} KiB  goal <= 20", each / 1024.0);
        Ok(())
    })
}

fn pss(pid: u32) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// Every process below this one.
fn descendants(root: u32) -> Result<Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        found.extend(&below);
        next.extend(below);
    }
    Ok(found)
}
