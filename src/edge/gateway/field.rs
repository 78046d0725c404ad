//! The fields of a request's body, read as Pydantic reads them, and what FastAPI says of those that do not fit: the old
//! system was made with these, and its clients know no other words. A value stays text until it is wanted, so that a
//! body in memory is not larger than what was sent.

use std::fmt;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{
    Deserializer, Serialize,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::{RawValue, to_raw_value};

/// The names that lead to a field, its own the last.
pub(super) type Place = &'static [&'static str];

/// One fault of a request.
#[derive(Debug, Serialize)]
pub(super) struct Fault {
    #[serde(rename = "type")]
    kind: &'static str,
    loc: Vec<Step>,
    msg: &'static str,
    /// What was sent there.
    input: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ctx: Option<Context>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Step {
    Name(&'static str),
    /// How many characters of the text stand before.
    Position(usize),
}

#[derive(Debug, Serialize)]
struct Context {
    error: String,
}

impl Fault {
    fn new(kind: &'static str, place: Place, msg: &'static str, input: Box<RawValue>) -> Self {
        Self { kind, loc: place.iter().copied().map(Step::Name).collect(), msg, input, ctx: None }
    }

    pub(super) fn no_body() -> Self {
        Self::new("missing", &["body"], "Field required", RawValue::NULL.to_owned())
    }

    /// `error`: what the parser of this text said.
    pub(super) fn not_json(text: &str, error: &serde_json::Error) -> Self {
        let said = error.to_string();
        let words = said.split_once(" at line ").map_or(&*said, |(words, _)| words);
        Self {
            loc: vec![Step::Name("body"), Step::Position(position(text, error))],
            ctx: Some(Context { error: words.to_owned() }),
            ..Self::new("json_invalid", &[], "JSON decode error", raw(&serde_json::Map::new()))
        }
    }

    /// Of a parameter of the query.
    pub(super) fn no_integer(place: Place, text: &str) -> Self {
        let message = "Input should be a valid integer, unable to parse string as an integer";
        Self::new("int_parsing", place, message, raw(text))
    }

    /// The answer to a request that has these.
    pub(super) fn response(faults: &[Self]) -> Response {
        #[derive(Serialize)]
        struct Detail<'a> {
            detail: &'a [Fault],
        }
        (StatusCode::UNPROCESSABLE_ENTITY, Json(Detail { detail: faults })).into_response()
    }
}

fn raw(value: &(impl Serialize + ?Sized)) -> Box<RawValue> {
    to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn position(text: &str, error: &serde_json::Error) -> usize {
    if error.is_eof() {
        return text.chars().count();
    }
    let before = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum::<usize>();
    let bytes = before + error.column().saturating_sub(1);
    text[..text.floor_char_boundary(bytes)].chars().count()
}

/// All that is wrong with a request, in the order of its fields.
#[derive(Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    /// What is fit, and otherwise a fault more.
    pub(super) fn take<T>(&mut self, read: Result<T, Fault>) -> Option<T> {
        read.map_err(|fault| self.0.push(fault)).ok()
    }

    pub(super) fn all(self) -> Vec<Fault> {
        self.0
    }
}

/// One place of a body, and what was sent there, if anything was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    place: Place,
    value: Option<&'a RawValue>,
    /// Whose field it is.
    parent: &'a RawValue,
}

impl<'a> Field<'a> {
    pub(super) fn body(body: &'a RawValue) -> Self {
        Self { place: &["body"], value: Some(body), parent: body }
    }

    /// The fields of an object at these places. Others are ignored; the last of two with the same name counts.
    pub(super) fn members<const N: usize>(self, places: [Place; N]) -> Result<[Self; N], Fault> {
        let object = self.required()?;
        let message = "Input should be a valid dictionary or object to extract fields from";
        let no_object = || self.fault("model_attributes_type", message, object);
        if Type::of(object) != Type::Object {
            return Err(no_object());
        }
        let names = places.map(|place| place.last().copied().unwrap_or_default());
        // The text is known to be JSON, but a name may still be no Unicode.
        let mut text = serde_json::Deserializer::from_str(object.get());
        let values = text.deserialize_map(Members(names)).map_err(|_| no_object())?;
        let mut values = values.into_iter();
        Ok(places.map(|place| Self { place, value: values.next().flatten(), parent: object }))
    }

