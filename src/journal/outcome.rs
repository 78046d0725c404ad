//! Outcomes and what goes with them, by the numbers that the public protocol has for them.

use super::codec::Senseless;
use crate::{
    pb::toolexecutor as pb,
    tool::{Attribution, Executed, Outcome, Reason},
};

/// Both directions of one table.
macro_rules! numbered {
    ($kind:ident, $what:literal, $write:ident, $read:ident: $($name:ident),+) => {
        pub(super) fn $write(value: $kind) -> i32 {
            match value { $($kind::$name => pb::$kind::$name as i32,)+ }
        }

        pub(super) fn $read(number: i32) -> Result<$kind, Senseless> {
            match pb::$kind::try_from(number) {
                $(Ok(pb::$kind::$name) => Ok($kind::$name),)+
                _ => Err(Senseless($what)),
            }
        }
    };
}

numbered!(Outcome, "an outcome", write_outcome, read_outcome:
    Succeeded, Failed, TimedOut, Cancelled, OutOfMemory, LimitExceeded, Rejected, NoCapacity, SandboxLost,
    ExternalUnavailable, Internal);

numbered!(Reason, "a reason", write_reason, read_reason:
    ExitStatus, Signalled, FileNotFound, NotAFile, FileTooLarge, PathOutsideWorkspace, FileError, TerminalState, ExternalToolFailed, InputLimit, ProcessLimit, DiskLimit, CpuLimit, MachineMemory, UnknownTool,
    InvalidArguments, CallIdReused, ResultDropped, RequestTooLarge, QueueFull, SlotTimeout, ContainerStartFailed, Draining,
    ContainerLost, SlotLost, WorkspaceGone, ToolServerUnreachable, ToolServerTimeout,
    ToolServerProtocol, CancelledByClient, CancelledByLabel, Released, Drained);

numbered!(Executed, "whether it ran", write_executed, read_executed: No, Yes, Unknown);

numbered!(Attribution, "an attribution", write_attribution, read_attribution: Model, Infrastructure, Client);
