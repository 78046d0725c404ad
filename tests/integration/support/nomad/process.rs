//! Processes of tasks: started in a group of their own, waited for by a thread each, signalled, and killed whole.

use std::{
    fs::{self, File},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Weak,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

use super::{task::Prepared, world::Shared};
use crate::support::process::{is_alive, tree};

pub(super) fn spawn(task: &Prepared, shared: Weak<Shared>, generation: u64, id: String) -> Result<u32, String> {
    let word = task.argv.first().ok_or("no command")?;
    let program = find(word, task).ok_or_else(|| {
        format!("failed to launch command with executor: rpc error: code = Unknown desc = binary {word:?} could not be found")
    })?;
    let failed = |error: std::io::Error| format!("failed to launch command with executor: {error}");
    let mut command = Command::new(program);
    command
        .args(&task.argv[1..])
        .env_clear()
        .envs(&task.env)
        .current_dir(&task.directory)
        .stdin(Stdio::null())
        .stdout(File::create(&task.stdout).map_err(failed)?)
        .stderr(File::create(&task.stderr).map_err(failed)?)
        .process_group(0);
    let mut begun = command.spawn();
    // Another thread that was starting a process while an artifact was written had it open for a moment.
    for _ in 0..100 {
        if begun.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ExecutableFileBusy) {
            std::thread::sleep(Duration::from_millis(5));
            begun = command.spawn();
        }
    }
    let child = begun.map_err(failed)?;
    let pid = child.id();
    std::thread::spawn(move || wait(child, &shared, generation, &id));
    Ok(pid)
}

/// Reaps it under the lock, so that whoever signals it under the lock hits no other.
fn wait(mut child: Child, shared: &Weak<Shared>, generation: u64, id: &str) {
    let pid = Pid::from_child(&child);
    let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    let shared = shared.upgrade();
    let mut world = shared.as_ref().map(|shared| shared.world());
    // A task that is over has nothing running.
    let _ = kill_process_group(pid, Signal::KILL);
    let status = child.wait();
    let Some(world) = &mut world else { return };
    world.orphans.retain(|orphan| *orphan != pid.as_raw_pid().cast_unsigned());
    if let Ok(status) = status
        && world.generation == generation
    {
        world.ended(id, status);
    }
}

/// Where raw_exec looks: the task's own directories, then the path.
fn find(word: &str, task: &Prepared) -> Option<PathBuf> {
    let exists = |path: PathBuf| path.is_file().then_some(path);
    if Path::new(word).is_absolute() {
        return exists(word.into());
    }
    let own = exists(task.directory.join("local").join(word)).or_else(|| exists(task.directory.join(word)));
    let path = task.env.get("PATH").map_or("", |path| path);
    own.or_else(|| path.split(':').find_map(|directory| exists(Path::new(directory).join(word))))
}

/// To the task's main process alone.
pub(super) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process(pid, signal);
    }
}

/// It and everything below it, whatever group that is in.
pub(super) fn kill_tree(pid: u32) {
    // Stopped, it starts nothing more while it is looked at.
    signal(pid, Signal::STOP);
    let whole = tree(pid);
    for pid in whole.into_iter().rev() {
        signal(pid, Signal::KILL);
    }
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// Kills them, and what was started below this directory and has left its parent; waits until they are gone.
pub(super) fn reap(pids: &[u32], alloc_dir: &Path) {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        let left: Vec<u32> =
            pids.iter().copied().filter(|pid| is_there(*pid)).chain(started_below(alloc_dir)).collect();
        if left.is_empty() {
            return;
        }
        left.into_iter().filter(|pid| is_alive(*pid)).for_each(kill_tree);
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Living processes whose environment names the directory.
fn started_below(alloc_dir: &Path) -> Vec<u32> {
    let variable = format!("NOMAD_ALLOC_DIR={}", alloc_dir.display());
    let is_ours = |pid: &u32| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|entry| entry.starts_with(variable.as_bytes())) && is_alive(*pid)
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_ours).collect()
}

/// Exit code, signal and message, as the driver tells them.
pub(super) fn exit_of(status: ExitStatus, driver: &str, oom: bool) -> (i32, i32, Option<String>) {
    let signal = status.signal().unwrap_or(0);
    let code = status.code().unwrap_or(128 + signal);
    if oom {
        return (137, 0, Some("OOM Killed".to_owned()));
    }
    match driver {
        "docker" if code != 0 => (code, 0, Some(format!("Docker container exited with non-zero exit code: {code}"))),
        "docker" => (code, 0, None),
        _ => (code, signal, None),
    }
}

pub(super) fn signal_named(name: &str) -> Signal {
    match name.trim_start_matches("SIG") {
        "HUP" => Signal::HUP,
        "QUIT" => Signal::QUIT,
        "KILL" => Signal::KILL,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        "TERM" => Signal::TERM,
        _ => Signal::INT,
    }
}

/// As Go prints it, for what a kill timeout may be.
pub(super) fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 { format!("{}ms", duration.as_millis()) } else { format!("{seconds}s") }
}
