//! What a result tells beside its outcome, by the old system's names.

use std::borrow::Cow;

use serde_json::Value;

/// A short list in the order in which it was told: results are kept by the thousand, and a map is many times as large.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(Vec<(Cow<'static, str>, Value)>);

impl Metadata {
    /// Each name once.
    #[must_use]
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Value>) -> Self {
        self.0.push((name.into(), value.into()));
        self
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    /// About how much memory keeping it takes beside its own, in bytes.
    pub(super) fn retained_bytes(&self) -> usize {
        let value = |value: &Value| match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.len(),
            // Of a tool that is not ours. In memory it is a few times as large as its text.
            Value::Array(_) | Value::Object(_) => 4 * value.to_string().len(),
        };
        let texts = self.0.iter().map(|(name, told)| match name {
            Cow::Borrowed(_) => value(told),
            Cow::Owned(name) => name.len() + value(told),
        });
        self.0.capacity() * size_of::<(Cow<'_, str>, Value)>() + texts.sum::<usize>()
    }
}

#[cfg(test)]
impl std::ops::Index<&str> for Metadata {
    type Output = Value;

    fn index(&self, name: &str) -> &Value {
        self.iter().find(|(known, _)| *known == name).map_or(&Value::Null, |(_, value)| value)
    }
}
