//! What a slot sees and may do.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt};

use tool_executor::{
    sandbox::slot::{self, Slot, SlotError, Step},
    tool::job::Exit,
};

use super::bed::{Bed, PROCESSES, config, has_program, own_ids};

#[tokio::test]
async fn the_probe_finds_full_isolation_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let config = config(home.path().join("slots/probe"));
    match slot::probe(&config).await {
        Ok(level) => assert_eq!(level.to_string(), "L0"),
        Err(error) => panic!("{error}"),
    }
    assert!(!config.directory.exists());
}

#[tokio::test]
async fn the_probe_says_what_failed() {
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path().join("slots/probe"));
    config.read_only = vec!["/none/such".into()];
    let error = slot::probe(&config).await.unwrap_err().to_string();
    assert_eq!(
        error.lines().next().unwrap(),
        "calls cannot be isolated on this machine: could not open what the slot is to see (/none/such): No such file \
         or directory (os error 2)"
    );
    for path in ["/tmp/x", "/var/tmp", "/", "relative", "/usr/../root", "/workspace", "/dev/shm"] {
        config.read_only = vec![path.into()];
        assert!(slot::probe(&config).await.is_err(), "{path}");
    }
}

#[tokio::test]
async fn the_hosts_root_is_never_the_slots_user() {
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path().join("slots/0"));
    if own_ids() {
        config.host_id = None;
    } else {
        config.host_id = Some(0);
    }
    let error = Slot::create(&config).await.unwrap_err();
    let mapped_root = matches!(error, SlotError::Step { step: Step::PrepareDirectory | Step::MapUser, .. });
    assert!(matches!(error, SlotError::HostRoot) || mapped_root, "{error:?}");
}

#[tokio::test]
async fn the_user_is_mapped_and_without_any_privilege() {
    let mut bed = Bed::new().await;
    let me = bed.config.host_id.unwrap_or(rustix::process::geteuid().as_raw());
    let map = bed.out("cat /proc/self/uid_map").await;
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", &me.to_string(), "1"]);
    assert_eq!(bed.out("cat /proc/self/setgroups").await, "deny");
    let status = bed.out("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr -d '\\t'").await;
    let none = "0000000000000000";
    let expected =
        format!("CapInh:{none}\nCapPrm:{none}\nCapEff:{none}\nCapBnd:{none}\nCapAmb:{none}\nNoNewPrivs:1\nSeccomp:2");
    assert_eq!(status, expected);
    if own_ids() {
        assert_eq!(bed.out("id -G").await, "0", "no group of the agent is left");
    }
    bed.end().await;
}

#[tokio::test]
async fn the_file_system_is_read_only_but_for_the_slots_own() {
    let mut bed = Bed::new().await;
    for place in ["/", "/usr", "/etc", "/proc/sys/kernel", "/dev", "/run", "/var"] {
        assert_ne!(bed.sh(&format!("echo > {place}/new")).await.exit(), Exit::Code(0), "{place}");
    }
    for file in ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/etc/passwd", "/proc/kcore", "/proc/1/mem"] {
        assert_ne!(bed.sh(&format!("echo > {file}")).await.exit(), Exit::Code(0), "{file}");
    }
    for secret in ["/etc/shadow", "/proc/kcore", "/proc/1/environ", "/proc/1/maps", "/proc/1/root/etc/passwd"] {
        assert_ne!(bed.sh(&format!("cat {secret}")).await.exit(), Exit::Code(0), "{secret}");
    }
    bed.out("echo a > /workspace/f && echo b > /tmp/f && echo c > /dev/shm/f && echo d > /dev/null").await;
    // A later call finds them; nothing is emptied in between.
    assert_eq!(bed.out("cat /workspace/f /tmp/f /dev/shm/f").await, "a\nb\nc");
    assert_eq!(bed.out("stat -c %a /tmp /dev/shm").await, "1777\n1777");
    assert_eq!(
        bed.out("cd /; ls -d proc dev tmp workspace run usr etc | wc -l; ls /run /var").await,
        "7\n/run:\n\n/var:\ntmp"
    );
    for hidden in ["/root", "/home", "/sys", "/boot", "/mnt", "/srv"] {
        assert!(bed.sh(&format!("ls {hidden}")).await.exit() != Exit::Code(0), "{hidden}");
    }
    assert_eq!(
        bed.out("rm -rf /dev/null /tmp 2>/dev/null; test -c /dev/null && test -d /tmp && echo kept").await,
        "kept"
    );
    bed.end().await;
}

#[tokio::test]
async fn what_is_configured_is_shown_read_only() {
    let mut bed = Bed::with(|config| config.read_only = vec!["/var/lib".into(), "/bin/sh".into()]).await;
    assert_eq!(bed.out("ls -d /var/*").await, "/var/lib\n/var/tmp");
    assert_eq!(bed.out("ls /var/lib | wc -l").await, fs::read_dir("/var/lib").unwrap().count().to_string());
    let fails = bed.sh("echo > /var/lib/new").await;
    assert!(fails.stderr.contains("Read-only file system"), "{fails:?}");
    bed.end().await;
}

