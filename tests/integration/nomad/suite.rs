//! What works on one machine works over Nomad: the tests of the service again, unchanged, each executor over a Nomad of
//! its own.

use std::process::{Command, Stdio};

use crate::support::server::OVER_NOMAD;

/// Tests of what is there on one machine alone.
const LOCAL: [&str; 5] = [
    // Of an agent's socket, which over Nomad is one of the network's and encrypted.
    "serve::outcomes::internal",
    // Of a directory of this machine.
    "serve::endings::a_slot_that_cannot_be_emptied_is_never_used_again",
    "serve::faults::a_dead_agents_files_are_cleared_away",
    // It fills the file system of the executor's state, which workspaces are not in there.
    "serve::artifacts::a_full_disk_is_said_and_nothing_is_half_there",
    // Of what the executor's machine can do: over Nomad each agent finds its own level.
    "serve::isolation::",
];

#[test]
fn the_service_over_nomad() {
    let this = std::env::current_exe().expect("this program has a file");
    let mut command = Command::new(this);
    command.arg("serve::").args(LOCAL.iter().flat_map(|test| ["--skip", test]));
    let run = command.env(OVER_NOMAD, "1").stdin(Stdio::null()).output().expect("it runs");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    let passed = said.lines().filter(|line| line.ends_with("... ok")).count();
    assert!(passed > 50, "{passed} tests ran: {said}");
}
