//! What a call costs, against what it cannot cost less than. Everything runs on this machine, the client included:
//!
//! - floors: a raw spawn of `sh -c true`; a bare tonic bidi echo; the same echo through a relay onto one multiplexed
//!   stream, which is two hops, as a call takes them;
//! - the executor: one trajectory, and 100 at once, of `true`, of `read_file` and `write_file` of 1 KB;
//! - memory of an idle executor, an idle agent with its slots, and an idle open stream.
//!
//! `cargo bench --bench calls` prints every figure and its ratio to the floor. Quote ratios: absolute figures change
//! with the machine and its mood. `cargo bench --bench calls -- read_file` measures one kind of call, and no floor;
//! `-- nomad` measures what it costs that containers run on a cluster.

mod floor;
mod load;
mod memory;
mod nomad;
mod servers;
#[path = "../../tests/integration/support"]
#[allow(dead_code, reason = "the tests use more of it")]
mod support {
    pub(crate) mod nomad;
    pub(crate) mod process;
}

use std::{env, error::Error, time::Duration};

use load::{Figures, Kind};
use servers::Server;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const SEQUENTIAL_CALLS: usize = 2000;
const TRAJECTORIES: usize = 100;
const LOAD_TIME: Duration = Duration::from_secs(5);
const IDLE_STREAMS: usize = 1000;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.first().map(String::as_str) {
        Some(floor::ECHO) => floor::serve_echo(),
        Some(floor::RELAY) => floor::serve_relay(),
        Some(floor::FAR_ECHO) => floor::serve_far_echo(arguments.get(1).ok_or("the far echo needs a socket")?),
        Some(only) => measure_only(only),
        None => measure(),
    }
}

const KINDS: [(Kind, &str); 3] =
    [(Kind::True, "bash true"), (Kind::Read, "read_file 1 KB"), (Kind::Write, "write_file 1 KB")];

fn measure_only(only: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if only == "nomad" {
        return nomad::measure(&runtime);
    }
    let executor = Server::executor()?;
    for (kind, name) in KINDS.into_iter().filter(|(_, name)| name.contains(only)) {
        print(name, &runtime.block_on(measure_kind(&executor.address, kind))?);
    }
    Ok(())
}

fn measure() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let spawn = floor::raw_spawn(SEQUENTIAL_CALLS, LOAD_TIME);
    print("floor: raw spawn of sh -c true", &spawn);

    let echo = Server::floor(floor::ECHO)?;
    let echo = runtime.block_on(measure_kind(&echo.address, Kind::Read))?;
    print("floor: bare tonic bidi echo", &echo);

    let relay = Server::floor(floor::RELAY)?;
    let two_hops = runtime.block_on(measure_kind(&relay.address, Kind::Read))?;
    drop(relay);
    print("floor: echo over two hops", &two_hops);

    let executor = Server::executor()?;
    for (kind, name) in KINDS {
        let figures = runtime.block_on(measure_kind(&executor.address, kind))?;
        print(name, &figures);
        match kind {
            Kind::True => {
                let floor = spawn.median + two_hops.median;
                println!("    p50 / (raw spawn + two hops)    {:5.2}   goal <= 1.20", ratio(figures.median, floor));
                println!("    rate / raw spawn's rate         {:5.2}   goal >= 0.80", figures.rate / spawn.rate);
            }
            Kind::Read | Kind::Write => {
                println!(
                    "    p50 / two hops                  {:5.2}   goal <= 1.60",
                    ratio(figures.median, two_hops.median)
                );
                println!("    rate / two hops' rate           {:5.2}   goal >= 0.50", figures.rate / two_hops.rate);
            }
        }
    }
    drop(executor);
    memory::measure(&runtime, IDLE_STREAMS)
}

async fn measure_kind(address: &str, kind: Kind) -> Result<Figures> {
    let (median, p99) = load::one_trajectory(address, kind, SEQUENTIAL_CALLS).await?;
    let rate = load::many_trajectories(address, kind, TRAJECTORIES, LOAD_TIME).await?;
    Ok(Figures { median, p99, rate })
}

fn print(name: &str, figures: &Figures) {
    println!(
        "{name:34} p50 {:7.0} us   p99 {:7.0} us   {TRAJECTORIES} at once: {:7.0}/s",
        figures.median.as_secs_f64() * 1e6,
        figures.p99.as_secs_f64() * 1e6,
        figures.rate,
    );
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}
