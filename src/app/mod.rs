//! Wires the rooms together, one file a subcommand.

mod check;
mod containers;
mod descriptors;
mod listen;
mod metrics;
mod reload;
mod rooms;
mod serve;
mod state_dir;
mod tenants;

use std::{
    error::Error,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{
    cli,
    sandbox::agent,
    settings::{self, LogFormat, LogSettings, ServeFlags},
    telemetry::{self, Format},
    tool::chain,
};

/// Runs the tool calls of agent trajectories in isolated slots.
#[derive(Parser)]
#[command(
    name = "tool-executor",
    version,
    args_conflicts_with_subcommands = true,
    after_long_help = settings::overview()
)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeFlags,
}

#[derive(Subcommand)]
enum Command {
    /// Serve trainers (the default)
    #[command(after_long_help = settings::overview())]
    Serve(ServeFlags),
    /// Say what this machine can do, and with which settings `serve` would start
    Check(ServeFlags),
    /// Print a settings file that has every setting at its default, and says what each is
    ExampleSettings,
    #[command(flatten)]
    Client(cli::Command),
    /// Print the script that completes this program's arguments in a shell
    Completions { shell: clap_complete::Shell },
    /// Run the agent of a container; started by the executor
    #[command(hide = true)]
    Sandbox {
        /// The container's directory
        #[arg(long)]
        directory: PathBuf,
        /// The container's name
        #[arg(long)]
        container: String,
        /// Where to listen, if not on the socket that is standard input
        #[arg(long)]
        port: Option<u16>,
    },
}

/// The program, after `main` has seen to it that it is no helper process of a slot.
pub fn main() -> ExitCode {
    let line = CommandLine::parse();
    let done = match line.command.unwrap_or(Command::Serve(line.serve)) {
        Command::Serve(flags) => serve::run(flags),
        Command::Check(flags) => check::run(flags),
        Command::ExampleSettings => print(settings::example().as_bytes()).map(|()| ExitCode::SUCCESS),
        Command::Client(command) => cli::main(command).map_err(Into::into),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut CommandLine::command(), "tool-executor", &mut script);
            print(&script).map(|()| ExitCode::SUCCESS)
        }
        Command::Sandbox { directory, container, port } => sandbox(&agent::Place { directory, container, port }),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tool-executor: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

type Done = Result<ExitCode, Box<dyn Error>>;

/// To standard output, whose reader may go before it has read all.
fn print(text: &[u8]) -> Result<(), Box<dyn Error>> {
    let mut stdout = io::stdout().lock();
    let printed = stdout.write_all(text).and_then(|()| stdout.flush());
    printed.map_err(|error| format!("could not write to standard output: {error}").into())
}

fn sandbox(place: &agent::Place) -> Done {
    let filter = std::env::var("TOOL_EXECUTOR_LOG").unwrap_or_default();
    telemetry::init(Format::Text, &filter)?;
    agent::run(place)?;
    Ok(ExitCode::SUCCESS)
}

fn log(settings: &LogSettings) -> Result<(), telemetry::InitError> {
    let format = match settings.format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    telemetry::init(format, &settings.filter)
}
