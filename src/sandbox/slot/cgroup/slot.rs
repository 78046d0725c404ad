//! The groups of one slot: its limits, who is in them, and what the kernel counts.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Controller, Version};
use crate::sandbox::slot::Limits;

/// A slot's group in one hierarchy.
#[derive(Debug)]
pub(super) struct Branch {
    path: PathBuf,
    version: Version,
    created: bool,
}

impl Branch {
    pub(super) fn create(path: PathBuf, version: Version) -> io::Result<Self> {
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Self { path, version, created: true }),
        }
    }

    /// Of a group that is somebody else's to remove.
    pub(super) fn at(path: &Path, version: Version) -> Self {
        Self { path: path.to_owned(), version, created: false }
    }

    /// Sets what this controller limits; no limit is none.
    pub(super) fn limit(&self, controller: Controller, limits: &Limits, max_processes: Option<u64>) -> io::Result<()> {
        match controller {
            Controller::Memory => self.limit_memory(limits.memory_bytes),
            Controller::Processes => self.write("pids.max", &max_or(max_processes, "max")),
            // Slots are equal among themselves.
            Controller::Cpu => self.weigh(DEFAULT_WEIGHT),
            Controller::CpuUse => self.open(CPU_USE_V1).map(drop),
        }
    }

    /// With what is swapped out: else a hog would but slow the machine down. Under version 1 the limit of both together
    /// must not be the first to be hit, since not every kernel counts that.
    fn limit_memory(&self, bytes: Option<u64>) -> io::Result<()> {
        match self.version {
            Version::V2 => {
                self.write("memory.max", &max_or(bytes, "max"))?;
                optional(self.write("memory.swap.max", if bytes.is_some() { "0" } else { "max" }))
            }
            Version::V1 => {
                // The limit of both can never be the lower one, not even on the way.
                optional(self.write("memory.memsw.limit_in_bytes", "-1"))?;
                self.write("memory.limit_in_bytes", &max_or(bytes, "-1"))?;
                let both = bytes.map(|bytes| bytes.saturating_add(SWAP));
                optional(self.write("memory.memsw.limit_in_bytes", &max_or(both, "-1")))
            }
        }
    }

    /// 100 is what every process and group has that nobody has given another.
    pub(super) fn weigh(&self, weight: u32) -> io::Result<()> {
        match self.version {
            Version::V2 => self.write("cpu.weight", &weight.to_string()),
            Version::V1 => self.write("cpu.shares", &(u64::from(weight) * 1024 / 100).max(2).to_string()),
        }
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        fs::write(self.path.join(file), text)
    }

    fn open(&self, file: &str) -> io::Result<File> {
        File::open(self.path.join(file))
    }
}

impl Drop for Branch {
    fn drop(&mut self) {
        if self.created {
            // One that still has a process, of a slot that does not die, stays until somebody sweeps.
            let _ = fs::remove_dir(&self.path);
        }
    }
}

const DEFAULT_WEIGHT: u32 = 100;
const CPU_USE_V1: &str = "cpuacct.usage";
/// What may be swapped out beside a limit of memory, in bytes.
const SWAP: u64 = 1 << 20;

fn max_or(limit: Option<u64>, none: &str) -> String {
    limit.map_or_else(|| none.to_owned(), |limit| limit.to_string())
}

/// Not every kernel counts swap.
fn optional(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A slot's groups. Dropped, they are removed: the slot's processes must be gone.
#[derive(Debug)]
pub struct SlotCgroup {
    branches: Vec<Branch>,
    memory: Option<MemoryEvents>,
    process_events: Option<File>,
    cpu_use: Option<CpuUse>,
    /// Linux has it since 5.15.
    cpu_idle: Option<File>,
}

#[derive(Debug)]
enum MemoryEvents {
    V2 { events: File },
    V1 { control: File, failures: File },
}

#[derive(Debug)]
enum CpuUse {
    V2 { statistics: File },
    V1 { usage: File },
}

/// What has happened in a slot since it has its groups. Each grows only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Processes of the slot that the kernel has killed for memory, whoever ran out of it.
    pub oom_kills: u64,
    /// How often the slot's own limit of memory stood in the way.
    pub memory_hits: u64,
    /// How often no process or thread could be made for the limit of processes.
    pub process_hits: u64,
}

