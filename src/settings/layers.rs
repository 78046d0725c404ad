//! The sources, laid over one another: the later wins. Each value keeps the name of its place.

use std::collections::BTreeMap;

use config::{Config, ConfigError, FileFormat, Format, Source, Value, ValueKind};

use super::{
    Mistake, Sources,
    flags::Given,
    keys::{KEYS, Key, Number, PREFIX, find, nearest},
};

/// Every setting that has a value, with where it comes from.
pub(super) type Merged = BTreeMap<&'static str, Entry>;

/// The table of the file that holds a table for each pool but the default one.
const POOLS: &str = "pools";

/// A value as it was written.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) value: Value,
    /// For people: `default`, file and key, variable, or flag.
    pub(super) source: String,
}

/// One source's values, by setting. The place of each is its origin.
#[derive(Debug, Clone, Default)]
struct Layer(BTreeMap<&'static str, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, Value>, ConfigError> {
        Ok(self.0.iter().map(|(path, value)| ((*path).to_owned(), value.clone())).collect())
    }
}

impl Layer {
    fn put(&mut self, key: &'static Key, source: String, kind: impl Into<ValueKind>) {
        self.0.insert(key.path, Value::new(Some(&source), kind));
    }
}

/// What can be merged is; what cannot is told.
pub(super) fn merge(sources: &Sources, mistakes: &mut Vec<Mistake>, warnings: &mut Vec<String>) -> Merged {
    let layers = [
        defaults(),
        file(sources, mistakes),
        dotenv(sources, mistakes, warnings),
        variables(&sources.environment, "", mistakes, warnings),
        flags(sources, mistakes),
    ];
    let builder = layers.into_iter().fold(Config::builder(), |builder, layer| builder.add_source(layer));
    let merged = match builder.build() {
        Ok(merged) => merged,
        Err(error) => {
            mistakes.push(Mistake { source: "settings".into(), message: error.to_string() });
            return Merged::new();
        }
    };
    let entry = |key: &'static Key| {
        // Not `get`, which loses the origin.
        let value = key.path.split('.').try_fold(&merged.cache, |value, name| match &value.kind {
            ValueKind::Table(table) => table.get(name),
            _ => None,
        })?;
        let source = value.origin().unwrap_or("default").to_owned();
        Some((key.path, Entry { value: value.clone(), source }))
    };
    KEYS.iter().filter_map(entry).collect()
}

fn defaults() -> Layer {
    let mut layer = Layer::default();
    for key in KEYS {
        if let Some(default) = key.default {
            layer.0.insert(key.path, Value::new(None, default));
        }
    }
    layer
}

fn file(sources: &Sources, mistakes: &mut Vec<Mistake>) -> Layer {
    let mut layer = Layer::default();
    let Some(file) = &sources.file else { return layer };
    match FileFormat::Toml.parse(None, &file.text) {
        Ok(table) => table
            .into_iter()
            .filter(|(name, _)| name != POOLS)
            .for_each(|(name, value)| leaf(&name, value, &file.path, &mut layer, mistakes)),
        Err(error) => {
            let message = format!("is not TOML: {}", error.to_string().trim().replace('\n', "\n    "));
            mistakes.push(Mistake { source: file.path.clone(), message });
        }
    }
    layer
}

/// Takes a value of the file, or each of a table.
fn leaf(path: &str, value: Value, file: &str, layer: &mut Layer, mistakes: &mut Vec<Mistake>) {
    let source = format!("{file}: {path}");
    match (find(path), value.kind) {
        (Some(key), kind) => layer.put(key, source, kind),
        (None, ValueKind::Table(table)) if KEYS.iter().any(|key| key.path.starts_with(&format!("{path}."))) => {
            table.into_iter().for_each(|(name, value)| leaf(&format!("{path}.{name}"), value, file, layer, mistakes));
        }
        (None, _) => mistakes.push(Mistake { source, message: unknown(path) }),
    }
}

/// A pool's settings, and the others where it has none of its own.
pub(super) fn over(common: &Merged, own: &Merged) -> Merged {
    let mut all = common.clone();
    all.extend(own.iter().map(|(path, entry)| (*path, entry.clone())));
    all
}

/// What each pool of the file says of itself.
pub(super) fn pools(sources: &Sources, mistakes: &mut Vec<Mistake>) -> BTreeMap<String, Merged> {
    let mut pools = BTreeMap::new();
    let Some(file) = &sources.file else { return pools };
    // What is not TOML has been told.
    let Some(value) = FileFormat::Toml.parse(None, &file.text).ok().and_then(|mut table| table.remove(POOLS)) else {
        return pools;
    };
    let mut tell = |path: String, message: String| {
        mistakes.push(Mistake { source: format!("{}: {path}", file.path), message });
    };
    let ValueKind::Table(tables) = value.kind else {
        tell(POOLS.to_owned(), "must have a table for each pool: [pools.NAME]".to_owned());
        return pools;
    };
    for (name, value) in tables {
        let path = format!("{POOLS}.{name}");
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        if !plain || !(1..=64).contains(&name.len()) {
            tell(path.clone(), "a pool's name has 1 to 64 characters of [A-Za-z0-9_-]".to_owned());
        }
        let ValueKind::Table(table) = value.kind else {
            tell(path, "must be a table".to_owned());
            continue;
        };
        let mut pool = Merged::new();
        for (key, value) in table {
            let path = format!("{path}.{key}");
            match find(&key) {
                Some(known) if known.of_pools => {
                    pool.insert(known.path, Entry { value, source: format!("{}: {path}", file.path) });
                }
                Some(_) => tell(path, "is the same for every pool: it belongs before the pools".to_owned()),
                None => {
                    let known = KEYS.iter().filter(|key| key.of_pools).map(|key| key.path.to_owned());
                    tell(
                        path,
                        match nearest(&key, known) {
                            Some(known) => format!("there is no such setting of a pool; perhaps {known} is meant"),
                            None => "there is no such setting of a pool".to_owned(),
                        },
                    );
                }
            }
        }
        pools.insert(name, pool);
    }
    pools
}

