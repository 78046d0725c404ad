//! The records of a trajectory. Its state changes by applying them and in no other way, so that whoever has the
//! records has the state. They live in memory alone for now: each is applied and not kept.

mod record;

pub use self::record::{AcceptedCall, CallHash, Options, Record, Workspace};
