//! What a call is given, and what is said of its end.

use std::io::{Seek, Write};

use tool_executor::{
    sandbox::slot::RunnerEnd,
    tool::job::{Exit, Process, Program, StartFailure},
};

use super::bed::{Bed, argv, level, long, pipes, run, running, sh, shell, start_and_wait_for_output};

fn refusal(end: &RunnerEnd) -> (StartFailure, &str) {
    match end {
        RunnerEnd::NotStarted { kind, message } => (*kind, message),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn output_exit_status_and_signal_are_reported() {
    let mut bed = Bed::new().await;
    let done = bed.sh("echo out; echo err >&2; exit 3").await;
    assert_eq!((done.exit(), &*done.stdout, &*done.stderr), (Exit::Code(3), "out\n", "err\n"));
    assert_eq!(bed.sh("kill -TERM $$").await.exit(), Exit::Signal(15));
    assert_eq!(bed.sh("kill -SEGV $$").await.exit(), Exit::Signal(11));
    assert_eq!(bed.sh("exit 255").await.exit(), Exit::Code(255));
    bed.end().await;
}

#[tokio::test]
async fn the_environment_is_clean_and_the_calls_own() {
    let mut bed = Bed::new().await;
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let home = bed.home();
    let mut clean = format!("HOME={home}\nLANG=C.UTF-8\nPATH={path}\nTAR_OPTIONS=--no-same-owner\n");
    if !level().has_namespaces() {
        clean += &format!("TMPDIR={}\n", home.replace("/slots/0/workspace", "/slots/0/tmp"));
    }
    let process = argv(["env"]);
    let mut lines: Vec<_> = run(&mut bed.runner, &process).await.stdout.lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines.join("\n") + "\n", clean);

    let environment = vec![("HOME".into(), "/tmp".into()), ("A".into(), "1 = 2\n".into())];
    let done = run(&mut bed.runner, &Process { environment, ..shell("echo \"$HOME:$A:$LANG\"") }).await;
    assert_eq!(done.stdout, "/tmp:1 = 2\n:C.UTF-8\n");
    let user = bed.user();
    assert_eq!(bed.out("umask; pwd; id -u; cd /; cd; pwd").await, format!("0022\n{home}\n{user}\n{home}"));
    if level().has_namespaces() {
        assert_eq!(bed.out("hostname").await, "slot");
    }
    // What is for the call alone must not reach what makes it one.
    let preload = vec![("LD_PRELOAD".into(), format!("{home}/none.so"))];
    let done = run(&mut bed.runner, &Process { environment: preload, ..shell("echo $LD_PRELOAD") }).await;
    assert_eq!(done.stdout, format!("{home}/none.so\n"));
    assert_eq!(done.stderr.matches("cannot be preloaded").count(), 1, "{done:?}");
    for name in ["", "A=B", "N\0L"] {
        let environment = vec![(name.into(), "x".into())];
        let done = run(&mut bed.runner, &Process { environment, ..shell("true") }).await;
        assert_eq!(refusal(&done.end).0, StartFailure::Refused);
    }
    bed.end().await;
}

#[tokio::test]
async fn nothing_is_inherited_from_the_agent() {
    let mut bed = Bed::new().await;
    assert_eq!(bed.out("grep ^SigBlk /proc/self/status | cut -f 2").await, "0000000000000000");
    // Rust programs ignore SIGPIPE, and this one's calls must not.
    assert_eq!(bed.sh("yes | head -n 1; kill -PIPE $$").await.exit(), Exit::Signal(13));
    assert_eq!(bed.sh("exec 3<>/dev/tty").await.exit(), Exit::Code(2), "no terminal of the agent's");
    // 3 is the listing's own.
    assert_eq!(bed.out("ls /proc/self/fd | tr '\\n' ' '").await, "0 1 2 3 ");
    assert_eq!(bed.out("readlink /proc/self/fd/0").await, "/dev/null");
    bed.end().await;
}

#[tokio::test]
async fn a_working_directory_is_entered_or_refused() {
    let mut bed = Bed::new().await;
    bed.out("mkdir -p a/b; echo > file; mkdir -m 000 closed; ln -s /usr/bin link").await;
    let home = bed.home();
    let mut pwd = async |directory: &str| {
        run(&mut bed.runner, &Process { working_directory: directory.into(), ..shell("pwd -P") }).await
    };
    let below = format!("{home}/a/b");
    for (directory, is) in [
        ("a/b", &*below),
        ("/workspace/a/b", &below),
        ("/workspace", &home),
        (&below, &below),
        ("/tmp", "/tmp"),
        ("link", "/usr/bin"),
    ] {
        assert_eq!(pwd(directory).await.succeeded(), is, "{directory}");
    }
    if level().has_namespaces() {
        assert_eq!(pwd("../etc").await.succeeded(), "/etc");
    }
    for (directory, kind) in [
        ("none", StartFailure::NotFound),
        ("file", StartFailure::NotFound),
        ("closed", StartFailure::Refused),
        ("a\0b", StartFailure::Refused),
    ] {
        assert_eq!(refusal(&pwd(directory).await.end).0, kind, "{directory:?}");
    }
    assert_eq!(refusal(&pwd("none").await.end).1, "/workspace/none: No such file or directory");
    bed.end().await;
}

#[tokio::test]
async fn a_program_is_found_as_execvp_finds_it() {
    let mut bed = Bed::new().await;
    bed.out("mkdir bin; printf '#!/bin/sh\\necho \"$0:$1\"\\n' > bin/mine; chmod +x bin/mine; echo > bin/plain").await;
    let home = bed.home();
    let mut argv_with_path = async |name: &str, path: Option<&str>| {
        let environment = path.map(|path| ("PATH".into(), path.into())).into_iter().collect();
        run(&mut bed.runner, &Process { environment, ..argv([name, "x y"]) }).await
    };
    assert_eq!(argv_with_path("bin/mine", None).await.succeeded(), "bin/mine:x y");
    let bin = format!("{home}/bin");
    assert_eq!(argv_with_path("mine", Some(&format!("/nowhere:{bin}"))).await.succeeded(), format!("{bin}/mine:x y"));
    let missing = argv_with_path("mine", None).await;
    assert_eq!(refusal(&missing.end), (StartFailure::NotFound, "mine: not found"));
    let plain = argv_with_path("plain", Some(&bin)).await;
    assert_eq!(refusal(&plain.end), (StartFailure::Refused, "plain: Permission denied"));
    let missing = argv_with_path("/none/such", None).await;
    assert_eq!(refusal(&missing.end), (StartFailure::NotFound, "/none/such: No such file or directory"));
    assert_eq!(refusal(&argv_with_path("", None).await.end).0, StartFailure::NotFound);
    let nothing = Process { program: Program::Argv(Vec::new()), ..Process::default() };
    assert_eq!(refusal(&run(&mut bed.runner, &nothing).await.end).0, StartFailure::Refused);
    // A script is a script, whatever it begins with.
    assert_eq!(bed.sh("-x").await.exit(), Exit::Code(127));
    bed.end().await;
}

#[tokio::test]
async fn large_arguments_arrive_and_too_large_ones_are_refused() {
    let mut bed = Bed::new().await;
    // The kernel's own limits: 128 KiB for one string, a quarter of the stack's for all.
    let script = format!("echo ${{#A}} #{}", "x".repeat(120_000));
    let environment = (0..12).map(|n| (format!("V{n}"), "y".repeat(120_000))).chain([("A".into(), "abc".into())]);
    let process = Process { environment: environment.collect(), ..shell(&script) };
    assert_eq!(run(&mut bed.runner, &process).await.succeeded(), "3");

    let too_large = run(&mut bed.runner, &shell(&"#".repeat(140_000))).await;
    assert_eq!(refusal(&too_large.end), (StartFailure::TooLarge, "/bin/sh: Argument list too long"));
    let environment = (0..400).map(|n| (format!("V{n}"), "y".repeat(100_000))).collect();
    let too_large = run(&mut bed.runner, &Process { environment, ..shell("true") }).await;
    assert_eq!(refusal(&too_large.end).0, StartFailure::TooLarge);
    assert_eq!(bed.out("echo still here").await, "still here");
    bed.end().await;
}

#[tokio::test]
async fn standard_input_is_what_is_given() {
    let mut bed = Bed::new().await;
    let (read, mut write) = std::io::pipe().unwrap();
    write.write_all(b"some input").unwrap();
    drop(write);
    let (stdio, stdout, _) = pipes(Some(read.into()));
    bed.runner.start(&shell("tr a-z A-Z"), stdio).unwrap();
    bed.runner.ended().await.unwrap();
    assert_eq!(stdout.await.unwrap(), "SOME INPUT");

    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[b'x'; 1 << 20]).unwrap();
    file.rewind().unwrap();
    let (stdio, stdout, _) = pipes(Some(file.into()));
    bed.runner.start(&shell("wc -c"), stdio).unwrap();
    bed.runner.ended().await.unwrap();
    assert_eq!(stdout.await.unwrap().trim(), "1048576");
    bed.end().await;
}

