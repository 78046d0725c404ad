//! Those who may call: a file of its own, with a table for each tenant. It is read again while the service goes on, so
//! it is no part of the other settings.
//!
//! Nothing of what it says is ever told: a name in the place of a value may be a token.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path};

use sha2::{Digest as _, Sha256};
use toml::{Table, Value};

use super::{Mistake, Secret};
use crate::id::Tenant;

/// One tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantSettings {
    pub name: Tenant,
    /// The SHA-256 of each of its tokens. None: it shows a certificate with its name.
    pub tokens: Vec<[u8; 32]>,
    /// The values that each label of its trajectories may have, `*` being any. None: any label.
    pub labels: Option<BTreeMap<String, Vec<String>>>,
    /// Whether it looks at the whole service.
    pub operator: bool,
    /// Open at a time.
    pub max_trajectories: Option<usize>,
    /// Waiting and running at a time, of all its trajectories.
    pub max_calls_in_flight: Option<usize>,
}

/// The tenants of the file, where `own` is the service's own token.
///
/// # Errors
/// All that is wrong with it.
pub(super) fn tenants(path: &Path, own: Option<&Secret>) -> Result<Vec<TenantSettings>, Vec<Mistake>> {
    let mistake = |message| Mistake { source: path.display().to_string(), message };
    let text = fs::read_to_string(path).map_err(|error| vec![mistake(format!("cannot be read: {error}"))])?;
    parse(&text, own).map_err(|messages| messages.into_iter().map(mistake).collect())
}

/// What is to be said of a file that people other than its owner can read.
pub fn warning(path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o004 != 0).then(|| {
        format!("{} can be read by everybody on this machine, models' commands among them: chmod 600", path.display())
    })
}

fn parse(text: &str, own: Option<&Secret>) -> Result<Vec<TenantSettings>, Vec<String>> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        // The error's own text has what the line says.
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        vec![format!(
            "is not TOML: see line {}",
            text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
        )]
    })?;
    let mut mistakes = Vec::new();
    let tenants: Vec<_> = table.into_iter().filter_map(|(name, value)| tenant(&name, value, &mut mistakes)).collect();
    shared(&tenants, own, &mut mistakes);
    if mistakes.is_empty() { Ok(tenants) } else { Err(mistakes) }
}

fn tenant(name: &str, value: Value, mistakes: &mut Vec<String>) -> Option<TenantSettings> {
    let Value::Table(table) = value else {
        mistakes
            .push(format!("has a value that is no tenant: each is a table, such as [{name:?}], with a token in it"));
        return None;
    };
    let Ok(tenant) = Tenant::parse(name).map_err(|error| mistakes.push(format!("a tenant's name {error}"))) else {
        return None;
    };
    let mut fields = Fields { tenant: name, table, mistakes };
    let tokens = fields.take("token", tokens).unwrap_or_default();
    let digests = fields.take("sha256", digests).unwrap_or_default();
    let settings = TenantSettings {
        name: tenant,
        tokens: tokens.into_iter().chain(digests).collect(),
        labels: fields.take("labels", labels),
        operator: fields.take("operator", flag).unwrap_or_default(),
        max_trajectories: fields.take("max_trajectories", count),
        max_calls_in_flight: fields.take("max_calls_in_flight", count),
    };
    fields.end();
    Some(settings)
}

/// Whoever has a token must be one tenant.
fn shared(tenants: &[TenantSettings], own: Option<&Secret>, mistakes: &mut Vec<String>) {
    let own = own.map(|token| (digest(token.reveal()), "the service itself"));
    let mut known: BTreeMap<[u8; 32], &str> = own.into_iter().collect();
    for tenant in tenants {
        for token in &tenant.tokens {
            if let Some(other) = known.insert(*token, tenant.name.as_str()) {
                mistakes.push(format!("{}: has a token of {other}", tenant.name));
            }
        }
    }
}

/// What is said of a tenant.
struct Fields<'a> {
    tenant: &'a str,
    table: Table,
    mistakes: &'a mut Vec<String>,
}

impl Fields<'_> {
    fn take<T>(&mut self, name: &str, convert: fn(Value) -> Result<T, &'static str>) -> Option<T> {
        let value = self.table.remove(name)?;
        let told = |what| self.mistakes.push(format!("{}: {name} must be {what}", self.tenant));
        convert(value).map_err(told).ok()
    }

    /// Nothing else may be said.
    fn end(self) {
        for name in self.table.keys() {
            self.mistakes.push(format!(
                "{}: there is no {name:?}: there are token, sha256, labels, operator, max_trajectories and \
                 max_calls_in_flight",
                self.tenant
            ));
        }
    }
}

