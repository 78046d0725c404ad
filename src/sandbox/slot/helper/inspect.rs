//! The probe's witness: run as a call, it says of itself whether it is isolated as its level promises. One line for each
//! fault on standard output, and failure as the exit status if there is any.

use std::{
    env, fs,
    net::{Ipv4Addr, TcpStream},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixStream},
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use rustix::{
    fs::StatVfsMountFlags,
    io::Errno,
    process::{Pid, test_kill_process},
    thread::SecureComputingMode,
};
use serde::{Deserialize, Serialize};

use super::super::{Isolation, ids::root_is_the_hosts};

/// What the slot was made to be, and where the agent can be found that the witness should not get at. Nothing of it is
/// a secret.
#[derive(Debug, Serialize, Deserialize)]
pub(in super::super) struct Expected {
    pub(in super::super) level: Isolation,
    pub(in super::super) network: bool,
    pub(in super::super) writable_root: bool,
    /// The slot's own user.
    pub(in super::super) user: Option<u32>,
    /// Its process id.
    pub(in super::super) agent: i32,
    /// A file that everybody's mode would let the witness read.
    pub(in super::super) file: PathBuf,
    /// On 127.0.0.1, where the agent listens.
    pub(in super::super) port: Option<u16>,
    /// The name of an abstract socket, on which it listens too.
    pub(in super::super) socket: String,
}

pub(super) fn run() -> ExitCode {
    let expected = env::args().nth(2).and_then(|text| serde_json::from_str(&text).ok());
    let faults: Vec<&str> = match &expected {
        Some(expected) => checks(expected).into_iter().filter_map(|(holds, fault)| (!holds).then_some(fault)).collect(),
        None => vec!["the witness was not told what to look for"],
    };
    for fault in &faults {
        println!("{fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

type Check = (bool, &'static str);

fn checks(expected: &Expected) -> Vec<Check> {
    let seccomp = rustix::thread::secure_computing_mode();
    let runner = rustix::process::getppid();
    let of_runner =
        |what: &str| runner.map_or(PathBuf::new(), |pid| format!("/proc/{}/{what}", pid.as_raw_pid()).into());
    let mut checks = vec![
        user_is_as_promised(expected),
        (no_capabilities(expected.level), "some capability is left"),
        (rustix::thread::no_new_privs() == Ok(true), "no_new_privs is not set"),
        (seccomp == Ok(SecureComputingMode::Filter), "no system call filter is installed"),
        (
            rustix::process::chroot("/") == Err(Errno::PERM)
                && rustix::process::pivot_root("/", "/") == Err(Errno::PERM),
            "mounts can be changed",
        ),
        (!of_runner("root/.").exists(), "the runner can be looked into"),
        (!another_process_can_be_read(), "the environment of another process can be read"),
        (fs::read(&expected.file).is_err(), "the agent's files can be read"),
        (!expected.file.parent().is_some_and(can_be_filled), "the agent's directory can be written to"),
        (expected.network || !reaches(expected.port), "the agent's network can be reached"),
    ];
    if !(expected.network && expected.level.has_namespaces()) {
        checks.push((!reaches_abstract(&expected.socket), "the agent's abstract sockets can be reached"));
    }
    if expected.level.has_namespaces() {
        checks.extend(with_namespaces(expected, runner));
    } else {
        checks.extend(without_namespaces(expected, runner));
    }
    checks
}

fn with_namespaces(expected: &Expected, runner: Option<Pid>) -> Vec<Check> {
    vec![
        (runner == Some(Pid::INIT), "the pid namespace is not the call's own"),
        (is_read_only("/"), "the root is not read-only"),
        system_is_as_promised(expected.writable_root),
        (is_read_only("/proc/sys"), "/proc/sys is not read-only"),
    ]
}

fn without_namespaces(expected: &Expected, runner: Option<Pid>) -> Vec<Check> {
    let cannot_be_signalled = |pid| test_kill_process(pid) == Err(Errno::PERM);
    let filled = ["/", "/usr", "/etc", "/opt", "/var", "/var/tmp", "/tmp", "/dev/shm", "/run", "/root", "/home"]
        .iter()
        .any(|path| can_be_filled(Path::new(path)));
    let own =
        ["HOME", "TMPDIR"].iter().all(|name| env::var_os(name).is_some_and(|path| can_be_filled(Path::new(&path))));
    let setting = fs::OpenOptions::new().write(true).open("/proc/sys/kernel/hostname");
    vec![
        (runner.is_some_and(cannot_be_signalled), "the runner can be signalled"),
        (!other_processes().any(|pid| test_kill_process(pid).is_ok()), "another process can be signalled"),
        (Pid::from_raw(expected.agent).is_some_and(cannot_be_signalled), "the agent can be signalled"),
        (!filled, "a directory of the machine can be written to"),
        (setting.is_err(), "/proc/sys can be written to"),
        (
            own,
            "the slot's own directories cannot be reached by their paths: others may not enter one above the state directory",
        ),
    ]
}

fn user_is_as_promised(expected: &Expected) -> Check {
    let ids = |name| field(name).split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let all = |name, id: u32| ids(name) == vec![id.to_string(); 4];
    match (expected.level, expected.user) {
        (Isolation::L0 | Isolation::L1, _) => {
            (mapped_to_a_plain_user(), "the user is not mapped, or is the host's root")
        }
        (Isolation::L1B | Isolation::L2, Some(user)) => (
            user != 0 && all("Uid", user) && all("Gid", user) && ids("Groups").is_empty(),
            "the user is not the slot's own",
        ),
        (Isolation::L1B | Isolation::L2, None) => (false, "the slot has no user of its own"),
        (Isolation::L2Minus, _) => {
            let root = rustix::process::getuid().is_root() || rustix::process::geteuid().is_root();
            (!(root && root_is_the_hosts()), "the user is the host's root")
        }
    }
}

/// An ordinary user cannot empty its bounding set, and gains nothing by what is in it: see no_new_privs.
fn no_capabilities(level: Isolation) -> bool {
    let sets = ["CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"];
    let sets = if level == Isolation::L2Minus { &sets[..4] } else { &sets[..] };
    sets.iter().all(|set| u64::from_str_radix(&field(set), 16) == Ok(0))
}

/// Of this process's status.
fn field(name: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

fn system_is_as_promised(writable: bool) -> Check {
    let there = |path: &&&str| Path::new(path).exists();
    let mut directories = ["/usr", "/etc"].iter().filter(there);
    if !writable {
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

fn reaches(port: Option<u16>) -> bool {
    port.is_some_and(|port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())
}

fn reaches_abstract(name: &str) -> bool {
    SocketAddr::from_abstract_name(name).and_then(|address| UnixStream::connect_addr(&address)).is_ok()
}

/// Of a process that has ended, or is the kernel's, nothing is what can be read.
fn another_process_can_be_read() -> bool {
    other_processes().any(|pid| {
        fs::read(format!("/proc/{}/environ", pid.as_raw_pid())).is_ok_and(|environment| !environment.is_empty())
    })
}

/// All that /proc shows but this one.
fn other_processes() -> impl Iterator<Item = Pid> {
    let own = fs::read_link("/proc/self").ok().and_then(|own| own.to_str()?.parse().ok());
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(move |number| Some(*number) != own).filter_map(Pid::from_raw)
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