fn unknown(path: &str) -> String {
    match nearest(path, KEYS.iter().map(|key| key.path.to_owned())) {
        Some(known) => format!("there is no such setting; perhaps {known} is meant"),
        None => "there is no such setting".to_owned(),
    }
}

fn dotenv(sources: &Sources, mistakes: &mut Vec<Mistake>, warnings: &mut Vec<String>) -> Layer {
    let mut environment = BTreeMap::new();
    let mut last = None;
    for line in dotenvy::from_read_iter(sources.dotenv.as_deref().unwrap_or_default().as_bytes()) {
        match line {
            Ok((name, value)) => {
                last = Some(name.clone());
                environment.insert(name, value);
            }
            // The error's own text has what the line says, which may be a secret.
            Err(_) => {
                let place = last.as_ref().map_or("at its start".to_owned(), |name| format!("after {name}"));
                let message = format!("a line {place} is not NAME=VALUE; a value with spaces needs quotes");
                mistakes.push(Mistake { source: ".env".into(), message });
            }
        }
    }
    variables(&environment, ".env: ", mistakes, warnings)
}

/// Where the client subcommands find an executor: none of its settings, and no mistake.
const CLIENTS_ADDRESS: &str = "TOOL_EXECUTOR_ADDRESS";

/// Takes the variables that are ours. An empty one counts as unset; an unknown one is only a warning, since others
/// (Kubernetes) make variables that begin with a service's name.
fn variables(
    environment: &BTreeMap<String, String>,
    place: &str,
    mistakes: &mut Vec<Mistake>,
    warnings: &mut Vec<String>,
) -> Layer {
    let mut layer = Layer::default();
    let get = |name: &str| environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    for key in KEYS {
        let variable = key.variable();
        let value = get(&variable);
        if let Some(value) = value {
            layer.put(key, format!("{place}{variable}"), value);
        } else if let Some((name, value)) = key.elsewhere.and_then(|name| Some((name, get(name)?))) {
            layer.put(key, format!("{place}{name}"), value);
        }
        let Some((number_variable, number)) = key.number_variable().zip(key.number) else { continue };
        let Some(text) = get(&number_variable) else { continue };
        let source = format!("{place}{number_variable}");
        if value.is_some() {
            mistakes.push(Mistake { source, message: format!("{variable} says the same: set one of them") });
            continue;
        }
        match with_unit(text, number) {
            Some(duration) => layer.put(key, source, duration),
            None => {
                let unit = if number == Number::Seconds { "seconds" } else { "milliseconds" };
                mistakes.push(Mistake { source, message: format!("must be a number of {unit}, and is {text:?}") });
            }
        }
    }
    let known = || KEYS.iter().flat_map(|key| [Some(key.variable()), key.number_variable()]).flatten();
    for name in environment.keys().filter(|name| *name != CLIENTS_ADDRESS) {
        // What all of them begin with makes none more like another.
        let Some(own) = name.strip_prefix(PREFIX) else { continue };
        if !known().any(|known| known == *name) {
            let names = known().filter_map(|known| known.strip_prefix(PREFIX).map(str::to_owned));
            warnings.push(match nearest(own, names) {
                Some(nearest) => format!("{place}{name} is not a setting; perhaps {PREFIX}{nearest} is meant"),
                None => format!("{place}{name} is not a setting"),
            });
        }
    }
    layer
}

/// A plain number in the form that durations have; to the microsecond.
fn with_unit(text: &str, number: Number) -> Option<String> {
    let value: f64 = text.parse().ok()?;
    let seconds = match number {
        Number::Seconds => value,
        Number::Milliseconds => value / 1_000.0,
    };
    // A year is longer than any duration here.
    (0.0..=31_536_000.0).contains(&seconds).then(|| format!("{}us", (seconds * 1e6).round() as u64))
}

fn flags(sources: &Sources, mistakes: &mut Vec<Mistake>) -> Layer {
    let mut layer = Layer::default();
    for Given { source, setting } in sources.flags.given() {
        let Some((path, value)) = setting else {
            mistakes.push(Mistake { source, message: "must be NAME=VALUE".to_owned() });
            continue;
        };
        match find(&path) {
            Some(key) => layer.put(key, source, value),
            None => mistakes.push(Mistake { source, message: unknown(&path) }),
        }
    }
    layer
}
