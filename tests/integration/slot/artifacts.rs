//! Files brought into and fetched from a slot by whoever is outside, with hostile content on either side: archives that
//! mean harm, and workspaces that do.

use std::{
    cell::Cell,
    fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use proptest::{prelude::*, test_runner::TestRunner};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tar::{Builder, EntryType, Header};
use tool_executor::{
    sandbox::slot::{Allowance, Listing, TransferLimits, Workspace},
    tool::artifact::{Failure, FailureKind, Packing, Piece, Summary},
};

use super::bed::{Bed, has_program, start_and_wait_for_output};

const NO_LIMIT: Allowance = Allowance { file: None, bytes: None, inodes: None, archive: None };
const MODE: u32 = 0o644;
const MOST: u64 = 1 << 30;
/// How long a race takes at least, and at most until both sides have had their turns.
const RACE: Duration = Duration::from_secs(1);
const LONGEST_RACE: Duration = Duration::from_secs(60);

/// What is in the workspace, by path.
fn all(files: &Workspace) -> Vec<String> {
    let listing = Listing { recursive: true, include_hidden: true, most: 10_000, after: &[] };
    let (artifacts, more) = files.list(".", listing).unwrap();
    assert!(!more);
    artifacts.into_iter().map(|artifact| String::from_utf8_lossy(&artifact.path).into_owned()).collect()
}

fn fetch(files: &Workspace, path: &str) -> Result<Vec<u8>, FailureKind> {
    let mut content = Vec::new();
    let mut take = |piece| {
        if let Piece::Chunk(chunk) = piece {
            content.extend(chunk);
        }
        Ok(())
    };
    files.fetch(path, 0, None, &mut take).map(|()| content).map_err(|failure| failure.kind)
}

fn pack(files: &Workspace, path: &str, most: u64) -> Result<(Vec<u8>, Summary), Failure> {
    let (mut content, mut summary) = (Vec::new(), None);
    let mut take = |piece| {
        match piece {
            Piece::Chunk(chunk) => content.extend(chunk),
            Piece::Summary(last) => summary = Some(last),
            other => panic!("{other:?}"),
        }
        Ok(())
    };
    files.pack(path, Packing::Tar, most, &TransferLimits::default(), &mut take)?;
    Ok((content, summary.unwrap()))
}

fn bring(files: &Workspace, path: &str) -> Result<u64, FailureKind> {
    files.bring(path, MODE, NO_LIMIT, &mut &b"theirs"[..]).map_err(|failure| failure.kind)
}

fn unpack(files: &Workspace, path: &str, packing: Packing, mut archive: &[u8]) -> Result<u64, Failure> {
    files.unpack(path, packing, NO_LIMIT, &TransferLimits::default(), &mut archive)
}

/// One entry with the name as it is, which the library would not write.
fn raw(name: &[u8], kind: EntryType, target: &[u8], content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target);
    header.set_entry_type(kind);
    header.set_mode(0o6777);
    header.set_size(content.len() as u64);
    header.set_mtime(1);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    let padding = content.len().next_multiple_of(512) - content.len();
    [header.as_bytes(), content, &vec![0; padding]].concat()
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

fn file(name: &str) -> Vec<u8> {
    raw(name.as_bytes(), EntryType::Regular, b"", b"content")
}

fn link(name: &str, target: &str) -> Vec<u8> {
    raw(name.as_bytes(), EntryType::Symlink, target.as_bytes(), b"")
}

fn hard(name: &str, target: &str) -> Vec<u8> {
    raw(name.as_bytes(), EntryType::Link, target.as_bytes(), b"")
}

#[tokio::test]
async fn hostile_archives_are_refused_and_leave_nothing() {
    let mut bed = Bed::new().await;
    bed.out("echo mine > kept; mkdir directory").await;
    let files = bed.slot.workspace();
    let before = all(&files);
    let special = |kind| raw(b"special", kind, b"", b"");
    let long_name = raw(b"././@LongLink", EntryType::GNULongName, b"", &vec![b'x'; 1 << 20]);
    let good = || file("good");
    for (what, entries) in [
        ("an absolute path", vec![good(), file("/etc/cron.d/evil")]),
        ("a path that leads up", vec![good(), file("a/../../evil")]),
        ("a path that leads up and back", vec![good(), file("a/../b")]),
        ("an absolute link", vec![good(), link("evil", "/etc")]),
        ("a link that leads up", vec![good(), link("a/evil", "../../../..")]),
        ("a link to nothing", vec![good(), link("evil", "")]),
        ("a path through a link", vec![good(), link("way", "."), file("way/evil")]),
        ("a path through a file", vec![good(), file("good/evil")]),
        ("a hard link out", vec![good(), hard("evil", "/etc/passwd")]),
        ("a hard link up", vec![good(), hard("evil", "../../etc/passwd")]),
        ("a hard link to nothing", vec![good(), hard("evil", "nothing")]),
        ("a hard link to what was there before", vec![good(), hard("evil", "kept")]),
        ("a hard link to a link", vec![good(), link("way", "good"), hard("evil", "way")]),
        ("a hard link through a link", vec![good(), link("way", "."), hard("evil", "way/good")]),
        ("a character device", vec![good(), special(EntryType::Char)]),
        ("a block device", vec![good(), special(EntryType::Block)]),
        ("a FIFO", vec![good(), special(EntryType::Fifo)]),
        ("a long header", vec![good(), long_name, file("x")]),
        ("another kind than is there", vec![good(), file("directory")]),
        ("a directory where a file is", vec![good(), file("kept/x")]),
    ] {
        let refused = unpack(&files, ".", Packing::Tar, &archive(&entries)).expect_err(what);
        assert!(matches!(refused.kind, FailureKind::Invalid | FailureKind::WrongKind), "{what}: {refused:?}");
        assert_eq!(all(&files), before, "{what}");
        assert_eq!(bed.out("ls -A | wc -l; cat kept").await, "2\nmine", "{what}");
    }
    for (what, cut) in [("a header", 700), ("a file", 515), ("an archive", 0)] {
        let whole = archive(&[file("a"), file("b")]);
        assert!(unpack(&files, ".", Packing::Tar, &whole[..cut]).is_err(), "{what} that is cut");
        assert_eq!(all(&files), before, "{what} that is cut");
    }
    for packing in [Packing::Tar, Packing::TarGz, Packing::TarZst] {
        let nonsense: Vec<u8> = (0..100_000).map(|_| fastrand::u8(..)).collect();
        assert_eq!(unpack(&files, ".", packing, &nonsense).expect_err("nonsense").kind, FailureKind::Invalid);
        assert_eq!(all(&files), before);
    }
    bed.end().await;
}

/// What is refused above does break out of a directory whose unpacker believes what it is told.
#[test]
fn hostile_archives_lead_a_trusting_unpacker_out() {
    if !has_program("tar") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let (outside, inside) = (home.path().join("outside"), home.path().join("inside"));
    let way = || link("way", "../outside");
    let absolute = format!("{}/absolute", outside.display());
    for (evil, entries) in [
        ("absolute", vec![file(&absolute)]),
        ("up", vec![file("../outside/up")]),
        ("through", vec![way(), file("way/through")]),
    ] {
        fs::create_dir_all(&outside).unwrap();
        fs::create_dir_all(&inside).unwrap();
        fs::write(home.path().join("archive"), archive(&entries)).unwrap();
        let trusting = ["--extract", "--absolute-names", "--file", "../archive"];
        let unpacked = std::process::Command::new("tar").args(trusting).current_dir(&inside).output().unwrap();
        assert!(outside.join(evil).exists(), "{evil}: {}", String::from_utf8_lossy(&unpacked.stderr));
        fs::remove_dir_all(&outside).unwrap();
        fs::remove_dir_all(&inside).unwrap();
    }
}

#[tokio::test]
async fn bombs_are_refused() {
    let bed = Bed::new().await;
    let files = bed.slot.workspace();
    // 8 GiB of zeros in less than a MiB.
    let mut header = Header::new_gnu();
    header.set_path("bomb").unwrap();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(MODE);
    header.set_size(8 << 30);
    header.set_cksum();
    let mut bomb = io::Cursor::new(header.as_bytes().to_vec()).chain(io::repeat(0).take(8 << 30));
    let mut packed = zstd::Encoder::new(Vec::new(), 1).unwrap();
    io::copy(&mut bomb.by_ref().take(1 << 30), &mut packed).unwrap();
    let packed = packed.finish().unwrap();
    assert!(packed.len() < 1 << 20);
    let refused = unpack(&files, ".", Packing::TarZst, &packed).unwrap_err();
    assert_eq!(refused.kind, FailureKind::Invalid);
    assert!(refused.message.contains("bomb"), "{refused}");
    assert_eq!(all(&files), Vec::<String>::new());

    // A million entries, none of which has anything in it.
    struct Many {
        left: u32,
        block: Vec<u8>,
    }
    impl Read for Many {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.block.is_empty() {
                if self.left == 0 {
                    return Ok(0);
                }
                self.left -= 1;
                self.block = raw(b"same", EntryType::Directory, b"", b"");
            }
            let read = self.block.len().min(buffer.len());
            buffer[..read].copy_from_slice(&self.block[..read]);
            self.block.drain(..read);
            Ok(read)
        }
    }
    let mut many = Many { left: 1_000_000, block: Vec::new() };
    let refused = files.unpack(".", Packing::Tar, NO_LIMIT, &TransferLimits::default(), &mut many).unwrap_err();
    assert_eq!(refused.kind, FailureKind::Exhausted, "{refused}");
    assert!(refused.message.contains("entries"), "{refused}");
    assert_eq!(all(&files), Vec::<String>::new());

    let deep = format!("{}x", "d/".repeat(120));
    let mut header = Header::new_gnu();
    header.set_size(0);
    header.set_mode(MODE);
    let mut builder = Builder::new(Vec::new());
    builder.append_data(&mut header, deep, io::empty()).unwrap();
    let refused = unpack(&files, ".", Packing::Tar, &builder.into_inner().unwrap()).unwrap_err();
    assert_eq!(refused.kind, FailureKind::Exhausted, "{refused}");

    // What may come out of one archive.
    let two = archive(&[file("a"), file("b")]);
    let limits = TransferLimits::default();
    for (limit, limits) in [
        ("sandbox.max_archive_size", TransferLimits { archive_bytes: 13, ..limits }),
        ("sandbox.max_archive_entries", TransferLimits { archive_entries: 1, ..limits }),
    ] {
        let refused = files.unpack(".", Packing::Tar, NO_LIMIT, &limits, &mut &two[..]).unwrap_err();
        assert_eq!(refused.kind, FailureKind::Exhausted, "{refused}");
        assert!(refused.message.contains(limit), "{refused}");
        assert_eq!(all(&files), Vec::<String>::new());
    }

    // The slot's own limits.
    let two = archive(&[file("a"), file("b")]);
    for (limit, allowance) in [
        ("max_file_size", Allowance { file: Some(6), ..NO_LIMIT }),
        ("workspace", Allowance { bytes: Some(13), ..NO_LIMIT }),
        ("workspace", Allowance { inodes: Some(1), ..NO_LIMIT }),
    ] {
        let refused =
            files.unpack(".", Packing::Tar, allowance, &TransferLimits::default(), &mut &two[..]).unwrap_err();
        assert_eq!(refused.kind, FailureKind::Exhausted, "{refused}");
        assert!(refused.message.contains(limit), "{refused}");
        assert_eq!(all(&files), Vec::<String>::new());
    }
    bed.end().await;
}

