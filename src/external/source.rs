//! A source, whatever it speaks.

use std::future::pending;

use serde_json::Value;

use super::{
    config::{Protocol, SourceConfig, SourceError},
    handle::Request,
    mcp::McpServer,
    tool_server::ToolServer,
};
use crate::tool::ExternalEnding;

pub(super) enum Client {
    ToolServer(ToolServer),
    Mcp(McpServer),
}

impl Client {
    /// Connects nowhere yet.
    pub(super) fn new(config: &SourceConfig) -> Result<Self, SourceError> {
        Ok(match config.protocol {
            Protocol::ToolServer => Self::ToolServer(ToolServer::new(config)?),
            Protocol::Mcp => Self::Mcp(McpServer::new(config)?),
        })
    }

    /// The function schemas of its tools; or why they are not known, for people.
    pub(super) async fn list(&self) -> Result<Vec<Value>, String> {
        match self {
            Self::ToolServer(server) => server.list().await,
            Self::Mcp(server) => server.list().await,
        }
    }

    /// Has a tool run. It is asked once, but for tries that have not reached it.
    pub(super) async fn execute(&self, request: &Request) -> ExternalEnding {
        match self {
            Self::ToolServer(server) => server.execute(request).await,
            Self::Mcp(server) => server.execute(request).await,
        }
    }

    /// Once it has said that its tools are others; never, where it cannot.
    pub(super) async fn changed(&self) {
        match self {
            Self::ToolServer(_) => pending().await,
            Self::Mcp(server) => server.changed().await,
        }
    }

    /// Nothing will be asked of it any more.
    pub(super) async fn close(&self) {
        match self {
            Self::ToolServer(_) => {}
            Self::Mcp(server) => server.close().await,
        }
    }
}
