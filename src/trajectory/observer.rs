//! Whoever counts what is answered.

use std::sync::Arc;

use crate::{
    id::{CallId, TrajectoryKey},
    tool::{Attribution, Evidence, Location, Outcome, Reason, Timings, ToolLabel},
};

/// Told of every answer once, before anybody has it; of one that is sent again, nothing.
pub trait Observer: Send + Sync {
    /// Must be quick: a trajectory waits for it.
    fn answered(&self, trajectory: &TrajectoryKey, answer: &Answered);
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
    /// None of one that succeeded.
    pub failure: Option<Box<Failed>>,
}

/// What is known of a call that did not succeed.
#[derive(Debug, Clone, PartialEq)]
pub struct Failed {
    pub attribution: Option<Attribution>,
    /// In one line.
    pub error: String,
    pub evidence: Option<Arc<Evidence>>,
    /// Of the slot that its trajectory had then, if it had one.
    pub place: Option<Location>,
}
