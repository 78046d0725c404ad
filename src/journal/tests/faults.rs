//! What must not happen to a journal, whatever happens to its process, its disk and its files.

use std::{fs, path::Path, time::Duration};

use super::{key, recovered, sent};
use crate::{
    id::CallNumber,
    journal::{Durability, Entry, Journal, JournalError, Record, segment},
};

fn bytes_on_disk(directory: &Path) -> u64 {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

fn much(bytes: usize) -> Record {
    Record::Input { call: CallNumber(1), data: vec![7; bytes].into(), end_of_file: false }
}

/// As a trajectory does it, which has but one thing to say.
async fn checkpoint_if_wanted(entry: &mut Entry, states: Record) {
    if tokio::time::timeout(Duration::ZERO, entry.checkpoint_wanted()).await.is_ok() {
        entry.checkpoint(&[states]).await;
    }
}

/// Stands where the next segment would be made, as a full disk does: what is asked for cannot be had.
struct Obstacle(std::path::PathBuf);

impl Obstacle {
    fn new(directory: &Path) -> Self {
        let last = segment::list(directory).unwrap().last().copied().unwrap_or_default();
        let path = segment::path(directory, last + 1);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn remove(self) {
        fs::remove_dir(self.0).unwrap();
    }
}

#[tokio::test]
async fn an_executor_that_is_started_over_and_over_does_not_fill_the_disk() {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = recovered(home.path(), Durability::File);
    let mut entry = journal.begin(key("idle"));
    entry.append(&[sent(1)]).await;
    drop((entry, journal));
    for start in 0..20 {
        let (_, found) = recovered(home.path(), Durability::File);
        assert_eq!(found[&key("idle")].1, [sent(1)], "start {start}");
    }
    let bytes = bytes_on_disk(home.path());
    assert!(bytes <= 3 * segment::CAPACITY, "{bytes} bytes of one record");
}

#[tokio::test]
async fn a_full_disk_is_no_obstacle_to_a_start() {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = recovered(home.path(), Durability::File);
    let mut entry = journal.begin(key("a"));
    entry.append(&[sent(1)]).await;
    let obstacle = Obstacle::new(home.path());
    drop((entry, journal));
    let (journal, mut found) = recovered(home.path(), Durability::File);
    let (entry, records) = found.get_mut(&key("a")).unwrap();
    assert_eq!(records, &[sent(1)]);
    entry.append(&[sent(2)]).await;
    drop((found, journal));
    obstacle.remove();
    let (_, found) = recovered(home.path(), Durability::File);
    assert_eq!(found[&key("a")].1, [sent(1), sent(2)]);
}

#[tokio::test(start_paused = true)]
async fn whoever_is_over_while_the_disk_is_full_holds_nothing_afterwards() {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = recovered(home.path(), Durability::File);
    let mut ends = journal.begin(key("ends"));
    ends.append(&[sent(1)]).await;
    let mut busy = journal.begin(key("busy"));
    busy.append(&[sent(1)]).await;
    let obstacle = Obstacle::new(home.path());
    // Until the last room is used.
    let record = much(1 << 20);
    for record in [&record, &much(1000), &sent(1)] {
        let wait = Duration::from_millis(500);
        while tokio::time::timeout(wait, busy.append(std::slice::from_ref(record))).await.is_ok() {}
    }
    assert!(journal.is_full());
    ends.end();
    obstacle.remove();
    for _ in 0..200 {
        busy.append(std::slice::from_ref(&record)).await;
        checkpoint_if_wanted(&mut busy, sent(1)).await;
    }
    assert!(!journal.is_full());
    let bytes = bytes_on_disk(home.path());
    assert!(bytes <= 7 * segment::CAPACITY, "{bytes} bytes after 200 MiB");
    drop((busy, journal));
    assert!(!recovered(home.path(), Durability::File).1.contains_key(&key("ends")), "it is over");
}

#[tokio::test]
async fn of_two_lives_of_a_key_the_later_is_found_and_for_good() {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = recovered(home.path(), Durability::File);
    let mut first = journal.begin(key("a"));
    first.append(&[sent(1)]).await;
    // Its task has panicked: nobody says that it is over.
    drop(first);
    let mut second = journal.begin(key("a"));
    second.append(&[sent(2)]).await;
    drop((second, journal));
    let (journal, mut found) = Journal::open(home.path(), Durability::File).unwrap();
    assert_eq!(found.iter().map(|life| &life.records[..]).collect::<Vec<_>>(), [[sent(2)]]);
    found.remove(0).entry.end();
    drop(journal);
    assert_eq!(Journal::open(home.path(), Durability::File).unwrap().1.len(), 0);
}

/// Writes so much that there are several segments, which all are needed.
async fn several_segments(directory: &Path) {
    let (journal, _) = recovered(directory, Durability::File);
    let mut entry = journal.begin(key("a"));
    for _ in 0..35 {
        entry.append(&[much(1 << 20)]).await;
    }
}

fn refused(directory: &Path) -> JournalError {
    Journal::open(directory, Durability::File).map(|(_, found)| found.len()).expect_err("it is damaged")
}

#[tokio::test]
async fn the_end_of_a_segment_in_the_middle_cannot_be_lost() {
    let home = tempfile::tempdir().unwrap();
    several_segments(home.path()).await;
    let path = segment::path(home.path(), 1);
    let whole = fs::read(&path).unwrap();
    let last = segment::read(1, &whole).unwrap().payloads.last().unwrap().clone();
    let mut flipped = whole.clone();
    flipped[last.start + 5] ^= 1;
    let cut_off = whole[..last.start - 12].to_vec();
    for damaged in [flipped, cut_off] {
        fs::write(&path, &damaged).unwrap();
        assert!(matches!(refused(home.path()), JournalError::Damaged { .. }));
        assert!(fs::read(&path).unwrap() == damaged, "nothing of it is changed");
    }
    fs::write(&path, whole).unwrap();
    assert_eq!(recovered(home.path(), Durability::File).1[&key("a")].1.len(), 35);
}

#[tokio::test]
async fn no_segment_can_be_lost() {
    for lost in [1, 2] {
        let home = tempfile::tempdir().unwrap();
        several_segments(home.path()).await;
        fs::remove_file(segment::path(home.path(), lost)).unwrap();
        assert!(matches!(refused(home.path()), JournalError::Damaged { .. }), "{lost}");
    }
}

/// The newest one's loss cannot be told from a kill: then as much is lost as was written last.
#[tokio::test]
async fn however_much_of_the_end_is_cut_off_the_rest_is_found() {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = recovered(home.path(), Durability::File);
    let mut entries = [journal.begin(key("a")), journal.begin(key("b"))];
    for n in 1..=2 {
        for entry in &mut entries {
            entry.append(&[sent(n)]).await;
        }
    }
    drop((entries, journal));
    let path = segment::path(home.path(), 1);
    let whole = fs::read(&path).unwrap();
    let end = segment::read(1, &whole).unwrap().at;
    let mut kept = Vec::new();
    for length in 0..=end {
        fs::write(&path, &whole[..length]).unwrap();
        let (journal, mut found) = recovered(home.path(), Durability::File);
        let counts = ["a", "b"].map(|name| found.get(&key(name)).map_or(0, |(_, records)| records.len()));
        assert!(counts[0] == counts[1] || counts[0] == counts[1] + 1, "{counts:?} at {length}: in order");
        for (_, records) in found.values() {
            assert!(records.iter().zip(1..).all(|(record, n)| *record == sent(n)));
        }
        // What is written now is found, too, and nothing that was torn.
        let mut expected = counts;
        match found.get_mut(&key("a")) {
            Some((entry, _)) => entry.append(&[sent(9)]).await,
            None => journal.begin(key("a")).append(&[sent(9)]).await,
        }
        expected[0] += 1;
        drop((found, journal));
        let (_, found) = recovered(home.path(), Durability::File);
        let again = ["a", "b"].map(|name| found.get(&key(name)).map_or(0, |(_, records)| records.len()));
        assert_eq!(again, expected, "at {length}");
        kept.push(counts[0] + counts[1]);
        for number in segment::list(home.path()).unwrap() {
            fs::remove_file(segment::path(home.path(), number)).unwrap();
        }
    }
    assert!(kept.is_sorted() && kept[0] == 0 && kept[end] == 4, "{kept:?}");
}

#[tokio::test]
async fn a_flipped_bit_is_an_error_or_the_end() {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = recovered(home.path(), Durability::File);
    let mut entry = journal.begin(key("a"));
    for n in 1..=3 {
        entry.append(&[sent(n)]).await;
    }
    drop((entry, journal));
    let path = segment::path(home.path(), 1);
    let whole = fs::read(&path).unwrap();
    let contents = segment::read(1, &whole).unwrap();
    let last = contents.payloads[2].start - 12;
    for at in 0..contents.at {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(&path, &flipped).unwrap();
        match Journal::open(home.path(), Durability::File) {
            Ok((_, found)) => {
                assert!(at >= last, "a bit of byte {at} was not missed");
                assert_eq!(found[0].records, [sent(1), sent(2)]);
            }
            Err(error) => {
                assert!(at < last, "{error}");
                assert!(fs::read(&path).unwrap() == flipped, "nothing of it is changed");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_write_at_once() {
    for durability in [Durability::File, Durability::Synced] {
        let home = tempfile::tempdir().unwrap();
        let (journal, _) = recovered(home.path(), durability);
        let tasks: Vec<_> = (0..50)
            .map(|task| {
                let mut entry = journal.begin(key(&format!("t{task}")));
                tokio::spawn(async move {
                    for n in 1..=20 {
                        entry.append(&[sent(n), much(100)]).await;
                        if n == 10 && task % 2 == 0 {
                            entry.checkpoint(&[sent(n)]).await;
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        drop(journal);
        let (_, found) = recovered(home.path(), durability);
        assert_eq!(found.len(), 50);
        for (task, (_, records)) in &found {
            let whole = task.id.as_str()[1..].parse::<u32>().unwrap() % 2 == 1;
            let numbers: Vec<_> = records.iter().filter(|record| matches!(record, Record::Sent { .. })).collect();
            let first = if whole { 1 } else { 10 };
            assert_eq!(numbers, (first..=20).map(sent).collect::<Vec<_>>().iter().collect::<Vec<_>>(), "{task}");
        }
    }
}
