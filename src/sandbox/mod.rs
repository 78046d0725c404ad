//! The sandbox: the executor's side of a container ([`client`]), the agent that runs inside it ([`agent`]), and the
//! isolated slots that the agent owns ([`slot`]).

pub mod agent;
pub mod client;
mod outgoing;
mod session;
pub mod slot;
mod tls;
mod wire;
