//! Reads typed values out of the merged ones and collects what is wrong with them, so that all of it is told at once.

use std::{collections::BTreeSet, fmt::Display, ops::RangeInclusive};

use super::{
    Mistake,
    convert::Written,
    layers::{Entry, Merged},
};

/// Reads settings. A value that is wrong is told, and read as the type's default until loading fails.
pub(super) struct Reader<'a> {
    merged: &'a Merged,
    mistakes: Vec<Mistake>,
    wrong: BTreeSet<&'static str>,
    #[cfg(test)]
    pub(super) asked: BTreeSet<&'static str>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(merged: &'a Merged, mistakes: Vec<Mistake>) -> Self {
        Self {
            merged,
            mistakes,
            wrong: BTreeSet::new(),
            #[cfg(test)]
            asked: BTreeSet::new(),
        }
    }

    fn entry(&mut self, path: &'static str) -> Option<&'a Entry> {
        #[cfg(test)]
        self.asked.insert(path);
        self.merged.get(path)
    }

    /// A setting that may be unset. Empty counts as that.
    pub(super) fn optional<T>(
        &mut self,
        path: &'static str,
        convert: impl Fn(Written<'_>) -> Result<T, String>,
    ) -> Option<T> {
        let entry = self.entry(path)?;
        if matches!(&entry.value.kind, config::ValueKind::String(text) if text.trim().is_empty()) {
            return None;
        }
        self.convert(path, entry, convert)
    }

    /// A setting that has a default.
    pub(super) fn value<T: Default>(
        &mut self,
        path: &'static str,
        convert: impl Fn(Written<'_>) -> Result<T, String>,
    ) -> T {
        let Some(entry) = self.entry(path) else { return T::default() };
        self.convert(path, entry, convert).unwrap_or_default()
    }

    fn convert<T>(
        &mut self,
        path: &'static str,
        entry: &Entry,
        convert: impl Fn(Written<'_>) -> Result<T, String>,
    ) -> Option<T> {
        match convert(&entry.value.kind) {
            Ok(value) => Some(value),
            Err(message) => {
                self.tell(&[path], message);
                self.wrong.insert(path);
                None
            }
        }
    }

    /// A number or duration within bounds.
    pub(super) fn within<W, T>(
        &mut self,
        path: &'static str,
        convert: impl Fn(Written<'_>) -> Result<W, String>,
        range: RangeInclusive<W>,
        shown: impl Fn(&W) -> String,
    ) -> T
    where
        W: PartialOrd,
        T: Default + TryFrom<W>,
    {
        self.value(path, |written| {
            let value = convert(written)?;
            if !range.contains(&value) {
                let (least, most) = (shown(range.start()), shown(range.end()));
                return Err(format!("must be between {least} and {most}, and is {}", shown(&value)));
            }
            let shown = shown(&value);
            T::try_from(value).map_err(|_| format!("is out of range: {shown}"))
        })
    }

    /// Whether all of these were read well, so that they may be compared.
    pub(super) fn sound(&self, paths: &[&'static str]) -> bool {
        paths.iter().all(|path| !self.wrong.contains(path))
    }

    /// Tells what is wrong with these settings together.
    pub(super) fn tell(&mut self, paths: &[&'static str], message: impl Display) {
        let source = |path: &&'static str| match self.merged.get(path) {
            Some(entry) if entry.source != "default" => entry.source.clone(),
            Some(_) => format!("{path} (default)"),
            None => format!("{path} (not set)"),
        };
        let sources: Vec<_> = paths.iter().map(source).collect();
        self.mistakes.push(Mistake { source: sources.join(", "), message: message.to_string() });
    }

    /// Those of a reader of some of the same settings, which are told once.
    pub(super) fn take_mistakes(&mut self, other: Reader<'_>) {
        let new = other.mistakes.into_iter().filter(|mistake| !self.mistakes.contains(mistake));
        self.mistakes.extend(new.collect::<Vec<_>>());
    }

    pub(super) fn into_mistakes(self) -> Vec<Mistake> {
        self.mistakes
    }
}