impl SlotCgroup {
    pub(super) fn new(branches: Vec<(Branch, Vec<Controller>)>) -> io::Result<Self> {
        let (mut memory, mut process_events, mut cpu_use, mut cpu_idle) = (None, None, None, None);
        for (branch, controllers) in &branches {
            if controllers.contains(&Controller::Memory) {
                memory = Some(match branch.version {
                    Version::V2 => MemoryEvents::V2 { events: branch.open("memory.events")? },
                    Version::V1 => MemoryEvents::V1 {
                        control: branch.open("memory.oom_control")?,
                        failures: branch.open("memory.failcnt")?,
                    },
                });
            }
            if controllers.contains(&Controller::Processes) {
                process_events = Some(branch.open("pids.events")?);
            }
            if controllers.contains(&Controller::Cpu) {
                cpu_idle = File::options().write(true).open(branch.path.join("cpu.idle")).ok();
            }
            if branch.version == Version::V2 {
                cpu_use = Some(CpuUse::V2 { statistics: branch.open("cpu.stat")? });
            } else if controllers.contains(&Controller::CpuUse) {
                cpu_use = Some(CpuUse::V1 { usage: branch.open(CPU_USE_V1)? });
            }
        }
        Ok(Self {
            branches: branches.into_iter().map(|(branch, _)| branch).collect(),
            memory,
            process_events,
            cpu_use,
            cpu_idle,
        })
    }

    /// To each of these files the number of a process is written that is to be in the slot, with all that it starts.
    pub fn entrances(&self) -> Vec<PathBuf> {
        self.branches.iter().map(|branch| branch.path.join("cgroup.procs")).collect()
    }

    /// Some microseconds.
    ///
    /// # Errors
    /// The group is gone.
    pub fn counters(&self) -> io::Result<Counters> {
        let mut counters = Counters::default();
        match &self.memory {
            Some(MemoryEvents::V2 { events }) => {
                let text = read(events)?;
                counters.oom_kills = field(&text, "oom_kill");
                counters.memory_hits = field(&text, "oom");
            }
            Some(MemoryEvents::V1 { control, failures }) => {
                counters.oom_kills = field(&read(control)?, "oom_kill");
                counters.memory_hits = read(failures)?.trim().parse().unwrap_or(0);
            }
            None => {}
        }
        if let Some(events) = &self.process_events {
            counters.process_hits = field(&read(events)?, "max");
        }
        Ok(counters)
    }

    /// What its processes have used of the processors. A microsecond.
    ///
    /// # Errors
    /// The kernel does not tell, or the group is gone.
    pub fn cpu_used(&self) -> io::Result<Duration> {
        match &self.cpu_use {
            Some(CpuUse::V2 { statistics }) => Ok(Duration::from_micros(field(&read(statistics)?, "usage_usec"))),
            Some(CpuUse::V1 { usage }) => Ok(Duration::from_nanos(read(usage)?.trim().parse().unwrap_or(0))),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Its processes run when those of other slots do not want to; or no more.
    ///
    /// # Errors
    /// The kernel cannot do that, or the group is gone.
    pub fn give_way(&self, gives_way: bool) -> io::Result<()> {
        let idle = self.cpu_idle.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        idle.write_all_at(if gives_way { b"1" } else { b"0" }, 0)
    }
}

/// The kernel writes these files anew for whoever reads them from the start.
fn read(file: &File) -> io::Result<String> {
    let mut buffer = [0; 256];
    let length = file.read_at(&mut buffer, 0)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Of lines of a name and a number; 0 for one that this kernel does not have.
fn field(text: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_their_whole_name() {
        let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!((field(events, "oom"), field(events, "oom_kill"), field(events, "max")), (3, 2, 12));
        assert_eq!(field("oom_kill_disable 1\nunder_oom 0\n", "oom_kill"), 0);
        assert_eq!(field("max 7\n", "max"), 7);
    }
}
