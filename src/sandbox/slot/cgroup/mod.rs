//! Control groups: one for each slot, below one of its agent's.
//!
//! ```text
//! <where the agent runs>/tool-executor.<container>     the agent's, locked by it
//!                                     '- <slot>        made with the agent, for all of the slot's generations
//!                       /tool-executor.self            version 2 alone: where executor and agents go themselves, since
//!                                                      there a group that has processes can have no limits below it
//! ```
//!
//! Every controller is looked for in version 2, then in version 1, and counts as there only once a limit has been
//! written to it. The kernel removes no group: an agent removes its own when it ends, and whoever comes next those of
//! an agent that was killed, which it tells by their lock.

mod hierarchy;
mod slot;

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

pub use self::slot::{Counters, SlotCgroup};
use self::{
    hierarchy::{Base, SELF, bases},
    slot::Branch,
};
use super::Limits;

/// Begins the name of every group that is ours.
const PREFIX: &str = "tool-executor.";
/// The trial of each controller.
const TRIAL: &str = "trial";
/// How often a group is made again that a sweeper took for a dead agent's before it was locked.
const ATTEMPTS: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    Memory,
    /// The number of processes, threads included.
    Processes,
    Cpu,
    /// What is used of the processors; part of version 2 itself, which offers no controller of that name.
    CpuUse,
}

impl Controller {
    const ALL: [Self; 4] = [Self::Memory, Self::Processes, Self::Cpu, Self::CpuUse];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Processes => "pids",
            Self::Cpu => "cpu",
            Self::CpuUse => "cpuacct",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V1 => "cgroup v1",
            Self::V2 => "cgroup v2",
        })
    }
}

/// The groups of one agent. Dropped, they are removed, once those of its slots are.
#[derive(Debug)]
pub struct Cgroups {
    groups: Vec<Group>,
}

/// One of them, in one hierarchy.
#[derive(Debug)]
struct Group {
    version: Version,
    controllers: Vec<Controller>,
    path: PathBuf,
    /// Tells a living agent's group; the kernel takes it away with the agent, however that ends.
    _lock: File,
}

impl Cgroups {
    /// Makes groups for the agent of this name, with every controller that can be had here and whose limits `limits`
    /// and `max_processes` ask for; on the way it removes what dead agents have left, and under version 2 moves this
    /// process. What cannot be had is left out.
    pub fn claim(name: &str, limits: &Limits, max_processes: Option<u64>) -> Self {
        let mut groups = Vec::new();
        for base in bases(&Controller::ALL) {
            sweep_below(&base.path);
            let usable = Group::claim(&base, name, limits, max_processes);
            match usable {
                Ok(group) if !group.controllers.is_empty() => groups.push(group),
                // Nothing is gained by it here.
                Ok(_) | Err(_) => base.give_up(),
            }
        }
        Self { groups }
    }

    /// Which version has this controller, if any has.
    pub fn version(&self, controller: Controller) -> Option<Version> {
        self.groups.iter().find(|group| group.controllers.contains(&controller)).map(|group| group.version)
    }

    /// Makes the groups of a slot, of that name.
    ///
    /// # Errors
    /// The kernel's, for what it has allowed before.
    pub fn slot(&self, name: &str, limits: &Limits, max_processes: Option<u64>) -> io::Result<SlotCgroup> {
        let mut branches = Vec::new();
        for group in &self.groups {
            let branch = Branch::create(group.path.join(name), group.version)?;
            for controller in &group.controllers {
                branch.limit(*controller, limits, max_processes)?;
            }
            branches.push((branch, group.controllers.clone()));
        }
        SlotCgroup::new(branches)
    }
}

impl Group {
    fn claim(base: &Base, name: &str, limits: &Limits, max_processes: Option<u64>) -> io::Result<Self> {
        let path = base.path.join(format!("{PREFIX}{name}"));
        let lock = create_locked(&path)?;
        let mut group = Self { version: base.version, controllers: Vec::new(), path, _lock: lock };
        if base.version == Version::V2 {
            hierarchy::enable(&group.path, &base.controllers);
        }
        let trial = Branch::create(group.path.join(TRIAL), base.version)?;
        let works = |controller: &Controller| trial.limit(*controller, limits, max_processes).is_ok();
        group.controllers = base.controllers.iter().copied().filter(works).collect();
        if group.controllers.contains(&Controller::Cpu) {
            // All slots of the container together, beside whatever else runs here. Among themselves they are equal.
            Branch::at(&group.path, base.version).weigh(limits.cpu_weight)?;
        }
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What is not removed now is removed by whoever comes next.
        let _ = remove(&self.path);
    }
}

/// Removes the groups of agents that have died, those aside whose slots are still about to. Whether any is left. Cheap
/// where there are none.
pub fn sweep_cgroups() -> bool {
    bases(&Controller::ALL).iter().fold(false, |left, base| sweep_below(&base.path) | left)
}

fn sweep_below(base: &Path) -> bool {
    let Ok(entries) = fs::read_dir(base) else { return false };
    let mut left = false;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name != SELF && name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            let path = entry.path();
            // A living agent has the lock.
            let dead = File::open(&path).ok().filter(|directory| directory.try_lock().is_ok());
            left |= dead.is_some_and(|_| remove(&path).is_err());
        }
    }
    left
}

/// Removes a group and those of its slots.
fn remove(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type().is_ok_and(|file| file.is_dir()) {
            fs::remove_dir(entry.path())?;
        }
    }
    fs::remove_dir(path)
}

fn create_locked(path: &Path) -> io::Result<File> {
    for _ in 0..ATTEMPTS {
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let Ok(directory) = File::open(path) else { continue };
        match directory.try_lock() {
            // It may have been removed meanwhile, and another be in its place.
            Ok(()) if fs::metadata(path).is_ok_and(|now| is_same(&now, &directory)) => return Ok(directory),
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

fn is_same(now: &fs::Metadata, directory: &File) -> bool {
    directory.metadata().is_ok_and(|ours| (ours.dev(), ours.ino()) == (now.dev(), now.ino()))
}
