//! What tests share.

pub(crate) mod client;
pub(crate) mod process;
pub(crate) mod server;