#[tokio::test]
async fn a_cancel_kills_the_whole_call_and_keeps_its_output() {
    let mut bed = Bed::new().await;
    let script = "echo x; (setsid sleep 1000 &); trap '' TERM INT; while :; do sleep 1000; done";
    let mut output = start_and_wait_for_output(&mut bed.runner, script).await;
    bed.runner.cancel();
    bed.runner.cancel();
    let end = bed.runner.ended().await.unwrap();
    assert!(matches!(end, RunnerEnd::Ended { exit: Exit::Signal(9), .. }), "{end:?}");
    // Nobody is left who could write.
    std::io::Read::read_to_end(&mut output, &mut Vec::new()).unwrap();

    // Too late, it means nothing: not to the call that ended, and not to the next.
    bed.runner.cancel();
    assert_eq!(bed.out("sleep 0.05; echo fine").await, "fine");
    bed.end().await;
}

#[tokio::test]
async fn what_a_call_leaves_behind_dies_with_it() {
    let mut bed = Bed::new().await;
    let mark = long();
    let script = format!(
        "sleep {mark} & setsid sleep {mark} & (setsid sh -c 'sleep {mark} & sleep {mark}' &) \n\
         nohup sleep {mark} >/dev/null 2>&1 & echo done"
    );
    let done = bed.sh(&script).await;
    assert_eq!((done.exit(), &*done.stdout), (Exit::Code(0), "done\n"));
    assert_eq!(running(mark), 0);
    bed.is_quiet().await;
    bed.end().await;
}

