//! From what an MCP server says to what is known of a call. Pure.

use rmcp::model::{CallToolResult, ContentBlock, ErrorCode, ErrorData, ResourceContents};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    external::{
        handle::Request,
        http::{Unanswered, parse},
    },
    tool::{ExternalEnd, Failure},
};

/// Of a name or an address within a result, in characters.
const MAX_NAMED: usize = 200;

/// A result, not yet looked at; or an error of the protocol's.
pub(super) type Answer = Result<Box<RawValue>, ErrorData>;

#[derive(Deserialize)]
struct Message {
    id: Option<Value>,
    method: Option<String>,
    result: Option<Box<RawValue>>,
    error: Option<ErrorData>,
}

/// What a server may say.
#[derive(Debug)]
pub(super) enum Heard {
    /// To the request of the id.
    Answer(Answer),
    ToolsChanged,
    /// How something goes, or what it asks: of no concern here.
    Other,
}

/// What a message says; `id`: of the request whose answer is waited for, if any is.
pub(super) fn heard(message: &[u8], id: Option<u64>) -> Result<Heard, Unanswered> {
    let message: Message = parse(message)?;
    if let Some(method) = message.method {
        let changed = method == "notifications/tools/list_changed";
        return Ok(if changed { Heard::ToolsChanged } else { Heard::Other });
    }
    let its = id.is_some() && message.id == Some(json!(id));
    match (message.result, message.error) {
        (Some(result), None) if its => Ok(Heard::Answer(Ok(result))),
        (None, Some(error)) if its => Ok(Heard::Answer(Err(error))),
        // It could not read whose answer it is.
        (None, Some(error)) if message.id.is_none_or(|id| id.is_null()) => {
            Err(Unanswered::protocol(format!("it answered {}", said(&error))))
        }
        _ if its => Err(Unanswered::protocol("its answer has neither result nor error, or both".to_owned())),
        _ => Err(Unanswered::protocol("it answered for another call".to_owned())),
    }
}

/// Of a kind that is known.
pub(super) fn result<T: serde::de::DeserializeOwned>(result: &RawValue) -> Result<T, Unanswered> {
    parse(result.get().as_bytes())
}

/// For people.
pub(super) fn said(error: &ErrorData) -> String {
    format!("error {}: {}", error.code.0, named(&error.message))
}

/// What a call is asked with. Whose it is stands beside it, for servers that keep books.
pub(super) fn params(request: &Request) -> Result<Value, Unanswered> {
    let arguments: Map<String, Value> = serde_json::from_str(&request.call.arguments).map_err(|error| {
        let cause = format!("the arguments cannot be sent: {error}");
        Unanswered { failure: Failure::Protocol, unsent: true, cause }
    })?;
    let meta = json!({
        "tool-executor/trajectory_id": request.trajectory_id,
        "tool-executor/call_id": request.call_id.as_str(),
    });
    Ok(json!({"name": request.call.tool, "arguments": arguments, "_meta": meta}))
}

/// The function schema of a tool that was listed; of anything else, one that is refused with its reason.
pub(super) fn schema(tool: &Value) -> Value {
    let mut function = Map::from_iter([("name".to_owned(), tool["name"].clone())]);
    for (from, to) in [("description", "description"), ("inputSchema", "parameters")] {
        if let Some(value) = tool.get(from).filter(|value| !value.is_null()) {
            function.insert(to.to_owned(), value.clone());
        }
    }
    json!({"type": "function", "function": function})
}

/// The tool's own words. That there is no such tool, or that its arguments do not fit, is the model's doing, too.
pub(super) fn end(answer: Answer) -> Result<ExternalEnd, Unanswered> {
    let result = match answer {
        Ok(result) => self::result::<CallToolResult>(&result)?,
        Err(error) if [ErrorCode::INVALID_PARAMS, ErrorCode::METHOD_NOT_FOUND].contains(&error.code) => {
            let metadata = vec![("jsonrpc_error".to_owned(), json!(error.code.0))];
            let error = error.message.into_owned();
            return Ok(ExternalEnd::Answered { success: false, output: String::new(), error, metadata });
        }
        Err(error) => return Err(Unanswered::protocol(format!("it answered {}", said(&error)))),
    };
    let mut text = result.content.iter().map(shown).collect::<Vec<_>>().join("\n");
    let mut metadata = Vec::new();
    match result.structured_content {
        Some(content) if text.is_empty() => text = content.to_string(),
        Some(content) => metadata.push(("structured_content".to_owned(), content)),
        None => {}
    }
    let success = !result.is_error.unwrap_or_default();
    // An error is one bounded line: all that was said is the output, as it is of a command that fails.
    let error = if success { String::new() } else { text.clone() };
    Ok(ExternalEnd::Answered { success, output: text, error, metadata })
}

/// A model is shown text; of what is none it is told that it is there.
fn shown(block: &ContentBlock) -> String {
    match block {
        ContentBlock::Text(text) => text.text.clone(),
        ContentBlock::Image(image) => encoded("image", &image.mime_type, &image.data),
        ContentBlock::Audio(audio) => encoded("audio", &audio.mime_type, &audio.data),
        ContentBlock::Resource(embedded) => match &embedded.resource {
            ResourceContents::TextResourceContents { uri, text, .. } => format!("[resource {}]\n{text}", named(uri)),
            ResourceContents::BlobResourceContents { uri, blob, .. } => encoded("resource", uri, blob),
            _ => "[resource]".to_owned(),
        },
        ContentBlock::ResourceLink(link) => format!("[resource {} at {}]", named(&link.name), named(&link.uri)),
        _ => "[content of a kind that is not known]".to_owned(),
    }
}

fn encoded(kind: &str, what: &str, base64: &str) -> String {
    let bytes = base64.trim_end_matches('=').len() / 4 * 3 + base64.trim_end_matches('=').len() % 4 * 3 / 4;
    format!("[{kind} {}, {bytes} bytes]", named(what))
}

/// One bounded line.
fn named(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_NAMED).collect()
}
