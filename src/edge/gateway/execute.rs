//! `POST /execute`: runs one tool call.

use std::time::Duration;

use axum::{
    Json,
    extract::{Query, Request, State},
    http::Uri,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value, value::RawValue};

use super::{
    super::{parse::Parser, trace::trace_parent},
    Gateway, digest,
    field::{Fault, Faults, Field},
    refusal::Refusal,
    trajectory_key,
};
use crate::{
    id::CallId,
    pb::toolexecutor::{ToolCall, tool_call::Arguments},
    tool::{ActionHash, CallResult, Outcome},
    trajectory,
};

/// The longest timeout that is told apart, far above any maximum that a service sets.
const LONGEST_TIMEOUT_S: f64 = 1e9;

/// The body of a request.
#[derive(Debug, PartialEq)]
struct Execute {
    trajectory_id: String,
    name: String,
    /// An object's text: the tool's own schema rules what is in it.
    arguments: Option<String>,
    uniq_id: String,
    timeout_s: Option<f64>,
}

/// The answer, in the order in which the old system wrote it.
#[derive(Serialize)]
struct ToolResult<'a> {
    success: bool,
    output: &'a str,
    error: &'a str,
    metadata: Map<String, Value>,
    uniq_id: &'a str,
}

pub(super) async fn execute(State(gateway): State<Gateway>, request: Request) -> Result<Response, Refusal> {
    let uri = request.uri().clone();
    let trace = trace_parent(request.headers());
    let (tenant, body) = gateway.admit(request).await?;
    let execute = Execute::parse(&body, &uri).map_err(Refusal::Unprocessable)?;
    // It may be large, and the call long.
    drop(body);
    let key = trajectory_key(tenant, &execute.trajectory_id);
    let uniq_id = execute.uniq_id.clone();
    let call = execute.into_call(&gateway.parser);
    let options = gateway.parser.options(None, "options").map_err(|_| Refusal::Internal)?;
    // The trajectory's own task runs it: the client may go away, and come again for the answer.
    let answer = gateway.directory.execute(key, call, options, false, trace).await?;
    match Refusal::of(&answer.result) {
        Some(refusal) => Err(refusal),
        None => Ok(respond(&answer.result, &uniq_id)),
    }
}

impl Execute {
    fn parse(body: &RawValue, uri: &Uri) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults::default();
        let sound_query = faults.take(status_code(uri));
        let members = [&["body", "trajectory_id"][..], &["body", "tool"], &["body", "timeout_s"]];
        let Some([id, tool, timeout]) = faults.take(Field::body(body).members(members)) else {
            return Err(faults.all());
        };
        let id = faults.take(id.text());
        let members = [&["body", "tool", "name"][..], &["body", "tool", "arguments"], &["body", "tool", "uniq_id"]];
        let tool = faults.take(tool.members(members)).map(|[name, arguments, uniq_id]| {
            (faults.take(name.text()), faults.take(arguments.object_if_any()), faults.take(uniq_id.text()))
        });
        let timeout = faults.take(timeout.number_if_any());
        match (sound_query, id, tool, timeout) {
            (Some(()), Some(trajectory_id), Some((Some(name), Some(arguments), Some(uniq_id))), Some(timeout_s)) => {
                let arguments = arguments.map(|arguments| arguments.get().to_owned());
                Ok(Self { trajectory_id, name, arguments, uniq_id, timeout_s })
            }
            _ => Err(faults.all()),
        }
    }

    fn into_call(self, parser: &Parser) -> trajectory::Call {
        let arguments = self.arguments.map(Arguments::ArgumentsJson);
        let (tool, work, own_timeout) = parser.tool(ToolCall { name: self.name, arguments });
        trajectory::Call {
            id: call_id(&self.uniq_id, work.as_ref().ok().map(|work| work.action)),
            tool,
            work,
            timeout: self.timeout_s.map(seconds).or(own_timeout),
            stream_output: false,
            concurrent: false,
        }
    }
}

