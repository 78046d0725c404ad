//! What a slot sees and may do.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt};

use tool_executor::{
    sandbox::slot::{self, Isolation, Slot, SlotError, Step},
    tool::job::Exit,
};

use super::bed::{Bed, MASKED, PROCESSES, config, has_program, level, own_ids};

#[tokio::test]
async fn the_probe_finds_the_level_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path().join("slots/probe"));
    for network in [true, false] {
        config.network = network;
        match slot::probe(&config, Isolation::L2Minus).await {
            Ok(found) => assert_eq!(found, level()),
            Err(error) => panic!("{error}"),
        }
        assert!(!config.directory.exists());
        assert!(slot::probe(&config, level()).await.is_ok(), "the minimum itself is enough");
    }
}

#[tokio::test]
async fn the_probe_says_what_failed() {
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path().join("slots/probe"));
    config.read_only = vec!["/none/such".into()];
    let error = slot::probe(&config, Isolation::L2Minus).await.unwrap_err().to_string();
    let problem = "could not open what the slot is to see (/none/such): No such file or directory (os error 2)";
    let lines: Vec<&str> = error.lines().filter(|line| !line.starts_with("  - ")).collect();
    let expected = match level() {
        // What is to be seen is opened before /proc is of interest.
        Isolation::L0 | Isolation::L1 => format!("calls cannot be isolated on this machine: {problem}"),
        level => format!("  {level}: {problem}"),
    };
    assert_eq!(lines.last(), Some(&&*expected), "{error}");
    for path in ["/tmp/x", "/var/tmp", "/", "relative", "/usr/../root", "/workspace", "/dev/shm"] {
        config.read_only = vec![path.into()];
        let error = slot::probe(&config, Isolation::L2Minus).await.unwrap_err();
        assert_eq!(error.found(), None, "{path}: a mistake is no reason to accept less");
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
    if level() <= Isolation::L1 {
        let map = bed.out("cat /proc/self/uid_map").await;
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", &me.to_string(), "1"]);
        assert_eq!(bed.out("cat /proc/self/setgroups").await, "deny");
    } else {
        let ids = bed.out("grep ^Uid: /proc/self/status | cut -f 2-").await;
        assert_eq!(ids, [me.to_string(), me.to_string(), me.to_string(), me.to_string()].join("\t"));
    }
    let status = bed.out("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr -d '\\t'").await;
    let none = "0000000000000000";
    // An ordinary user has no right to empty it, and with no_new_privs nothing to gain by what is in it.
    let status = if level() == Isolation::L2Minus {
        status
            .lines()
            .map(|line| if line.starts_with("CapBnd") { format!("CapBnd:{none}") } else { line.into() })
            .collect::<Vec<_>>()
            .join("\n")
    } else {
        status
    };
    let expected =
        format!("CapInh:{none}\nCapPrm:{none}\nCapEff:{none}\nCapBnd:{none}\nCapAmb:{none}\nNoNewPrivs:1\nSeccomp:2");
    assert_eq!(status, expected);
    if own_ids() {
        let user = bed.user().to_string();
        assert_eq!(bed.out("id -G").await, user, "no group of the agent is left");
    }
    bed.end().await;
}

#[tokio::test]
async fn the_file_system_is_read_only_but_for_the_slots_own() {
    if !level().has_namespaces() {
        return;
    }
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
    if !level().has_namespaces() {
        return;
    }
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
    let tmp = if level().has_namespaces() { "/tmp" } else { "$TMPDIR" };
    one.out(&format!("echo secret > f; echo secret > {tmp}/f; chmod -R 777 $HOME {tmp}/f")).await;
    assert_eq!(two.out(&format!("ls -A $HOME; ls -A {tmp}")).await, "");
    two.is_quiet().await;
    if std::env::var_os(MASKED).is_some() {
        assert_ne!(two.out(PROCESSES).await, "2", "/proc is the agent's");
    }
    let directory = one.config.directory.display();
    for file in ["workspace/f", "tmp/f", "../of-the-agent"] {
        for look in ["cat", "head -c 1", "rm", "echo x | tee", "ln -t ."] {
            assert_ne!(two.sh(&format!("{look} {directory}/{file}")).await.exit(), Exit::Code(0), "{look} {file}");
        }
    }
    for place in ["workspace", "tmp", "", "..", "../.."] {
        let looks = format!("ls {directory}/{place}; echo > {directory}/{place}/new; rm -r {directory}/{place}; ");
        let done = two.sh(&format!("{looks} mv {directory}/{place}/* .")).await;
        assert_eq!((done.stdout.as_str(), done.exit()), ("", Exit::Code(1)), "{place}: {done:?}");
    }
    // Landlock has no say in that, and the user is the same.
    if level() != Isolation::L2Minus {
        assert_ne!(two.sh(&format!("chmod 700 {directory}/workspace")).await.exit(), Exit::Code(0));
    }
    assert_eq!(one.out(&format!("cat f {tmp}/f")).await, "secret\nsecret");
    let workspace = one.config.directory.join("workspace");
    assert_eq!(fs::metadata(&workspace).unwrap().permissions().mode() & 0o777, 0o777, "the slot's own doing");
    let parent = fs::metadata(&one.config.directory).unwrap().permissions().mode();
    let through = if level() == Isolation::L2 { 0o010 } else { 0 };
    assert_eq!(parent & 0o077, through, "nobody else gets as far as the workspace");
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
    if level().has_namespaces() {
        let full = bed.sh("head -c 3000000 /dev/zero > /tmp/a && head -c 3000000 /dev/zero > /dev/shm/b").await;
        assert_eq!(full.exit(), Exit::Code(1));
        assert!(full.stderr.contains("No space left on device"), "{full:?}");
    }
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
        let inet = bed.out("perl -e '$r = syscall(41, 2, 1, 0); print $r >= 0 ? 1 : $!+0'").await;
        // Without a network namespace, no network is no such sockets.
        assert_eq!(inet, "1", "AF_INET is allowed, or fails with EPERM (1)");
    }
    bed.end().await;
}

#[tokio::test]
async fn without_a_network_there_is_loopback_alone() {
    if !has_program("perl") || !level().has_namespaces() {
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
    // Raising it takes a right over the network namespace, which is one's own with the user namespace alone.
    let raised = level() != Isolation::L1B || std::env::var_os(MASKED).is_some();
    let refused = if raised { libc::ECONNREFUSED } else { libc::ENETUNREACH };
    assert_eq!(off.out(&connect).await, refused.to_string());
    if raised {
        assert_eq!(off.out(serve).await, "up");
    }
    assert_eq!(off.out("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '").await, "lo");
    off.end().await;

    let mut on = Bed::with(|config| config.network = true).await;
    assert_eq!(on.out(&connect).await, "connected");
    on.end().await;
}
