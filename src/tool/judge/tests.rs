use std::sync::Arc;

use super::{
    super::{Attribution, Chooser, Evidence, MAX_RESULT_BYTES, job::Usage, ruling},
    *,
};

const ABOUT: Circumstances<'static> = Circumstances {
    timeout: Duration::from_secs(1),
    isolation: "L0",
    network_isolated: false,
    cancelled: CancelCause::Client,
};

fn whole(text: impl Into<Bytes>) -> Captured {
    let head = text.into();
    Captured { total: head.len() as u64, head, tail: Bytes::new() }
}

fn ended(exit: Exit, stdout: &'static str, stderr: &'static str) -> ProcessEnd {
    ProcessEnd {
        exit,
        stop: None,
        stdout: whole(stdout),
        stderr: whole(stderr),
        usage: Some(Usage::default()),
        exceeded: None,
    }
}

fn stopped(stop: Stop) -> End {
    End::Process(ProcessEnd { stop: Some(stop), ..ended(Exit::Signal(9), "partial\n", "") })
}

fn shell(end: End) -> Verdict {
    judge(&Kind::Shell, end, &ABOUT)
}

fn read_of(path: &str) -> Kind {
    Kind::ReadFile { path: path.into() }
}

fn write_of(path: &str) -> Kind {
    Kind::WriteFile { path: path.into() }
}

fn json(verdict: &Verdict) -> String {
    serde_json::Value::from_iter(verdict.metadata.iter().map(|(name, value)| (name, value.clone()))).to_string()
}

