//! Names for whoever counts: each is one of few, whatever a model has sent.

use std::sync::Arc;

use super::{Outcome, Reason};

/// What a call is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ToolLabel {
    /// A tool that the service offered when the call came.
    Tool(Arc<str>),
    /// The trainer's own command.
    Command,
    /// No tool that there is; or the call is from before a restart, which remembers what to do and not what it was called.
    Unknown,
}

impl ToolLabel {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Tool(name) => name,
            Self::Command => "command",
            Self::Unknown => "unknown",
        }
    }
}

impl Outcome {
    /// As metrics and logs have it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::OutOfMemory => "out_of_memory",
            Self::LimitExceeded => "limit_exceeded",
            Self::Rejected => "rejected",
            Self::NoCapacity => "no_capacity",
            Self::SandboxLost => "sandbox_lost",
            Self::ExternalUnavailable => "external_unavailable",
            Self::Internal => "internal",
        }
    }
}

impl Reason {
    /// As metrics and logs have it.
    pub fn label(self) -> &'static str {
        match self {
            Self::ExitStatus => "exit_status",
            Self::Signalled => "signalled",
            Self::FileNotFound => "file_not_found",
            Self::NotAFile => "not_a_file",
            Self::FileTooLarge => "file_too_large",
            Self::PathOutsideWorkspace => "path_outside_workspace",
            Self::FileError => "file_error",
            Self::TerminalState => "terminal_state",
            Self::ExternalToolFailed => "external_tool_failed",
            Self::InputLimit => "input_limit",
            Self::ProcessLimit => "process_limit",
            Self::DiskLimit => "disk_limit",
            Self::CpuLimit => "cpu_limit",
            Self::MachineMemory => "machine_memory",
            Self::UnknownTool => "unknown_tool",
            Self::InvalidArguments => "invalid_arguments",
            Self::CallIdReused => "call_id_reused",
            Self::ResultDropped => "result_dropped",
            Self::RequestTooLarge => "request_too_large",
            Self::QueueFull => "queue_full",
            Self::SlotTimeout => "slot_timeout",
            Self::ContainerStartFailed => "container_start_failed",
            Self::Draining => "draining",
            Self::ContainerLost => "container_lost",
            Self::SlotLost => "slot_lost",
            Self::WorkspaceGone => "workspace_gone",
            Self::ToolServerUnreachable => "tool_server_unreachable",
            Self::ToolServerTimeout => "tool_server_timeout",
            Self::ToolServerProtocol => "tool_server_protocol",
            Self::CancelledByClient => "cancelled_by_client",
            Self::CancelledByLabel => "cancelled_by_label",
            Self::Released => "released",
            Self::Drained => "drained",
        }
    }
}