    pub(super) fn text(self) -> Result<String, Fault> {
        let value = self.required()?;
        match Type::of(value) {
            Type::Text => serde_json::from_str(value.get()).map_err(|_| {
                let message = "Input should be a valid string, unable to parse raw data as a unicode string";
                self.fault("string_unicode", message, value)
            }),
            _ => Err(self.fault("string_type", "Input should be a valid string", value)),
        }
    }

    pub(super) fn text_or(self, default: &str) -> Result<String, Fault> {
        if self.value.is_none() { Ok(default.to_owned()) } else { self.text() }
    }

    /// One of these texts, of which the first is the default; `message` names them.
    pub(super) fn one_of<const N: usize>(
        self,
        choices: [&'static str; N],
        message: &'static str,
    ) -> Result<&'static str, Fault> {
        let Some(value) = self.value else { return Ok(choices[0]) };
        let chosen = self.text().ok().and_then(|text| choices.into_iter().find(|choice| *choice == text));
        chosen.ok_or_else(|| self.fault("literal_error", message, value))
    }

    /// The text of an object, if there is one.
    pub(super) fn object_if_any(self) -> Result<Option<&'a RawValue>, Fault> {
        match self.value {
            Some(value) if Type::of(value) != Type::Object => {
                Err(self.fault("dict_type", "Input should be a valid dictionary", value))
            }
            value => Ok(value),
        }
    }

    /// Null is none. May be infinite, or no number at all.
    pub(super) fn number_if_any(self) -> Result<Option<f64>, Fault> {
        let Some(value) = self.value else { return Ok(None) };
        let no_number = || self.fault("float_type", "Input should be a valid number", value);
        match Type::of(value) {
            Type::Null => Ok(None),
            Type::Flag => Ok(Some(f64::from(value.get() == "true"))),
            Type::Number => match value.get().parse::<f64>() {
                // Only an integer can be too large to be a number.
                Ok(number) if number.is_finite() || !is_whole(value) => Ok(Some(number)),
                _ => Err(no_number()),
            },
            Type::Text => {
                let text = self.text()?;
                number(&text).map(Some).ok_or_else(|| {
                    let message = "Input should be a valid number, unable to parse string as a number";
                    self.fault("float_parsing", message, value)
                })
            }
            Type::List | Type::Object => Err(no_number()),
        }
    }

    pub(super) fn flag_or(self, default: bool) -> Result<bool, Fault> {
        let Some(value) = self.value else { return Ok(default) };
        let text = match Type::of(value) {
            Type::Flag => value.get().to_owned(),
            Type::Number if is_whole(value) => value.get().to_owned(),
            // 1.0 is 1, but 0.5 is nothing.
            Type::Number => value.get().parse::<f64>().map(|number| number.to_string()).unwrap_or_default(),
            Type::Text => self.text()?.to_lowercase(),
            Type::Null | Type::List | Type::Object => String::new(),
        };
        match &*text {
            "1" | "true" | "t" | "yes" | "y" | "on" => Ok(true),
            "0" | "false" | "f" | "no" | "n" | "off" => Ok(false),
            _ if Type::of(value) == Type::Text || is_whole(value) => {
                let message = "Input should be a valid boolean, unable to interpret input";
                Err(self.fault("bool_parsing", message, value))
            }
            _ => Err(self.fault("bool_type", "Input should be a valid boolean", value)),
        }
    }

    fn required(self) -> Result<&'a RawValue, Fault> {
        self.value.ok_or_else(|| self.fault("missing", "Field required", self.parent))
    }

    fn fault(self, kind: &'static str, message: &'static str, input: &RawValue) -> Fault {
        Fault::new(kind, self.place, message, input.to_owned())
    }
}

/// What kind of JSON a text is, which its first character says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Null,
    Flag,
    Number,
    Text,
    List,
    Object,
}

