//! Which users of the host a process may give to its slots.

use std::{
    fs,
    ops::Range,
    time::{Duration, Instant},
};

use rustix::{io::Errno, process::Uid};

use super::SlotError;

/// How long a slot's user may have processes before the slot is made.
const LEAVING: Duration = Duration::from_secs(1);

/// Whether this process can run slots as all of these users and groups: it must be root, and its own user namespace
/// must have all of them. (Under `unshare --map-root-user`, and in many containers, root has no user but itself.)
pub fn can_assign_ids(ids: Range<u32>) -> bool {
    let covers = |map| fs::read_to_string(map).is_ok_and(|map| covers(&map, &ids));
    rustix::process::geteuid().is_root() && covers("/proc/self/uid_map") && covers("/proc/self/gid_map")
}

pub(super) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether any process of this machine, as far as this one sees it, is one of these users'. One that has ended and waits
/// for its parent to notice is none any more. Mostly one system call for each user, whatever else runs.
pub fn have_processes(mut users: Range<u32>) -> bool {
    // All that is asked is whether there is anybody whose priority could be told.
    let somebody = |id| !matches!(rustix::process::getpriority_user(Uid::from_raw(id)), Err(Errno::SRCH));
    let all = users.clone();
    users.any(somebody) && live_processes().any(|user| all.contains(&user))
}

/// Waits for what an agent that was killed, and had this user before, has left and is dying.
///
/// # Errors
/// It does not die.
pub async fn until_alone(user: u32) -> Result<(), SlotError> {
    let asked = Instant::now();
    while have_processes(user..user + 1) {
        if asked.elapsed() > LEAVING {
            return Err(SlotError::UserHasProcesses(user));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// The users of all processes that have not ended.
fn live_processes() -> impl Iterator<Item = u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|process| live_user(&fs::read_to_string(process.path().join("status")).ok()?))
}

/// Whose a process is, by its status; nobody's if it has ended, with all of its threads.
fn live_user(status: &str) -> Option<u32> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    let has_ended = field("State:").is_some_and(|state| ["Z", "X"].contains(&state));
    let several = field("Threads:").is_some_and(|threads| !["0", "1"].contains(&threads));
    field("Uid:").filter(|_| !has_ended || several)?.parse().ok()
}

/// Whether user 0 here is user 0 outside too: not so in a user namespace that an ordinary user has made.
pub(super) fn root_is_the_hosts() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    extents(&map).find(|extent| extent.inside == 0).is_none_or(|extent| extent.outside == 0)
}

/// Some ids, as one line of a map file tells them.
struct Extent {
    inside: u64,
    outside: u64,
    length: u64,
}

fn extents(map: &str) -> impl Iterator<Item = Extent> {
    map.lines().filter_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Extent { inside: next()?, outside: next()?, length: next()? })
    })
}

/// One extent must have them all: adjacent ones are not looked at together.
fn covers(map: &str, ids: &Range<u32>) -> bool {
    extents(map).any(|extent| {
        extent.inside <= u64::from(ids.start) && u64::from(ids.end) <= extent.inside.saturating_add(extent.length)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_processes_or_has_none() {
        let own = rustix::process::getuid().as_raw();
        assert!(have_processes(own..own + 1));
        // Above all ids that are given to anybody, the one that means nobody aside.
        assert!(!have_processes(u32::MAX - 3..u32::MAX - 1));
        assert!(!have_processes(own..own));
    }

    #[test]
    fn a_process_that_has_ended_is_nobodys() {
        let status =
            |state, threads| format!("Name:\tsh\nState:\t{state}\nUid:\t70001\t0\t0\t0\nThreads:\t{threads}\n");
        assert_eq!(live_user(&status("S (sleeping)", 1)), Some(70_001));
        assert_eq!(live_user(&status("Z (zombie)", 1)), None);
        // Its first thread has ended, and the others have not.
        assert_eq!(live_user(&status("Z (zombie)", 2)), Some(70_001));
        assert_eq!(live_user("no status"), None);
    }

    #[test]
    fn a_map_covers_what_one_extent_has() {
        let host = "         0          0 4294967295\n";
        let container = "0 100000 65536\n";
        assert!(covers(host, &(70_000..70_064)));
        assert!(covers(container, &(65_000..65_536)));
        assert!(!covers(container, &(65_000..65_537)));
        assert!(!covers("0 1000 1\n", &(70_000..70_001)));
        assert!(covers("0 1000 1\n1 100000 65536\n", &(1..65_537)));
        assert!(!covers("", &(1..2)) && !covers("what is this", &(1..2)));
    }
}
