//! The shape of the source: who may use whom, what is pure, how long a file may be, where `unsafe` stands.
//!
//! The rooms of the program import one way: bin -> app -> cli -> edge -> trajectory -> journal, external, scheduler ->
//! backend -> sandbox -> tool -> id. The left may use the right, never the reverse, and rooms of one rank do not use
//! each other.

use std::{
    fs,
    path::{Path, PathBuf},
};

mod source;

use source::{SourceFile, Use};

/// Longest file, its tests aside.
const MAX_LINES: usize = 400;

/// From left to right.
const RANKS: [&[&str]; 10] = [
    &["main"],
    &["app"],
    &["cli"],
    &["edge"],
    &["trajectory"],
    &["journal", "external", "scheduler"],
    &["backend"],
    &["sandbox"],
    &["tool"],
    &["id"],
];

/// What stands beside the order: (room, who may use it), as prefixes of modules.
const RESTRICTED: [(&str, &[&str]); 5] = [
    ("pb", &["edge", "cli", "journal", "sandbox::client", "sandbox::agent", "sandbox::wire", "sandbox::session"]),
    ("settings", &["app", "main"]),
    ("telemetry", &["app", "main"]),
    // The agent is another process: what the executor knows of it is how to configure and to reach it.
    ("sandbox::agent", &["app", "main", "backend"]),
    ("sandbox::slot", &["app", "main", "backend", "sandbox::agent"]),
];

/// Rooms that may use these alone (and themselves).
const CONFINED: [(&str, &[&str]); 5] = [
    ("pb", &[]),
    // Names of toolsets, and plain data that people set as it is.
    ("settings", &["tool", "backend", "journal", "id"]),
    ("telemetry", &[]),
    ("sandbox::slot", &["tool", "id"]),
    ("sandbox::session", &["pb"]),
];

/// Pure cores: no runtime, no clock.
const PURE: [&str; 5] = ["scheduler::core", "trajectory::state", "trajectory::ledger", "sandbox::session", "tool"];

fn sources() -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 20, "the sources are found");
    files.iter().map(|path| SourceFile::read(&root, path)).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Whether the module is the room or a part of it.
fn within(module: &str, room: &str) -> bool {
    module.strip_prefix(room).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn within_any(module: &str, rooms: &[&str]) -> bool {
    rooms.iter().any(|room| within(module, room))
}

fn room(module: &str) -> &str {
    module.split("::").next().unwrap_or(module)
}

fn rank(module: &str) -> Option<usize> {
    RANKS.iter().position(|rooms| rooms.contains(&room(module)))
}

/// Why this use is not allowed, if it is not.
fn fault(Use { from, to }: &Use) -> Option<String> {
    let (from, to) = (from.as_str(), to.as_str());
    if let Some((confined, allowed)) = CONFINED.iter().find(|(confined, _)| within(from, confined))
        && !within(to, confined)
        && !within_any(to, allowed)
    {
        return Some(format!("{from} uses {to}, and {confined} may use {allowed:?} alone"));
    }
    if let Some((restricted, users)) = RESTRICTED.iter().find(|(restricted, _)| within(to, restricted)) {
        let allowed = within(from, restricted) || within_any(from, users);
        return (!allowed).then(|| format!("{from} uses {to}, which {users:?} may alone"));
    }
    if room(from) == room(to) || CONFINED.iter().any(|(confined, _)| within(from, confined)) {
        return None;
    }
    match (rank(from), rank(to)) {
        (Some(left), Some(right)) if left < right => None,
        (Some(_), Some(_)) => Some(format!("{from} uses {to}, which is not to its right")),
        (None, _) => Some(format!("{from} has no place in the order of rooms")),
        (_, None) => Some(format!("{from} uses {to}, which has no place in the order of rooms")),
    }
}

fn assert_none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn rooms_are_used_one_way() {
    assert_none(sources().iter().flat_map(SourceFile::uses).filter_map(|used| fault(&used)).collect());
}

#[test]
fn the_order_of_rooms_can_be_broken() {
    let broken = |from: &str, to: &str| fault(&Use { from: from.into(), to: to.into() }).is_some();
    for (from, to) in [
        ("tool::judge", "sandbox::client"),
        ("scheduler::core", "trajectory"),
        ("journal", "scheduler"),
        ("trajectory::driver", "pb::toolexecutor"),
        ("edge", "settings"),
        ("sandbox::slot::maker", "sandbox::agent"),
        ("sandbox::slot", "pb"),
        ("sandbox::client", "sandbox::agent"),
        ("settings", "edge"),
        ("cli", "app"),
        ("nowhere", "tool"),
    ] {
        assert!(broken(from, to), "{from} must not use {to}");
    }
    for (from, to) in [
        ("app", "settings"),
        ("edge", "trajectory"),
        ("edge", "pb::toolexecutor"),
        ("backend::local", "sandbox::agent"),
        ("sandbox::agent", "sandbox::slot"),
        ("sandbox::slot::runner", "sandbox::slot::wire"),
        ("settings", "tool"),
        ("tool::judge", "id"),
    ] {
        assert!(!broken(from, to), "{from} may use {to}");
    }
}

#[test]
fn pure_cores_have_no_runtime_and_no_clock() {
    let pure = |file: &&SourceFile| within_any(&file.module, &PURE) && !file.is_test();
    let impure = |file: &SourceFile| {
        let found = ["tokio", "Instant::now", "SystemTime::now", "std::fs", "std::net", "std::process"]
            .into_iter()
            .filter(|path| file.mentions(path));
        found.map(|path| format!("{} uses {path}", file.name)).collect::<Vec<_>>()
    };
    assert_none(sources().iter().filter(pure).flat_map(impure).collect());
}

#[test]
fn files_are_short() {
    let long = |file: &SourceFile| {
        let lines = file.lines_without_tests();
        (lines > MAX_LINES).then(|| format!("{} has {lines} lines, and may have {MAX_LINES}", file.name))
    };
    assert_none(sources().iter().filter(|file| !file.is_test()).filter_map(long).collect());
}

#[test]
fn unsafe_stands_in_one_file() {
    const UNSAFE: &str = "src/sandbox/slot/sys.rs";
    let unsafe_elsewhere = |file: &SourceFile| {
        (file.name != UNSAFE && file.mentions("unsafe")).then(|| format!("{} has unsafe", file.name))
    };
    assert_none(sources().iter().filter_map(unsafe_elsewhere).collect());
}
