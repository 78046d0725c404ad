//! Whoever counts what is answered.

use crate::id::CallId;
use crate::tool::{Outcome, Reason, Timings, ToolLabel};

/// Told of every answer once, before anybody has it; of one that is sent again, nothing.
pub trait Observer: Send + Sync {
    /// Must be quick: a trajectory waits for it.
    fn answered(&self, answer: &Answered);
}

/// How a call was answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    pub call: CallId,
    pub tool: ToolLabel,
    pub outcome: Outcome,
    pub reason: Option<Reason>,
    /// None of a call that was refused at the door.
    pub timings: Option<Timings>,
}