#[tokio::test]
async fn slots_do_not_see_each_other() {
    let (mut one, mut two) = (Bed::new().await, Bed::new().await);
    one.out("echo secret > /workspace/f; echo secret > /tmp/f; chmod -R 777 /workspace").await;
    assert_eq!(two.out("ls -A /workspace /tmp").await, "/tmp:\n\n/workspace:");
    assert_eq!(two.out(PROCESSES).await, "2");
    let workspace = one.config.directory.join("workspace");
    assert_eq!(fs::metadata(&workspace).unwrap().permissions().mode() & 0o777, 0o777, "the slot's own doing");
    let parent = fs::metadata(&one.config.directory).unwrap().permissions().mode();
    assert_eq!(parent & 0o077, 0, "nobody else gets as far as the workspace");
    one.end().await;
    two.end().await;
}

#[tokio::test]
async fn limits_hold() {
    let mut bed = Bed::with(|config| {
        config.max_open_files = 64;
        config.tmp_bytes = 4 << 20;
        config.max_processes = own_ids().then_some(40);
    })
    .await;
    assert_eq!(bed.out("ulimit -n; ulimit -c; ulimit -Hn").await, "64\n0\n64");
    let full = bed.sh("head -c 3000000 /dev/zero > /tmp/a && head -c 3000000 /dev/zero > /dev/shm/b").await;
    assert_eq!(full.exit(), Exit::Code(1));
    assert!(full.stderr.contains("No space left on device"), "{full:?}");
    if own_ids() {
        let forks = bed.sh("i=0; while [ $i -lt 100 ]; do sleep 100 & i=$((i+1)); done").await;
        assert!(forks.stderr.contains("fork"), "{forks:?}");
        assert_eq!(bed.out("echo on").await, "on");
    }
    bed.end().await;
}

#[tokio::test]
async fn dangerous_system_calls_are_refused() {
    let mut bed = Bed::new().await;
    if has_program("unshare") {
        assert!(bed.sh("unshare -U true").await.stderr.contains("Operation not permitted"));
        assert_ne!(bed.sh("unshare -m true").await.exit(), Exit::Code(0));
    }
    if has_program("mount") {
        assert_ne!(bed.sh("mount -t tmpfs none /tmp").await.exit(), Exit::Code(0));
    }
    if cfg!(target_arch = "x86_64") && has_program("perl") {
        let (eperm, enosys) = ("1", "38");
        for (call, error) in [
            ("250, 0, -3, 0", eperm),                // keyctl
            ("425, 1, 0", eperm),                    // io_uring_setup
            ("321, 0, 0, 0", eperm),                 // bpf
            ("272, 0x10000000", eperm),              // unshare(CLONE_NEWUSER)
            ("56, 0x10000011, 0, 0, 0, 0", eperm),   // clone(CLONE_NEWUSER)
            ("435, 0, 0", enosys),                   // clone3
            ("0x40000000 + 39", enosys),             // getpid of x32
            ("16, 0, 0x5412, 0", eperm),             // ioctl TIOCSTI
            ("16, 0, 0xffffffff00005412, 0", eperm), // the same to the kernel
            ("302, 1, 7, ($b = 0 x 16), 0", eperm),  // prlimit of another process
            ("41, 40, 1, 0", eperm),                 // socket(AF_VSOCK)
            ("41, 17, 3, 0", eperm),                 // socket(AF_PACKET)
        ] {
            let script = format!("perl -e '$r = syscall({call}); print $r == -1 ? $!+0 : \"done\"'");
            assert_eq!(bed.out(&script).await, error, "{call}");
        }
        assert_eq!(bed.out("perl -e '$r = syscall(41, 2, 1, 0); print $r >= 0'").await, "1", "AF_INET is allowed");
    }
    bed.end().await;
}

#[tokio::test]
async fn without_a_network_there_is_loopback_alone() {
    if !has_program("perl") {
        return;
    }
    let host = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = host.local_addr().unwrap().port();
    let connect = format!(
        "perl -MSocket -e 'socket(S, PF_INET, SOCK_STREAM, 0); print connect(S, sockaddr_in({port}, \
         INADDR_LOOPBACK)) ? \"connected\" : $!+0'"
    );
    let serve = "perl -MIO::Socket::INET -e '$l = IO::Socket::INET->new(LocalAddr => \"127.0.0.1\", Listen => 1) or \
                 die; IO::Socket::INET->new(PeerAddr => $l->sockhost, PeerPort => $l->sockport) or die; print \"up\"'";
    let mut off = Bed::new().await;
    assert_eq!(off.out(&connect).await, libc::ECONNREFUSED.to_string());
    assert_eq!(off.out(serve).await, "up");
    assert_eq!(off.out("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '").await, "lo");
    off.end().await;

    let mut on = Bed::with(|config| config.network = true).await;
    assert_eq!(on.out(&connect).await, "connected");
    on.end().await;
}