#[tokio::test]
async fn usage_is_the_sum_over_all_processes_of_the_call() {
    let mut bed = Bed::new().await;
    let spin = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
    let (usage, execution) = bed.sh(&format!("({spin}) & ({spin}) & wait")).await.usage();
    assert!(usage.user_cpu.as_millis() > 10, "{usage:?}");
    assert!(execution * 3 > usage.user_cpu + usage.system_cpu, "{usage:?} in {execution:?}");
    // A process that the call did not wait for counts too.
    let (usage, _) = bed.sh("head -c 60000000 /dev/zero | tail -c 59999999 | wc -c").await.usage();
    assert!(usage.max_rss_bytes > Some(50_000_000), "{usage:?}");
    // Each call has its own, though never less than this program, as which a call begins.
    let (usage, _) = bed.sh("true").await.usage();
    assert!(usage.max_rss_bytes.is_some_and(|bytes| bytes < 40_000_000), "{usage:?}");
    bed.end().await;
}

#[tokio::test]
async fn runners_of_a_slot_run_at_once_and_leave_each_other_alone() {
    let mut bed = Bed::new().await;
    let mut other = bed.slot.runner().await.unwrap();
    let output = start_and_wait_for_output(&mut other, "echo x; cat; exec sleep 1000").await;
    // What would reach the other call if it were in this one's process group or namespace.
    assert_eq!(bed.sh("kill -KILL 0").await.exit(), Exit::Signal(9));
    let shared = if level().has_namespaces() { "/tmp/f /dev/shm/f" } else { "$HOME/f $TMPDIR/f" };
    bed.out(&format!("for f in {shared}; do echo shared > $f; done")).await;
    bed.is_quiet().await;
    let mut third = bed.slot.runner().await.unwrap();
    assert_eq!(sh(&mut third, &format!("cat {shared}")).await.succeeded(), "shared\nshared");
    other.cancel();
    let end = other.ended().await.unwrap();
    assert!(matches!(end, RunnerEnd::Ended { exit: Exit::Signal(9), .. }), "{end:?}");
    drop(output);
    bed.end().await;
}
