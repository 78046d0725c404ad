//! A call, before it goes out.

use bytes::Bytes;
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::error::ApiError;

/// What the same call twice does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Read,
    /// A read whose caller comes back anyway.
    Blocking,
    /// A write that is the same twice as once.
    Repeatable,
    /// A write that loses against itself.
    Compared,
    /// A write that does it twice.
    Once,
}

/// One kind of call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    /// For messages.
    pub(super) name: &'static str,
    /// What a token needs for it.
    pub(super) capability: Option<&'static str>,
    pub(super) effect: Effect,
}

impl Call {
    pub(super) fn writes(&self) -> bool {
        match self.effect {
            Effect::Read | Effect::Blocking => false,
            Effect::Repeatable | Effect::Compared | Effect::Once => true,
        }
    }

    pub(super) fn malformed(&self, text: impl Into<String>) -> ApiError {
        ApiError::Malformed { call: self.name, text: text.into() }
    }

    pub(super) fn decode<T: DeserializeOwned>(&self, json: &[u8]) -> Result<T, ApiError> {
        serde_json::from_slice(json).map_err(|error| {
            // Its own text may quote what it read.
            let what = match error.classify() {
                Category::Io | Category::Eof => "it is cut",
                Category::Syntax => "it is not JSON",
                Category::Data => "a part of it is of another kind",
            };
            self.malformed(format!("{what} (line {}, column {})", error.line(), error.column()))
        })
    }
}

pub(super) struct Request<'a> {
    pub(super) call: Call,
    pub(super) method: Method,
    /// Below the address; a segment may hold anything.
    pub(super) path: &'a [&'a str],
    pub(super) query: Vec<(&'a str, String)>,
    /// JSON.
    pub(super) body: Option<Bytes>,
}

impl<'a> Request<'a> {
    pub(super) fn get(call: Call, path: &'a [&'a str]) -> Self {
        Self { call, method: Method::GET, path, query: Vec::new(), body: None }
    }

    pub(super) fn post(call: Call, path: &'a [&'a str], body: &serde_json::Value) -> Self {
        Self { call, method: Method::POST, path, query: Vec::new(), body: Some(body.to_string().into()) }
    }

    pub(super) fn with(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }
}
