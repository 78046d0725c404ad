//! A tool's arguments: parsed from what a client sent, and checked against the tool's schema. Nothing here trusts
//! the text: its depth, the number of its values and the length of every answer are bounded.

use jsonschema::{
    ValidationError, Validator,
    error::{TypeKind, ValidationErrorKind},
};
use serde_json::{Map, Value};

use super::text;

/// A tool's arguments as they were sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Arguments {
    /// JSON text, as a model wrote it.
    Json(String),
    Struct(Map<String, Value>),
}

/// The most values that arguments may have: a value in memory is some ten times as large as its text, so a request's
/// size alone would not bound it.
const MAX_VALUES: usize = 100_000;

/// Faults of one call that are told; the first is usually enough.
const MAX_FAULTS: usize = 4;

/// Policy belongs to the service, never to a model: these are dropped wherever they come from.
const POLICY: [&str; 3] = ["allow_network", "require_sandbox", "require_stateful_sandbox"];

/// The arguments as an object, without policy fields; or what is wrong with them, and where.
pub(super) fn parse(arguments: Arguments) -> Result<Map<String, Value>, String> {
    let mut object = match arguments {
        Arguments::Json(json) => parse_json(&json)?,
        Arguments::Struct(object) => {
            let mut left = MAX_VALUES;
            if !object.values().all(|value| count(value, &mut left)) {
                return Err(too_many_values());
            }
            object
        }
    };
    for field in POLICY {
        // Not `remove`, which would move the last key to its place.
        object.shift_remove(field);
    }
    Ok(object)
}

fn parse_json(json: &str) -> Result<Map<String, Value>, String> {
    if values_at_most(json) > MAX_VALUES {
        return Err(too_many_values());
    }
    // serde_json refuses to go deeper than 128 levels.
    match serde_json::from_str(json) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(format!("must be a JSON object, and {} was given", type_name(&other))),
        Err(error) => Err(format!("not JSON: {error}")),
    }
}

fn too_many_values() -> String {
    format!("more than {MAX_VALUES} values")
}

/// An upper bound of the number of values in JSON text, without parsing it: every value but the first follows a
/// comma, a colon or an opening bracket that stands outside strings.
fn values_at_most(json: &str) -> usize {
    let (mut count, mut in_string, mut escaped) = (1, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

/// Counts down; false once there are more values than were left.
fn count(value: &Value, left: &mut usize) -> bool {
    let Some(fewer) = left.checked_sub(1) else { return false };
    *left = fewer;
    match value {
        Value::Array(items) => items.iter().all(|item| count(item, left)),
        Value::Object(object) => object.values().all(|item| count(item, left)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Checks against the schema; the message names each argument that does not fit.
pub(super) fn check(validator: &Validator, arguments: &Value) -> Result<(), String> {
    let faults: Vec<String> = validator.iter_errors(arguments).take(MAX_FAULTS).map(|error| fault(&error)).collect();
    if faults.is_empty() { Ok(()) } else { Err(text::cut(&faults.join("; "), text::MAX_ERROR_BYTES)) }
}

fn fault(error: &ValidationError<'_>) -> String {
    let path = error.instance_path().as_str();
    let place = path.strip_prefix('/').unwrap_or(path).replace('/', ".");
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            let property = property.as_str().unwrap_or_default();
            let place = if place.is_empty() { property.to_owned() } else { format!("{place}.{property}") };
            format!("{place}: is required")
        }
        ValidationErrorKind::Type { kind: TypeKind::Single(wanted) } => {
            let wanted = wanted.to_string();
            let article = if wanted.starts_with(['a', 'i', 'o']) { "an" } else { "a" };
            format!("{place}: must be {article} {wanted}, and {} was given", type_name(error.instance()))
        }
        // The value itself is left out: it may be as long as a request.
        _ => format!("{place}: {}", error.masked_with("it")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn json(text: &str) -> Result<Map<String, Value>, String> {
        parse(Arguments::Json(text.into()))
    }

    #[test]
    fn text_that_is_not_an_object_says_where() {
        assert_eq!(json("").unwrap_err(), "not JSON: EOF while parsing a value at line 1 column 0");
        assert_eq!(json("{\"a\": 1,\n}").unwrap_err(), "not JSON: trailing comma at line 2 column 1");
        assert_eq!(json("{} x").unwrap_err(), "not JSON: trailing characters at line 1 column 4");
        assert_eq!(json("[1]").unwrap_err(), "must be a JSON object, and an array was given");
        assert_eq!(json("null").unwrap_err(), "must be a JSON object, and null was given");
    }

    #[test]
    fn depth_and_count_are_bounded() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(50_000), "]".repeat(50_000));
        assert!(json(&deep).unwrap_err().contains("recursion limit"));
        let many = format!("{{\"a\":[{}0]}}", "0,".repeat(MAX_VALUES));
        assert_eq!(json(&many).unwrap_err(), "more than 100000 values");
        let Value::Object(many) = json!({"a": vec![0; MAX_VALUES]}) else { unreachable!() };
        assert_eq!(parse(Arguments::Struct(many)).unwrap_err(), "more than 100000 values");
    }

    #[test]
    fn a_long_string_is_one_value() {
        let text = format!("{{\"content\":\"{}\"}}", "\\\",[{".repeat(200_000));
        assert_eq!(json(&text).unwrap()["content"].as_str().unwrap().len(), 800_000);
    }

    #[test]
    fn the_last_of_two_equal_keys_counts() {
        assert_eq!(json(r#"{"a":1,"a":2}"#).unwrap()["a"], 2);
    }

    #[test]
    fn policy_fields_are_dropped() {
        let arguments = json(r#"{"allow_network":true,"b":1,"require_sandbox":false,"a":2}"#).unwrap();
        assert_eq!(arguments.keys().collect::<Vec<_>>(), ["b", "a"]);
    }
}
