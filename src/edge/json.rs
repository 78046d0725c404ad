//! Protobuf's Struct, which is JSON in another coat.

use prost_types::{ListValue, Struct, Value as Field, value::Kind};
use serde_json::{Map, Number, Value};

pub(super) fn object(fields: Struct) -> Map<String, Value> {
    fields.fields.into_iter().map(|(name, field)| (name, value(field))).collect()
}

fn value(field: Field) -> Value {
    match field.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(number)) => number_value(number),
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::BoolValue(flag)) => Value::Bool(flag),
        Some(Kind::StructValue(fields)) => Value::Object(object(fields)),
        Some(Kind::ListValue(list)) => Value::Array(list.values.into_iter().map(value).collect()),
    }
}

/// A Struct's numbers are all doubles: one without a fraction was an integer to whoever wrote it.
fn number_value(number: f64) -> Value {
    /// Up to here every integer is a double of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        return Value::Number(Number::from(number as i64));
    }
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

pub(super) fn fields<'a>(object: impl IntoIterator<Item = (impl Into<String>, &'a Value)>) -> Struct {
    Struct { fields: object.into_iter().map(|(name, value)| (name.into(), field(value))).collect() }
}

fn field(value: &Value) -> Field {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(*flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(values) => Kind::ListValue(ListValue { values: values.iter().map(field).collect() }),
        Value::Object(object) => Kind::StructValue(fields(object)),
    };
    Field { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_survives_the_way_there_and_back() {
        let text = r#"{"a":1,"b":[true,null,"x",1.5],"c":{"d":-7}}"#;
        let Value::Object(object) = serde_json::from_str(text).expect("it is JSON") else { panic!("it is an object") };
        assert_eq!(super::object(fields(&object)), object);
    }
}