#[tokio::test]
async fn what_is_good_in_an_archive_is_unpacked_as_the_slots_user() {
    let mut bed = Bed::new().await;
    let files = bed.slot.workspace();
    let good = archive(&[
        raw(b"./", EntryType::Directory, b"", b""),
        file("./a/one"),
        hard("a/two", "a/one"),
        link("a/link", "../a/one"),
        link("home", "/workspace/a"),
        file("a/one"),
    ]);
    assert_eq!(unpack(&files, "in/to", Packing::Tar, &good).unwrap(), 5);
    assert_eq!(
        bed.out("cat in/to/a/link in/to/a/two; stat -c %a in/to/a/one; find . ! -user $(id -u)").await,
        "contentcontent777"
    );
    bed.end().await;
}

/// What a model lays into its workspace leads nobody out of it, on any way.
#[tokio::test]
async fn planted_files_lead_no_transfer_out() {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let canary = home.path().join("canary");
    fs::write(&canary, "of the agent").unwrap();
    fs::set_permissions(&canary, fs::Permissions::from_mode(0o666)).unwrap();
    let mut bed = Bed::new().await;
    let up = "../".repeat(40);
    let (place, out) = (home.path().display(), canary.display());
    bed.out(&format!(
        "ln -s {out} absolute; ln -s {up}{out} relative; ln -s absolute chain; ln -s /proc/self/root{out} magic; \
         ln -s {place} directory; mkfifo fifo; ln -s fifo to-fifo; mkdir in; ln -s ../../x in/up; ln -s /dev/zero zero"
    ))
    .await;
    let files = bed.slot.workspace();
    for path in ["absolute", "relative", "chain", "magic", "directory/canary", "zero"] {
        assert_eq!(fetch(&files, path), Err(FailureKind::OutsideWorkspace), "{path}");
        assert_eq!(bring(&files, path), Err(FailureKind::OutsideWorkspace), "{path}");
        let packed = pack(&files, path, MOST).expect_err(path);
        assert_eq!(packed.kind, FailureKind::OutsideWorkspace, "{path}");
    }
    for path in ["directory", "directory/new", "in/up"] {
        let refused = unpack(&files, path, Packing::Tar, &archive(&[file("evil")])).expect_err(path);
        assert_eq!(refused.kind, FailureKind::OutsideWorkspace, "{path}");
        let listed = files.list(path, Listing { recursive: true, include_hidden: true, most: 9, after: &[] });
        assert_eq!(listed.expect_err(path).kind, FailureKind::OutsideWorkspace, "{path}");
    }
    for path in ["fifo", "to-fifo"] {
        assert_eq!(fetch(&files, path), Err(FailureKind::WrongKind), "{path}");
        assert_eq!(bring(&files, path), Err(FailureKind::WrongKind), "{path}");
    }
    // An archive that would go through a link that is there already.
    let through = archive(&[file("directory/evil")]);
    assert_eq!(unpack(&files, ".", Packing::Tar, &through).unwrap_err().kind, FailureKind::WrongKind);
    let (packed, summary) = pack(&files, ".", MOST).unwrap();
    assert_eq!(summary.entries, 9, "FIFOs are left out, and links are links");
    assert!(!packed.windows(12).any(|window| window == b"of the agent"));
    if rustix::process::geteuid().is_root() && bed.config.host_id.is_some() {
        planted_by_root(&files, &bed.config.directory.canonicalize().unwrap().join("workspace"));
    }
    assert_eq!(fs::read_to_string(&canary).unwrap(), "of the agent");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    bed.end().await;
}

