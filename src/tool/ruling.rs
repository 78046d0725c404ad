//! Whether a call ran, and whose doing its end is: the table of outcomes. A trainer leaves everything but
//! [`Attribution::Model`] out of its loss, so nothing here may guess.

use super::{Attribution, Chooser, Executed, Outcome, Reason};

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ruling {
    /// What may be said of it; where there is more than one answer, only who saw the call end can tell.
    pub executed: &'static [Executed],
    /// None for success alone.
    pub attribution: Option<Attribution>,
}

/// The row for an outcome and its reason, of an action that `chooser` chose.
pub fn ruling(outcome: Outcome, reason: Option<Reason>, chooser: Chooser) -> Ruling {
    use Executed::{No, Unknown, Yes};
    let chosen_by = match chooser {
        Chooser::Model => Attribution::Model,
        Chooser::Client => Attribution::Client,
    };
    let (executed, attribution): (&[Executed], _) = match outcome {
        Outcome::Succeeded => (&[Yes], None),
        // Of whose memory the machine was full is not known.
        Outcome::OutOfMemory if reason == Some(Reason::MachineMemory) => (&[Yes], Some(Attribution::Infrastructure)),
        Outcome::Failed | Outcome::TimedOut | Outcome::OutOfMemory => (&[Yes], Some(chosen_by)),
        // Input can be too much for a command that still waits.
        Outcome::LimitExceeded if reason == Some(Reason::InputLimit) => (&[Yes, No], Some(chosen_by)),
        Outcome::LimitExceeded => (&[Yes], Some(chosen_by)),
        Outcome::Cancelled if reason == Some(Reason::Drained) => {
            (&[Yes, No, Unknown], Some(Attribution::Infrastructure))
        }
        Outcome::Cancelled => (&[Yes, No, Unknown], Some(Attribution::Client)),
        Outcome::Rejected => match reason {
            Some(Reason::CallIdReused) => (&[No], Some(Attribution::Client)),
            // It ran once, or was cancelled before it did: how it ended is no longer known.
            Some(Reason::ResultDropped) => (&[Unknown], Some(Attribution::Client)),
            _ => (&[No], Some(chosen_by)),
        },
        Outcome::NoCapacity => (&[No], Some(Attribution::Infrastructure)),
        Outcome::SandboxLost if reason == Some(Reason::WorkspaceGone) => (&[No], Some(Attribution::Infrastructure)),
        Outcome::SandboxLost => (&[No, Yes, Unknown], Some(Attribution::Infrastructure)),
        Outcome::ExternalUnavailable => (&[No, Unknown], Some(Attribution::Infrastructure)),
        Outcome::Internal => (&[Unknown, No, Yes], Some(Attribution::Infrastructure)),
    };
    Ruling { executed, attribution }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTCOMES: [Outcome; 11] = [
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
    const REASONS: [Option<Reason>; 34] = [
        None,
        Some(Reason::ExitStatus),
        Some(Reason::Signalled),
        Some(Reason::FileNotFound),
        Some(Reason::NotAFile),
        Some(Reason::FileTooLarge),
        Some(Reason::PathOutsideWorkspace),
        Some(Reason::FileError),
        Some(Reason::TerminalState),
        Some(Reason::ExternalToolFailed),
        Some(Reason::InputLimit),
        Some(Reason::ProcessLimit),
        Some(Reason::DiskLimit),
        Some(Reason::CpuLimit),
        Some(Reason::MachineMemory),
        Some(Reason::UnknownTool),
        Some(Reason::InvalidArguments),
        Some(Reason::CallIdReused),
        Some(Reason::ResultDropped),
        Some(Reason::RequestTooLarge),
        Some(Reason::QueueFull),
        Some(Reason::SlotTimeout),
        Some(Reason::ContainerStartFailed),
        Some(Reason::Draining),
        Some(Reason::ContainerLost),
        Some(Reason::SlotLost),
        Some(Reason::WorkspaceGone),
        Some(Reason::ToolServerUnreachable),
        Some(Reason::ToolServerTimeout),
        Some(Reason::ToolServerProtocol),
        Some(Reason::CancelledByClient),
        Some(Reason::CancelledByLabel),
        Some(Reason::Released),
        Some(Reason::Drained),
    ];

    fn rows() -> impl Iterator<Item = (Outcome, Option<Reason>, Chooser, Ruling)> {
        OUTCOMES.into_iter().flat_map(|outcome| {
            REASONS.into_iter().flat_map(move |reason| {
                [Chooser::Model, Chooser::Client]
                    .into_iter()
                    .map(move |chooser| (outcome, reason, chooser, ruling(outcome, reason, chooser)))
            })
        })
    }

    #[test]
    fn success_alone_has_no_attribution() {
        for (outcome, reason, _, row) in rows() {
            assert_eq!(row.attribution.is_none(), outcome == Outcome::Succeeded, "{outcome:?} {reason:?}");
            assert!(!row.executed.is_empty());
        }
    }

    /// The one thing that a wrong table would ruin: a loss computed on what the model did not do.
    #[test]
    fn a_model_answers_only_for_what_it_chose_and_what_was_its_own_doing() {
        for (outcome, reason, chooser, row) in rows() {
            if row.attribution == Some(Attribution::Model) {
                assert_eq!(chooser, Chooser::Model, "{outcome:?} {reason:?}");
                assert!(
                    matches!(
                        outcome,
                        Outcome::Failed
                            | Outcome::TimedOut
                            | Outcome::OutOfMemory
                            | Outcome::LimitExceeded
                            | Outcome::Rejected
                    ),
                    "{outcome:?} {reason:?}"
                );
            }
        }
    }

    #[test]
    fn a_command_puts_the_client_in_the_models_place_and_changes_nothing_else() {
        for (outcome, reason, chooser, row) in rows() {
            if chooser == Chooser::Client {
                let tool = ruling(outcome, reason, Chooser::Model);
                assert_eq!(row.executed, tool.executed);
                let expected = match tool.attribution {
                    Some(Attribution::Model) => Some(Attribution::Client),
                    other => other,
                };
                assert_eq!(row.attribution, expected, "{outcome:?} {reason:?}");
            }
        }
    }

    #[test]
    fn the_rows_that_depend_on_a_reason() {
        let row = |outcome, reason| ruling(outcome, Some(reason), Chooser::Model);
        assert_eq!(row(Outcome::Cancelled, Reason::Released).attribution, Some(Attribution::Client));
        assert_eq!(row(Outcome::Cancelled, Reason::Drained).attribution, Some(Attribution::Infrastructure));
        assert_eq!(row(Outcome::Rejected, Reason::UnknownTool).attribution, Some(Attribution::Model));
        assert_eq!(row(Outcome::Rejected, Reason::CallIdReused).attribution, Some(Attribution::Client));
        assert_eq!(row(Outcome::Rejected, Reason::ResultDropped).executed, [Executed::Unknown]);
        assert_eq!(row(Outcome::SandboxLost, Reason::WorkspaceGone).executed, [Executed::No]);
        assert_eq!(row(Outcome::OutOfMemory, Reason::MachineMemory).attribution, Some(Attribution::Infrastructure));
        assert_eq!(row(Outcome::LimitExceeded, Reason::DiskLimit).attribution, Some(Attribution::Model));
        assert_eq!(row(Outcome::NoCapacity, Reason::QueueFull).executed, [Executed::No]);
    }
}
