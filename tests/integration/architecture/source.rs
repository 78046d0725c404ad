//! Reads Rust source as far as the rules need it: which module a file is, and which modules of this crate it names,
//! in `use` trees and in paths, inside macros too.

use std::{fs, path::Path};

/// One module names another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Use {
    pub(super) from: String,
    /// Of this crate, from its root; what is named inside that module may follow.
    pub(super) to: String,
}

pub(super) struct SourceFile {
    /// From the package's root.
    pub(super) name: String,
    /// From the crate's root: `a::b`; of `lib.rs` empty.
    pub(super) module: String,
    text: String,
    tokens: Vec<String>,
}

impl SourceFile {
    pub(super) fn read(root: &Path, path: &Path) -> Self {
        let relative = path.strip_prefix(root).expect("below the sources").with_extension("");
        let text = fs::read_to_string(path).expect("a source");
        let name = format!("src/{}.rs", relative.display());
        let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let module = match parts.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["lib"] => String::new(),
            [parents @ .., "mod"] => parents.join("::"),
            parts => parts.join("::"),
        };
        Self { name, module, tokens: tokens(&text), text }
    }

    /// Whether all of it is tests.
    pub(super) fn is_test(&self) -> bool {
        self.module.split("::").any(|part| part == "tests")
    }

    pub(super) fn lines_without_tests(&self) -> usize {
        let tests = self.text.find("#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        self.text[..tests].lines().count()
    }

    /// Whether the path stands anywhere outside comments, strings and tests.
    pub(super) fn mentions(&self, path: &str) -> bool {
        let wanted = tokens(path);
        let end = self.tests_start().unwrap_or(self.tokens.len());
        self.tokens[..end].windows(wanted.len()).any(|window| window == wanted)
    }

    fn tests_start(&self) -> Option<usize> {
        self.tokens.windows(3).position(|window| window == ["mod", "tests", "{"])
    }

    /// Every module of this crate that it names, by `crate::`, the crate's own name, or enough `super::` to leave
    /// its own.
    pub(super) fn uses(&self) -> Vec<Use> {
        let mut uses = Vec::new();
        // Inline modules that are open: their names, and the depth of braces at which each began.
        let mut inline: Vec<(String, usize)> = Vec::new();
        let mut depth = 0_usize;
        let mut at = 0;
        while let Some(token) = self.tokens.get(at) {
            let mut next = at + 1;
            match token.as_str() {
                "{" => {
                    if at >= 2 && self.tokens[at - 2] == "mod" {
                        inline.push((self.tokens[at - 1].clone(), depth));
                    }
                    depth += 1;
                }
                "}" => {
                    depth = depth.saturating_sub(1);
                    inline.pop_if(|(_, began)| *began == depth);
                }
                "crate" | "tool_executor" | "super" if self.begins_path(at) => {
                    let here = inline.iter().fold(self.module.clone(), |module, (name, _)| join(&module, name));
                    let base = if token == "super" { parent(&here) } else { String::new() };
                    let mut ends = Vec::new();
                    let end = tree(&self.tokens, at + 2, base, &mut ends);
                    // A `super` in the middle of a `use` tree begins no path of its own.
                    if at > 0 && self.tokens[at - 1] == "use" {
                        next = end;
                    }
                    let from = self.module.clone();
                    uses.extend(ends.into_iter().filter(|to| !to.is_empty()).map(|to| Use { from: from.clone(), to }));
                }
                _ => {}
            }
            at = next;
        }
        uses
    }

    /// Not in the middle of a path, not a visibility.
    fn begins_path(&self, at: usize) -> bool {
        let before = at.checked_sub(1).map_or("", |before| self.tokens[before].as_str());
        let after = self.tokens.get(at + 1).map_or("", String::as_str);
        let visibility = before == "in" && self.tokens[at.saturating_sub(2)] == "(";
        before != "::" && after == "::" && !visibility
    }
}

fn join(module: &str, name: &str) -> String {
    if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") }
}

fn parent(module: &str) -> String {
    module.rsplit_once("::").map_or("", |(parent, _)| parent).to_owned()
}

