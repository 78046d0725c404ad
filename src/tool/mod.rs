//! Tools: what there is, what a call of one means, and what is answered. Plain data and rules, no I/O.
//!
//! A call comes in as a tool's name and arguments ([`Registry::parse`]) or as a [`Command`]; either becomes a
//! [`job::Job`] for a slot. What the slot says of its end becomes a [`Verdict`] ([`judge`]); a call that never
//! reached a slot gets its verdict from one of [`Verdict`]'s constructors. A verdict, a number and timings make a
//! [`CallResult`].

mod action;
mod arguments;
pub mod artifact;
mod command;
mod external;
mod isolation;
pub mod job;
mod judge;
mod label;
pub mod limit;
mod metadata;
mod registry;
mod result;
mod ruling;
mod sandboxed;
pub mod session;
mod text;
mod toolset;
mod verdict;

pub use action::{ActionHash, Chooser, Kind};
pub use arguments::Arguments;
pub use command::{Command, CommandError, FieldError};
pub use external::{ExternalCall, ExternalEnd, ExternalEnding, Failure};
pub use isolation::{Isolation, UnknownLevel};
pub use judge::{CancelCause, Circumstances, judge};
pub use label::ToolLabel;
pub use metadata::Metadata;
pub use registry::{Listing, ParsedTool, Registry, Rejection, Route, Task, ToolInfo};
pub use result::{Attribution, CallResult, Evidence, Executed, Fault, Location, Outcome, Reason, Stream, Timings};
pub use ruling::{Ruling, ruling};
pub use sandboxed::{MAX_COMMAND_BYTES, MAX_FILE_BYTES, MAX_PATH_BYTES};
pub use text::{MAX_CAPTURED_BYTES, MAX_RESULT_BYTES, chain};
pub use toolset::UnknownToolset;
pub use verdict::Verdict;
