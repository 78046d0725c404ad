//! What tests share.

pub(crate) mod agent;
pub mod client;
pub mod process;
pub(crate) mod proxy;
pub mod server;
