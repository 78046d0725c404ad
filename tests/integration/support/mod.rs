//! What tests share.

use std::path::Path;

use tempfile::TempDir;

pub(crate) mod agent;
pub(crate) mod authority;
pub(crate) mod cgroup;
pub(crate) mod client;
pub(crate) mod dying;
pub(crate) mod http;
pub(crate) mod mcp_server;
pub(crate) mod nomad;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod real_nomad;
pub(crate) mod server;
pub(crate) mod tool_server;
pub(crate) mod trainer;

/// A directory in a place that is the same inside a slot and outside: not in one of which each slot has its own, where
/// the whole checkout may well be.
pub(crate) fn shared_place() -> TempDir {
    const OWN: [&str; 6] = ["/tmp", "/var/tmp", "/dev", "/proc", "/run", "/workspace"];
    let home = std::env::var("HOME").unwrap_or_default();
    let candidates = [env!("CARGO_TARGET_TMPDIR"), "/opt", &home];
    let shared = candidates.into_iter().filter(|place| !OWN.iter().any(|own| Path::new(place).starts_with(own)));
    shared.filter_map(|place| TempDir::new_in(place).ok()).next().expect("there is a place that slots have not")
}

/// Something that a test needs is not on this machine. `TOOL_EXECUTOR_REQUIRE_CLIENTS` turns that into a failure.
pub(crate) fn skip<T>(why: &str) -> Option<T> {
    assert!(std::env::var_os("TOOL_EXECUTOR_REQUIRE_CLIENTS").is_none(), "something is missing: {why}");
    eprintln!("skipped: {why}");
    None
}
