//! The program as a client, for people without a trainer at hand: one file a subcommand.
//!
//! What a subcommand is asked for goes to standard output, and all else to standard error. With `--json` it is the
//! answer's message as JSON, in Protobuf's own mapping, one to a line.

mod connect;
mod failure;
mod get;
mod json;
mod progress;
mod put;
mod run;
mod status;
mod table;
mod trajectories;

use std::process::ExitCode;

pub use failure::Failure;

/// A subcommand that asks a running executor.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run a command in a slot, show its output as it comes, and end as it ends
    Run(run::Arguments),
    /// Show what the executor has and does
    Status(status::Arguments),
    /// List the trajectories that are open
    Trajectories(trajectories::Arguments),
    /// Bring a file into a trajectory's workspace
    Put(put::Arguments),
    /// Fetch a file, or a directory as an archive, out of a trajectory's workspace
    Get(get::Arguments),
}

/// Runs it to its end.
///
/// # Errors
/// What went wrong, and what to do about it.
pub fn main(command: Command) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    let done = runtime.block_on(async {
        match command {
            Command::Run(arguments) => run::run(arguments).await,
            Command::Status(arguments) => status::show(arguments).await.map(|()| ExitCode::SUCCESS),
            Command::Put(arguments) => put::put(arguments).await.map(|()| ExitCode::SUCCESS),
            Command::Get(arguments) => get::get(arguments).await.map(|()| ExitCode::SUCCESS),
            Command::Trajectories(arguments) => trajectories::list(arguments).await.map(|()| ExitCode::SUCCESS),
        }
    });
    // A read of standard input may wait for ever.
    runtime.shutdown_background();
    done
}
