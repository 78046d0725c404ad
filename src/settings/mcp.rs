//! MCP servers: where they are, and what opens them.

use super::{
    convert::{self, Written},
    model::{self, Secret},
    reader::Reader,
};

/// What the ToolServer is called among the places that have tools.
pub const TOOL_SERVER: &str = "tool_server";

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct McpServerSettings {
    /// For people, and for the journal.
    pub name: String,
    /// Of its endpoint, with its scheme.
    pub url: String,
    pub token: Option<Secret>,
}

/// In the order in which they are written: where two have a tool of one name, it is the first's.
pub(super) fn build(r: &mut Reader<'_>) -> Vec<McpServerSettings> {
    let mut servers: Vec<McpServerSettings> = r.value("mcp_servers", servers);
    for (name, token) in r.optional("mcp_tokens", tokens).unwrap_or_default() {
        match servers.iter_mut().find(|server| server.name == name) {
            Some(server) if server.token.is_none() => server.token = Some(token),
            Some(_) => r.tell(&["mcp_tokens"], format_args!("has two tokens for {name}")),
            None if r.sound(&["mcp_servers"]) => {
                r.tell(
                    &["mcp_tokens", "mcp_servers"],
                    format_args!("there is no MCP server {name}, which has a token"),
                );
            }
            None => {}
        }
    }
    servers
}

fn servers(written: Written<'_>) -> Result<Vec<McpServerSettings>, String> {
    let mut servers = Vec::<McpServerSettings>::new();
    for item in convert::list(written)? {
        let (name, url) = item
            .split_once('=')
            .ok_or_else(|| format!("must have servers such as search=http://host:8000/mcp, and has {item:?}"))?;
        let name = model::name(&text(name))?;
        if name == TOOL_SERVER || servers.iter().any(|server| server.name == name) {
            return Err(format!("has the name {name}, which is another's"));
        }
        servers.push(McpServerSettings { name, url: model::url(&text(url))?, token: None });
    }
    Ok(servers)
}

/// Told without the text.
fn tokens(written: Written<'_>) -> Result<Vec<(String, Secret)>, String> {
    let token = |item: String| {
        let (name, token) = item.split_once('=').ok_or("must have tokens such as NAME=TOKEN, each of a server")?;
        let name = model::name(&text(name)).map_err(|_| "has the name of a server that cannot be one")?;
        let token = token.trim();
        if token.is_empty() {
            return Err(format!("has an empty token for {name}"));
        }
        Ok((name, model::secret(&text(token))?))
    };
    convert::list(written)?.into_iter().map(token).collect()
}

fn text(text: &str) -> config::ValueKind {
    config::ValueKind::String(text.trim().to_owned())
}
