//! What tests share.

pub mod client;
pub mod process;
pub mod server;
