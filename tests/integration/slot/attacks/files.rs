//! Attacks on whoever reads and writes a slot's files from outside: the agent, and to compare a reader that opens paths as
//! they are.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tool_executor::{
    sandbox::slot::Workspace,
    tool::job::FileFailure::{self, NotAFile, OutsideWorkspace, TooLarge},
};

use super::{
    super::bed::{Bed, start_and_wait_for_output},
    program::{Attack, made_for_everybody},
};

const LIMIT: u64 = 1 << 20;
/// An answer that takes longer was waited for.
const AT_ONCE: Duration = Duration::from_secs(5);
/// How long a race takes at least, and at most until both sides have had their turns.
const RACE: Duration = Duration::from_secs(1);
const LONGEST_RACE: Duration = Duration::from_secs(60);
const CANARY: &str = "of the agent";

/// What lies outside of a workspace, and must not be read or written through it.
struct Outside {
    home: tempfile::TempDir,
}

impl Outside {
    /// Their modes keep nobody from anything.
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        made_for_everybody(&home.path().join("state"));
        let outside = Self { home };
        fs::write(outside.canary(), CANARY).unwrap();
        fs::set_permissions(outside.canary(), fs::Permissions::from_mode(0o666)).unwrap();
        outside
    }

    fn canary(&self) -> PathBuf {
        self.home.path().join("state/canary")
    }

    fn is_untouched(&self) -> bool {
        let only = fs::read_dir(self.home.path().join("state")).unwrap().count() == 1;
        only && fs::read_to_string(self.canary()).unwrap() == CANARY
    }

    /// A script that lays links to it. `up`: from a workspace to the root.
    fn links(&self, up: &str) -> String {
        let state = self.home.path().join("state");
        let state = state.to_str().unwrap();
        format!(
            "ln -s {state}/canary absolute; ln -s {up}{state}/canary relative; ln -s absolute one; ln -s ./one two; \
             ln -s two chain; ln -s /proc/self/root{state}/canary magic; ln -s {state} directory; mkdir -p deep/er; \
             ln -s {up}/../..{state} deep/er/link; ln -s deep/er/link/../state parent; \
             ln -s /dev/../..{state}/canary dots; ln -s {long}{state}/canary long",
            long = "/.".repeat(1_500),
        )
    }
}

/// Paths in a workspace with these links that lead to the canary.
const LEADING_OUT: [&str; 10] = [
    "absolute",
    "relative",
    "chain",
    "magic",
    "directory/canary",
    "deep/er/link/canary",
    "deep/../deep/er/link/canary",
    "parent/canary",
    "dots",
    "long",
];

#[tokio::test]
#[ignore = "run by the attacks of each level"]
async fn planted_files_lead_nowhere() {
    let attack = Attack::known();
    let outside = Outside::new();
    let mut bed = Bed::new().await;
    let workspace = bed.config.directory.canonicalize().unwrap().join("workspace");
    bed.out(&outside.links(&up_from(&workspace))).await;
    put(&attack, &bed);
    bed.out("chmod 755 attack; ./attack strange-names; mkfifo fifo").await;
    bed.out("./attack listen socket & until test -S socket; do :; done").await;
    bed.out("truncate -s 1T sparse; ln -s fifo to-fifo; ln -s /dev/zero to-device; ln -s /proc/self/mem to-memory")
        .await;
    let files = bed.slot.workspace();
    for path in LEADING_OUT {
        assert_eq!(read(&files, path).await, Err(OutsideWorkspace), "{path}");
        assert_eq!(write(&files, path).await, Err(OutsideWorkspace), "{path}");
    }
    for path in ["directory/new", "deep/er/link/new/er", "parent/new"] {
        assert_eq!(write(&files, path).await, Err(OutsideWorkspace), "{path}");
    }
    for path in ["fifo", "socket", "to-fifo", "deep"] {
        assert_eq!(read(&files, path).await, Err(NotAFile), "{path}");
    }
    for path in ["fifo", "socket", "to-fifo"] {
        assert_eq!(write(&files, path).await, Err(NotAFile), "{path}");
    }
    for path in ["to-device", "to-memory"] {
        assert_eq!(read(&files, path).await, Err(OutsideWorkspace), "{path}");
    }
    assert_eq!(read(&files, "sparse").await, Err(TooLarge { size: 1 << 40 }));
    assert_eq!(read(&files, "two\nlines").await, Ok(String::new()));
    assert_eq!(read(&files, "to-no-text").await, Ok(String::new()));
    if rustix::process::geteuid().is_root() {
        planted_by_root(&files, &workspace).await;
    }
    assert!(outside.is_untouched());
    bed.end().await;
}

