//! What runs on this machine, from /proc.

use std::{fs, path::Path, time::Duration};

/// The direct children of a process, in no particular order.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// A process and everything below it.
pub(crate) fn tree(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        found.extend(children(pid));
        next += 1;
    }
    found
}

/// A process and everything below it, but for the makers of slots to come, which come and go as they like.
pub(crate) fn without_makers(pid: u32) -> Vec<u32> {
    tree(pid).into_iter().filter(|process| !is_maker(*process)).collect()
}

pub(crate) fn is_maker(process: u32) -> bool {
    fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| line == b"slot\0maker\0")
}

/// What holds each of this agent's slots together.
pub(crate) fn keepers(agent: u32) -> Vec<u32> {
    children(agent).into_iter().filter(|child| !is_maker(*child)).collect()
}

/// The parent of a process.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    status(pid, "PPid:")
}

/// The real user of a process, as this machine's root sees it.
pub(crate) fn user(pid: u32) -> Option<u32> {
    status(pid, "Uid:")
}

/// The first number on a line of its status.
fn status(pid: u32, line: &str) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|text| text.strip_prefix(line)?.split_whitespace().next()?.parse().ok())
}

/// Whether there is such a process, a zombie not counted.
pub(crate) fn is_alive(pid: u32) -> bool {
    state(Path::new(&format!("/proc/{pid}"))).is_some_and(|state| state != 'Z')
}

/// Whether every thread of it is stopped.
pub(crate) fn is_stopped(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    tasks.is_ok_and(|tasks| tasks.flatten().all(|task| state(&task.path()).is_none_or(|state| state == 'T')))
}

/// As ps(1) shows it, of a process or thread.
fn state(of: &Path) -> Option<char> {
    let stat = fs::read_to_string(of.join("stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// All processes of this machine whose command line has this text in it; nothing is left of a zombie's.
pub(crate) fn marked(text: &str) -> Vec<u32> {
    let has = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(text.len()).any(|part| part == text.as_bytes())
    };
    let entries = fs::read_dir("/proc").expect("there is a /proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(has).collect()
}

/// The process of this agent's that holds the slot in which `inside` runs.
pub(crate) fn keeper_of(agent: u32, inside: u32) -> Option<u32> {
    children(agent).into_iter().find(|keeper| tree(*keeper).contains(&inside))
}

/// The most memory that it had at any time, in bytes.
pub(crate) fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it has memory");
    kilobytes(peak).expect("it is a number")
}

/// The share of memory that would be free without it, in bytes; 0 if it has ended.
pub(crate) fn pss(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    rollup.lines().find_map(|line| line.strip_prefix("Pss:")).and_then(kilobytes).unwrap_or(0)
}

fn kilobytes(text: &str) -> Option<u64> {
    text.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|number| number << 10)
}

/// User and system time of a process, in steps of 10 ms.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is alive");
    let fields = stat.rsplit_once(')').expect("it has a name").1.split_ascii_whitespace();
    let ticks = fields.skip(11).take(2).map(|field| field.parse::<u32>().expect("a number"));
    Duration::from_millis(10) * ticks.sum::<u32>()
}
