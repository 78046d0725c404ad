//! Settings in effect, for people.

use config::{Value, ValueKind};

use super::{
    Loaded,
    keys::{KEYS, find},
    layers::Merged,
};

/// One setting as it is in effect.
#[derive(Debug, Clone)]
pub(super) struct Effective {
    path: &'static str,
    shown: String,
    source: String,
}

/// The merged values, secrets masked.
pub(super) fn effective(merged: &Merged) -> Vec<Effective> {
    let shown = |path: &str, value: &Value| {
        if find(path).is_some_and(|key| key.secret) { "***".to_owned() } else { text(value) }
    };
    KEYS.iter()
        .map(|key| match merged.get(key.path) {
            Some(entry) => {
                let shown = shown(key.path, &entry.value);
                Effective { path: key.path, shown, source: entry.source.clone() }
            }
            None => Effective { path: key.path, shown: String::new(), source: "not set".into() },
        })
        .collect()
}

fn text(value: &Value) -> String {
    match &value.kind {
        ValueKind::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        ValueKind::String(text) => text.clone(),
        _ => value.to_string(),
    }
}

/// Every setting with its value and where that comes from, one a line, secrets masked; those that follow from the
/// machine or another setting with what they came to.
pub fn render(loaded: &Loaded) -> String {
    let settings = &loaded.settings;
    let derived = |path: &str| match path {
        "state_dir" => Some(settings.state_dir.display().to_string()),
        "executor_id" => Some(settings.executor_id.clone()),
        "worker_threads" => Some(settings.worker_threads.to_string()),
        "open_endpoints" => Some(settings.access.open.to_string()),
        "allow_network" => Some(settings.sandbox.network.to_string()),
        _ => None,
    };
    let width = KEYS.iter().map(|key| key.path.len()).max().unwrap_or_default();
    let line = |setting: &Effective| {
        let shown = if setting.shown.is_empty() { derived(setting.path) } else { None };
        let shown = shown.unwrap_or_else(|| setting.shown.clone());
        format!("{:width$} = {shown}  ({})\n", setting.path, setting.source)
    };
    loaded.effective.iter().map(line).collect()
}
