//! The records of a trajectory. Its state changes by applying them and in no other way, so that whoever has the
//! records has the state. They live in memory alone for now: each is applied and not kept.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    id::{CallNumber, Generation, PoolName, Sequence},
    tool::{ActionHash, CallResult, job::OutputLimits},
};

/// One thing that has happened to a trajectory.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A life begins afresh: nothing of an earlier one under the same id is kept.
    Opened(Arc<Options>),
    /// A call will be answered exactly once, by a result in the log. Precedes any attempt to run it.
    Accepted {
        call: CallHash,
        number: CallNumber,
        action: ActionHash,
    },
    /// The answer to an accepted call; it carries the next sequence. Precedes its being sent.
    Ended {
        call: CallHash,
        result: Arc<CallResult>,
    },
    /// Results up to this sequence are no longer kept; their ids stay known.
    Dropped {
        through: Sequence,
    },
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallHash(pub [u8; 16]);

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
