//! What a call costs, against what it cannot cost less than. Everything runs on this machine, the client included:
//!
//! - floors: a raw spawn of `sh -c true`; a bare tonic bidi echo; the same echo through a relay onto one multiplexed
//!   stream, which is two hops, as a call takes them;
//! - the executor: one trajectory, and 100 at once, of `true`, of `read_file` and `write_file` of 1 KB;
//! - memory of an idle executor and of an idle agent with its slots;
//! - what open trajectories cost, whether slow calls delay quick ones, or a slot at its limits its neighbours, and what
//!   much output costs;
//! - how soon a slot with 10,000 files can be given on;
//! - a script in the shell that stays, against one of its own;
//! - a list and an archive of 1,000 files, and a large file against `cat` to a pipe.
//!
//! `cargo bench --bench calls` prints every figure and its ratio to the floor. Quote ratios: absolute figures change
//! with the machine and its mood. With a word after it, it measures less: `-- read_file` one kind of call, and no floor;
//! `-- scale`, `-- fairness`, `-- limits`, `-- output`, `-- reset`, `-- terminal` and `-- artifacts` what they say;
//! `-- nomad` what it costs that containers run on a cluster; `-- journal` what it costs that a restart finds everything,
//! and `-- telemetry` what the log does.
//! `-- against CHECKOUT` compares another checkout, or a built program of it, with this one, in turns, and fails if
//! this one is slower by more than 10 %.

mod against;
mod artifacts;
mod fairness;
mod floor;
mod journal;
mod limits;
mod load;
mod memory;
mod nomad;
mod output;
mod reset;
mod scale;
mod servers;
mod telemetry;
mod terminal;
mod turns;
#[path = "../../tests/integration/support"]
#[allow(dead_code, reason = "the tests use more of it")]
mod support {
    pub(crate) mod nomad;
    pub(crate) mod process;
}

use std::{env, error::Error, path::Path, process::ExitCode, time::Duration};

use load::{Kind, Latency, Load};
use servers::Server;
use tokio::runtime::Runtime;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const SEQUENTIAL_CALLS: usize = 2000;
const TRAJECTORIES: usize = 100;
const LOAD_TIME: Duration = Duration::from_secs(5);

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [floor::ECHO] => floor::serve_echo()?,
        [floor::RELAY] => floor::serve_relay(false)?,
        [floor::SPAWNING_RELAY] => floor::serve_relay(true)?,
        [floor::FAR_ECHO, socket] => floor::serve_far_echo(socket, false)?,
        [floor::SPAWNING_FAR_ECHO, socket] => floor::serve_far_echo(socket, true)?,
        _ => return measure(&arguments),
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(arguments: &[&str]) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match *arguments {
        [] => everything(&runtime)?,
        ["nomad"] => nomad::measure(&runtime)?,
        ["scale"] => scale::measure(&runtime)?,
        ["fairness"] => fairness::measure(&runtime)?,
        ["limits"] => limits::measure(&runtime)?,
        ["output"] => output::measure(&runtime)?,
        ["artifacts"] => artifacts::measure(&runtime)?,
        ["journal"] => return journal::measure(&runtime),
        ["telemetry"] => return telemetry::measure(&runtime),
        ["reset"] => reset::measure(&runtime)?,
        ["terminal"] => terminal::measure(&runtime)?,
        ["against", other] => return against::measure(&runtime, Path::new(other)),
        [only] => one_kind(&runtime, only)?,
        _ => return Err("it is one word, or against and a checkout: see benches/calls/main.rs".into()),
    }
    Ok(ExitCode::SUCCESS)
}

const KINDS: [(Kind, &str); 3] =
    [(Kind::True, "bash true"), (Kind::Read, "read_file 1 KB"), (Kind::Write, "write_file 1 KB")];

fn one_kind(runtime: &Runtime, only: &str) -> Result<()> {
    let executor = Server::executor()?;
    for (kind, name) in KINDS.into_iter().filter(|(_, name)| name.contains(only)) {
        print(name, &runtime.block_on(figures(&executor.address, kind))?);
    }
    Ok(())
}

fn everything(runtime: &Runtime) -> Result<()> {
    let spawn = (floor::spawns(SEQUENTIAL_CALLS), floor::spawns_at_once(8, LOAD_TIME));
    print("floor: raw spawn of sh -c true", &spawn);

    let echo = Server::floor(floor::ECHO)?;
    print("floor: bare tonic bidi echo", &runtime.block_on(figures(&echo.address, Kind::Read))?);
    drop(echo);

    let relay = Server::floor(floor::RELAY)?;
    let two_hops = runtime.block_on(figures(&relay.address, Kind::Read))?;
    drop(relay);
    print("floor: echo over two hops", &two_hops);

    // Between the hops of a call everything that they need has been pushed out of the processor's caches by the process
    // that ran meanwhile: so the sum of both floors is less than what both cost together.
    let relay = Server::floor(floor::SPAWNING_RELAY)?;
    let behind = runtime.block_on(load::one_trajectory(&relay.address, Kind::Read, SEQUENTIAL_CALLS))?;
    drop(relay);
    println!(
        "floor: raw spawn behind two hops   p50 {:7.0} us   p99 {:7.0} us",
        micros(behind.median),
        micros(behind.p99)
    );

    let executor = Server::executor()?;
    for (kind, name) in KINDS {
        let (one, many) = runtime.block_on(figures(&executor.address, kind))?;
        print(name, &(one, many));
        let (floor, floor_rate, floor_name, goal, rate_goal) = match kind {
            Kind::True => (spawn.0.median + two_hops.0.median, spawn.1.rate, "raw spawn", 1.20, 0.80),
            _ => (two_hops.0.median, two_hops.1.rate, "two hops", 1.60, 0.50),
        };
        let floors = if kind == Kind::True { "(raw spawn + two hops)" } else { "two hops" };
        println!("    p50 / {floors:26}{:5.2}   goal <= {goal:.2}", ratio(one.median, floor));
        if kind == Kind::True {
            println!("    p50 / raw spawn behind two hops {:5.2}", ratio(one.median, behind.median));
        }
        println!(
            "    rate / {:25}{:5.2}   goal >= {rate_goal:.2}",
            format!("{floor_name}'s rate"),
            many.rate / floor_rate
        );
        let [dispatch, execution, collection] =
            [one.phases.dispatch, one.phases.execution, one.phases.collection].map(micros);
        println!("    dispatch {dispatch:.0} us, execution {execution:.0} us, collection {collection:.0} us");
    }
    drop(executor);
    memory::measure(runtime)?;
    scale::measure(runtime)?;
    fairness::measure(runtime)?;
    limits::measure(runtime)?;
    output::measure(runtime)?;
    reset::measure(runtime)?;
    terminal::measure(runtime)?;
    artifacts::measure(runtime)
}

async fn figures(address: &str, kind: Kind) -> Result<(Latency, Load)> {
    let one = load::one_trajectory(address, kind, SEQUENTIAL_CALLS).await?;
    Ok((one, load::many_trajectories(address, kind, TRAJECTORIES, LOAD_TIME).await?))
}

fn print(name: &str, (one, many): &(Latency, Load)) {
    println!(
        "{name:34} p50 {:7.0} us   p99 {:7.0} us   {TRAJECTORIES} at once: {:7.0}/s",
        micros(one.median),
        micros(one.p99),
        many.rate,
    );
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}