/// Follows a path or `use` tree from `at` on, and gathers where it leads. Returns the place behind it.
fn tree(tokens: &[String], mut at: usize, mut path: String, ends: &mut Vec<String>) -> usize {
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            "super" => path = parent(&path),
            "self" => {}
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    at = tree(tokens, at, path.clone(), ends);
                    at += usize::from(tokens.get(at).is_some_and(|token| token == ","));
                }
                return at + 1;
            }
            // A type, function or constant is not a module: the path ends before it, at the module that has it.
            name if name.starts_with(|c: char| c.is_ascii_lowercase()) => path = join(&path, name),
            _ => {
                ends.push(path);
                return skip(tokens, at);
            }
        }
        if tokens.get(at + 1).is_none_or(|token| token != "::") {
            ends.push(path);
            return skip(tokens, at);
        }
        at += 2;
    }
    ends.push(path);
    at
}

/// To the end of this branch of a `use` tree: behind a name, its path and its `as`.
fn skip(tokens: &[String], mut at: usize) -> usize {
    while tokens.get(at).is_some_and(|token| !matches!(token.as_str(), "," | "}" | ";")) {
        at += 1;
    }
    at
}

/// Names, `::`, braces and the rest; no comments, strings, characters and numbers.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = literal(rest) {
            length
        } else if first.is_alphanumeric() || first == '_' {
            let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            tokens.push(rest[..length].to_owned());
            length
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

/// The length of the string, byte string, raw string or character that begins here.
fn literal(text: &str) -> Option<usize> {
    let body = text.trim_start_matches(['b', 'c', 'r']);
    let prefix = text.len() - body.len();
    let hashes = body.len() - body.trim_start_matches('#').len();
    if prefix <= 2 && text[..prefix].contains('r') && body[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let content = prefix + hashes + 1;
        return text[content..].find(&end).map(|found| content + found + end.len());
    }
    if prefix <= 1 && body.starts_with('"') {
        return quoted(body, '"').map(|length| prefix + length);
    }
    // A quote may begin a lifetime: a character is closed after one character or escape.
    let quote = body.strip_prefix('\'').filter(|_| prefix <= 1)?;
    let one = quote.chars().next()?;
    let closed = one == '\\' || quote[one.len_utf8()..].starts_with('\'');
    if closed { quoted(body, '\'').map(|length| prefix + length) } else { None }
}

/// The length of what stands between two such quotes, both included.
fn quoted(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + c.len_utf8()),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(module: &str, text: &str) -> Vec<String> {
        let file =
            SourceFile { name: String::new(), module: module.to_owned(), tokens: tokens(text), text: text.to_owned() };
        let mut uses: Vec<_> = file.uses().into_iter().map(|used| used.to).collect();
        uses.sort();
        uses.dedup();
        uses
    }

    #[test]
    fn use_trees_and_paths_are_followed() {
        let text = "use crate::{id::{CallId, Other as O}, tool::{self, job::Job}, backend};\n\
                    fn f() -> crate::edge::Thing { vec![crate::pb::sandbox::x()] }";
        assert_eq!(uses("a", text), ["backend", "edge", "id", "pb::sandbox::x", "tool", "tool::job"]);
        assert_eq!(uses("main", "use tool_executor::app;"), ["app"]);
    }

    #[test]
    fn super_leaves_its_own_module_only_if_there_are_enough() {
        assert_eq!(uses("a::b", "use super::c::D;"), ["a::c"]);
        assert_eq!(uses("a::b", "use super::super::c::D;"), ["c"]);
        assert_eq!(uses("a::b", "use super::{super::c, D};"), ["a", "c"]);
        assert_eq!(uses("a", "mod tests { use super::*; use super::super::b::C; }\nuse super::c::E;"), ["a", "b", "c"]);
    }

    #[test]
    fn what_is_not_code_is_not_read() {
        let text = "// crate::a\n/* crate::b */ const S: &str = \"crate::c \\\" crate::d\"; const R: &str = r#\"crate::\"e\"#;\n\
                    fn f<'a>(c: char) -> bool { c == '\"' } use crate::g; pub(in crate::h) fn i() {}";
        assert_eq!(uses("x", text), ["g"]);
    }
}
