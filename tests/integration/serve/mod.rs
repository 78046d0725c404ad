//! The real binary, driven over its public protocol.

mod background;
mod bad_input;
mod calls;
mod clients;
mod counts;
mod deaths;
mod drain;
mod endings;
mod faults;
mod http;
mod isolation;
mod leases;
mod limits;
mod load;
mod once;
mod outcomes;
mod restart;
mod resume;
mod scaling;
mod start;
mod storm;
mod terminals;
mod tools;
