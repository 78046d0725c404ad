//! The link between executor and agent, with the real agent and, where it matters, a bad network before it.

mod adoption;
mod agent;
mod bed;
mod breaks;
mod epochs;
mod network;
mod raw;
mod requests;
mod resets;
mod slots;
mod speed;
