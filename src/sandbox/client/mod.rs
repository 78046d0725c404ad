//! The executor's side of a container: one link to its agent, over which the calls of all its slots go.
//!
//! ```text
//! connect --> Link (assign, release, lose) --assign--> SlotHandle (run, cancel, input, reset, next)
//!        '--> events of the container, for whoever watches over it
//! ```
//!
//! The link is a [`session`](super::session): it survives a broken connection, and loses nothing by it. It gives up
//! when it could not be made again for `agent_grace`, or when the agent obeys a later executor.

mod attach;
mod endpoint;
mod files;
mod input;
mod keeper;
mod link;
mod outgoing;
mod slot;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use self::{
    attach::{Attached, ConnectError, UsedSlot, VacantSlot},
    endpoint::{Address, CertificateError, Endpoint, Token},
    files::{Files, Transfer},
    link::{Connected, Held, Link, LinkEvent, Wanted, connect},
    slot::{Receipt, SlotEvent, SlotHandle},
};

/// What is the same for every link of an executor.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    pub executor_id: String,
    /// Of this start of the executor.
    pub epoch: u64,
    /// The most requests that go out in one message.
    pub max_batch_size: usize,
    /// For how long a broken link is tried again.
    pub agent_grace: Duration,
    /// Cancelled when an agent obeys a later executor: this one has nothing to say any more.
    pub superseded: CancellationToken,
}

/// The largest message that either side sends, in bytes; a batch of several requests or events is cut at a quarter of
/// it. No event comes near it: a result stays under 4 MiB.
pub(super) const MAX_MESSAGE_BYTES: usize = 64 << 20;
pub(super) const MAX_BATCH_BYTES: usize = MAX_MESSAGE_BYTES / 4;
/// The largest request. A larger one would break the link each time that it is sent, so it never is.
const MAX_REQUEST_BYTES: usize = MAX_MESSAGE_BYTES - (1 << 10);
/// A connection carries one stream.
pub(super) const WINDOW: u32 = 8 << 20;
/// Of silence, before either side asks the other whether it is there; and for the answer.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(3);
/// How long either side's acknowledgement waits for something to go with.
pub(super) const ACKNOWLEDGE_AFTER: Duration = Duration::from_millis(20);
