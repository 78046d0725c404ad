//! What happens to a trajectory, as far as it is remembered.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use crate::{
    id::{CallId, CallNumber, Generation, PoolName, Sequence},
    tool::{
        ActionHash, CallResult, ExternalCall, Kind, Location,
        job::{Job, Order, OutputLimits},
    },
};

/// One thing that has happened to a trajectory.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A life begins afresh: nothing of an earlier one under the same id is kept.
    Opened {
        options: Arc<Options>,
        at: SystemTime,
    },
    /// A call will be answered exactly once, by a result in the log. Precedes any attempt to run it.
    Accepted(Arc<AcceptedCall>),
    /// More input came for an accepted call that was not handed over yet.
    Input {
        call: CallNumber,
        data: Bytes,
        end_of_file: bool,
    },
    /// The call is about to leave for whoever runs it. Precedes that: a call without it has certainly not run.
    HandedOver(CallNumber),
    /// It has not arrived there, and waits again.
    TakenBack(CallNumber),
    /// The answer to an accepted call; it carries the next sequence. Precedes its being sent.
    Ended {
        call: CallHash,
        result: Arc<CallResult>,
    },
    /// Results up to this sequence have been sent to somebody: they may be dropped. Told with whatever comes next, since
    /// nothing is lost where this is.
    Sent {
        through: Sequence,
    },
    /// Results up to this sequence are no longer kept; their ids stay known.
    Dropped {
        through: Sequence,
    },
    /// What a checkpoint says of the calls that have ended, and of the numbers that have been given. The results that are
    /// still kept follow.
    Past {
        calls: Vec<(CallHash, ActionHash)>,
        last_number: CallNumber,
        last_sequence: Sequence,
        generation: Generation,
    },
    /// The slot that it has from now on.
    Placed(Arc<Location>),
    Workspace(Workspace),
    /// The client is done with it. The ledger stays a while.
    Released,
    /// Nobody attended to it for the length of its lease. The ledger stays a while.
    LeaseEnded,
    /// A call came after the release: the same ledger goes on.
    Reopened,
}

/// What a trajectory has of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Workspace {
    /// It has had no slot yet, or has given it back.
    #[default]
    None,
    /// A slot holds the workspace of this generation.
    Present(Generation),
    /// The workspace of this generation was lost: no sandbox call runs until the client asks for another.
    Gone(Generation),
    /// The client has asked for an empty workspace, of this generation; no slot holds it yet.
    Empty(Generation),
}

/// Names a call in the ledger: a digest of its call_id, so that an id costs 16 bytes however long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallHash(pub [u8; 16]);

/// A call that will be answered, with all that running it takes.
#[derive(Debug, Clone, PartialEq)]
pub struct AcceptedCall {
    pub id: CallId,
    pub number: CallNumber,
    pub action: ActionHash,
    pub errand: Errand,
    /// It runs beside the trajectory's other calls.
    pub concurrent: bool,
    pub received_at: SystemTime,
}

/// What is to be done for a call, and where.
#[derive(Debug, Clone, PartialEq)]
pub enum Errand {
    Slot {
        kind: Kind,
        order: Order,
    },
    External {
        call: ExternalCall,
        /// Of the execution.
        timeout: Duration,
    },
}

impl AcceptedCall {
    /// What its slot is told; nothing if it is of no slot.
    pub fn order(&self) -> Option<&Order> {
        match &self.errand {
            Errand::Slot { order, .. } => Some(order),
            Errand::External { .. } => None,
        }
    }

    pub fn is_external(&self) -> bool {
        matches!(self.errand, Errand::External { .. })
    }

    /// Of what its sender has put into it, in bytes.
    pub fn size(&self) -> u64 {
        let errand = match &self.errand {
            Errand::Slot { order, .. } => order.job.size(),
            Errand::External { call, .. } => call.size(),
        };
        (self.id.as_str().len() + errand) as u64
    }

    /// It reads what the client sends while it runs.
    pub fn is_interactive(&self) -> bool {
        matches!(self.order(), Some(Order { job: Job::Process(process), .. }) if process.interactive)
    }
}

/// Fixed when a trajectory is opened.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// How long it lives with no stream attached and no call running or waiting.
    pub lease: Duration,
    /// Free text to group trajectories by.
    pub labels: BTreeMap<String, String>,
    pub pool: PoolName,
    /// Take a slot now rather than at the first sandbox call.
    pub acquire_slot: bool,
    pub output_limits: OutputLimits,
    /// Execution timeout of calls that give none.
    pub default_timeout: Duration,
}
