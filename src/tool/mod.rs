//! Tools: what there is, what a call of one means, and what is answered. Plain data and rules, no I/O.

pub mod job;
mod result;

pub use result::{Attribution, CallResult, Evidence, Executed, Fault, Location, Outcome, Reason, Stream, Timings};
