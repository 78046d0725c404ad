//! Control groups, as tests look at them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::server::Server;

/// What a running server's slots are held to this limit with; empty until its first container is ready.
pub(crate) async fn mechanism(server: &Server, name: &str) -> String {
    let pool = server.pool_until("a container", |pool| pool.available_slots + pool.acquired_slots > 0).await;
    let mut limits = pool.containers.into_iter().flat_map(|container| container.limits);
    limits.find(|limit| limit.name == name).expect("it is told").mechanism
}

pub(crate) async fn has_groups(server: &Server) -> bool {
    mechanism(server, "sandbox.memory").await.starts_with("cgroup")
}

/// All groups of this machine whose name has this in it.
pub(crate) fn named(part: &str) -> Vec<PathBuf> {
    fn look(directory: &Path, part: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|file| file.is_dir()) {
                if entry.file_name().to_string_lossy().contains(part) {
                    found.push(entry.path());
                }
                look(&entry.path(), part, found);
            }
        }
    }
    let mut found = Vec::new();
    look(Path::new("/sys/fs/cgroup"), part, &mut found);
    found
}

/// A group below this process's own, with a limit of memory; removed with the last process in it.
pub(crate) struct Outer(PathBuf);

impl Outer {
    /// None where no group of version 1 can be made.
    pub(crate) fn of(bytes: u64) -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let place = own.lines().find_map(|line| line.split_once(":memory:"))?.1.trim_start_matches('/').to_owned();
        let name = format!("outer-{}-{}", std::process::id(), fastrand::u32(..));
        let path = Path::new("/sys/fs/cgroup/memory").join(place).join(name);
        fs::create_dir(&path).ok()?;
        let outer = Self(path);
        fs::write(outer.0.join("memory.limit_in_bytes"), bytes.to_string()).ok()?;
        Some(outer)
    }

    /// Of a program that goes there and becomes what it is given as arguments.
    pub(crate) fn entering(&self) -> Vec<String> {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.0.display());
        ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
    }
}

impl Drop for Outer {
    fn drop(&mut self) {
        for _ in 0..100 {
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                _ => return,
            }
        }
    }
}
