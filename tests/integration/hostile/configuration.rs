//! What people and other programs write into files for this one: its settings, and an agent's configuration.

use std::{collections::BTreeMap, fs, process::Stdio, time::Duration};

use proptest::{collection::vec, prelude::*, sample::select};
use tempfile::TempDir;
use tokio::{process::Command, time::timeout};
use tool_executor::{
    sandbox::{
        agent::{Config, Profile},
        slot::{Isolation, Limits, View},
    },
    settings::{FileSource, Machine, Sources, load, render},
};

use super::{
    bed::{cases, runtime},
    mutate::mutated,
};
use crate::support::{agent::TOKEN, client::PATIENCE};

/// Of a machine on which nothing need be set.
fn sources() -> Sources {
    Sources { machine: Machine { home: Some("/home/ada".into()), ..Machine::default() }, ..Sources::default() }
}

/// The name of every setting.
fn names() -> Vec<String> {
    let loaded = load(&sources()).expect("nothing need be set");
    render(&loaded).lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// As settings are written, and not.
fn value() -> impl Strategy<Value = String> {
    let usual = select(vec![
        "true",
        "1",
        "0",
        "-1",
        "18446744073709551616",
        "30s",
        "1h",
        "99999999999999y",
        "1KiB",
        "1e300GB",
        "0.0.0.0:1",
        "[::1]:99999",
        "/",
        "a = b, c",
        "a,b",
        "{\"a\": 1}",
        "{",
        "full",
        "docker",
        "http://[",
        "unix://",
        "\u{0}",
    ]);
    prop_oneof![3 => usual.prop_map(str::to_owned), 1 => "\\PC{0,20}"]
}

/// Loads them; if it cannot be, every mistake says where it is and what.
fn try_load(sources: &Sources) {
    if let Err(mistakes) = load(sources) {
        for mistake in mistakes.0 {
            assert!(!mistake.source.is_empty() && !mistake.message.is_empty(), "{mistake:?}");
        }
    }
}

#[test]
fn any_variables_load_or_are_mistakes() {
    let variable = (select(names()), value());
    cases(256, &vec(variable, 0..6), |variables| {
        let name = |path: &str| format!("TOOL_EXECUTOR_{}", path.replace('.', "_").to_uppercase());
        let environment: BTreeMap<_, _> = variables.iter().map(|(path, value)| (name(path), value.clone())).collect();
        try_load(&Sources { environment, ..sources() });
    });
}

#[test]
fn any_file_loads_or_has_mistakes() {
    let setting = (select(names()), prop_oneof![value().prop_map(|value| format!("{value:?}")), value()])
        .prop_map(|(name, value)| format!("{name} = {value}"));
    let table = select(vec!["[nomad]", "[pools.swe]", "[pools]", "[pools.\"a b\"]", "[[pools]]", "[sandbox]"]);
    let line = prop_oneof![4 => setting, 1 => table.prop_map(str::to_owned)];
    let file = vec(line, 0..8).prop_map(|lines| lines.join("\n").into_bytes());
    cases(256, &(mutated(file), vec("[ -~]{0,12}", 0..3)), |(text, dotenv)| {
        let text = String::from_utf8_lossy(&text).into_owned();
        let file = Some(FileSource { path: "tool-executor.toml".to_owned(), text });
        try_load(&Sources { file, dotenv: Some(dotenv.join("\n")), ..sources() });
    });
}

fn config() -> Config {
    Config {
        uid_base: Some(u32::MAX - 2),
        token: TOKEN.to_owned(),
        tls: true,
        pool: "default".to_owned(),
        profile: Profile {
            slots: 1,
            isolation_minimum: Isolation::L0,
            network: false,
            orphan_timeout: Duration::from_secs(60),
            view: View::Host,
            read_only: vec!["/opt".into()],
            hidden: Vec::new(),
            workspace_source: None,
            writable_root: false,
            tmp_bytes: 1 << 20,
            max_open_files: 64,
            max_processes: None,
            limits: Limits::default(),
        },
    }
}

fn stored(config: &Config) -> (TempDir, Vec<u8>) {
    let directory = TempDir::new().expect("a directory");
    config.store(directory.path()).expect("it can be written");
    let text = fs::read(directory.path().join("agent.json")).expect("it can be read");
    (directory, text)
}

#[test]
fn any_agents_configuration_loads_or_is_refused() {
    let (directory, text) = stored(&config());
    cases(256, &mutated(Just(text)), |text| {
        fs::write(directory.path().join("agent.json"), text).expect("it can be written");
        if let Ok(config) = Config::load(directory.path()) {
            assert!((1..=10_000).contains(&config.profile.slots), "{}", config.profile.slots);
        }
    });
}

/// It starts with whatever it understands, or says why not; it never panics.
#[test]
fn an_agent_with_extreme_numbers_says_what_is_wrong() {
    let change: [fn(&mut Config); 6] = [
        |config| config.profile.slots = u32::MAX,
        |config| config.profile.slots = 0,
        |config| config.uid_base = Some(u32::MAX),
        |config| config.profile.orphan_timeout = Duration::MAX,
        |config| (config.profile.tmp_bytes, config.profile.max_open_files) = (u64::MAX, u64::MAX),
        |config| config.profile.max_processes = Some(0),
    ];
    for (case, change) in change.into_iter().enumerate() {
        let mut config = config();
        change(&mut config);
        let (directory, _) = stored(&config);
        runtime().block_on(async {
            let mut agent = Command::new(env!("CARGO_BIN_EXE_tool-executor"))
                .args(["sandbox", "--container", "container", "--port", "0", "--directory"])
                .arg(directory.path())
                .env_clear()
                .stdin(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("it starts");
            let pid = agent.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())).expect("it runs");
            // Long enough to be up, and to have ended if it cannot be.
            if timeout(Duration::from_millis(500), agent.wait()).await.is_err() {
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it can be told to end");
            }
            let output = timeout(PATIENCE, agent.wait_with_output()).await.expect("it ends").expect("it has output");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!said.contains("panicked at"), "{case}: {said}");
            assert!(output.status.success() || said.contains("tool-executor: "), "{case}: {said}");
            assert!(!said.contains(TOKEN), "{case}: {said}");
        });
    }
}
