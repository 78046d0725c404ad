//! Files from outside, against a slot that fights back.

use tool_executor::{
    sandbox::slot::Isolation,
    tool::job::{Exit, FileFailure},
};

use super::bed::{Bed, level, start_and_wait_for_output};

const LIMIT: u64 = 1 << 20;

#[tokio::test]
async fn what_is_written_is_read_on_both_sides() {
    let mut bed = Bed::new().await;
    let files = bed.slot.workspace();
    assert_eq!(files.write("a/b/../c/file", b"one\r\n\0two"), Ok(9));
    assert_eq!(bed.out("od -An -c a/c/file | tr -s ' '").await, " o n e \\r \\n \\0 t w o");
    let user = if bed.config.host_id.is_some() || level() <= Isolation::L1 {
        format!("{0} {0}", bed.user())
    } else {
        format!("{} {}", bed.user(), rustix::process::getegid().as_raw())
    };
    let expected = format!("755 {user}\n755 {user}\n644 {user}");
    assert_eq!(bed.out("stat -c '%a %u %g' a a/c a/c/file").await, expected);
    bed.out("echo inside > d; echo more >> a/c/file").await;
    assert_eq!(files.read("/workspace/d", LIMIT).unwrap(), "inside\n");
    let by_its_own_path = format!("{}/d", bed.home());
    assert_eq!(files.read(&by_its_own_path, LIMIT).unwrap(), "inside\n");
    assert_eq!(files.read("//workspace/./a//c/file", LIMIT).unwrap(), "one\r\n\0twomore\n");
    // Rewriting keeps mode and other names.
    bed.out("chmod 700 d; ln d other").await;
    assert_eq!(files.write("d", b"new"), Ok(3));
    assert_eq!(bed.out("stat -c %a d; cat other").await, "700\nnew");
    assert_eq!(files.write("empty", b""), Ok(0));
    assert_eq!(files.read("empty", 0).unwrap(), "");
    bed.end().await;
}

#[tokio::test]
async fn paths_that_lead_out_are_refused() {
    let mut bed = Bed::new().await;
    let files = bed.slot.workspace();
    bed.out(
        "mkdir d; ln -s /etc/passwd abs; ln -s ../etc up; ln -s / d/root; ln -s /proc/self/root/etc magic; \
         ln -s d/root chain; ln -s ../workspace out-and-back; ln -s /workspace/../etc/passwd sly",
    )
    .await;
    for path in [
        "/etc/passwd",
        "/",
        "/workspaces/f",
        "/tmp/f",
        "../f",
        "d/../../f",
        "/workspace/../f",
        "..",
        "abs",
        "up/passwd",
        "d/root/etc/passwd",
        "chain/etc/passwd",
        "magic/passwd",
        "out-and-back/d",
        "sly",
        "nul\0byte",
        "/proc/self/root",
    ] {
        assert_eq!(files.read(path, LIMIT), Err(FileFailure::OutsideWorkspace), "{path:?}");
        assert_eq!(files.write(path, b"x"), Err(FileFailure::OutsideWorkspace), "{path:?}");
    }
    assert_eq!(files.write("d/root/tmp/new/f", b"x"), Err(FileFailure::OutsideWorkspace));
    bed.end().await;
}

#[tokio::test]
async fn links_inside_the_workspace_are_followed_as_the_slot_does() {
    let mut bed = Bed::new().await;
    let files = bed.slot.workspace();
    bed.out(
        "mkdir -p d/e; echo 1 > d/e/f; ln -s d/e rel; ln -s $HOME/d abs; ln -s $HOME/abs/e/f file; \
         ln -s $HOME/rel/../e/f crooked; ln -s loop loop; ln -s $HOME/abs-loop abs-loop; \
         ln -s $HOME/nothing dangling; ln -s $HOME here",
    )
    .await;
    for path in ["rel/f", "abs/e/f", "file", "crooked", "here/here/file"] {
        assert_eq!(files.read(path, LIMIT).as_deref(), Ok(b"1\n".as_slice()), "{path}");
        assert_eq!(bed.out(&format!("cat {path}")).await, "1");
    }
    assert_eq!(files.write("abs/new/f", b"2"), Ok(1));
    assert_eq!(files.write("dangling", b"3"), Ok(1));
    assert_eq!(bed.out("cat d/new/f nothing").await, "23");
    for path in ["loop", "abs-loop"] {
        assert_eq!(
            files.read(path, LIMIT),
            Err(FileFailure::Other("Too many levels of symbolic links (os error 40)".into()))
        );
    }
    bed.end().await;
}

