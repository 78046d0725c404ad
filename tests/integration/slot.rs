use std::{io::Read, path::PathBuf};

use tool_executor::{
    sandbox::slot::{self, Runner, RunnerEnd, Slot, SlotConfig, Stdio},
    tool::job::{Exit, Process, Program},
};

fn config(directory: PathBuf) -> SlotConfig {
    let root = rustix::process::geteuid().is_root();
    SlotConfig {
        host_id: root.then_some(64_000),
        program: env!("CARGO_BIN_EXE_tool-executor").into(),
        ..SlotConfig::new(directory)
    }
}

#[tokio::test]
async fn probe() {
    let home = tempfile::tempdir().unwrap();
    match slot::probe(&config(home.path().join("slots/probe"))).await {
        Ok(level) => assert_eq!(level.to_string(), "L0"),
        Err(error) => panic!("{error}"),
    }
}
