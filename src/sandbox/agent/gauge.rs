//! Tells which limit of its slot a call has run into, by what the kernel counts and what its workspace has grown to.
//!
//! Counters and workspace are the slot's, and several calls may run in it at once. So what has happened is put down to
//! a call for certain only if no other has run beside it; else only if it did not succeed, as the call that caused it
//! cannot have. A call that hits a limit while it is alone is ended: what goes on after that is of no use to anybody.
//! What goes on behind calls, in the background, is looked at as well: see [`behind`].

mod behind;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub(super) use self::behind::{Behind, Lasting};
use super::meter::{Meter, Use};
use crate::{
    sandbox::slot::{
        Allowance, CPU_TIME, Counters, FILE_SIZE, LimitHit, MEMORY, PROCESSES, SlotCgroup, SlotConfig, Storage,
        WORKSPACE_INODES, WORKSPACE_SIZE, Workspace,
    },
    tool::{
        job::{Exceeded, Exit, LimitKind},
        limit,
    },
};

/// How often a running call is looked at. Most have ended before the first time.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);

/// Of one slot. Cheap to clone.
#[derive(Clone)]
pub(super) struct Gauge {
    shared: Arc<Shared>,
}

struct Shared {
    cgroup: Option<Arc<SlotCgroup>>,
    limits: Values,
    calls: Mutex<Calls>,
    storage: Mutex<Option<Space>>,
}

/// The slot's limits.
struct Values {
    memory: Option<u64>,
    processes: Option<u64>,
    cpu_time: Option<Duration>,
    file: Option<u64>,
    workspace: Option<u64>,
    inodes: Option<u64>,
}

#[derive(Clone)]
enum Space {
    Measured(Meter),
    /// Holds itself to its limits.
    Exact(Workspace),
}

#[derive(Default)]
struct Calls {
    running: usize,
    /// Background processes.
    processes: usize,
    /// Shells that wait for scripts, and terminals.
    shells: usize,
    /// Of calls and background processes.
    begun: u64,
}

/// What was there at some moment.
struct Since {
    gauge: Gauge,
    counters: Counters,
    space: Option<Space>,
    used: Use,
    /// An exact workspace could take more.
    had_room: bool,
    /// How many had begun.
    number: u64,
}

/// What was there when a call began; dropped with its end.
pub(super) struct Mark {
    since: Since,
    first: bool,
}

impl Gauge {
    pub(super) fn new(slot: &SlotConfig, max_processes: Option<u64>, cgroup: Option<Arc<SlotCgroup>>) -> Self {
        let limits = Values {
            memory: slot.limits.memory_bytes,
            processes: max_processes,
            cpu_time: slot.limits.cpu_time,
            file: slot.limits.file_bytes,
            workspace: slot.limits.workspace_bytes,
            inodes: slot.limits.workspace_inodes,
        };
        Self { shared: Arc::new(Shared { cgroup, limits, calls: Mutex::default(), storage: Mutex::default() }) }
    }

    /// The slot has been made anew.
    pub(super) fn renew(&self, slot: &SlotConfig, workspace: Workspace) {
        let limits = &slot.limits;
        let space = match limits.workspace {
            Storage::Tmpfs => Some(Space::Exact(workspace)),
            Storage::Disk => {
                let limited = limits.workspace_bytes.is_some() || limits.workspace_inodes.is_some();
                let limits = Use::limits(limits.workspace_bytes, limits.workspace_inodes);
                limited.then(|| Space::Measured(Meter::new(slot.directory.clone(), limits)))
            }
        };
        *lock(&self.shared.storage) = space;
    }

    /// What may be added to the workspace by whoever the kernel does not hold to the slot's limits: as far as it was
    /// measured last.
    pub(super) fn allowance(&self) -> Allowance {
        let Values { file, workspace, inodes, .. } = self.shared.limits;
        let used = match &*lock(&self.shared.storage) {
            Some(Space::Measured(meter)) => meter.last(),
            Some(Space::Exact(_)) => return Allowance { file, ..Allowance::default() },
            None => Use::default(),
        };
        let left = |limit: Option<u64>, used| limit.map(|limit| limit.saturating_sub(used));
        let (bytes, inodes) = (left(workspace, used.bytes), left(inodes, used.inodes));
        Allowance { file, bytes, inodes, ..Allowance::default() }
    }

    /// A call is about to begin.
    pub(super) fn begin(&self) -> Mark {
        let (first, number) = {
            let mut calls = lock(&self.shared.calls);
            calls.running += 1;
            calls.begun += 1;
            (calls.running == 1 && calls.processes == 0, calls.begun)
        };
        Mark { since: self.since(number), first }
    }

    fn since(&self, number: u64) -> Since {
        let space = lock(&self.shared.storage).clone();
        Since {
            counters: self.counters(),
            used: match &space {
                Some(Space::Measured(meter)) => meter.last(),
                _ => Use::default(),
            },
            had_room: match &space {
                Some(Space::Exact(workspace)) => has_room(workspace),
                _ => true,
            },
            space,
            number,
            gauge: self.clone(),
        }
    }

    /// A group that is gone tells of nothing.
    fn counters(&self) -> Counters {
        self.shared.cgroup.as_ref().and_then(|cgroup| cgroup.counters().ok()).unwrap_or_default()
    }
}

impl Mark {
    /// Looks at the call while it runs: why it is to be ended.
    pub(super) fn look(&self) -> Option<Exceeded> {
        self.since.measure_if_need_be(true);
        if self.is_alone() { self.since.counted().or_else(|| self.since.filled()) } else { self.since.filled() }
    }

