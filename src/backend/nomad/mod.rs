//! Containers as allocations of a Nomad cluster.

pub mod api;