/// What no call can make, but might find.
async fn planted_by_root(files: &Workspace, workspace: &Path) {
    let private = workspace.with_file_name("private");
    fs::write(&private, "root's").unwrap();
    fs::set_permissions(&private, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::hard_link(&private, workspace.join("hard")).unwrap();
    let denied = FileFailure::Other("Permission denied (os error 13)".into());
    assert_eq!(read(files, "hard").await, Err(denied.clone()));
    assert_eq!(write(files, "hard").await, Err(denied.clone()));
    assert_eq!(fs::read_to_string(&private).unwrap(), "root's");
    fs::remove_file(&private).unwrap();
    let device = workspace.join("device");
    let zero = rustix::fs::makedev(1, 5);
    if mknodat(CWD, &device, FileType::CharacterDevice, Mode::from_raw_mode(0o666), zero).is_ok() {
        // Where devices count for nothing, it cannot even be opened.
        for refusal in [read(files, "device").await.unwrap_err(), write(files, "device").await.unwrap_err()] {
            assert!([NotAFile, denied.clone()].contains(&refusal), "{refusal:?}");
        }
    }
}

#[tokio::test]
#[ignore = "run by attacks_succeed_where_nothing_stops_them"]
async fn planted_files_lead_out_of_a_plain_directory() {
    let outside = Outside::new();
    let workspace = tempfile::tempdir().unwrap();
    let links = outside.links(&up_from(&workspace.path().canonicalize().unwrap()));
    let script = format!("{links}; mkfifo fifo");
    assert!(Command::new("sh").args(["-c", &script]).current_dir(&workspace).status().unwrap().success());
    for path in LEADING_OUT {
        assert_eq!(fs::read_to_string(workspace.path().join(path)).unwrap(), CANARY, "{path}");
        fs::write(workspace.path().join(path), "x").unwrap();
        assert!(!outside.is_untouched(), "{path}");
        fs::write(outside.canary(), CANARY).unwrap();
    }
    let fifo = workspace.path().join("fifo");
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::read(fifo)
    });
    std::thread::sleep(Duration::from_millis(100));
    assert!(!reader.is_finished(), "it waits");
    fs::OpenOptions::new().write(true).open(fifo).unwrap().write_all(b"x").unwrap();
    assert_eq!(reader.join().unwrap().unwrap(), b"x");
}

/// A name that is a file, a link that leads out, and a FIFO, as fast as it can change; and a directory, or a link to one.
const RACES: [(&str, &str); 2] =
    [("file", "./attack race file good evil fifo"), ("way/canary", "./attack race way real link")];

fn racers(outside: &Outside) -> String {
    let canary = outside.canary();
    format!(
        "echo mine > file; echo mine > good; ln -s {0} evil; mkfifo fifo; mkdir way real; echo mine > way/canary; \
         echo mine > real/canary; ln -s {1} link",
        canary.display(),
        canary.parent().unwrap().display()
    )
}

