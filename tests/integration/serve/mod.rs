//! The real binary, driven over its public protocol.

mod bad_input;
mod calls;
mod clients;
mod endings;
mod faults;
mod http;
mod load;
mod outcomes;
mod resume;
mod scaling;
mod start;
mod storm;
mod tools;