#[tokio::test]
async fn what_is_no_regular_file_is_told_at_once() {
    let mut bed = Bed::new().await;
    let files = bed.slot.workspace();
    bed.out("mkdir d; mkfifo fifo; echo > f; ln -s d link").await;
    for path in ["", ".", "/workspace", "/workspace/", "d", "d/", "d/.", "fifo", "link", "f/"] {
        assert_eq!(files.read(path, LIMIT), Err(FileFailure::NotAFile), "{path:?}");
        let failure = files.write(path, b"x").expect_err("it is no file");
        let directory = FileFailure::Other("Is a directory (os error 21)".into());
        assert!([FileFailure::NotAFile, directory].contains(&failure), "{path:?}: {failure:?}");
    }
    // A reader at the other end makes no difference.
    let reader = start_and_wait_for_output(&mut bed.runner, "echo x; cat < fifo").await;
    assert_eq!(files.write("fifo", b"x"), Err(FileFailure::NotAFile));
    bed.runner.cancel();
    bed.runner.ended().await.unwrap();
    drop(reader);
    assert_eq!(files.read("none", LIMIT), Err(FileFailure::NotFound));
    assert_eq!(files.read("none/none", LIMIT), Err(FileFailure::NotFound));
    let other = |text: &str| Err(FileFailure::Other(text.into()));
    assert_eq!(files.read("f/g", LIMIT), other("Not a directory (os error 20)"));
    assert_eq!(files.write("f/g", b"x").map(|_| ()), Err(FileFailure::Other("Not a directory (os error 20)".into())));
    assert_eq!(files.read(&"n".repeat(256), LIMIT), other("File name too long (os error 36)"));
    assert_eq!(files.read(&"n/".repeat(3000).repeat(2), LIMIT), Err(FileFailure::NotAFile));
    assert_eq!(files.read(&format!("{}n", "n/".repeat(6000)), LIMIT), other("File name too long (os error 36)"));
    bed.end().await;
}

#[tokio::test]
async fn modes_are_obeyed_as_for_the_slots_own_user() {
    let mut bed = Bed::new().await;
    let files = bed.slot.workspace();
    bed.out("echo > f; chmod 000 f; mkdir -m 500 d").await;
    let denied = FileFailure::Other("Permission denied (os error 13)".into());
    assert_eq!(files.read("f", LIMIT), Err(denied.clone()));
    assert_eq!(files.write("f", b"x"), Err(denied.clone()));
    assert_eq!(files.write("d/new", b"x"), Err(denied.clone()));
    assert_eq!(files.write("d/new/f", b"x"), Err(denied));
    // After all of that this thread is itself again.
    let me = rustix::process::getuid();
    assert_eq!(
        (rustix::process::geteuid(), rustix::process::getegid().as_raw()),
        (me, rustix::process::getgid().as_raw())
    );
    bed.end().await;
}

#[tokio::test]
async fn reading_is_bounded_even_if_the_file_grows() {
    let mut bed = Bed::new().await;
    let files = bed.slot.workspace();
    bed.out("head -c 1000 /dev/zero > f").await;
    assert_eq!(files.read("f", 1000).unwrap().len(), 1000);
    assert_eq!(files.read("f", 999), Err(FileFailure::TooLarge { size: 1000 }));
    bed.out("truncate -s 1P sparse || truncate -s 1T sparse").await;
    assert!(matches!(files.read("sparse", LIMIT), Err(FileFailure::TooLarge { size }) if size >= 1 << 40));

    let grow = "echo x; while :; do : > g; head -c 200000 /dev/zero > g; done";
    let output = start_and_wait_for_output(&mut bed.runner, grow).await;
    for _ in 0..300 {
        match files.read("g", 100_000) {
            Ok(content) => assert!(content.len() <= 100_000),
            Err(FileFailure::TooLarge { size }) => assert!(size > 100_000),
            Err(FileFailure::NotFound) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    bed.runner.cancel();
    bed.runner.ended().await.unwrap();
    drop(output);
    bed.end().await;
}

#[tokio::test]
async fn a_race_of_renames_never_leads_out() {
    let mut bed = Bed::new().await;
    let files = bed.slot.workspace();
    bed.out("mkdir -p real; echo mine > real/passwd; cp real/passwd real/hostname; ln -s /etc evil").await;
    if !std::path::Path::new("/usr/bin/perl").exists() {
        eprintln!("skipped: no perl on this machine");
        return bed.end().await;
    }
    let race = "perl -e '$| = 1; print \"x\"; for (;;) { rename \"real\", \"d\"; rename \"d\", \"real\"; \
                rename \"evil\", \"d\"; rename \"d\", \"evil\"; unlink \"d/hostname\"; rmdir \"d\"; }'";
    let output = start_and_wait_for_output(&mut bed.runner, race).await;
    let (mut read, mut refused) = (0, 0);
    let begun = std::time::Instant::now();
    for round in 0.. {
        // On a busy machine the two sides may take long turns.
        let enough = round > 20_000 && read > 0 && refused > 0;
        if enough || begun.elapsed().as_secs() > 60 {
            break;
        }
        match files.read("d/passwd", LIMIT) {
            Ok(content) => {
                assert!(content == "mine\n" || content.is_empty() || content == "x", "{content:?}");
                read += 1;
            }
            Err(FileFailure::OutsideWorkspace) => refused += 1,
            Err(FileFailure::NotFound | FileFailure::Other(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
        match files.write("d/hostname", b"x") {
            Ok(_) | Err(FileFailure::OutsideWorkspace | FileFailure::NotFound | FileFailure::Other(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(read > 0 && refused > 0, "the race was one: {read} read, {refused} refused");
    assert_ne!(std::fs::read_to_string("/etc/hostname").unwrap_or_default(), "x");
    bed.runner.cancel();
    bed.runner.ended().await.unwrap();
    drop(output);
    bed.end().await;
}

#[tokio::test]
async fn files_can_be_used_while_a_call_runs_and_after_a_failed_one() {
    let mut bed = Bed::new().await;
    let files = bed.slot.workspace();
    let output = start_and_wait_for_output(&mut bed.runner, "echo x; until test -e go; do :; done; cat go").await;
    assert_eq!(files.write("go", b"gone"), Ok(4));
    assert!(matches!(
        bed.runner.ended().await.unwrap(),
        tool_executor::sandbox::slot::RunnerEnd::Ended { exit: Exit::Code(0), .. }
    ));
    drop(output);
    bed.end().await;
}
