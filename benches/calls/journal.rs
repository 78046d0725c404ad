//! What it costs that records are kept: an executor that keeps none against one that writes them to its file, and one
//! that waits for the disk.

use std::process::ExitCode;

use crate::{
    Result, against,
    servers::{ROOMY, Server},
};

/// The goal for records on file; for those on the disk there is none, since it is the disk's.
const GOAL: f64 = 1.03;

pub(crate) fn measure(runtime: &tokio::runtime::Runtime) -> Result<ExitCode> {
    let with = |durability: &'static str| {
        let settings: Vec<_> = ROOMY.into_iter().chain([("JOURNAL", durability)]).collect();
        Server::executor_with(&settings)
    };
    let memory = with("memory")?;
    println!("ratios of `journal = file` to `memory`; above 1 is slower (goal {GOAL})");
    let code = against::compare(runtime, &memory, &with("file")?, GOAL)?;
    println!("ratios of `journal = synced` to `memory`");
    against::compare(runtime, &memory, &with("synced")?, f64::INFINITY)?;
    Ok(code)
}
