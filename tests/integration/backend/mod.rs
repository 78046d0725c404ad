//! The local backend where things go wrong: with programs that are no agents, and with what an agent may leave behind.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{CWD, Mode, OFlags, mkdirat, openat},
    process::{Resource, getrlimit},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tool_executor::{
    backend::{Backend, ContainerEvent, LocalBackend, LocalConfig, clear_leftovers},
    id::{ContainerId, PoolName},
    sandbox::{
        agent::Profile,
        client::LinkOptions,
        slot::{Limits, View},
    },
    tool::Isolation,
};

use crate::support::client::PATIENCE;

fn backend(directory: PathBuf, program: &str) -> LocalBackend {
    let profile = Profile {
        slots: 1,
        isolation_minimum: Isolation::L1B,
        network: false,
        orphan_timeout: Duration::from_secs(60),
        view: View::Host,
        read_only: Vec::new(),
        hidden: Vec::new(),
        workspace_source: None,
        writable_root: false,
        tmp_bytes: 1 << 20,
        max_open_files: 64,
        max_processes: None,
        limits: Limits::default(),
    };
    LocalBackend::new(LocalConfig {
        directory,
        program: program.into(),
        uid_base: 0,
        pools: [(pool(), profile)].into(),
        log: String::new(),
    })
}

fn pool() -> PoolName {
    PoolName::new("")
}

async fn cause(backend: &LocalBackend) -> String {
    backend.start(&pool()).await.map(drop).expect_err("it cannot start").evidence.cause
}

/// Whether nothing is there, or nothing is in it.
fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}

#[tokio::test]
async fn an_agent_that_ends_at_once_leaves_evidence_and_nothing_else() {
    let state = tempfile::tempdir().expect("a directory");
    let containers = state.path().join("containers");
    // Neither does `ls` know what is asked of it.
    let backend = backend(containers.clone(), "/bin/ls");
    let mut container = backend.start(&pool()).await.expect("a process can be started");
    let event = timeout(PATIENCE, container.events.recv()).await.expect("its end is noticed");
    let Some(ContainerEvent::Lost(evidence)) = event else { panic!("{event:?}") };
    assert!(evidence.cause.contains("exit status"), "{}", evidence.cause);
    assert!(evidence.stderr_tail.contains("ls: "), "{}", evidence.stderr_tail);
    timeout(PATIENCE, backend.stop(&container.id)).await.expect("it is gone already");
    assert!(is_empty(&containers));
    timeout(PATIENCE, backend.stop(&ContainerId::new("unheard-of"))).await.expect("that is gone, too");
}

#[tokio::test]
async fn what_keeps_a_container_from_starting_is_named() {
    let state = tempfile::tempdir().expect("a directory");
    let containers = state.path().join("containers");
    let missing = cause(&backend(containers.clone(), "/nowhere/agent")).await;
    assert!(missing.contains("start its agent") && missing.contains("No such file"), "{missing}");
    assert!(is_empty(&containers), "what was begun is undone");
    let file = state.path().join("file");
    fs::write(&file, "").expect("a file");
    let no_directory = cause(&backend(file.join("containers"), "/bin/ls")).await;
    assert!(no_directory.contains("make its directory"), "{no_directory}");
}

#[tokio::test]
async fn what_a_dead_agent_has_left_is_cleared_away_whatever_it_is() {
    let state = tempfile::tempdir().expect("a directory");
    let workspace = state.path().join("old/slots/0/workspace");
    fs::create_dir_all(&workspace).expect("a workspace");
    // Deeper than this process may have open files.
    let depth = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).min(50_000) + 10;
    let mut at = openat(CWD, &workspace, OFlags::DIRECTORY, Mode::empty()).expect("it opens");
    for _ in 0..depth {
        mkdirat(&at, "d", Mode::RWXU).expect("a directory");
        at = openat(&at, "d", OFlags::DIRECTORY, Mode::empty()).expect("it opens");
    }
    let closed = workspace.join("closed");
    fs::create_dir(&closed).expect("a directory");
    fs::write(closed.join("file"), "").expect("a file");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).expect("it is ours");
    fs::set_permissions(&workspace, fs::Permissions::from_mode(0o000)).expect("it is ours");
    let link = LinkOptions {
        executor_id: String::new(),
        epoch: 1,
        max_batch_size: 1,
        agent_grace: Duration::from_secs(1),
        superseded: CancellationToken::new(),
    };
    clear_leftovers(state.path(), &link, &[pool()]).await.expect("it can be read");
    assert!(is_empty(state.path()));
}
