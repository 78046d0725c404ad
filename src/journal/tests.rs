//! The journal against a plain model of it, and every kind of record through the file.

mod faults;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    record::{AcceptedCall, CallHash, Errand, Options, Record, Workspace},
    *,
};
use crate::{
    id::{CallId, CallNumber, ContainerId, Generation, PoolName, Sequence, Tenant, TrajectoryId, TrajectoryKey},
    tool::{
        ActionHash, Attribution, CallResult, Evidence, Executed, ExternalCall, Fault, Kind, Location, Metadata,
        Outcome, Reason, Stream, Timings,
        job::{Captured, Exit, Job, Order, OutputLimits, Process, Program, Usage},
        session::Request,
    },
};

fn key(name: &str) -> TrajectoryKey {
    TrajectoryKey { tenant: Tenant::new("tenant"), id: TrajectoryId::parse(name).unwrap() }
}

fn duration() -> impl Strategy<Value = Duration> {
    (0..1_000_000_u64, 0..1_000_000_000_u32).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
}

fn time() -> impl Strategy<Value = SystemTime> {
    duration().prop_map(|after| SystemTime::UNIX_EPOCH + after)
}

fn data() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn limits() -> impl Strategy<Value = OutputLimits> {
    (any::<u32>(), any::<u32>()).prop_map(|(head, tail)| OutputLimits { head, tail })
}

fn options() -> impl Strategy<Value = Options> {
    let labels = prop::collection::btree_map(".{0,8}", ".{0,8}", 0..3);
    (duration(), labels, ".{0,8}", any::<bool>(), limits(), duration()).prop_map(
        |(lease, labels, pool, acquire_slot, output_limits, default_timeout)| Options {
            lease,
            labels,
            pool: PoolName::new(&pool),
            acquire_slot,
            output_limits,
            default_timeout,
        },
    )
}

fn process() -> impl Strategy<Value = Process> {
    let program =
        prop_oneof![".{0,20}".prop_map(Program::Shell), prop::collection::vec(".{0,8}", 0..4).prop_map(Program::Argv),];
    let environment = prop::collection::vec((".{0,8}", ".{0,8}"), 0..3);
    (program, ".{0,8}", environment, data(), any::<bool>()).prop_map(
        |(program, working_directory, environment, stdin, interactive)| Process {
            program,
            working_directory,
            environment,
            stdin,
            interactive,
        },
    )
}

fn order() -> impl Strategy<Value = Order> {
    let job = prop_oneof![
        process().prop_map(Job::Process),
        (".{0,8}", any::<u64>()).prop_map(|(path, max_bytes)| Job::ReadFile { path, max_bytes }),
        (".{0,8}", data()).prop_map(|(path, content)| Job::WriteFile { path, content }),
        ".{0,8}".prop_map(|command| Job::Session(Request::Background { command })),
    ];
    (job, duration(), limits(), any::<bool>(), any::<u32>()).prop_map(
        |(job, timeout, limits, stream_output, max_pending_input)| Order {
            job,
            timeout,
            limits,
            stream_output,
            max_pending_input,
        },
    )
}

fn call_id() -> impl Strategy<Value = CallId> {
    ".{1,8}".prop_map(|id| CallId::parse(&id).unwrap())
}

fn accepted() -> impl Strategy<Value = AcceptedCall> {
    let kind = prop_oneof![
        Just(Kind::Shell),
        ".{0,8}".prop_map(|path| Kind::ReadFile { path }),
        ".{0,8}".prop_map(|path| Kind::WriteFile { path }),
        Just(Kind::Command),
        Just(Kind::Session),
    ];
    let slot = (kind, order()).prop_map(|(kind, order)| Errand::Slot { kind, order });
    let external = (".{0,8}", ".{0,8}", ".{0,8}", duration()).prop_map(|(source, tool, arguments, timeout)| {
        let call = ExternalCall { source: source.into(), tool, arguments };
        Errand::External { call, timeout }
    });
    let errand = prop_oneof![3 => slot, 1 => external];
    (call_id(), any::<u64>(), any::<[u8; 16]>(), errand, any::<bool>(), time()).prop_map(
        |(id, number, action, errand, concurrent, received_at)| AcceptedCall {
            id,
            number: CallNumber(number),
            action: ActionHash(action),
            errand,
            concurrent,
            received_at,
        },
    )
}

fn location() -> impl Strategy<Value = Location> {
    (".{0,8}", ".{0,8}", any::<u32>()).prop_map(|(container, node, slot)| Location {
        container: ContainerId::new(&container),
        node,
        slot,
    })
}