/// What no call can make, but might find.
fn planted_by_root(files: &Workspace, workspace: &Path) {
    let private = workspace.with_file_name("private");
    fs::write(&private, "root's").unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(&private, workspace.join("hard")).unwrap();
    assert_eq!(fetch(files, "hard"), Err(FailureKind::Denied));
    assert_eq!(pack(files, "hard", MOST).unwrap_err().kind, FailureKind::Denied);
    // The name becomes another file; what it was a name of stays.
    assert_eq!(bring(files, "hard"), Ok(6));
    assert_eq!(fs::read_to_string(&private).unwrap(), "root's");
    fs::remove_file(&private).unwrap();
    let device = workspace.join("device");
    if mknodat(CWD, &device, FileType::CharacterDevice, Mode::from_raw_mode(0o666), rustix::fs::makedev(1, 5)).is_ok() {
        assert!(matches!(fetch(files, "device"), Err(FailureKind::WrongKind | FailureKind::Denied)));
        assert_eq!(bring(files, "device"), Err(FailureKind::WrongKind));
        fs::remove_file(&device).unwrap();
    }
}

/// A name that is a file, then a link that leads out, then a directory, as fast as it can change.
#[tokio::test]
async fn transfers_lose_no_race() {
    const RACER: &str = "echo mine > good; ln -s /etc/passwd evil; mkdir real; echo mine > real/passwd; ln -s /etc link; echo; \
                         while :; do ln -f good name; mv -T real way; ln -sfn /etc/passwd name; mv -T way real; \
                         ln -s /etc way; rm -f name way; done 2>/dev/null";
    let mut bed = Bed::new().await;
    let files = bed.slot.workspace();
    let output = start_and_wait_for_output(&mut bed.runner, RACER).await;
    let passwd = fs::read("/etc/passwd").unwrap();
    let (begun, mut rounds, mut read, mut refused) = (Instant::now(), 0, 0, 0);
    while begun.elapsed() < RACE || ((read == 0 || refused == 0) && begun.elapsed() < LONGEST_RACE) {
        rounds += 1;
        for path in ["name", "way/passwd"] {
            match fetch(&files, path) {
                Ok(content) => {
                    assert!(content == b"mine\n" || content == b"theirs", "{path}: {content:?}");
                    read += 1;
                }
                Err(FailureKind::OutsideWorkspace) => refused += 1,
                Err(_) => {}
            }
            let _ = bring(&files, path);
        }
        let _ = unpack(&files, ".", Packing::Tar, &archive(&[raw(b"way/passwd", EntryType::Regular, b"", b"theirs")]));
        if let Ok((packed, _)) = pack(&files, ".", MOST) {
            assert!(!packed.windows(passwd.len()).any(|window| window == passwd), "it packed what is outside");
        }
    }
    println!("{rounds} rounds, {read} read, {refused} refused, none outside");
    assert!(read > 0 && refused > 0, "it was a race: {read} read, {refused} refused");
    assert_eq!(fs::read("/etc/passwd").unwrap(), passwd);
    bed.runner.cancel();
    bed.runner.ended().await.unwrap();
    drop(output);
    bed.end().await;
}