fn tokens(value: Value) -> Result<Vec<[u8; 32]>, &'static str> {
    const WHAT: &str = "visible ASCII characters, without spaces, or a list of such texts";
    let sendable = |text: &String| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    let tokens = texts(value).filter(|texts| texts.iter().all(sendable)).ok_or(WHAT)?;
    Ok(tokens.iter().map(|token| digest(token)).collect())
}

fn digests(value: Value) -> Result<Vec<[u8; 32]>, &'static str> {
    const WHAT: &str = "the SHA-256 of a token, in 64 hexadecimal digits, or a list of such texts";
    texts(value).and_then(|texts| texts.iter().map(|text| hexadecimal(text)).collect()).ok_or(WHAT)
}

fn hexadecimal(text: &str) -> Option<[u8; 32]> {
    let digits = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<Vec<u32>>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect();
    bytes.try_into().ok().filter(|_| digits.len() == 64)
}

fn labels(value: Value) -> Result<BTreeMap<String, Vec<String>>, &'static str> {
    const WHAT: &str = "a table of labels, each with a value, a list of values, or \"*\" for any";
    let Value::Table(table) = value else { return Err(WHAT) };
    table.into_iter().map(|(name, values)| Some((name, texts(values)?))).collect::<Option<_>>().ok_or(WHAT)
}

fn flag(value: Value) -> Result<bool, &'static str> {
    value.as_bool().ok_or("true or false")
}

fn count(value: Value) -> Result<usize, &'static str> {
    value.as_integer().and_then(|number| usize::try_from(number).ok()).ok_or("a whole number")
}

/// A text, or a list of some.
fn texts(value: Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text]),
        Value::Array(items) => items.into_iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_what_its_table_says() {
        let hash = "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855";
        let text = format!(
            "[red]\ntoken = [\"old\", \"new\"]\nlabels = {{ team = \"red\", run = [\"a\", \"b\"], note = \"*\" }}\n\
             max_trajectories = 0\nmax_calls_in_flight = 64\n\n[\"spiffe://cluster/a b\"]\noperator = true\n\n\
             [blue]\nsha256 = \"{hash}\"\n"
        );
        let tenants = parse(&text, Some(&Secret::new("own"))).expect("it is well formed");
        let of = |name: &str| tenants.iter().find(|tenant| tenant.name.as_str() == name).expect("it is there").clone();
        let red = of("red");
        assert_eq!(red.tokens, [digest("old"), digest("new")]);
        assert_eq!((red.max_trajectories, red.max_calls_in_flight, red.operator), (Some(0), Some(64), false));
        let labels = red.labels.expect("it has some");
        assert_eq!(labels["run"], ["a", "b"]);
        assert_eq!((&*labels["team"], &*labels["note"]), (&["red".to_owned()][..], &["*".to_owned()][..]));
        assert_eq!(of("blue").tokens, [digest("")]);
        let peer = of("spiffe://cluster/a b");
        assert_eq!((peer.tokens.len(), peer.operator, peer.labels), (0, true, None));
        assert_eq!(parse("", None), Ok(Vec::new()));
    }

    #[test]
    fn every_mistake_is_told_and_no_token() {
        let long = "x".repeat(257);
        let text = format!(
            "green = \"s3cret\"\n[red]\ntoken = \"s3cret two\"\nsha256 = \"s3cret\"\nlabels = \"s3cret\"\n\
             operator = \"s3cret\"\nmax_trajectories = -1\nmax_calls_in_flight = \"s3cret\"\ntokn = \"s3cret\"\n\
             [blue]\ntoken = \"s3cret\"\n[white]\ntoken = [\"s3cret\", \"0wn\"]\n[{long}]\n[\"\"]\n"
        );
        let told = parse(&text, Some(&Secret::new("0wn"))).expect_err("there are mistakes");
        let expected = [
            "a value that is no tenant",
            "red: token must be",
            "red: sha256 must be",
            "red: labels must be",
            "red: operator must be",
            "red: max_trajectories must be",
            "red: max_calls_in_flight must be",
            "red: there is no \"tokn\"",
            "has a token of the service itself",
            "has a token of blue",
            "a tenant's name has 257",
            "a tenant's name must not be empty",
        ];
        for message in expected {
            assert_eq!(told.iter().filter(|told| told.contains(message)).count(), 1, "{message}: {told:#?}");
        }
        assert_eq!(told.len(), expected.len(), "{told:#?}");
        assert!(!told.concat().contains("s3cret"), "{told:#?}");
        for text in ["[red]\ntoken = s3cret\n", "[red]\ntoken = \"s3cret\n", "[red]\n[red]"] {
            let told = parse(text, None).expect_err("it is not TOML");
            assert_eq!(told, ["is not TOML: see line 2"], "{text}");
        }
    }
}
