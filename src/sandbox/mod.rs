//! The sandbox: the executor's side of a container ([`client`]), the agent that runs inside it ([`agent`]), and the
//! isolated slots that the agent owns ([`slot`]).

pub mod agent;
pub mod client;
mod outgoing;
mod session;
pub mod slot;
mod tls;
mod wire;

/// Of the protocol between executor and agent. An executor also speaks with agents of the version before this one, and
/// lets them do no more than end what they have begun.
pub const PROTOCOL_VERSION: u32 = 1;
