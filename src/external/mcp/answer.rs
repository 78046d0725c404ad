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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{id::CallId, tool::ExternalCall};

    fn heard(message: Value, id: Option<u64>) -> Result<Heard, Unanswered> {
        super::heard(message.to_string().as_bytes(), id)
    }

    /// What a call comes to whose answer has this result.
    fn ended(result: Value) -> Result<ExternalEnd, Unanswered> {
        end(Ok(serde_json::value::to_raw_value(&result).expect("it is JSON")))
    }

    fn answered(result: Value) -> (bool, String, String, Vec<(String, Value)>) {
        match ended(result) {
            Ok(ExternalEnd::Answered { success, output, error, metadata }) => (success, output, error, metadata),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_answer_is_the_one_to_the_request_and_has_one_of_two() {
        let good = heard(json!({"jsonrpc": "2.0", "id": 7, "result": {"n": 1}}), Some(7));
        let Ok(Heard::Answer(Ok(result))) = good else { panic!("{good:?}") };
        assert_eq!(result.get(), r#"{"n":1}"#);
        let bad = heard(json!({"jsonrpc": "2.0", "id": 7, "error": {"code": -32603, "message": "no"}}), Some(7));
        let Ok(Heard::Answer(Err(error))) = bad else { panic!("{bad:?}") };
        assert_eq!(said(&error), "error -32603: no");

        let refused = [
            (json!({"id": 8, "result": {}}), "another call"),
            (json!({"id": "7", "result": {}}), "another call"),
            (json!({"id": 8, "error": {"code": 1, "message": "no"}}), "another call"),
            (json!({"result": {}}), "another call"),
            (json!({"id": null, "error": {"code": -32700, "message": "what?"}}), "error -32700: what?"),
            (json!({"id": 7}), "neither result nor error"),
            (json!({"id": 7, "result": {}, "error": {"code": 1, "message": "no"}}), "or both"),
            (json!({"id": 7, "error": "no"}), "makes no sense"),
            (json!([{"id": 7, "result": {}}]), "makes no sense"),
            (json!("hello"), "makes no sense"),
        ];
        for (message, cause) in refused {
            let told = heard(message.clone(), Some(7)).expect_err("it is no answer");
            assert!(told.cause.contains(cause), "{message}: {}", told.cause);
            assert_eq!((told.failure, told.unsent), (Failure::Protocol, false));
        }
        // Who waits for no answer takes none.
        assert!(heard(json!({"id": 0, "result": {}}), None).is_err());
    }

    #[test]
    fn what_is_no_answer_is_told_apart_by_its_method() {
        let changed = json!({"method": "notifications/tools/list_changed"});
        assert!(matches!(heard(changed.clone(), None), Ok(Heard::ToolsChanged)));
        assert!(matches!(heard(changed, Some(7)), Ok(Heard::ToolsChanged)));
        for message in [json!({"method": "notifications/progress", "params": {}}), json!({"id": 7, "method": "ping"})] {
            assert!(matches!(heard(message, Some(7)), Ok(Heard::Other)));
        }
    }

    #[test]
    fn blocks_are_shown_one_below_the_other() {
        let content = json!([
            {"type": "text", "text": "one\ntwo"},
            {"type": "image", "data": "AAA=", "mimeType": "image/png"},
            {"type": "audio", "data": "AA==", "mimeType": "audio/wav"},
            {"type": "resource", "resource": {"uri": "file:///a", "text": "inside"}},
            {"type": "resource", "resource": {"uri": "file:///b", "blob": "AAAAAA=="}},
            {"type": "resource_link", "uri": "file:///c", "name": "see\nthis"},
        ]);
        let expected = "one\ntwo\n[image image/png, 2 bytes]\n[audio audio/wav, 1 bytes]\n[resource file:///a]\ninside\n\
                        [resource file:///b, 4 bytes]\n[resource see this at file:///c]";
        assert_eq!(answered(json!({ "content": content })), (true, expected.to_owned(), String::new(), vec![]));
        let failed = answered(json!({"content": [{"type": "text", "text": "no"}], "isError": true}));
        assert_eq!(failed, (false, "no".to_owned(), "no".to_owned(), vec![]));
    }

    #[test]
    fn structured_content_is_the_output_only_where_there_is_no_other() {
        let content = json!([{"type": "text", "text": "n is 1"}]);
        let (_, output, _, metadata) = answered(json!({"content": content, "structuredContent": {"n": 1}}));
        assert_eq!((&*output, metadata), ("n is 1", vec![("structured_content".to_owned(), json!({"n": 1}))]));
        let (_, output, _, metadata) = answered(json!({"content": [], "structuredContent": {"n": 1}}));
        assert_eq!((&*output, metadata), (r#"{"n":1}"#, vec![]));
    }

    #[test]
    fn an_error_is_the_models_only_where_it_asked_for_what_there_is_not() {
        let error = |code| end(Err(ErrorData::new(ErrorCode(code), "no", None)));
        for code in [-32601, -32602] {
            let Ok(ExternalEnd::Answered { success: false, error, metadata, .. }) = error(code) else {
                panic!("{code} is an answer")
            };
            assert_eq!((&*error, metadata), ("no", vec![("jsonrpc_error".to_owned(), json!(code))]));
        }
        for code in [-32603, -32700, -32600, 1] {
            let unanswered = error(code).expect_err("nobody knows whether it ran");
            assert_eq!((unanswered.failure, unanswered.unsent), (Failure::Protocol, false));
        }
        let unanswered = ended(json!({"content": "no list"})).expect_err("it makes no sense");
        assert!(unanswered.cause.contains("makes no sense"), "{}", unanswered.cause);
    }

    #[test]
    fn a_schema_has_what_was_listed_and_nothing_that_was_not() {
        let listed = json!({"name": "n", "description": "d", "inputSchema": {"type": "object"}, "title": "t"});
        let parameters = json!({"type": "object"});
        let function = json!({"name": "n", "description": "d", "parameters": parameters});
        assert_eq!(schema(&listed), json!({"type": "function", "function": function}));
        let bare = schema(&json!({"name": "n", "description": null}));
        assert_eq!(bare, json!({"type": "function", "function": {"name": "n"}}));
        // The registry refuses it, and says why.
        assert_eq!(schema(&json!(3)), json!({"type": "function", "function": {"name": null}}));
    }

    #[test]
    fn a_call_is_asked_with_its_arguments_as_they_were_given() {
        let request = |arguments: &str| Request {
            trajectory_id: "t".to_owned(),
            call_id: CallId::parse("c").expect("an id"),
            call: ExternalCall { source: "s".into(), tool: "n".to_owned(), arguments: arguments.to_owned() },
            timeout: Duration::from_secs(1),
        };
        let params = super::params(&request(r#"{"b": 1, "a": [2.50]}"#)).expect("they can be sent");
        let meta = json!({"tool-executor/trajectory_id": "t", "tool-executor/call_id": "c"});
        assert_eq!(params, json!({"name": "n", "arguments": {"b": 1, "a": [2.5]}, "_meta": meta}));
        let unsent = super::params(&request("[1]")).expect_err("they are no object");
        assert!(unsent.unsent, "it has surely not run");
    }

    #[test]
    fn names_are_one_bounded_line() {
        assert_eq!(named("a\r\nb\u{1b}[1m"), "a  b [1m");
        assert_eq!(named(&"ä".repeat(1000)).chars().count(), MAX_NAMED);
    }
}