/// A file that is cut while it is read is told of; what is added to one is not sent.
#[tokio::test]
async fn a_file_that_changes_is_sent_as_announced_or_not_at_all() {
    let mut bed = Bed::new().await;
    bed.out("head -c 2000000 /dev/zero > file").await;
    let files = bed.slot.workspace();
    for (change, expected) in [("echo more >> file", Ok(2_000_000)), ("echo cut > file", Err(FailureKind::Aborted))] {
        let (mut bytes, mut script) = (0, Some(change));
        let path = bed.config.directory.canonicalize().unwrap().join("workspace");
        let mut take = |piece| {
            if let Piece::Chunk(chunk) = piece {
                bytes += chunk.len();
                if let Some(script) = script.take() {
                    let done = std::process::Command::new("sh").args(["-c", script]).current_dir(&path).status();
                    assert!(done.unwrap().success());
                }
            }
            Ok(())
        };
        let fetched = files.fetch("file", 0, None, &mut take).map_err(|failure| failure.kind);
        assert_eq!(fetched.map(|()| bytes), expected, "{change}");
    }
    // Sparse and huge: nothing of it is held.
    bed.out("truncate -s 4T sparse").await;
    let mut some = 0;
    let mut take = |piece| match piece {
        Piece::Chunk(chunk) if some < 10 => {
            some += 1;
            assert!(chunk.len() <= 1 << 20);
            Ok(())
        }
        Piece::Chunk(_) => Err(Failure::new(FailureKind::Other, "enough")),
        _ => Ok(()),
    };
    assert_eq!(files.fetch("sparse", 1 << 41, None, &mut take).unwrap_err().message, "enough");
    assert_eq!(pack(&files, ".", 1 << 20).unwrap_err().kind, FailureKind::Exhausted);
    bed.end().await;
}

