//! The old system's HTTP API: its clients do not notice that it is another system's.

mod artifacts;
mod calls;
mod description;
mod python;
mod recorded;
mod refusals;
