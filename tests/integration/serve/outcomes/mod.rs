//! The table of outcomes, each row brought about by what it stands for, over the real binary: a trainer builds its loss
//! on these answers, so that each must be what is true.
//!
//! The table is exhaustive. An outcome or reason that the executor knows and that is neither a row nor, as one of the
//! protocol's alone, listed below them, does not compile.

mod elsewhere;
mod impostor;
mod limits;
mod scenarios;

use tool_executor::{
    pb::toolexecutor::{Attribution, Call, CallResult, Executed, Outcome, Reason},
    tool,
};

use crate::support::client::{bash, command, shell};

/// Who chose the action, and has to answer for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// It is a tool call.
    Model,
    /// It is a command.
    Trainer,
}

impl By {
    const BOTH: [Self; 2] = [Self::Model, Self::Trainer];

    fn call(self, id: &str, script: &str) -> Call {
        match self {
            Self::Model => bash(id, script),
            Self::Trainer => command(id, shell(script)),
        }
    }
}

/// An answer, and what is true of its call.
struct Case {
    by: By,
    executed: Executed,
    /// It was refused at the door: it is in no log, and its id is free.
    refused: bool,
    result: CallResult,
}

impl Case {
    fn accepted(by: By, executed: Executed, result: CallResult) -> Self {
        Self { by, executed, refused: false, result }
    }

    fn refused(by: By, result: CallResult) -> Self {
        Self { by, executed: Executed::No, refused: true, result }
    }
}

/// Whose doing an outcome is.
fn attribution(outcome: Outcome, reason: Reason, by: By) -> Attribution {
    let chosen = match by {
        By::Model => Attribution::Model,
        By::Trainer => Attribution::Client,
    };
    match outcome {
        Outcome::Unspecified | Outcome::Succeeded => Attribution::Unspecified,
        Outcome::OutOfMemory if reason == Reason::MachineMemory => Attribution::Infrastructure,
        Outcome::Failed | Outcome::TimedOut | Outcome::OutOfMemory | Outcome::LimitExceeded => chosen,
        Outcome::Cancelled if reason == Reason::Drained => Attribution::Infrastructure,
        Outcome::Cancelled => Attribution::Client,
        Outcome::Rejected if matches!(reason, Reason::CallIdReused | Reason::ResultDropped) => Attribution::Client,
        Outcome::Rejected => chosen,
        Outcome::NoCapacity | Outcome::SandboxLost | Outcome::ExternalUnavailable | Outcome::Internal => {
            Attribution::Infrastructure
        }
    }
}

fn has_fault(outcome: Outcome) -> bool {
    outcome >= Outcome::NoCapacity
}

fn check(outcome: Outcome, reason: Reason, cases: &[Case]) {
    let needs_groups = outcome == Outcome::OutOfMemory;
    assert!(!cases.is_empty() || needs_groups, "where there are no control groups, nobody is killed for memory");
    for Case { by, executed, refused, result } in cases {
        assert_eq!((result.outcome(), result.reason()), (outcome, reason), "{by:?}: {result:?}");
        assert_eq!(result.executed(), *executed, "{by:?}: {result:?}");
        assert_eq!(result.attribution(), attribution(outcome, reason, *by), "{by:?}: {result:?}");
        assert_eq!(result.success, outcome == Outcome::Succeeded, "{result:?}");
        assert_eq!(result.error.is_empty(), result.success, "{result:?}");
        assert_eq!(result.sequence == 0, *refused, "{by:?}: {result:?}");
        assert_eq!(result.fault.is_some(), has_fault(outcome), "{result:?}");
        let retryable = result.fault.as_ref().is_some_and(|fault| fault.retryable);
        assert!(!retryable || result.executed() == Executed::No, "what may have run is not offered again: {result:?}");
    }
}

macro_rules! outcomes {
    (
        rows { $($row:ident: $outcome:ident $(/ $reason:ident)?;)* }
    ) => {
        $(
            #[tokio::test]
            async fn $row() {
                let reason = [$(Reason::$reason,)? Reason::Unspecified][0];
                check(Outcome::$outcome, reason, &scenarios::$row().await);
            }
        )*

        /// Compiles for as long as the table is whole.
        #[allow(unreachable_patterns, dead_code, reason = "an outcome has several rows, and nobody asks")]
        fn the_table_is_whole(known: (tool::Outcome, tool::Reason), public: (Outcome, Reason)) {
            match known.0 {
                $(tool::Outcome::$outcome => {})*
            }
            // What the executor itself knows, it can answer.
            match known.1 {
                $($(tool::Reason::$reason => {})?)*
            }
            match public.0 {
                Outcome::Unspecified => {}
                $(Outcome::$outcome => {})*
            }
            match public.1 {
                Reason::Unspecified => {}
                $($(Reason::$reason => {})?)*
            }
        }
    };
}

outcomes! {
    rows {
        succeeded: Succeeded;

        exit_status: Failed / ExitStatus;
        signalled: Failed / Signalled;
        file_not_found: Failed / FileNotFound;
        not_a_file: Failed / NotAFile;
        file_too_large: Failed / FileTooLarge;
        path_outside_workspace: Failed / PathOutsideWorkspace;
        file_error: Failed / FileError;
        terminal_state: Failed / TerminalState;
        larger_than_the_kernel_takes: Failed / RequestTooLarge;

        external_tool_failed: Failed / ExternalToolFailed;

        timed_out: TimedOut;
        input_limit: LimitExceeded / InputLimit;
        process_limit: LimitExceeded / ProcessLimit;
        disk_limit: LimitExceeded / DiskLimit;
        cpu_limit: LimitExceeded / CpuLimit;
        out_of_memory: OutOfMemory;
        machine_memory: OutOfMemory / MachineMemory;

        unknown_tool: Rejected / UnknownTool;
        invalid_arguments: Rejected / InvalidArguments;
        request_too_large: Rejected / RequestTooLarge;
        call_id_reused: Rejected / CallIdReused;
        result_dropped: Rejected / ResultDropped;

        queue_full: NoCapacity / QueueFull;
        slot_timeout: NoCapacity / SlotTimeout;
        container_start_failed: NoCapacity / ContainerStartFailed;
        draining: NoCapacity / Draining;

        container_lost: SandboxLost / ContainerLost;
        slot_lost: SandboxLost / SlotLost;
        workspace_gone: SandboxLost / WorkspaceGone;

        tool_server_unreachable: ExternalUnavailable / ToolServerUnreachable;
        tool_server_timeout: ExternalUnavailable / ToolServerTimeout;
        tool_server_protocol: ExternalUnavailable / ToolServerProtocol;

        cancelled_by_client: Cancelled / CancelledByClient;
        cancelled_by_label: Cancelled / CancelledByLabel;
        released: Cancelled / Released;
        drained: Cancelled / Drained;

        internal: Internal;
    }
}