#[test]
fn a_process_that_ends_well() {
    let verdict = shell(End::Process(ended(Exit::Code(0), "hi\n", "")));
    assert_eq!((verdict.outcome, verdict.executed), (Outcome::Succeeded, Executed::Yes));
    assert_eq!((verdict.output.as_str(), verdict.error.as_str()), ("hi", ""));
    assert_eq!(verdict.stdout, Some(Stream::Counted { total: 3, truncated: false }));
    assert_eq!(json(&verdict), r#"{"exit_code":0,"sandboxed":true,"network_isolated":false,"isolation":"L0"}"#);
}

#[test]
fn a_process_that_says_no() {
    let verdict = shell(End::Process(ended(Exit::Code(3), "out\n", "err\n")));
    assert_eq!((verdict.outcome, verdict.reason), (Outcome::Failed, Some(Reason::ExitStatus)));
    assert_eq!((verdict.output.as_str(), verdict.error.as_str()), ("out\n\n[stderr]\nerr", "Exit code: 3"));
    assert_eq!(verdict.attribution, Some(Attribution::Model));

    let verdict = shell(End::Process(ended(Exit::Signal(9), "", "")));
    assert_eq!((verdict.reason, verdict.error.as_str()), (Some(Reason::Signalled), "Exit code: 137"));
    assert_eq!(verdict.metadata["exit_code"], 137);
    assert_eq!(verdict.exit, Some(Exit::Signal(9)));
}

#[test]
fn a_process_that_was_stopped_keeps_what_it_printed() {
    let verdict = shell(stopped(Stop::TimedOut));
    assert_eq!((verdict.outcome, verdict.reason), (Outcome::TimedOut, None));
    assert_eq!((verdict.output.as_str(), verdict.error.as_str()), ("partial", "Command timed out after 1.0s"));
    assert_eq!(
        json(&verdict),
        r#"{"exit_code":-1,"timeout":true,"sandboxed":true,"network_isolated":false,"isolation":"L0"}"#
    );

    let verdict = shell(stopped(Stop::Cancelled));
    assert_eq!((verdict.outcome, verdict.reason), (Outcome::Cancelled, Some(Reason::CancelledByClient)));
    assert_eq!((verdict.output.as_str(), verdict.executed), ("partial", Executed::Yes));
    assert_eq!(verdict.attribution, Some(Attribution::Client));

    let drained = Circumstances { cancelled: CancelCause::Drained, ..ABOUT };
    let verdict = judge(&Kind::Shell, stopped(Stop::Cancelled), &drained);
    assert_eq!(verdict.attribution, Some(Attribution::Infrastructure));

    let verdict = judge(&Kind::Command, stopped(Stop::InputLimit), &ABOUT);
    assert_eq!((verdict.outcome, verdict.reason), (Outcome::LimitExceeded, Some(Reason::InputLimit)));
    assert_eq!(verdict.attribution, Some(Attribution::Client));
}

#[test]
fn a_command_gets_its_bytes_and_no_text() {
    let end = ProcessEnd { stdout: whole(&b"\xff\x00"[..]), ..ended(Exit::Code(1), "", "e") };
    let verdict = judge(&Kind::Command, End::Process(end), &ABOUT);
    assert_eq!(verdict.output, "");
    assert_eq!(verdict.stdout, Some(Stream::Whole(whole(&b"\xff\x00"[..]))));
    assert_eq!(verdict.stderr, Some(Stream::Whole(whole("e"))));
    assert_eq!((verdict.attribution, verdict.error.as_str()), (Some(Attribution::Client), "Exit code: 1"));
}

#[test]
fn files() {
    let verdict = judge(&read_of("./a//b.txt"), End::Read("via\r\n".into()), &ABOUT);
    assert_eq!((verdict.outcome, verdict.output.as_str()), (Outcome::Succeeded, "via\r\n"));
    assert_eq!(json(&verdict), r#"{"path":"/workspace/a/b.txt","size":5,"sandboxed":true,"isolation":"L0"}"#);

    let verdict = judge(&write_of("/workspace/w.txt"), End::Wrote(5), &ABOUT);
    assert_eq!(verdict.output, "Successfully wrote 5 bytes to /workspace/w.txt");
    assert_eq!(verdict.metadata["path"], "/workspace/w.txt");
}

#[test]
fn files_that_fail() {
    let failed = |kind: Kind, failure| {
        let verdict = judge(&kind, End::FileFailed(failure), &ABOUT);
        assert_eq!((verdict.outcome, verdict.attribution), (Outcome::Failed, Some(Attribution::Model)));
        (verdict.reason.unwrap(), verdict.error)
    };
    assert_eq!(failed(read_of("nope"), FileFailure::NotFound), (Reason::FileNotFound, "File not found: nope".into()));
    assert_eq!(failed(read_of(""), FileFailure::NotAFile), (Reason::NotAFile, "Not a file: ".into()));
    assert_eq!(
        failed(read_of("big"), FileFailure::TooLarge { size: 100_001 }),
        (Reason::FileTooLarge, "File too large: 100001 bytes (max 100000)".into())
    );
    assert_eq!(
        failed(write_of("../x"), FileFailure::OutsideWorkspace),
        (Reason::PathOutsideWorkspace, "Access denied: path outside workspace".into())
    );
    assert_eq!(
        failed(write_of("p"), FileFailure::Other("Is a directory (os error 21)".into())),
        (Reason::FileError, "Failed to write file: [Errno 21] Is a directory: '/workspace/p'".into())
    );
    assert_eq!(failed(read_of("p"), FileFailure::Other("odd".into())).1, "Failed to read file: odd: '/workspace/p'");
}

#[test]
fn what_a_model_did_not_choose_is_not_its_doing() {
    let not_started =
        |kind: &Kind, failure| judge(kind, End::NotStarted { kind: failure, message: "m".into() }, &ABOUT);
    let verdict = not_started(&Kind::Shell, StartFailure::NotFound);
    assert_eq!((verdict.outcome, verdict.executed), (Outcome::Internal, Executed::No));
    assert_eq!(not_started(&Kind::Shell, StartFailure::OutsideWorkspace).outcome, Outcome::Internal);
    // A model can take the right to enter away from its own workspace.
    assert_eq!(not_started(&Kind::Shell, StartFailure::Refused).attribution, Some(Attribution::Model));

    let verdict = not_started(&Kind::Command, StartFailure::NotFound);
    assert_eq!((verdict.reason, verdict.attribution), (Some(Reason::FileNotFound), Some(Attribution::Client)));
    let verdict = not_started(&Kind::Command, StartFailure::TooLarge);
    assert_eq!((verdict.outcome, verdict.reason), (Outcome::Failed, Some(Reason::RequestTooLarge)));
}

fn over(kind: LimitKind, stop: Option<Stop>) -> End {
    let text = |text: &str| text.to_owned();
    let exceeded = Exceeded { kind, setting: text("sandbox.x"), value: text("7"), evidence: text("it was seen") };
    let end = ended(Exit::Signal(9), "partial\n", "");
    End::Process(ProcessEnd { stop, exceeded: Some(exceeded.into()), ..end })
}

#[test]
fn a_limit_is_named_with_where_it_stands_and_how_that_is_known() {
    for (kind, outcome, reason) in [
        (LimitKind::Memory, Outcome::OutOfMemory, None),
        (LimitKind::Processes, Outcome::LimitExceeded, Some(Reason::ProcessLimit)),
        (LimitKind::Disk, Outcome::LimitExceeded, Some(Reason::DiskLimit)),
        (LimitKind::Cpu, Outcome::LimitExceeded, Some(Reason::CpuLimit)),
    ] {
        for stop in [None, Some(Stop::Exceeded)] {
            let verdict = shell(over(kind, stop));
            assert_eq!((verdict.outcome, verdict.reason), (outcome, reason));
            assert_eq!(verdict.attribution, Some(Attribution::Model));
            assert!(verdict.error.contains("the limit is 7 (sandbox.x): it was seen"), "{}", verdict.error);
            assert_eq!(
                (&verdict.metadata["limit"], &verdict.metadata["limit_value"]),
                (&"sandbox.x".into(), &"7".into())
            );
            assert_eq!(verdict.output, "partial");
        }
    }
    let verdict = shell(over(LimitKind::MachineMemory, None));
    assert_eq!((verdict.outcome, verdict.reason), (Outcome::OutOfMemory, Some(Reason::MachineMemory)));
    assert_eq!(verdict.attribution, Some(Attribution::Infrastructure), "whose memory it was is not known");
    // What somebody else ended first is what he ended.
    assert_eq!(shell(over(LimitKind::Memory, Some(Stop::TimedOut))).outcome, Outcome::TimedOut);
    assert_eq!(shell(over(LimitKind::Memory, Some(Stop::Cancelled))).outcome, Outcome::Cancelled);
}

/// Every end, of every kind of action.
fn every_end() -> Vec<End> {
    let mut ends = vec![
        End::Process(ended(Exit::Code(0), "", "")),
        End::Process(ended(Exit::Code(1), "", "")),
        End::Process(ended(Exit::Signal(11), "", "")),
        stopped(Stop::TimedOut),
        stopped(Stop::Cancelled),
        stopped(Stop::InputLimit),
        stopped(Stop::Exceeded),
        End::Read(Bytes::new()),
        End::Wrote(1),
        End::NotRun("no such slot".into()),
        End::CancelledEarly,
        End::InputLimitEarly { max: 7 },
        End::SlotLost { cause: "died".into(), ran: true },
        End::SlotLost { cause: "died".into(), ran: false },
        End::AgentFailed { cause: "broken".into(), executed: Executed::No },
        End::AgentFailed { cause: "broken".into(), executed: Executed::Yes },
        End::AgentFailed { cause: "broken".into(), executed: Executed::Unknown },
    ];
    use LimitKind::{Cpu, Disk, MachineMemory, Memory, Processes};
    ends.extend([Memory, MachineMemory, Processes, Disk, Cpu].map(|kind| over(kind, None)));
    for kind in [StartFailure::NotFound, StartFailure::OutsideWorkspace, StartFailure::Refused, StartFailure::TooLarge]
    {
        ends.push(End::NotStarted { kind, message: "m".into() });
    }
    for failure in [
        FileFailure::NotFound,
        FileFailure::NotAFile,
        FileFailure::TooLarge { size: 1 },
        FileFailure::OutsideWorkspace,
        FileFailure::Other("m".into()),
    ] {
        ends.push(End::FileFailed(failure));
    }
    ends
}

#[test]
fn every_verdict_is_a_row_of_the_table_and_says_how_it_was_isolated() {
    for kind in [Kind::Shell, Kind::Command, read_of("r"), write_of("w")] {
        for end in every_end() {
            for cancelled in [CancelCause::Client, CancelCause::Label, CancelCause::Released, CancelCause::Drained] {
                let verdict = judge(&kind, end.clone(), &Circumstances { cancelled, ..ABOUT });
                let row = ruling(verdict.outcome, verdict.reason, kind.chooser());
                assert!(row.executed.contains(&verdict.executed), "{kind:?} {end:?}");
                assert_eq!(row.attribution, verdict.attribution, "{kind:?} {end:?}");
                assert_eq!(verdict.error.is_empty(), verdict.outcome == Outcome::Succeeded, "{kind:?} {end:?}");
                assert_eq!(verdict.metadata["isolation"], "L0");
                assert_eq!(verdict.exit.is_some(), verdict.stdout.is_some());
            }
        }
    }
}

#[test]
fn a_session_at_its_limit_says_so_and_shows_what_there_is() {
    let End::Process(ProcessEnd { exceeded, .. }) = over(LimitKind::Memory, None) else { unreachable!() };
    let told = session::Told { exceeded: exceeded.clone(), ..session::Told::new("the screen") };
    let told = session::Told::from_json(&told.naming(exceeded.as_deref()).to_json()).unwrap();
    let verdict = judge(&Kind::Session, End::Told(told), &ABOUT);
    assert_eq!((verdict.outcome, verdict.attribution), (Outcome::OutOfMemory, Some(Attribution::Model)));
    assert_eq!((&*verdict.output, &verdict.error), ("the screen", &exceeded.as_ref().unwrap().to_string()));
    assert_eq!(verdict.metadata["limit"], exceeded.unwrap().setting);
    // As builds before this one wrote it.
    let plain = session::Told::from_json(br#"{"output":"said","error":"","metadata":[]}"#).unwrap();
    assert_eq!(judge(&Kind::Session, End::Told(plain), &ABOUT).outcome, Outcome::Succeeded);
}

#[test]
fn a_trainer_is_never_charged_to_the_model() {
    for end in every_end() {
        let verdict = judge(&Kind::Command, end, &ABOUT);
        assert_ne!(verdict.attribution, Some(Attribution::Model));
        assert_eq!(Kind::Command.chooser(), Chooser::Client);
    }
}

/// An upper bound of what a result takes on the wire.
fn size(verdict: &Verdict) -> usize {
    let stream = |stream: &Option<Stream>| match stream {
        Some(Stream::Whole(captured)) => captured.head.len() + captured.tail.len(),
        Some(Stream::Counted { .. }) | None => 0,
    };
    let evidence = verdict.fault.iter().flat_map(|fault| &fault.evidence).map(|evidence| {
        evidence.cause.len() + evidence.stderr_tail.len() + evidence.events.iter().map(String::len).sum::<usize>()
    });
    let metadata = json(verdict).len();
    verdict.output.len()
        + verdict.error.len()
        + stream(&verdict.stdout)
        + stream(&verdict.stderr)
        + metadata
        + evidence.sum::<usize>()
        + 4_096
}

#[test]
fn no_result_is_too_large_whatever_an_agent_sends() {
    let huge = Bytes::from(vec![0xff; 8 << 20]);
    let captured = |head: &Bytes, tail: &Bytes, total| Captured { head: head.clone(), tail: tail.clone(), total };
    let none = Bytes::new();
    for (head, tail) in [(&huge, &none), (&none, &huge), (&huge, &huge)] {
        for total in [(head.len() + tail.len()) as u64, u64::MAX] {
            let end = ProcessEnd {
                stdout: captured(head, tail, total),
                stderr: captured(head, tail, total),
                ..ended(Exit::Code(0), "", "")
            };
            for kind in [Kind::Shell, Kind::Command] {
                let verdict = judge(&kind, End::Process(end.clone()), &ABOUT);
                assert!(size(&verdict) < MAX_RESULT_BYTES, "{kind:?}: {}", size(&verdict));
            }
        }
    }
    let text = "x\n".repeat(1 << 20);
    let path = "p".repeat(4_095);
    for verdict in [
        judge(&read_of(&path), End::Read(huge.clone()), &ABOUT),
        judge(&write_of(&path), End::FileFailed(FileFailure::Other(text.clone())), &ABOUT),
        shell(End::AgentFailed { cause: text.clone(), executed: Executed::Unknown }),
        shell(End::SlotLost { cause: text.clone(), ran: true }),
        Verdict::container_lost(
            Executed::Unknown,
            Arc::new(Evidence {
                location: None,
                cause: text.clone(),
                events: vec![text.clone(); 100],
                stderr_tail: text,
            }),
        ),
    ] {
        assert!(size(&verdict) < MAX_RESULT_BYTES, "{}", size(&verdict));
        assert!(verdict.error.len() <= 4_096 && !verdict.error.contains('\n'));
    }
}
