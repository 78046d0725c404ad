//! The real binary, driven over its public protocol.

mod bad_input;
mod calls;
mod cli;
mod clients;
mod counts;
mod deaths;
mod drain;
mod endings;
mod external;
mod faults;
mod gateway;
mod http;
mod isolation;
mod leases;
mod limits;
mod load;
mod mcp;
mod once;
mod outcomes;
mod restart;
mod resume;
mod scaling;
mod start;
mod storm;
mod tools;
