//! This checkout against another one: whether calls have become slower.

use std::{
    path::Path,
    process::{Command, ExitCode},
    time::Duration,
};

use crate::{
    KINDS, Result,
    servers::Server,
    turns::{self, Plan},
};

/// More than the machine's mood makes of two equal ones.
const REGRESSION: f64 = 1.10;
const PLAN: Plan = Plan { rounds: 9, calls: 400, trajectories: 100, time: Duration::from_millis(1500) };

/// `other`: the directory of a checkout, which is built; or a built program. Fails if anything is more than 10 % slower
/// here.
pub(crate) fn measure(runtime: &tokio::runtime::Runtime, other: &Path) -> Result<ExitCode> {
    let program = if other.is_dir() { build(other)? } else { other.to_owned() };
    let (theirs, ours) = (Server::executor_of(&program)?, Server::executor()?);
    println!("ratios of this checkout to {}; above 1 is slower", other.display());
    compare(runtime, &theirs, &ours, REGRESSION)
}

/// Fails if anything of `ours` is slower by more than this factor.
pub(crate) fn compare(
    runtime: &tokio::runtime::Runtime,
    theirs: &Server,
    ours: &Server,
    most: f64,
) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for (kind, name) in KINDS {
        let ratios = runtime.block_on(turns::compare(&theirs.address, &ours.address, kind, &PLAN))?;
        let (latency, cost) = (ratios.median, 1.0 / ratios.rate);
        let verdict = if latency.max(cost) > most { "SLOWER" } else { "" };
        println!(
            "{name:20} p50 {latency:5.2} (of {:5.0} us)   time per call, 100 at once {cost:5.2} (of {:5.0} us)   {verdict}",
            ratios.first_median.as_secs_f64() * 1e6,
            1e6 / ratios.first_rate,
        );
        if !verdict.is_empty() {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

fn build(checkout: &Path) -> Result<std::path::PathBuf> {
    let mut cargo = Command::new(env!("CARGO"));
    let built = cargo.args(["build", "--release", "--bin", "tool-executor"]).current_dir(checkout).status()?;
    if !built.success() {
        return Err(format!("{} cannot be built", checkout.display()).into());
    }
    Ok(checkout.join("target/release/tool-executor"))
}