/// Old clients were never told to keep a `uniq_id` for one call: together with what it asks for it names the call, so
/// that the same request again is answered from what is stored, and another one under the same `uniq_id` runs. Without a
/// `uniq_id`, and for a call that has no meaning and is refused, every request is a new call.
fn call_id(uniq_id: &str, action: Option<ActionHash>) -> CallId {
    match action {
        Some(ActionHash(hash)) if !uniq_id.is_empty() => {
            let hash = u128::from_be_bytes(hash);
            let name = |uniq_id: &str| CallId::parse(&format!("{uniq_id}#{hash:032x}"));
            name(uniq_id).or_else(|_| name(&digest(uniq_id))).unwrap_or_else(|_| CallId::random())
        }
        _ => CallId::random(),
    }
}

/// A client's number of seconds. Whoever runs the call holds it to the service's own bounds.
fn seconds(number: f64) -> Duration {
    // NaN stays NaN, and is no duration.
    Duration::try_from_secs_f64(number.clamp(0.0, LONGEST_TIMEOUT_S)).unwrap_or(Duration::ZERO)
}

fn respond(result: &CallResult, uniq_id: &str) -> Response {
    Json(ToolResult {
        success: result.outcome == Outcome::Succeeded,
        output: &result.output,
        error: &result.error,
        metadata: result.metadata.iter().map(|(name, value)| (name.to_owned(), value.clone())).collect(),
        uniq_id,
    })
    .into_response()
}

/// The old system had this parameter by accident. It meant nothing, but had to be a number.
fn status_code(uri: &Uri) -> Result<(), Fault> {
    const NAME: &str = "status_code";
    let query = Query::<Vec<(String, String)>>::try_from_uri(uri).map(|Query(pairs)| pairs).unwrap_or_default();
    match query.iter().rfind(|(name, _)| name == NAME) {
        Some((_, value)) if !is_integer(value) => Err(Fault::no_integer(&["query", NAME], value)),
        _ => Ok(()),
    }
}