/// Whatever an archive is, it is taken or refused, and what is refused leaves nothing.
#[tokio::test]
async fn no_archive_breaks_out() {
    let bed = Bed::new().await;
    let files = bed.slot.workspace();
    let name = prop_oneof![
        Just("a"),
        Just("b"),
        Just("a/b"),
        Just("a/b/c"),
        Just("./a"),
        Just("../a"),
        Just("/a"),
        Just("a/../b"),
        Just("a/"),
        Just("."),
        Just(""),
        Just("a//b"),
        Just(".."),
    ];
    let target = prop_oneof![
        Just("a"),
        Just("b"),
        Just(".."),
        Just("../.."),
        Just("/etc"),
        Just("/workspace/a"),
        Just("a/b"),
        Just(""),
        Just("."),
    ];
    let kind = prop_oneof![
        4 => Just(EntryType::Regular), 3 => Just(EntryType::Directory), 3 => Just(EntryType::Symlink),
        2 => Just(EntryType::Link), 1 => Just(EntryType::Fifo), 1 => Just(EntryType::GNULongName),
        1 => Just(EntryType::XHeader), 1 => Just(EntryType::GNUSparse), 1 => any::<u8>().prop_map(EntryType::new),
    ];
    let entry = (name, kind, target, proptest::collection::vec(any::<u8>(), 0..600));
    let damage = proptest::option::of((0..6_000_usize, any::<u8>()));
    let given = (proptest::collection::vec(entry, 0..8), damage, proptest::option::of(0..6_000_usize));
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() });
    let (taken, refused) = (Cell::new(0), Cell::new(0));
    runner
        .run(&given, |(entries, damage, cut)| {
            let entries = entries.into_iter().map(|(name, kind, target, content)| {
                let content = if kind.is_file() || kind.is_gnu_longname() || kind.is_pax_local_extensions() {
                    content
                } else {
                    Vec::new()
                };
                raw(name.as_bytes(), kind, target.as_bytes(), &content)
            });
            let mut bytes = archive(&entries.collect::<Vec<_>>());
            if let Some((at, value)) = damage {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            bytes.truncate(cut.unwrap_or(usize::MAX));
            let before = all(&files);
            match unpack(&files, "in", Packing::Tar, &bytes) {
                Ok(_) => taken.set(taken.get() + 1),
                Err(failure) => {
                    refused.set(refused.get() + 1);
                    prop_assert!(failure.kind != FailureKind::Other, "{:?}", failure);
                    prop_assert_eq!(all(&files), before);
                }
            }
            let workspace = bed.config.directory.join("workspace");
            let names: Vec<_> = fs::read_dir(&workspace).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            prop_assert!(names.iter().all(|name| name == "in"), "{:?}", names);
            if workspace.join("in").exists() {
                fs::remove_dir_all(workspace.join("in")).unwrap();
            }
            Ok(())
        })
        .unwrap();
    let (taken, refused) = (taken.get(), refused.get());
    println!("{taken} taken, {refused} refused");
    assert!(taken > 100 && refused > 100, "{taken} taken, {refused} refused");
    bed.end().await;
}