#[tokio::test]
#[ignore = "run by the attacks of each level"]
async fn races_are_lost() {
    let attack = Attack::known();
    for (path, race) in RACES {
        let outside = Outside::new();
        let mut bed = Bed::new().await;
        put(&attack, &bed);
        bed.out(&format!("chmod 755 attack; {}", racers(&outside))).await;
        let files = bed.slot.workspace();
        let output = start_and_wait_for_output(&mut bed.runner, race).await;
        let (begun, mut rounds, mut read, mut refused) = (Instant::now(), 0, 0, 0);
        while begun.elapsed() < RACE || ((read == 0 || refused == 0) && begun.elapsed() < LONGEST_RACE) {
            rounds += 1;
            match files.read(path, LIMIT) {
                Ok(content) => {
                    assert!(content == "mine\n" || content == "theirs" || content.is_empty(), "{content:?}");
                    read += 1;
                }
                Err(OutsideWorkspace) => refused += 1,
                Err(NotAFile | FileFailure::NotFound | FileFailure::Other(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
            match files.write(path, b"theirs") {
                Ok(_) | Err(OutsideWorkspace | NotAFile | FileFailure::NotFound | FileFailure::Other(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        println!("{race}: {rounds} rounds, {read} read, {refused} refused, none outside");
        assert!(read > 0 && refused > 0, "it was a race: {read} read, {refused} refused");
        assert!(outside.is_untouched());
        bed.runner.cancel();
        bed.runner.ended().await.unwrap();
        drop(output);
        bed.end().await;
    }
}

#[tokio::test]
#[ignore = "run by attacks_succeed_where_nothing_stops_them"]
async fn races_are_won_in_a_plain_directory() {
    let attack = Attack::known();
    for (path, race) in RACES {
        let outside = Outside::new();
        let workspace = tempfile::tempdir().unwrap();
        let script = format!("cp {} attack; {}", attack.program.display(), racers(&outside));
        assert!(Command::new("sh").args(["-c", &script]).current_dir(&workspace).status().unwrap().success());
        // The FIFO would only be waited for.
        let race = race.replace(" fifo", "");
        let mut words = race.split(' ');
        let mut racer = Command::new(workspace.path().join(words.next().unwrap()));
        let mut racer = racer.args(words).current_dir(&workspace).stdout(Stdio::null()).spawn().unwrap();
        let path = workspace.path().join(path);
        let (begun, mut rounds, mut read, mut written) = (Instant::now(), 0, 0, 0);
        while (read == 0 || written == 0) && begun.elapsed() < LONGEST_RACE {
            rounds += 1;
            // As if the path were looked at before it is used.
            let inside = || path.canonicalize().is_ok_and(|real| real.starts_with(workspace.path()));
            if inside() {
                read += u32::from(fs::read_to_string(&path).is_ok_and(|content| content == CANARY));
            }
            if inside() && fs::write(&path, "theirs").is_ok() && !outside.is_untouched() {
                written += 1;
                fs::write(outside.canary(), CANARY).unwrap();
            }
        }
        racer.kill().unwrap();
        racer.wait().unwrap();
        println!("{race}: {rounds} rounds, {read} read outside, {written} written outside");
        assert!(read > 0 && written > 0, "the race can be won");
    }
}

#[tokio::test]
#[ignore = "run by the attacks of each level"]
async fn a_file_that_grows_is_read_up_to_the_limit() {
    let attack = Attack::known();
    let mut bed = Bed::new().await;
    put(&attack, &bed);
    bed.out("chmod 755 attack").await;
    let files = bed.slot.workspace();
    let output = start_and_wait_for_output(&mut bed.runner, "./attack grow file").await;
    let (mut read, mut too_large) = (0, 0);
    let begun = Instant::now();
    while (read < 10 || too_large < 10) && begun.elapsed() < LONGEST_RACE {
        match files.read("file", LIMIT) {
            Ok(content) if content.len() as u64 <= LIMIT => read += 1,
            Err(TooLarge { size }) if size > LIMIT => too_large += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(read > 0 && too_large > 0, "{read} read, {too_large} too large");
    bed.runner.cancel();
    bed.runner.ended().await.unwrap();
    drop(output);
    bed.end().await;
}

/// The program, as a file that is yet to be made executable.
fn put(attack: &Attack, bed: &Bed) {
    bed.slot.workspace().write("attack", &fs::read(&attack.program).unwrap()).unwrap();
}

/// From a directory to the root of the machine.
fn up_from(directory: &Path) -> String {
    let up = vec![".."; directory.components().count() + 4];
    up.join("/")
}

async fn read(files: &Workspace, path: &str) -> Result<String, FileFailure> {
    let (files, path) = (files.clone(), path.to_owned());
    let reading = tokio::task::spawn_blocking(move || files.read(&path, LIMIT));
    let read = tokio::time::timeout(AT_ONCE, reading).await.expect("it does not wait").unwrap();
    read.map(|content| String::from_utf8(content.to_vec()).unwrap())
}

async fn write(files: &Workspace, path: &str) -> Result<u64, FileFailure> {
    let (files, path) = (files.clone(), path.to_owned());
    let writing = tokio::task::spawn_blocking(move || files.write(&path, b"theirs"));
    tokio::time::timeout(AT_ONCE, writing).await.expect("it does not wait").unwrap()
}
