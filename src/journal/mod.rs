//! The records of a trajectory, kept. Its state changes by applying them and in no other way, so that whoever has the
//! records has the state: they are written to a log in the state directory before anything follows from them, and an
//! executor that starts reads them back.
//!
//! ```text
//! Entry (one a trajectory) --append, checkpoint--> segments --read at the start--> Recovered
//! ```
//!
//! The log is bounded: a trajectory states itself anew now and then, and segments that nobody needs go.

mod codec;
mod disk;
mod errand;
mod lives;
mod log;
mod outcome;
mod record;
mod recovery;
mod segment;
mod store;
#[cfg(test)]
mod tests;
mod wanted;

pub use self::{
    log::{Durability, Entry, Journal, Recovered},
    record::{AcceptedCall, CallHash, Errand, Options, Record, Workspace},
    recovery::JournalError,
};