fn stream() -> impl Strategy<Value = Stream> {
    prop_oneof![
        (any::<u64>(), any::<bool>()).prop_map(|(total, truncated)| Stream::Counted { total, truncated }),
        (data(), data(), any::<u64>()).prop_map(|(head, tail, total)| Stream::Whole(Captured { head, tail, total })),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    let evidence = (prop::option::of(location()), ".{0,8}", prop::collection::vec(".{0,8}", 0..3), ".{0,8}").prop_map(
        |(location, cause, events, stderr_tail)| std::sync::Arc::new(Evidence { location, cause, events, stderr_tail }),
    );
    (any::<bool>(), prop::option::of(duration()), prop::option::of(evidence))
        .prop_map(|(retryable, retry_after, evidence)| Fault { retryable, retry_after, evidence })
}

fn result() -> impl Strategy<Value = CallResult> {
    let outcomes = [
        Outcome::Succeeded,
        Outcome::Failed,
        Outcome::TimedOut,
        Outcome::Cancelled,
        Outcome::OutOfMemory,
        Outcome::LimitExceeded,
        Outcome::Rejected,
        Outcome::NoCapacity,
        Outcome::SandboxLost,
        Outcome::ExternalUnavailable,
        Outcome::Internal,
    ];
    let reasons = [Reason::ExitStatus, Reason::InputLimit, Reason::QueueFull, Reason::WorkspaceGone, Reason::Drained];
    let executed = [Executed::No, Executed::Yes, Executed::Unknown];
    let attributions = [Attribution::Model, Attribution::Infrastructure, Attribution::Client];
    let exit = prop_oneof![any::<i32>().prop_map(Exit::Code), any::<i32>().prop_map(Exit::Signal)];
    let timings = (time(), duration(), duration(), duration(), duration(), duration()).prop_map(
        |(received_at, queued, slot_wait, dispatch, execution, collection)| Timings {
            received_at,
            queued,
            slot_wait,
            dispatch,
            execution,
            collection,
        },
    );
    let usage = (duration(), duration(), any::<Option<u64>>())
        .prop_map(|(user_cpu, system_cpu, max_rss_bytes)| Usage { user_cpu, system_cpu, max_rss_bytes });
    let value = prop_oneof![
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        ".{0,8}".prop_map(serde_json::Value::from),
    ];
    let metadata = prop::collection::btree_map("[a-z]{1,8}", value, 0..4).prop_map(|facts| {
        facts.into_iter().fold(Metadata::default(), |metadata, (name, value)| metadata.with(name, value))
    });
    let how = (
        prop::sample::select(outcomes.to_vec()),
        prop::option::of(prop::sample::select(reasons.to_vec())),
        prop::sample::select(executed.to_vec()),
        prop::option::of(prop::sample::select(attributions.to_vec())),
    );
    let said = (".{0,20}", ".{0,20}", prop::option::of(stream()), prop::option::of(stream()));
    (
        (call_id(), any::<u64>(), any::<u64>()),
        how,
        said,
        prop::option::of(exit),
        prop::option::of(fault()),
        timings,
        prop::option::of(usage),
        metadata,
    )
        .prop_map(|((call_id, sequence, generation), how, said, exit, fault, timings, usage, metadata)| {
            let (outcome, reason, executed, attribution) = how;
            let (output, error, stdout, stderr) = said;
            CallResult {
                call_id,
                sequence: Sequence(sequence),
                generation: Generation(generation),
                outcome,
                reason,
                executed,
                attribution,
                output,
                error,
                stdout,
                stderr,
                exit,
                fault,
                timings,
                usage,
                metadata,
            }
        })
}

fn record() -> impl Strategy<Value = Record> {
    let workspace = (0..4_u8, any::<u64>()).prop_map(|(kind, generation)| match kind {
        0 => Workspace::None,
        1 => Workspace::Present(Generation(generation)),
        2 => Workspace::Gone(Generation(generation)),
        _ => Workspace::Empty(Generation(generation)),
    });
    let hash = any::<[u8; 16]>;
    let past = prop::collection::vec((hash().prop_map(CallHash), hash().prop_map(ActionHash)), 0..4);
    prop_oneof![
        (options(), time()).prop_map(|(options, at)| Record::Opened { options: options.into(), at }),
        accepted().prop_map(|call| Record::Accepted(call.into())),
        (any::<u64>(), data(), any::<bool>()).prop_map(|(call, data, end_of_file)| Record::Input {
            call: CallNumber(call),
            data,
            end_of_file
        }),
        any::<u64>().prop_map(|call| Record::HandedOver(CallNumber(call))),
        any::<u64>().prop_map(|call| Record::TakenBack(CallNumber(call))),
        (hash(), result()).prop_map(|(call, result)| Record::Ended { call: CallHash(call), result: result.into() }),
        any::<u64>().prop_map(|through| Record::Sent { through: Sequence(through) }),
        any::<u64>().prop_map(|through| Record::Dropped { through: Sequence(through) }),
        (past, any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(calls, number, sequence, generation)| {
            Record::Past {
                calls,
                last_number: CallNumber(number),
                last_sequence: Sequence(sequence),
                generation: Generation(generation),
            }
        }),
        location().prop_map(|location| Record::Placed(location.into())),
        workspace.prop_map(Record::Workspace),
        Just(Record::Released),
        Just(Record::LeaseEnded),
        Just(Record::Reopened),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    Begin,
    Append(u8, Vec<Record>),
    Checkpoint(u8, Vec<Record>),
    End(u8),
    /// The process ends, and another opens the journal.
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Begin),
        8 => (any::<u8>(), prop::collection::vec(record(), 1..4)).prop_map(|(pick, records)| Step::Append(pick, records)),
        2 => (any::<u8>(), prop::collection::vec(record(), 1..4))
            .prop_map(|(pick, records)| Step::Checkpoint(pick, records)),
        1 => any::<u8>().prop_map(Step::End),
        1 => Just(Step::Reopen),
    ]
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn recovered(directory: &Path, durability: Durability) -> (Journal, BTreeMap<TrajectoryKey, (Entry, Vec<Record>)>) {
    let (journal, recovered) = Journal::open(directory, durability).unwrap();
    let lives = recovered.into_iter().map(|life| (life.key, (life.entry, life.records)));
    (journal, lives.collect())
}

#[test]
fn a_journal_is_complete_once_it_is_said_to_be() {
    let home = tempfile::tempdir().unwrap();
    let opened = || Journal::open(home.path(), Durability::File).unwrap().0;
    assert!(!opened().was_complete(), "there was none, and there may have been one");
    let journal = opened();
    assert!(!journal.was_complete(), "nobody has said so");
    journal.complete();
    drop(journal);
    assert!((0..2).all(|_| opened().was_complete()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_is_kept_is_found(
        steps in prop::collection::vec(step(), 1..40),
        durability in prop::sample::select(&[Durability::File, Durability::Synced][..]),
    ) {
        runtime().block_on(async {
            let home = tempfile::tempdir().unwrap();
            let (mut journal, mut lives) = recovered(home.path(), durability);
            let mut begun = 0;
            let picked = |lives: &BTreeMap<TrajectoryKey, (Entry, Vec<Record>)>, pick: u8| {
                lives.keys().nth(usize::from(pick) % lives.len().max(1)).cloned()
            };
            for step in steps.into_iter().chain([Step::Reopen]) {
                match step {
                    Step::Begin => {
                        begun += 1;
                        let key = key(&format!("t{begun}"));
                        lives.insert(key.clone(), (journal.begin(key), Vec::new()));
                    }
                    Step::Append(pick, records) => {
                        let Some(key) = picked(&lives, pick) else { continue };
                        let (entry, kept) = lives.get_mut(&key).unwrap();
                        entry.append(&records).await;
                        kept.extend(records);
                    }
                    Step::Checkpoint(pick, records) => {
                        let Some(key) = picked(&lives, pick) else { continue };
                        let (entry, kept) = lives.get_mut(&key).unwrap();
                        entry.checkpoint(&records).await;
                        *kept = records;
                    }
                    Step::End(pick) => {
                        let Some(key) = picked(&lives, pick) else { continue };
                        lives.remove(&key).unwrap().0.end();
                    }
                    Step::Reopen => {
                        drop(journal);
                        let expected: BTreeMap<_, _> = lives
                            .into_iter()
                            .map(|(key, (_, records))| (key, records))
                            .filter(|(_, records)| !records.is_empty())
                            .collect();
                        let (opened, found) = recovered(home.path(), durability);
                        let records: BTreeMap<_, _> =
                            found.iter().map(|(key, (_, records))| (key.clone(), records.clone())).collect();
                        assert_eq!(records, expected);
                        (journal, lives) = (opened, found);
                    }
                }
            }
        });
    }
}

fn sent(through: u64) -> Record {
    Record::Sent { through: Sequence(through) }
}

#[tokio::test]
async fn what_was_written_last_may_be_torn_and_nothing_before_it() {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = recovered(home.path(), Durability::File);
    let mut entry = journal.begin(key("a"));
    for n in 1..=3 {
        entry.append(&[sent(n)]).await;
    }
    drop((entry, journal));
    let path = segment::path(home.path(), 1);
    let whole = fs::read(&path).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0; 3], end as u64 - 2).unwrap();
    let (_, found) = recovered(home.path(), Durability::File);
    assert_eq!(found[&key("a")].1, [sent(1), sent(2)]);
    // It is read again the same, with what came after.
    let (_, found) = recovered(home.path(), Durability::File);
    assert_eq!(found[&key("a")].1, [sent(1), sent(2)]);
}

#[tokio::test]
async fn a_journal_that_cannot_be_trusted_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = recovered(home.path(), Durability::File);
    let mut entry = journal.begin(key("a"));
    entry.append(&[sent(1)]).await;
    entry.append(&[sent(2)]).await;
    drop((entry, journal));
    let path = segment::path(home.path(), 1);
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let change = |at: u64, byte: u8| {
        let mut before = [0];
        file.read_exact_at(&mut before, at).unwrap();
        file.write_all_at(&[byte], at).unwrap();
        before[0]
    };
    let opened = || Journal::open(home.path(), Durability::File).map(drop).unwrap_err();
    let names = || {
        let mut names: Vec<_> = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let format = change(8, 99);
    assert!(matches!(opened(), JournalError::Newer { found: 99, .. }));
    change(8, format);
    let inside = change(60, 0xff);
    let said = opened().to_string();
    assert!(matches!(opened(), JournalError::Damaged { .. }) && said.contains("move its directory away"), "{said}");
    change(60, inside);
    assert_eq!(names(), before, "nothing was removed, nothing added");
}

#[tokio::test]
async fn a_machine_that_ended_may_have_left_holes() {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = recovered(home.path(), Durability::File);
    let mut entry = journal.begin(key("a"));
    for n in 1..=3 {
        entry.append(&[sent(n)]).await;
    }
    drop((entry, journal));
    let path = segment::path(home.path(), 1);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let frames = segment::read(1, &bytes).unwrap().payloads;
    // The second frame never came to the disk, which another boot of the machine finds.
    file.write_all_at(&vec![0; frames[1].len() + 12], frames[1].start as u64 - 12).unwrap();
    assert!(matches!(Journal::open(home.path(), Durability::File), Err(JournalError::Damaged { .. })));
    let mut header = bytes[..60].to_vec();
    header[36..52].fill(1);
    header.extend(crc32fast::hash(&header).to_le_bytes());
    file.write_all_at(&header, 0).unwrap();
    let (journal, found) = Journal::open(home.path(), Durability::File).unwrap();
    assert_eq!(
        (&found[0].records[..], found[0].is_complete),
        (&[sent(1)][..], false),
        "what came after the hole is not there"
    );
    drop(found);
    // What is written from now on is.
    let mut later = journal.begin(key("b"));
    later.append(&[sent(9)]).await;
    drop((later, journal));
    let (_, found) = recovered(home.path(), Durability::File);
    assert_eq!((found.len(), &found[&key("b")].1), (2, &vec![sent(9)]));
}

#[tokio::test]
async fn it_stays_small_however_much_is_written() {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = recovered(home.path(), Durability::File);
    let mut idle = journal.begin(key("idle"));
    idle.append(&[sent(7)]).await;
    let mut busy = journal.begin(key("busy"));
    let much = Record::Input { call: CallNumber(1), data: vec![7; 1 << 20].into(), end_of_file: false };
    for _ in 0..400 {
        busy.append(std::slice::from_ref(&much)).await;
        for (entry, states) in [(&mut busy, sent(1)), (&mut idle, sent(7))] {
            let wanted = tokio::time::timeout(Duration::ZERO, entry.checkpoint_wanted()).await;
            if wanted.is_ok() {
                entry.checkpoint(&[states]).await;
            }
        }
    }
    let bytes: u64 = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= 11 * segment::CAPACITY, "{bytes} bytes after 400 MiB");
    drop((idle, busy, journal));
    let (_, found) = recovered(home.path(), Durability::File);
    assert_eq!(found[&key("idle")].1, [sent(7)]);
}

#[tokio::test]
async fn a_record_larger_than_a_segment_has_one_of_its_own() {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = recovered(home.path(), Durability::File);
    let mut entry = journal.begin(key("a"));
    let large = Record::Input { call: CallNumber(1), data: vec![7; 20 << 20].into(), end_of_file: false };
    entry.append(&[sent(1)]).await;
    entry.append(std::slice::from_ref(&large)).await;
    entry.append(&[sent(2)]).await;
    drop((entry, journal));
    let (_, found) = recovered(home.path(), Durability::File);
    assert!(found[&key("a")].1 == [sent(1), large, sent(2)]);
}

#[tokio::test]
async fn in_memory_nothing_is_kept_but_what_was_there_is_found() {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = recovered(home.path(), Durability::File);
    let mut entry = journal.begin(key("a"));
    entry.append(&[sent(1)]).await;
    drop((entry, journal));
    let (journal, mut found) = recovered(home.path(), Durability::Memory);
    assert_eq!(found[&key("a")].1, [sent(1)]);
    found.get_mut(&key("a")).unwrap().0.append(&[sent(2)]).await;
    drop((found, journal));
    assert!(recovered(home.path(), Durability::File).1.is_empty());
}
