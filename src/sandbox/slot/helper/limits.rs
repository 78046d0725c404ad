//! The limits that a runner holds its calls to: those that the kernel takes from each process, which are set before any
//! call is started, and those that it knows only for one process and that count for the call as a whole.

use std::{fs, io, thread, time::Duration};

use rustix::{
    event::Timespec,
    process::{Pid, Resource, Rlimit},
};

use super::super::wire::{LimitHit, Proc, RunnerSpec};

/// How often a running call is looked at where there is something to look for.
const INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
/// Where there is not.
const LAZY_INTERVAL: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// What /proc counts time in, on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// Sets what this process and all that it starts are held to.
pub(super) fn set(spec: &RunnerSpec) -> io::Result<()> {
    let limits = [
        (Resource::Core, Some(0)),
        (Resource::Nofile, Some(spec.max_open_files)),
        (Resource::Nproc, spec.max_processes),
        (Resource::Fsize, spec.file_bytes),
        // Not the address space, of which many programs reserve far more than they use.
        (Resource::Data, spec.memory_bytes),
    ];
    for (resource, limit) in limits {
        let Some(limit) = limit else { continue };
        // A hard limit below ours stands: it cannot be raised, and is stricter.
        let limit = rustix::process::getrlimit(resource).maximum.map_or(limit, |hard| hard.min(limit));
        rustix::process::setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    }
    Ok(())
}

/// Looks at the call that runs.
pub(super) struct Watch {
    cpu_time: Option<Duration>,
    /// /proc shows this runner's processes alone.
    sees_processes: bool,
    /// RLIMIT_NPROC is what limits the slot's processes.
    counts_processes: bool,
}

impl Watch {
    pub(super) fn new(spec: &RunnerSpec) -> Self {
        Self {
            cpu_time: spec.cpu_time_us.map(Duration::from_micros),
            sees_processes: spec.proc() == Proc::Own && spec.shown.is_none(),
            counts_processes: spec.max_processes.is_some(),
        }
    }

    /// How often to look, and to reap: ended orphans of a call use up its process numbers.
    pub(super) fn interval(&self) -> &'static Timespec {
        if self.cpu_time.is_some() || self.counts_processes { &INTERVAL } else { &LAZY_INTERVAL }
    }

    /// One process alone is held to the call's time by the kernel. Not so this one, which runs many calls.
    pub(super) fn begin(&self, call: Pid) {
        let Some(cpu_time) = self.cpu_time else { return };
        let seconds = cpu_time.as_secs() + u64::from(cpu_time.subsec_nanos() > 0);
        let limit = Rlimit { current: Some(seconds), maximum: Some(seconds + 1) };
        // It may have ended by now; what it has started meanwhile is counted all the same.
        let _ = rustix::process::prlimit(Some(call), Resource::Cpu, limit);
    }

    /// What the call exceeds at this moment. `reaped`: what those of its processes have used that are gone.
    pub(super) fn exceeded(&self, reaped: Duration) -> LimitHit {
        if self.cpu_time.is_some_and(|limit| reaped + self.used_by_the_living() >= limit) {
            return LimitHit::CpuTime;
        }
        if self.is_full() { LimitHit::Processes } else { LimitHit::None }
    }

    /// Whether the slot can have no process more.
    pub(super) fn is_full(&self) -> bool {
        self.counts_processes && no_process_can_be_made()
    }

    /// Whether a call that is over has exceeded its time.
    pub(super) fn exceeded_in_all(&self, reaped: Duration) -> bool {
        self.cpu_time.is_some_and(|limit| reaped >= limit)
    }

    fn used_by_the_living(&self) -> Duration {
        if !self.sees_processes {
            return Duration::ZERO;
        }
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let calls = entries.filter(|entry| {
            let name = entry.file_name();
            name != "1" && name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
        });
        let ticks =
            calls.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok()).map(|stat| ticks(&stat));
        TICK * ticks.sum::<u32>()
    }
}

/// User and system time of a process and of its children that it has reaped. The program's name, in parentheses, may
/// have anything in it.
fn ticks(stat: &str) -> u32 {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name.split_ascii_whitespace().skip(11).take(4).filter_map(|field| field.parse::<u32>().ok()).sum()
}

/// This process has the calls' user and limit: what it cannot make, they cannot.
fn no_process_can_be_made() -> bool {
    match thread::Builder::new().stack_size(32 << 10).spawn(|| ()) {
        Ok(thread) => {
            // It does nothing.
            let _ = thread.join();
            false
        }
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b (c)) R 1 7 7 0 -1 4194560 87 0 0 0 11 2 30 4 20 0 1 0 1176 1785856 180";
        assert_eq!(ticks(stat), 47);
        assert_eq!(ticks(""), 0);
    }

    #[test]
    fn a_process_can_be_made() {
        assert!(!no_process_can_be_made());
    }
}
