//! A settings file in which every setting is at its default, and says what it is.

use std::fmt::Write as _;

use super::{
    about::GROUPS,
    keys::{Key, find},
};

/// The file's text: every line of it is a comment, and with the `# ` before its settings taken away it says the same.
pub fn example() -> String {
    let mut text = "\
# Settings of tool-executor, at their defaults. It is read from the directory in which the executor is started, or by
# `--config FILE`. The environment wins over it, and flags over that. Durations are written as 30s, 5min or 1h; sizes as
# 512MiB or 4GiB. `tool-executor check` prints what is in effect, with where it comes from.
"
    .to_owned();
    for (title, settings) in GROUPS {
        let _ = write!(text, "\n## {title}\n");
        for key in settings.iter().filter_map(|(name, about)| Some((find(name)?, about))) {
            let (key, about) = key;
            let _ = write!(text, "\n# {about}\n# {}\n# {} = {}\n", names(key), key.path, value(key));
        }
    }
    text
}

/// What it is called in the environment.
fn names(key: &Key) -> String {
    let others = key.number_variable().into_iter().chain(key.elsewhere.map(str::to_owned));
    std::iter::once(key.variable()).chain(others).collect::<Vec<_>>().join(", ")
}

/// As TOML. One that is not set is empty, which means the same.
fn value(key: &Key) -> String {
    let text = key.default.unwrap_or_default();
    if text.parse::<u64>().is_ok() || text.parse::<bool>().is_ok() { text.to_owned() } else { format!("\"{text}\"") }
}

/// Every setting with its default, by group, for `--help`.
pub fn overview() -> String {
    let width = GROUPS.iter().flat_map(|(_, settings)| *settings).map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = "Settings, for the settings file, for --set NAME=VALUE, and in the environment as \
                    TOOL_EXECUTOR_NAME (a dot is an underscore there):\n"
        .to_owned();
    for (title, settings) in GROUPS {
        let _ = write!(text, "\n{title}:\n");
        for (name, about) in *settings {
            let default = find(name).and_then(|key| key.default).filter(|default| !default.is_empty());
            let default = default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
            let _ = writeln!(text, "  {name:width$}  {about}{default}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{
        super::{FileSource, Machine, Sources, about::about, keys::KEYS, load},
        *,
    };

    fn sources(file: Option<String>) -> Sources {
        let file = file.map(|text| FileSource { path: "tool-executor.toml".to_owned(), text });
        let machine = Machine { home: Some("/home/ada".into()), processors: 4, ..Machine::default() };
        Sources { file, machine, ..Sources::default() }
    }

    #[test]
    fn every_setting_says_what_it_is_once() {
        let mut told: Vec<_> = GROUPS.iter().flat_map(|(_, settings)| *settings).map(|(name, _)| *name).collect();
        for key in KEYS {
            assert!(about(key.path).is_some_and(|about| !about.is_empty()), "nothing is said of {}", key.path);
        }
        let count = told.len();
        told.sort_unstable();
        told.dedup();
        assert_eq!((told.len(), told.len()), (count, KEYS.len()), "one is told twice, or is none");
    }

    #[test]
    fn the_example_says_the_defaults() {
        let settings = |file| format!("{:?}", load(&sources(file)).unwrap_or_else(|error| panic!("{error}")).settings);
        assert_eq!(settings(Some(example())), settings(None), "all of it is a comment");
        let text = example();
        let uncommented = text
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| line.split_once(" = ").is_some_and(|(name, _)| find(name).is_some()))
            .collect::<Vec<_>>();
        assert_eq!(uncommented.len(), KEYS.len());
        assert_eq!(settings(Some(uncommented.join("\n"))), settings(None));
    }

    #[test]
    fn the_file_in_deploy_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/tool-executor.toml");
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(there == example(), "write it anew: cargo run -- example-settings > deploy/tool-executor.toml");
    }

    #[test]
    fn the_overview_has_every_setting() {
        let overview = overview();
        for key in KEYS {
            assert!(overview.contains(&format!("  {} ", key.path)), "{}", key.path);
        }
        assert!(overview.contains("slots") && overview.contains("[default: 10]"));
    }
}
