//! How often Nomad was asked, and how that went: each try by itself.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::error::ApiError;

/// By call and by how it went; there are few of both.
#[derive(Default)]
pub(super) struct Tally(Mutex<BTreeMap<(&'static str, &'static str), u64>>);

/// So many tries of a call went like this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requests {
    /// Its method and path, with placeholders.
    pub call: &'static str,
    /// `ok`, or the kind of error.
    pub result: &'static str,
    pub count: u64,
}

impl Tally {
    pub(super) fn add<T>(&self, call: &'static str, answer: &Result<T, ApiError>) {
        let result = answer.as_ref().err().map_or("ok", ApiError::kind);
        *self.lock().entry((call, result)).or_default() += 1;
    }

    pub(super) fn get(&self) -> Vec<Requests> {
        self.lock().iter().map(|(&(call, result), &count)| Requests { call, result, count }).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(&'static str, &'static str), u64>> {
        // Counting does not fail halfway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
