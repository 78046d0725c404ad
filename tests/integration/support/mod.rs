//! What tests share.

pub(crate) mod agent;
pub(crate) mod client;
pub(crate) mod nomad;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod real_nomad;
pub(crate) mod server;
