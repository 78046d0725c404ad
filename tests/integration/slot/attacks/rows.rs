//! The attacks, what stands against each of them, and what it takes to show that it is one.

use std::{fs, path::Path};

use tool_executor::sandbox::slot::Isolation::{self, L0, L1, L1B, L2, L2Minus};

const ALL: &[Isolation] = &[L0, L1, L1B, L2, L2Minus];
const OWN_USER: &[Isolation] = &[L0, L1, L1B, L2];
const NAMESPACES: &[Isolation] = &[L0, L1, L1B];
const OWN_PROC: &[Isolation] = &[L0, L1B];

pub(super) struct Row {
    /// The attack's name and arguments, as `program/` has them; in braces what a scene has a place for.
    pub(super) attack: &'static str,
    /// Where it is promised that it fails.
    pub(super) promised: &'static [Isolation],
    /// Without protection it succeeds for whoever is root; else for any user.
    pub(super) by_root: bool,
    /// From a slot that shares the machine's network.
    pub(super) online: bool,
    /// Without that nobody can succeed.
    pub(super) needs: Need,
}

pub(super) enum Need {
    Nothing,
    /// Of the kernel, which may be built without this.
    Built,
    File(&'static str),
    Setting(&'static str, &'static str),
    /// The number of a capability, which root may lack.
    Capability(u32),
    /// The machine's files lie on a disk.
    Disk,
}

impl Row {
    const fn new(promised: &'static [Isolation], attack: &'static str) -> Self {
        Self { attack, promised, by_root: false, online: false, needs: Need::Nothing }
    }

    const fn by_root(self) -> Self {
        Self { by_root: true, ..self }
    }

    const fn online(self) -> Self {
        Self { online: true, ..self }
    }

    const fn needs(self, needs: Need) -> Self {
        Self { needs, ..self }
    }

