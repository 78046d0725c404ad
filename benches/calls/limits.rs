//! Whether a slot at its limits delays its neighbours: the p99 of their calls, which come with pauses, as a model's do,
//! alone and beside each of the hogs, which are sent again as soon as they have been ended; and what the same does to
//! bare processes, which is the machine's own part in it.

use std::{
    thread,
    time::{Duration, Instant},
};

use tokio::{runtime::Runtime, sync::watch, task::JoinHandle};
use tool_executor::pb::toolexecutor::{GetStatusRequest, tool_executor_client::ToolExecutorClient};

use crate::{
    Result, floor,
    load::{self, Kind, Trajectory, percentiles},
    servers::Server,
    turns::middle,
};

const NEIGHBOURS: usize = 4;
const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_secs(4);
/// Between two bare processes, and two small calls.
const PAUSE: Duration = Duration::from_millis(20);
const GOAL: f64 = 1.5;

const SETTINGS: [(&str, &str); 6] = [
    ("SLOTS", "6"),
    ("MAX_CONTAINERS", "1"),
    ("SANDBOX_MEMORY", "256MiB"),
    ("SANDBOX_TMP_SIZE", "64MiB"),
    ("SANDBOX_MAX_PROCESSES", "512"),
    ("SANDBOX_WORKSPACE_SIZE", "256MiB"),
];

/// Each with how it must end.
const HOGS: [(&str, &str, &str); 4] = [
    ("fork bomb", "b() { b | b & }; b; sleep 60", "LimitExceeded, ProcessLimit"),
    ("memory hog", "tail /dev/zero; sleep 60", "OutOfMemory, Unspecified"),
    (
        "disk filler",
        "n=0; while :; do head -c 10000000 /dev/zero > f$n || exit 7; n=$((n+1)); done",
        "LimitExceeded, DiskLimit",
    ),
    (
        "zip bomb",
        "head -c 200000000 /dev/zero | gzip > z; n=0; while :; do gzip -dc z > f$n || exit 7; n=$((n+1)); done",
        "LimitExceeded, DiskLimit",
    ),
];

/// With the pauses between two of them, which leave the machine most of its time while nobody hogs it.
const KINDS: [(Kind, &str, Duration); 3] = [
    (Kind::Script, "script", Duration::from_millis(60)),
    (Kind::True, "bash true", PAUSE),
    (Kind::Read, "read_file", PAUSE),
];

pub(crate) fn measure(runtime: &Runtime) -> Result<()> {
    let server = Server::executor_with(&SETTINGS)?;
    runtime.block_on(async {
        println!("{}", mechanisms(&server).await?);
        for (hog, script, end) in HOGS {
            let mut rounds: Vec<[(f64, f64); KINDS.len() + 1]> = Vec::new();
            for round in 0..ROUNDS {
                let alone = everybody(&server).await?;
                let hogging = Hogging::start(&server, format!("{hog}-{round}").replace(' ', "-"), script).await?;
                let beside = everybody(&server).await?;
                let ended = hogging.stop().await?;
                if ended != end {
                    return Err(format!("the {hog} ended with {ended}").into());
                }
                rounds.push(std::array::from_fn(|index| (alone[index], beside[index])));
            }
            for (index, name) in KINDS.map(|(_, name, _)| name).into_iter().chain(["bare process"]).enumerate() {
                let ratio = middle(rounds.iter().map(|round| round[index].1 / round[index].0));
                let alone = middle(rounds.iter().map(|round| round[index].0 * 1e3));
                println!(
                    "p99 of a {name:12} beside a {hog:11}, to alone ({alone:5.2} ms): {ratio:5.2}   goal <= {GOAL:.2}"
                );
            }
        }
        Ok(())
    })
}

/// The p99 of each kind of call, and of a bare process, one after another, in seconds.
async fn everybody(server: &Server) -> Result<[f64; KINDS.len() + 1]> {
    let mut all = [0.0; KINDS.len() + 1];
    for (p99, (kind, _, pause)) in all.iter_mut().zip(KINDS) {
        *p99 = neighbours(server, kind, pause).await?.as_secs_f64();
    }
    all[KINDS.len()] = tokio::task::spawn_blocking(bare_neighbours).await?.as_secs_f64();
    Ok(all)
}

async fn neighbours(server: &Server, kind: Kind, pause: Duration) -> Result<Duration> {
    let channel = load::connect(&server.address).await?;
    let mut tasks = Vec::new();
    for index in 0..NEIGHBOURS {
        let mut trajectory = Trajectory::open(channel.clone(), format!("neighbour-{index}")).await?;
        trajectory.call(Kind::Write).await?;
        tasks.push(tokio::spawn(async move {
            let (start, mut times) = (Instant::now(), Vec::new());
            while start.elapsed() < TIME {
                let begun = Instant::now();
                trajectory.call(kind).await?;
                times.push(begun.elapsed());
                tokio::time::sleep(pause).await;
            }
            trajectory.release().await?;
            Result::Ok(times)
        }));
    }
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    Ok(percentiles(times).1)
}

fn bare_neighbours() -> Duration {
    let neighbour = || {
        let (start, mut times) = (Instant::now(), Vec::new());
        while start.elapsed() < TIME {
            times.push(floor::timed(floor::spawn));
            thread::sleep(PAUSE);
        }
        times
    };
    let neighbours: Vec<_> = (0..NEIGHBOURS).map(|_| thread::spawn(neighbour)).collect();
    percentiles(neighbours.into_iter().filter_map(|neighbour| neighbour.join().ok()).flatten().collect()).1
}

/// What holds slots to their limits here.
async fn mechanisms(server: &Server) -> Result<String> {
    let channel = load::connect(&server.address).await?;
    // A container is ready then.
    let mut trajectory = Trajectory::open(channel.clone(), "mechanisms".to_owned()).await?;
    trajectory.call(Kind::True).await?;
    trajectory.release().await?;
    let status = ToolExecutorClient::new(channel).get_status(GetStatusRequest {}).await?.into_inner();
    let limits = status.pools.into_iter().flat_map(|pool| pool.containers).flat_map(|container| container.limits);
    let lines = limits.map(|limit| format!("{}: {} ({})", limit.name, limit.value, limit.mechanism));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// One trajectory that sends the same hog again and again.
struct Hogging {
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<String>>,
}

impl Hogging {
    /// Once it has been ended for the first time: it has its slot, and its limits hold.
    async fn start(server: &Server, name: String, script: &'static str) -> Result<Self> {
        let mut trajectory = Trajectory::open(load::connect(&server.address).await?, name).await?;
        let mut end = trajectory.try_shell(script).await?;
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            while !*stopped.borrow() {
                trajectory.try_shell("rm -f f* z").await?;
                end = trajectory.try_shell(script).await?;
            }
            trajectory.release().await?;
            Ok(end)
        });
        Ok(Self { stop, task })
    }

    /// How its last call ended.
    async fn stop(self) -> Result<String> {
        self.stop.send_replace(true);
        self.task.await?
    }
}
