//! Peers that mean harm, or are broken: whatever comes in, from whichever side, nothing panics, memory stays bounded,
//! the sender is told in its own protocol what is wrong, and whoever comes next is served.
//!
//! Each test is short here; with `PROPTEST_CASES` it has so many cases. What Nomad may say is in `nomad::hostile`.

mod agents;
pub(crate) mod bed;
mod cluster;
mod configuration;
mod connections;
mod executors;
mod impostor;
pub(crate) mod mutate;
mod port;
mod public;
mod sessions;
mod transfers;
mod values;