    /// What the call has run into, now that all of its processes are gone; `written`: its bytes to disks, where they are
    /// known.
    pub(super) async fn conclude(self, exit: Exit, seen: Option<LimitHit>, written: Option<u64>) -> Option<Exceeded> {
        self.since.conclude(exit, seen, written, || self.is_alone()).await
    }

    fn is_alone(&self) -> bool {
        self.first && lock(&self.since.gauge.shared.calls).begun == self.since.number
    }
}

impl Since {
    fn measure_if_need_be(&self, routinely: bool) {
        if let Some(Space::Measured(meter)) = &self.space {
            meter.measure_if_need_be(routinely);
        }
    }

    /// As [`Mark::conclude`]. What has succeeded is blamed only if it was alone.
    async fn conclude(
        &self,
        exit: Exit,
        seen: Option<LimitHit>,
        written: Option<u64>,
        is_alone: impl Fn() -> bool,
    ) -> Option<Exceeded> {
        let failed = exit != Exit::Code(0);
        if let Some(Space::Measured(meter)) = &self.space {
            // What has succeeded need not have its limit named.
            meter.settle(if failed { written } else { written.or(Some(0)) }).await;
        }
        // Whoever sets itself a limit for its files has run into that.
        let seen = seen.filter(|hit| *hit != LimitHit::FileSize || self.limits().file.is_some());
        let seen = seen.map(|hit| self.seen(hit));
        seen.or_else(|| if failed || is_alone() { self.counted().or_else(|| self.filled()) } else { None })
            .or_else(|| if failed { self.full() } else { None })
    }

    fn limits(&self) -> &Values {
        &self.gauge.shared.limits
    }

    /// By the kernel.
    fn counted(&self) -> Option<Exceeded> {
        let now = self.gauge.counters();
        if now == self.counters {
            return None;
        }
        let kills = now.oom_kills.saturating_sub(self.counters.oom_kills);
        let own = now.memory_hits > self.counters.memory_hits;
        let refused = now.process_hits.saturating_sub(self.counters.process_hits);
        if kills > 0 {
            let evidence = format!("the kernel killed {kills} of its processes (oom_kill of the slot's control group)");
            return Some(match (own, self.limits().memory) {
                (true, Some(limit)) => exceeded(LimitKind::Memory, MEMORY, limit::bytes(limit), evidence),
                _ => exceeded(LimitKind::MachineMemory, "", String::new(), evidence),
            });
        }
        let limit = self.limits().processes.filter(|_| refused > 0)?;
        let evidence = format!("{refused} processes could not be made (pids.events of the slot's control group)");
        Some(exceeded(LimitKind::Processes, PROCESSES, limit.to_string(), evidence))
    }

    /// By what was measured.
    fn filled(&self) -> Option<Exceeded> {
        let Some(Space::Measured(meter)) = &self.space else { return None };
        let used = meter.last();
        let limits = self.limits();
        if let Some(limit) = limits.workspace.filter(|limit| used.bytes > *limit && used.bytes > self.used.bytes) {
            let evidence = format!("the workspace was measured to have {}", limit::bytes(used.bytes));
            return Some(exceeded(LimitKind::Disk, WORKSPACE_SIZE, limit::bytes(limit), evidence));
        }
        let limit = limits.inodes.filter(|limit| used.inodes > *limit && used.inodes > self.used.inodes)?;
        let evidence = format!("{} files were counted in the workspace", used.inodes);
        Some(exceeded(LimitKind::Disk, WORKSPACE_INODES, limit.to_string(), evidence))
    }

    /// By a file system that is full now and was not before.
    fn full(&self) -> Option<Exceeded> {
        let Some(Space::Exact(workspace)) = self.space.as_ref().filter(|_| self.had_room) else { return None };
        let (bytes, inodes) = workspace.room().ok()?;
        let limits = self.limits();
        match (limits.workspace, limits.inodes) {
            (Some(limit), _) if bytes == 0 => {
                let evidence = "the workspace's file system became full".to_owned();
                Some(exceeded(LimitKind::Disk, WORKSPACE_SIZE, limit::bytes(limit), evidence))
            }
            (_, Some(limit)) if inodes == 0 => {
                let evidence = "the workspace's file system has no room for another file".to_owned();
                Some(exceeded(LimitKind::Disk, WORKSPACE_INODES, limit.to_string(), evidence))
            }
            _ => None,
        }
    }

    /// By the runner.
    fn seen(&self, hit: LimitHit) -> Exceeded {
        let limits = self.limits();
        let size = |limit: Option<u64>| limit.map(limit::bytes).unwrap_or_default();
        let (kind, setting, value, evidence) = match hit {
            LimitHit::CpuTime => {
                let value = limits.cpu_time.map(|limit| format!("{limit:?}")).unwrap_or_default();
                (LimitKind::Cpu, CPU_TIME, value, "its processes have used as much time of a processor, or more")
            }
            LimitHit::Processes => {
                let value = limits.processes.map(|limit| limit.to_string()).unwrap_or_default();
                (LimitKind::Processes, PROCESSES, value, "its slot could make no process more")
            }
            LimitHit::FileSize => (LimitKind::Disk, FILE_SIZE, size(limits.file), "its process was ended by SIGXFSZ"),
        };
        exceeded(kind, setting, value, evidence.to_owned())
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        lock(&self.since.gauge.shared.calls).running -= 1;
    }
}

fn exceeded(kind: LimitKind, setting: &str, value: String, evidence: String) -> Exceeded {
    Exceeded { kind, setting: setting.to_owned(), value, evidence }
}

/// One that cannot be asked is taken to have some.
fn has_room(workspace: &Workspace) -> bool {
    workspace.room().map_or(true, |(bytes, inodes)| bytes > 0 && inodes > 0)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is whole before the lock is given back.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
