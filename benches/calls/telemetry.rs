//! What it costs that calls are told of: an executor whose log is off against one as it is by default, and against one
//! that logs each call. Its metrics, and what the page remembers, cannot be turned off: they are in each of them.

use std::process::ExitCode;

use crate::{
    Result, against,
    servers::{ROOMY, Server},
};

/// For the log as it is by default; for that of each call there is none.
const GOAL: f64 = 1.03;

pub(crate) fn measure(runtime: &tokio::runtime::Runtime) -> Result<ExitCode> {
    let with = |filter: &'static str| {
        let settings: Vec<_> = ROOMY.into_iter().chain([("LOG_FILTER", filter)]).collect();
        Server::executor_with(&settings)
    };
    let off = with("off")?;
    println!("ratios of `log.filter = info` to `off`; above 1 is slower (goal {GOAL})");
    let code = against::compare(runtime, &off, &with("info")?, GOAL)?;
    println!("ratios of `log.filter = info,tool_executor::trajectory=debug` to `off`");
    against::compare(runtime, &off, &with("info,tool_executor::trajectory=debug")?, f64::INFINITY)?;
    Ok(code)
}
