//! What a trajectory's task is asked.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    connection::Responses,
    request::{Call, Open, OpenError, Requests},
    state::{Description, Inspection},
    transfer::{NoWorkspace, Workspace},
};
use crate::{id::TraceParent, tool::CallResult};

/// The answer to a unary call.
#[derive(Debug)]
pub struct Answer {
    pub result: Arc<CallResult>,
    /// It had ended before, and this is the stored result.
    pub replayed: bool,
}

pub(super) enum Command {
    Open(Box<OpenCommand>),
    Execute {
        call: Box<Call>,
        require_existing: bool,
        /// The caller's own.
        trace: Option<Arc<TraceParent>>,
        reply: oneshot::Sender<Result<Answer, OpenError>>,
    },
    Release {
        keep: bool,
        reply: oneshot::Sender<()>,
    },
    /// Answered with how many calls it ends, or nothing if this trajectory is not meant.
    CancelLabelled {
        labels: Arc<BTreeMap<String, String>>,
        /// Release it, too, and say so here once its slot has been given back.
        release: Option<oneshot::Sender<()>>,
        reply: oneshot::Sender<Option<usize>>,
    },
    Describe(oneshot::Sender<Description>),
    /// With at most so many calls that have ended, and that have not.
    Inspect(usize, oneshot::Sender<Inspection>),
    /// Answered with the way to the files of the present workspace.
    Files(oneshot::Sender<Result<Workspace, NoWorkspace>>),
    Drain {
        remaining: Duration,
    },
    DrainDeadline,
    /// Another executor goes on with it: everything is left as it is.
    HandOver,
}

pub(super) struct OpenCommand {
    pub(super) open: Open,
    pub(super) requests: Requests,
    pub(super) reply: oneshot::Sender<Result<Responses, OpenError>>,
}
