//! The end of processes whose warden was killed before it could end them. Nobody in a slot can do that: an operator may,
//! or the kernel where memory is short.
//!
//! Runners notice it by themselves and end their calls; this sees to it that they have, and, where the slot has a user of
//! its own, ends whatever that user still has.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// Blocks until nothing is left; false if something still is after `patience`.
pub(super) fn end_leftovers(user: Option<u32>, patience: Duration) -> io::Result<bool> {
    let begun = Instant::now();
    loop {
        let left = match user {
            Some(user) => all(|status, _| uid(status) == Some(user)),
            None => all(is_orphaned_runner),
        }?;
        if left.is_empty() {
            return Ok(true);
        }
        for pid in left {
            if user.is_some() {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            // Not a child of this process, it is somebody else's to reap.
            let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
        if begun.elapsed() > patience {
            return Ok(false);
        }
        std::thread::sleep(PAUSE);
    }
}

/// All processes that are so: `which` is given the status of each, and its directory.
fn all(which: impl Fn(&str, &Path) -> bool) -> io::Result<Vec<Pid>> {
    let process = |entry: fs::DirEntry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        // Of one that ends meanwhile nothing can be read.
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        which(&status, &entry.path()).then_some(pid)
    };
    Ok(fs::read_dir("/proc")?.flatten().filter_map(process).collect())
}

/// A runner is a warden's child for as long as that lives. One that has ended has no arguments any more.
fn is_orphaned_runner(status: &str, process: &Path) -> bool {
    let own_child = field(status, "PPid:") == Some(std::process::id());
    own_child && fs::read(process.join("cmdline")).is_ok_and(|arguments| arguments.starts_with(b"slot\0runner\0"))
}

fn uid(status: &str) -> Option<u32> {
    field(status, "Uid:")
}

fn field(status: &str, name: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()?.parse().ok()
}
