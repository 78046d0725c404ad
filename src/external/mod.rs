//! Tools that run elsewhere: what there are, and calling them.
//!
//! ```text
//! ToolServer --GET /tools,  now and then--> refresh --Registry--> edge
//! MCP server --tools/list, now and then, and when it says so--> refresh
//! trajectory --Handle::room--> Room --run: POST /execute--> ToolServer
//!                                        --tools/call----> MCP server
//! ```
//!
//! Invariants: a call is sent at most once, and tried again only where it surely was not sent; what is read of an answer
//! is bounded; a source that does not answer holds up nobody but its own calls, and those no longer than their timeout.

mod config;
mod handle;
mod health;
mod http;
mod mcp;
mod refresh;
mod source;
mod tool_server;

pub use self::{
    config::{Config, Protocol, SourceConfig, SourceError, Token},
    handle::{Handle, Request, Room},
    health::{Health, LastError, SourceStatus},
    refresh::{inspect, open},
};