    /// Why nobody can succeed here, given how whoever could failed.
    pub(super) fn lacking(&self, failure: &str) -> Option<String> {
        match self.needs {
            Need::Nothing => None,
            Need::Built => ["Function not implemented", "Address family not supported by protocol"]
                .into_iter()
                .find(|lacking| failure.ends_with(lacking))
                .map(|_| "the kernel is built without it".to_owned()),
            Need::File(path) => (!Path::new(path).exists()).then(|| format!("there is no {path}")),
            Need::Setting(path, value) => {
                let found = fs::read_to_string(path).unwrap_or_default();
                (found.trim() != value).then(|| format!("{path} is {:?}, not {value}", found.trim()))
            }
            Need::Capability(number) => {
                let status = fs::read_to_string("/proc/self/status").unwrap();
                let all = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
                let all = u64::from_str_radix(all.trim(), 16).unwrap();
                (all >> number & 1 == 0).then(|| format!("root lacks capability {number}"))
            }
            Need::Disk => {
                let device = rustix::fs::stat("/").unwrap().st_dev;
                (rustix::fs::major(device) == 0).then(|| "the root is on no disk".to_owned())
            }
        }
    }
}

/// Fails at every level; anybody could do it.
const fn row(attack: &'static str) -> Row {
    Row::new(ALL, attack)
}

/// Fails at every level; root could do it.
const fn root(attack: &'static str) -> Row {
    Row::new(ALL, attack).by_root()
}

pub(super) const ROWS: &[Row] = &[
    // Another slot's files, which all are let read and write by their modes.
    row("read {other}/secret {mark}"),
    row("read-through-link {other}/secret {mark}"),
    row("read-by-descriptor {other}/secret {mark}"),
    row("write {other}/secret"),
    row("truncate {other}/secret"),
    row("create {other}"),
    row("list {other}"),
    row("move {other}/secret"),
    row("take {other}/secret"),
    row("read {other-tmp}/secret {mark}"),
    row("write {other-tmp}/secret"),
    row("create {other-tmp}"),
    row("read /proc/{other-pid}/root{other}/secret {mark}"),
    row("read /proc/{other-pid}/cwd/secret {mark}"),
    row("list /proc/{other-pid}/cwd/"),
    // Landlock has no say in these.
    Row::new(OWN_USER, "mode {other}/secret"),
    Row::new(OWN_USER, "times {other}/secret"),
    Row::new(OWN_USER, "attributes {other}/secret"),
    Row::new(OWN_USER, "watch {other}"),
    Row::new(OWN_USER, "socket-file {other}/socket"),
    // The agent's: settings with its token in them, its socket.
    row("read {state}/agent.json {mark}"),
    row("write {state}/agent.json"),
    row("create {state}"),
    row("list {state}"),
    row("move {state}/agent.json"),
    row("take {state}/agent.json"),
    row("handle {state}/agent.json").by_root(),
    Row::new(OWN_USER, "mode {state}/agent.json"),
    Row::new(NAMESPACES, "watch {state}"),
    Row::new(NAMESPACES, "socket-file {state}/agent.sock"),
    // What anybody else has left where everybody may.
    row("read {outside}/secret {mark}"),
    row("write {outside}/secret"),
    row("create {outside}"),
    row("list {outside}"),
    row("read {shm} {mark}"),
    row("write {shm}"),
    row("read {var-tmp} {mark}"),
    row("write {var-tmp}"),
    // The machine's.
    root("read /etc/shadow"),
    root("read /proc/self/root/etc/shadow"),
    root("read /proc/1/root/etc/shadow"),
    root("list /root"),
    root("create /root"),
    root("create /home"),
    root("create /etc"),
    root("create /usr/bin"),
    root("create /"),
    root("write /etc/passwd"),
    root("mode /etc/passwd"),
    root("write /proc/sys/kernel/core_pattern"),
    root("write /proc/sys/kernel/hostname"),
    root("write /proc/sys/vm/drop_caches"),
    root("write /proc/sys/net/ipv4/ip_forward").online(),
    root("write /proc/sysrq-trigger").needs(Need::File("/proc/sysrq-trigger")),
    root("read /proc/kcore").needs(Need::File("/proc/kcore")),
    row("list /sys"),
    root("write /sys/kernel/mm/transparent_hugepage/enabled")
        .needs(Need::File("/sys/kernel/mm/transparent_hugepage/enabled")),
    root("list /sys/fs/cgroup").needs(Need::File("/sys/fs/cgroup")),
    root("read /dev/kmsg").needs(Need::File("/dev/kmsg")),
    root("read /dev/mem").needs(Need::File("/dev/mem")),
    root("device char 1 11"),
    root("device block {disk}").needs(Need::Disk),
    root("leave-chroot"),
    // More rights than the slot's user has.
    row("privileged {root-program} read /etc/shadow"),
    row("privileged {capable-program} read /etc/shadow"),
    root("su /usr/bin/su -c cat</etc/shadow").needs(Need::File("/usr/bin/su")),
    root("su /usr/bin/sudo -n cat /etc/shadow").needs(Need::File("/usr/bin/sudo")),
    root("become 4242"),
    root("join-group"),
    root("capability"),
    root("raise-limit").needs(Need::Capability(24)),
    row("oom-score"),
    // Other processes: the agent, helpers, another slot's, and others of the machine.
    row("signal {pids}"),
    row("queue {pids}"),
    row("thread {pids}"),
    row("descriptor {pids}"),
    row("owned {bystander} {signalled}"),
    row("trace {pids}"),
    row("read-memory {pids}"),
    row("write-memory {pids}"),
    row("memory-file {pids}"),
    root("advise {pids}"),
    row("compare {pids}").needs(Need::Built),
    row("move-memory {pids}").needs(Need::Built),
    row("locks {pids}"),
    row("getfd {pids}"),
    row("look environ {pids}"),
    row("look maps {pids}"),
    row("look auxv {pids}"),
    row("look pagemap {pids}"),
    row("look io {pids}").needs(Need::File("/proc/self/io")),
    row("look syscall {pids}").needs(Need::File("/proc/self/syscall")),
    row("look root/. {pids}"),
    row("look cwd/. {pids}"),
    row("look-at-link exe {pids}"),
    row("look-at-link root {pids}"),
    row("look-at-link fd/1 {pids}"),
    row("look-at-link ns/net {pids}"),
    Row::new(OWN_PROC, "read /proc/{bystander}/cmdline {mark}"),
    Row::new(OWN_PROC, "read /proc/{bystander}/net/unix {mark}"),
    row("set-file oom_score_adj {pids}"),
    row("set-file coredump_filter {pids}"),
    row("set-file clear_refs {pids}"),
    row("set-file mem {pids}"),
    row("limit {pids}"),
    row("priority {pids}"),
    root("priority-of group"),
    row("priority-of user"),
    row("io-priority {pids}"),
    row("affinity {pids}"),
    row("scheduler {pids}"),
    root("enter {pids}"),
    // Namespaces and mounts.
    root("unshare user"),
    root("unshare mnt"),
    root("unshare pid"),
    root("unshare net"),
    root("unshare ipc"),
    root("unshare uts"),
    root("unshare cgroup"),
    root("unshare time"),
    root("clone user"),
    root("clone mnt"),
    root("clone pid"),
    root("clone net"),
    root("clone ipc"),
    root("clone uts"),
    root("clone cgroup"),
    root("clone3 user"),
    root("clone3 mnt"),
    root("clone3 net"),
    root("setns net"),
    root("setns mnt"),
    root("setns uts"),
    root("mount"),
    root("bind /"),
    root("remount /proc/sys"),
    root("unmount"),
    root("new-mount"),
    root("copy-mount"),
    root("set-mount"),
    root("pivot"),
    root("swap"),
    // The kernel.
    row("add-key {mark}-another").needs(Need::Built),
    row("find-key {mark}").needs(Need::Built),
    row("request-key {mark}").needs(Need::Built),
    row("session-keyring").needs(Need::Built),
    row("io-uring").needs(Need::Setting("/proc/sys/kernel/io_uring_disabled", "0")),
    root("bpf"),
    root("perf").needs(Need::Built),
    row("userfault").needs(Need::Built),
    row("fanotify"),
    row("splice-memory"),
    row("x32").needs(Need::Built),
    root("ports").needs(Need::Built),
    root("module").needs(Need::Built),
    root("remove-module").needs(Need::Built),
    root("kexec").needs(Need::Built),
    root("account").needs(Need::Built),
    root("reboot"),
    root("time"),
    root("adjust-clock"),
    root("host-name"),
    root("kernel-log"),
    row("type").needs(Need::Setting("/proc/sys/dev/tty/legacy_tiocsti", "1")),
    root("paste").needs(Need::File("/dev/tty0")),
    // What is shared without files.
    row("memory-by-key {key}"),
    row("memory-by-number"),
    row("remove-memory {spare}"),
    row("queue-by-key {key}"),
    row("queue-by-number {queue}"),
    row("semaphore-by-key {key}"),
    row("semaphore-by-number {semaphore}"),
    row("set-semaphore {semaphore}"),
    row("posix-queue {mark}"),
    row("memory-by-key {other-key}"),
    row("queue-by-key {other-key}"),
    row("semaphore-by-key {other-key}"),
    row("posix-queue {other-mark}"),
    row("abstract-socket {mark}"),
    row("abstract-socket {mark}").online(),
    row("abstract-socket {other-mark}"),
    row("abstract-socket {other-mark}").online(),
    row("pass-descriptors"),
    row("inherited"),
    // The network, when it is off.
    row("tcp 127.0.0.1 80"),
    row("tcp ::1 80"),
    row("tcp ::ffff:127.0.0.1 80"),
    row("tcp 169.254.169.254 80"),
    row("tcp fd00:ec2::254 80"),
    row("udp 127.0.0.53 53"),
    row("udp ::1 53"),
    row("socket 40 1 0").needs(Need::Built), // AF_VSOCK
    row("socket 38 5 0").needs(Need::Built), // AF_ALG
    root("socket 17 3 0"),                   // AF_PACKET
    root("socket 2 3 1"),                    // raw ICMP
    row("socket 40 1 0").online().needs(Need::Built),
    row("socket 38 5 0").online().needs(Need::Built),
    root("socket 17 3 0").online(),
    root("socket 2 3 1").online(),
];