impl Type {
    fn of(value: &RawValue) -> Self {
        match value.get().as_bytes().first() {
            Some(b'{') => Self::Object,
            Some(b'[') => Self::List,
            Some(b'"') => Self::Text,
            Some(b't' | b'f') => Self::Flag,
            Some(b'n') => Self::Null,
            _ => Self::Number,
        }
    }
}

/// A number without fraction and exponent.
fn is_whole(value: &RawValue) -> bool {
    Type::of(value) == Type::Number && !value.get().contains(['.', 'e', 'E'])
}

/// A number as text, which may have white space around it and underscores between its digits.
fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let misplaced = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    if misplaced { None } else { text.replace('_', "").parse().ok() }
}

/// The values of these names, still as text.
struct Members<const N: usize>([&'static str; N]);

impl<'de, const N: usize> Visitor<'de> for Members<N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = [None; N];
        while let Some(name) = map.next_key::<String>()? {
            match self.0.iter().position(|known| *known == name) {
                Some(index) => values[index] = Some(map.next_value()?),
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn not_json(text: &str) -> Value {
        let error = serde_json::from_str::<&RawValue>(text).expect_err("it is not JSON");
        serde_json::to_value(Fault::not_json(text, &error)).expect("it is JSON")
    }

    #[test]
    fn text_that_is_not_json_says_where() {
        let whole = json!({
            "type": "json_invalid",
            "loc": ["body", 5],
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": "expected value"},
        });
        assert_eq!(not_json("{\"a\":}"), whole);
        for (text, position) in [
            ("{\"é\":}", 5),
            ("{\n \"a\":}", 7),
            ("{\"a\":NaN}", 5),
            ("{\"a\" 1}", 5),
            ("{\"a\":1,}", 7),
            ("[1 2]", 3),
            ("{} x", 3),
            ("{\"é\":1", 6),
        ] {
            assert_eq!(not_json(text)["loc"][1], position, "{text}");
        }
    }

    fn told<T: fmt::Debug>(read: Result<T, Fault>) -> String {
        serde_json::to_string(&read.expect_err("it does not fit")).expect("it is JSON")
    }

    #[test]
    fn what_no_value_can_hold_is_told_as_it_was_sent() {
        let huge = "9".repeat(400);
        let text = format!(r#"{{"half":"\ud800","huge":{huge}}}"#);
        let body: &RawValue = serde_json::from_str(&text).expect("it is JSON");
        let places = [&["body", "half"], &["body", "huge"]];
        let [half, number] = Field::body(body).members(places.map(|place| &place[..])).expect("it is an object");
        let fault = told(half.text());
        assert!(fault.contains(r#""type":"string_unicode""#) && fault.ends_with(r#""input":"\ud800"}"#), "{fault}");
        let fault = told(number.number_if_any());
        assert!(fault.contains(r#""type":"float_type""#) && fault.ends_with(&format!("\"input\":{huge}}}")), "{fault}");
    }

    #[test]
    fn depth_is_not_looked_into() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let body: &RawValue = serde_json::from_str(&deep).expect("it is JSON");
        let [field] = Field::body(body).members([&["body", "a"]]).expect("it is an object");
        let fault = field.object_if_any().expect_err("it is none");
        assert_eq!(Fault::response(&[fault]).status(), StatusCode::UNPROCESSABLE_ENTITY);
    }

    proptest! {
        #[test]
        fn no_text_crashes_it(text in r#"[\[\]{}",:0-9eE.\-tfnul\\é ]{0,40}"#) {
            match serde_json::from_str::<&RawValue>(&text) {
                Err(error) => {
                    let fault = serde_json::to_value(Fault::not_json(&text, &error)).expect("it is JSON");
                    prop_assert!(fault["loc"][1].as_u64() <= Some(text.chars().count() as u64));
                }
                Ok(body) => {
                    let field = Field::body(body);
                    let _ = (field.text(), field.number_if_any(), field.flag_or(true), field.object_if_any());
                    let _ = field.members([&["body", "a"]]);
                }
            }
        }
    }
}
