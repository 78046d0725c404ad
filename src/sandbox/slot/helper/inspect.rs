//! The probe's witness: run as a call, it says of itself whether it is isolated as it should be. One line for each
//! fault on standard output, and failure as the exit status if there is any.

use std::{fs, path::Path, process::ExitCode};

use rustix::{fs::StatVfsMountFlags, io::Errno, process::Pid, thread::SecureComputingMode};

use super::WRITABLE_ROOT;

pub(super) fn run() -> ExitCode {
    let faults: Vec<&str> = checks().into_iter().filter_map(|(holds, fault)| (!holds).then_some(fault)).collect();
    for fault in &faults {
        println!("{fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn checks() -> Vec<(bool, &'static str)> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    let no_capabilities = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .iter()
        .all(|set| u64::from_str_radix(&field(set), 16) == Ok(0));
    let seccomp = rustix::thread::secure_computing_mode();
    vec![
        (rustix::process::getppid() == Some(Pid::INIT), "the pid namespace is not the call's own"),
        (mapped_to_a_plain_user(), "the user is not mapped, or is the host's root"),
        (is_read_only("/"), "the root is not read-only"),
        system_is_as_promised(),
        (is_read_only("/proc/sys"), "/proc/sys is not read-only"),
        (!Path::new("/proc/1/root/.").exists(), "the runner can be looked into"),
        (!another_process_can_be_read(), "the environment of another process can be read"),
        (no_capabilities, "some capability is left"),
        (rustix::thread::no_new_privs() == Ok(true), "no_new_privs is not set"),
        (seccomp == Ok(SecureComputingMode::Filter), "no system call filter is installed"),
        (
            rustix::process::chroot("/") == Err(Errno::PERM)
                && rustix::process::pivot_root("/", "/") == Err(Errno::PERM),
            "mounts can be changed",
        ),
    ]
}

fn system_is_as_promised() -> (bool, &'static str) {
    let there = |path: &&&str| Path::new(path).exists();
    let mut directories = ["/usr", "/etc"].iter().filter(there);
    if std::env::args().nth(2).as_deref() != Some(WRITABLE_ROOT) {
        return (directories.all(|path| is_read_only(path)), "/usr or /etc is not read-only");
    }
    let passwords = Path::new("/etc/passwd");
    let editable = !passwords.exists() || fs::OpenOptions::new().append(true).open(passwords).is_ok();
    (editable && directories.all(|path| can_be_filled(Path::new(path))), "/usr or /etc is not writable")
}

fn can_be_filled(directory: &Path) -> bool {
    let file = directory.join(".tool-executor");
    fs::write(&file, "").is_ok() && fs::remove_file(&file).is_ok()
}

/// Of a process that has ended, or is the kernel's, nothing is what can be read.
fn another_process_can_be_read() -> bool {
    let own = fs::read_link("/proc/self").unwrap_or_default();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut others = entries.filter(|entry| {
        let name = entry.file_name();
        name.as_encoded_bytes().iter().all(u8::is_ascii_digit) && Path::new(&name) != own
    });
    others.any(|entry| fs::read(entry.path().join("environ")).is_ok_and(|environment| !environment.is_empty()))
}

fn mapped_to_a_plain_user() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let ids: Vec<&str> = map.split_ascii_whitespace().collect();
    // Where the agent's own namespace maps no root, the outer id is relative to it and may well be 0.
    matches!(ids.as_slice(), ["0", _, "1"])
}

fn is_read_only(path: &str) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|file_system| file_system.f_flag.contains(StatVfsMountFlags::RDONLY))
}