/// Whether Pydantic reads the text as an integer.
fn is_integer(text: &str) -> bool {
    let text = text.trim();
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    whole.split('_').all(digits) && !fraction.is_empty() && fraction.bytes().all(|byte| byte == b'0')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse_at(uri: &str, json: &str) -> Result<Execute, Value> {
        let body: &RawValue = serde_json::from_str(json).expect("it is JSON");
        let parsed = Execute::parse(body, &uri.parse().expect("it is a path"));
        parsed.map_err(|faults| serde_json::to_value(faults).expect("it is JSON"))
    }

    fn parse(json: &str) -> Result<Execute, Value> {
        parse_at("/execute", json)
    }

    fn fault(kind: &str, loc: &[&str], message: &str, input: Value) -> Value {
        json!({"type": kind, "loc": loc, "msg": message, "input": input})
    }

    #[test]
    fn a_request_has_what_it_needs() {
        let execute =
            parse(r#"{"trajectory_id":"t","tool":{"name":"bash","arguments":{"a":1e0},"uniq_id":"u"},"x":1}"#);
        let whole = Execute {
            trajectory_id: "t".into(),
            name: "bash".into(),
            arguments: Some(r#"{"a":1e0}"#.into()),
            uniq_id: "u".into(),
            timeout_s: None,
        };
        assert_eq!(execute, Ok(whole));
        let bare = parse(r#"{"trajectory_id":"","tool":{"name":"","uniq_id":""},"timeout_s":null}"#);
        assert_eq!(bare.map(|execute| (execute.arguments, execute.timeout_s)), Ok((None, None)));
        let twice = parse(r#"{"trajectory_id":1,"tool":2,"tool":{"name":"n","uniq_id":"u"},"trajectory_id":"t"}"#);
        assert_eq!(twice.map(|execute| execute.trajectory_id), Ok("t".into()), "the last of two equal keys counts");
    }

    #[test]
    fn every_fault_is_told_in_order() {
        let (no_object, no_text) =
            ("Input should be a valid dictionary or object to extract fields from", "Input should be a valid string");
        let missing = "Field required";
        let [id, tool, timeout] = [&["body", "trajectory_id"], &["body", "tool"], &["body", "timeout_s"]];
        let [name, arguments, uniq_id] =
            [&["body", "tool", "name"], &["body", "tool", "arguments"], &["body", "tool", "uniq_id"]];
        for (body, faults) in [
            ("{}", json!([fault("missing", id, missing, json!({})), fault("missing", tool, missing, json!({}))])),
            ("[]", json!([fault("model_attributes_type", &["body"], no_object, json!([]))])),
            ("5", json!([fault("model_attributes_type", &["body"], no_object, json!(5))])),
            (
                r#"{"trajectory_id":1,"tool":2,"timeout_s":[]}"#,
                json!([
                    fault("string_type", id, no_text, json!(1)),
                    fault("model_attributes_type", tool, no_object, json!(2)),
                    fault("float_type", timeout, "Input should be a valid number", json!([])),
                ]),
            ),
            (
                r#"{"trajectory_id":"t","tool":{}}"#,
                json!([fault("missing", name, missing, json!({})), fault("missing", uniq_id, missing, json!({}))]),
            ),
            (
                r#"{"trajectory_id":"t","tool":{"name":1,"arguments":null,"uniq_id":true}}"#,
                json!([
                    fault("string_type", name, no_text, json!(1)),
                    fault("dict_type", arguments, "Input should be a valid dictionary", json!(null)),
                    fault("string_type", uniq_id, no_text, json!(true)),
                ]),
            ),
        ] {
            assert_eq!(parse(body), Err(faults), "{body}");
        }
    }

    #[test]
    fn whatever_can_be_read_as_a_number_is_a_timeout() {
        let timeout = |text: &str| {
            let body = format!(r#"{{"trajectory_id":"t","tool":{{"name":"n","uniq_id":"u"}},"timeout_s":{text}}}"#);
            parse(&body).map(|execute| execute.timeout_s.map(seconds))
        };
        for (text, seconds) in [
            ("5", 5.0),
            ("0.5", 0.5),
            ("-5", 0.0),
            ("true", 1.0),
            (r#""5""#, 5.0),
            (r#"" 5.5 ""#, 5.5),
            (r#""1e3""#, 1000.0),
            (r#""1_0""#, 10.0),
            (r#""+.5""#, 0.5),
            (r#""nan""#, 0.0),
            (r#""-Infinity""#, 0.0),
            ("1e400", LONGEST_TIMEOUT_S),
        ] {
            assert_eq!(timeout(text), Ok(Some(Duration::from_secs_f64(seconds))), "{text}");
        }
        assert_eq!(timeout("null"), Ok(None));
        for (text, kind) in [
            (r#""""#, "float_parsing"),
            (r#""0x10""#, "float_parsing"),
            (r#""1__0""#, "float_parsing"),
            (r#""_1""#, "float_parsing"),
            ("{}", "float_type"),
        ] {
            assert_eq!(timeout(text).expect_err("it is none")[0]["type"], kind, "{text}");
        }
    }

    #[test]
    fn the_parameter_that_means_nothing_must_be_a_number() {
        let body = r#"{"trajectory_id":"t","tool":{"name":"n","uniq_id":"u"}}"#;
        for query in [
            "",
            "status_code=5",
            "status_code=+5.00+",
            "status_code=1_0",
            "status_code=-05",
            "status_code=x&status_code=5",
            "x",
        ] {
            assert!(parse_at(&format!("/execute?{query}"), body).is_ok(), "{query}");
        }
        let text = "Input should be a valid integer, unable to parse string as an integer";
        for value in ["", "abc", "5.", "5.5", "1e3", "--5", "1__0", "0x5", "true"] {
            let faults = json!([fault("int_parsing", &["query", "status_code"], text, json!(value))]);
            assert_eq!(parse_at(&format!("/execute?status_code=1&status_code={value}"), body), Err(faults));
        }
        let both = parse_at("/execute?status_code=x", "{}").expect_err("it is bad");
        let kinds: Vec<_> = both.as_array().expect("a list").iter().map(|fault| fault["type"].clone()).collect();
        assert_eq!(kinds, ["int_parsing", "missing", "missing"]);
    }

    #[test]
    fn a_call_is_named_by_its_uniq_id_and_what_it_asks_for() {
        let (one, other) = (Some(ActionHash([1; 16])), Some(ActionHash([2; 16])));
        assert_eq!(call_id("u", one).as_str(), format!("u#{}", "01".repeat(16)));
        assert_ne!(call_id("u", one), call_id("u", other));
        assert_ne!(call_id("u", one), call_id("v", one));
        let long = "é".repeat(1_000);
        assert_eq!(call_id(&long, one), call_id(&long, one));
        assert_ne!(call_id(&long, one), call_id(&long[2..], one));
        assert_ne!(call_id("", one), call_id("", one), "nothing names it");
        assert_ne!(call_id("u", None), call_id("u", None));
    }
}
