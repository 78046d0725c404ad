//! What Prometheus is told, after calls of many outcomes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use regex::Regex;
use serde_json::json;
use tool_executor::pb::toolexecutor::{CallResult, Outcome};

use crate::support::{
    client::{Stream, bash, command, seconds, shell, tool},
    http::Request,
    nomad::Nomad,
    server::Server,
};

/// A scrape, read as strictly as Prometheus reads it.
struct Scrape {
    /// By name of the family.
    kinds: BTreeMap<String, String>,
    /// Name, labels as they stand there, value.
    samples: Vec<(String, String, f64)>,
}

/// What a sample's name has more than its family's.
const SUFFIXES: [&str; 5] = ["_total", "_info", "_bucket", "_sum", "_count"];

impl Scrape {
    async fn of(server: &Server) -> Self {
        let answer = Request::get(&server.address, "/metrics").send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let kind = answer.header("content-type").expect("it has a type");
        assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
        Self::parse(&answer.body)
    }

    fn parse(text: &str) -> Self {
        static SAMPLE: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(r#"^([a-z][a-z0-9_]*)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\.)*",?)*)\})? (-?[0-9.eE+-]+)$"#).unwrap()
        });
        let lines = text.strip_suffix("# EOF\n").expect("its end is marked");
        let (mut kinds, mut samples, mut series) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        for line in lines.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a name and a kind");
                assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} stands there once");
            } else if !line.starts_with("# HELP ") && !line.starts_with("# UNIT ") {
                let found = SAMPLE.captures(line).unwrap_or_else(|| panic!("not a sample: {line:?}"));
                let group = |index: usize| found.get(index).map_or("", |found| found.as_str()).to_owned();
                assert!(series.insert((group(1), group(2))), "{line:?} stands there once");
                samples.push((group(1), group(2), group(3).parse().expect("a number")));
            }
        }
        for (name, ..) in &samples {
            assert!(kinds.contains_key(family(name)) || kinds.contains_key(&**name), "{name} has a type");
        }
        Self { kinds, samples }
    }

    /// Of all samples with this name and these labels among theirs.
    fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let own = self.samples.iter().filter(|(found, text, _)| {
            found == name && labels.iter().all(|label| text.split(',').any(|own| own == *label))
        });
        own.map(|(.., value)| value).sum()
    }
}

fn family(sample: &str) -> &str {
    SUFFIXES.iter().find_map(|suffix| sample.strip_suffix(suffix)).unwrap_or(sample)
}

async fn run(server: &Server) -> Vec<CallResult> {
    let mut stream = Stream::open(server, "metrics").await;
    let mut slow = bash("slow", "sleep 100");
    slow.timeout = seconds(1);
    let calls = vec![
        bash("fine", "true"),
        bash("fails", "exit 3"),
        bash("dies", "kill -9 $$"),
        slow,
        tool("file", "read_file", json!({"path": "nope"})),
        tool("none", "no_such_tool", json!({})),
        tool("wrong", "terminal", json!({"command": 7})),
        command("own", shell("true")),
    ];
    let count = calls.len();
    stream.batch(calls).await;
    stream.results(count).await
}

#[tokio::test]
async fn answers_are_counted_by_tool_outcome_and_reason() {
    let server = Server::start();
    let results = run(&server).await;
    let scrape = Scrape::of(&server).await;
    for labels in [
        ["tool=\"bash\"", "outcome=\"succeeded\"", "reason=\"\""],
        ["tool=\"bash\"", "outcome=\"failed\"", "reason=\"exit_status\""],
        ["tool=\"bash\"", "outcome=\"failed\"", "reason=\"signalled\""],
        ["tool=\"bash\"", "outcome=\"timed_out\"", "reason=\"\""],
        ["tool=\"read_file\"", "outcome=\"failed\"", "reason=\"file_not_found\""],
        ["tool=\"unknown\"", "outcome=\"rejected\"", "reason=\"unknown_tool\""],
        ["tool=\"terminal\"", "outcome=\"rejected\"", "reason=\"invalid_arguments\""],
        ["tool=\"command\"", "outcome=\"succeeded\"", "reason=\"\""],
    ] {
        assert_eq!(scrape.sum("tool_executor_calls_total", &labels), 1.0, "{labels:?}");
    }

    // They agree with what the service says of itself.
    let status = server.status().await;
    assert_eq!(scrape.sum("tool_executor_calls_total", &[]), status.total_requests as f64);
    let unsuccessful = results.iter().filter(|result| result.outcome() != Outcome::Succeeded).count();
    let succeeded = scrape.sum("tool_executor_calls_total", &["outcome=\"succeeded\""]);
    assert_eq!(scrape.sum("tool_executor_calls_total", &[]) - succeeded, unsuccessful as f64);
    assert_eq!(status.total_errors, unsuccessful as u64);
    let pool = &status.pools[0];
    let name = format!("pool=\"{}\"", pool.name);
    let slots = |state: &str| scrape.sum("tool_executor_slots", &[&name, &format!("state=\"{state}\"")]);
    assert_eq!(slots("acquired"), f64::from(pool.acquired_slots));
    assert_eq!(scrape.sum("tool_executor_slots", &[]), f64::from(pool.total_slots));
    assert_eq!(scrape.sum("tool_executor_trajectories", &[]), f64::from(status.trajectories));
    assert_eq!(scrape.sum("tool_executor_containers", &[]), pool.containers.len() as f64);

    // Only what was accepted has taken time, and the phases are all of it.
    let accepted: Vec<_> = results.iter().filter(|result| result.sequence > 0).collect();
    assert_eq!(scrape.sum("tool_executor_call_duration_seconds_count", &[]), accepted.len() as f64);
    let (total, phases) = (
        scrape.sum("tool_executor_call_duration_seconds_sum", &[]),
        scrape.sum("tool_executor_call_phase_duration_seconds_sum", &[]),
    );
    assert!((total - phases).abs() < 1e-6, "{total} and {phases}");
    let execution = scrape.sum("tool_executor_call_phase_duration_seconds_sum", &["phase=\"execution\""]);
    assert!((1.0..30.0).contains(&execution), "the call that ran into its timeout counts in seconds: {execution}");
}

#[tokio::test]
async fn names_follow_the_conventions() {
    let server = Server::start();
    run(&server).await;
    let scrape = Scrape::of(&server).await;
    assert!(scrape.kinds.len() > 10, "{:?}", scrape.kinds);
    for (name, kind) in &scrape.kinds {
        assert!(name.starts_with("tool_executor_"), "{name}");
        assert!(!name.ends_with("_total"), "{name}: its samples have the suffix");
        for unit in ["_ms", "_milliseconds", "_kb", "_mib"] {
            assert!(!name.ends_with(unit), "{name}: units are base units");
        }
        if kind == "histogram" {
            assert!(name.ends_with("_seconds"), "{name}");
        }
        let totals = scrape.samples.iter().filter(|(sample, ..)| *sample == format!("{name}_total")).count();
        assert_eq!(totals > 0, kind == "counter", "{name}");
    }
}

#[tokio::test]
async fn a_model_that_makes_up_names_makes_no_series() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "names").await;
    let calls = (0..1_000).map(|number| tool(&number.to_string(), &format!("tool \"{number}\"\n"), json!({})));
    stream.batch(calls.collect()).await;
    stream.results(1_000).await;
    let scrape = Scrape::of(&server).await;
    let series = scrape.samples.iter().filter(|(name, ..)| name == "tool_executor_calls_total");
    assert_eq!(series.count(), 1);
    assert_eq!(scrape.sum("tool_executor_calls_total", &["tool=\"unknown\""]), 1_000.0);
}

#[tokio::test]
async fn a_trajectory_that_nobody_attends_to_is_on_its_lease() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "left").await;
    stream.bash("one", "true").await;
    let trajectories = async |state: &str| {
        Scrape::of(&server).await.sum("tool_executor_trajectories", &[&format!("state=\"{state}\"")])
    };
    assert_eq!((trajectories("attended").await, trajectories("leased").await), (1.0, 0.0));
    drop(stream);
    let asked = std::time::Instant::now();
    while trajectories("leased").await == 0.0 {
        assert!(asked.elapsed() < crate::support::client::PATIENCE, "its client is gone");
    }
    assert_eq!(trajectories("attended").await, 0.0);
}

/// What the dashboard and the alert rules ask for, with the values of their labels.
const ASKED: [&str; 2] =
    [include_str!("../../../deploy/monitoring/alerts.yaml"), include_str!("../../../deploy/monitoring/dashboard.json")];

#[tokio::test]
async fn what_dashboard_and_alerts_name_is_there() {
    // Over a Nomad, since that is told of, too.
    let server = Server::on(&Nomad::start(), &[]);
    run(&server).await;
    let scrape = Scrape::of(&server).await;
    let mut there: BTreeSet<String> = scrape.samples.iter().map(|(name, ..)| name.clone()).collect();
    // That it is there with TLS is shown by `serve::tls`.
    there.insert("tool_executor_certificate_expiry_seconds".to_owned());
    let names = Regex::new("tool_executor_[a-z_]+").unwrap();
    for text in ASKED {
        let named: BTreeSet<&str> = names.find_iter(text).map(|found| found.as_str()).collect();
        assert!(named.len() > 5, "{named:?}");
        for name in named {
            assert!(there.contains(name), "there is no {name}");
        }
    }
    // And every state and phase by which they choose.
    let chosen = Regex::new(r#"(state|phase)="([a-z_]+)"#).unwrap();
    let labels: BTreeSet<&str> = scrape.samples.iter().flat_map(|(_, labels, _)| labels.split(',')).collect();
    for found in chosen.captures_iter(ASKED[0]) {
        let label = format!("{}=\"{}\"", &found[1], &found[2]);
        assert!(labels.contains(&*label), "nothing has {label}");
    }
    let dashboard: serde_json::Value = serde_json::from_str(ASKED[1]).expect("the dashboard is JSON");
    // Every family is on it, but for the one that only lists instances.
    for panel in dashboard["panels"].as_array().expect("it has panels") {
        for target in panel["targets"].as_array().expect("it asks for something") {
            let asked = target["expr"].as_str().expect("an expression");
            there.retain(|name| !names.find_iter(asked).any(|found| found.as_str() == name));
        }
    }
    let unseen = ["tool_executor_build_info", "tool_executor_start_time_seconds"];
    let derived = |name: &String| ["_sum", "_count"].iter().any(|suffix| name.ends_with(suffix));
    there.retain(|name| !unseen.contains(&&**name) && !derived(name));
    assert!(there.is_empty(), "nobody looks at {there:?}");
}

#[tokio::test]
async fn requests_to_nomad_are_counted_by_how_they_went() {
    let server = Server::on(&Nomad::start(), &[]);
    run(&server).await;
    let scrape = Scrape::of(&server).await;
    let requests = |labels: &[&str]| scrape.sum("tool_executor_nomad_requests_total", labels);
    assert!(requests(&["call=\"POST /v1/job/:id/dispatch\"", "result=\"ok\""]) >= 1.0);
    assert!(requests(&["call=\"GET /v1/allocations\"", "result=\"ok\""]) >= 1.0);
    assert_eq!(requests(&["result=\"denied\""]), 0.0);
}

#[tokio::test]
async fn metrics_need_the_token_where_there_is_one() {
    let server = Server::with(&[("TOKEN", "s3cret")]);
    let refused = Request::get(&server.address, "/metrics").send().await;
    assert_eq!(refused.status, 401, "{refused:?}");
    assert!(!refused.body.contains("tool_executor_"), "{refused:?}");
    let wrong = Request::get(&server.address, "/metrics").header("Authorization", "Bearer wrong").send().await;
    assert_eq!(wrong.status, 403, "{wrong:?}");
    let right = Request::get(&server.address, "/metrics").header("Authorization", "Bearer s3cret").send().await;
    assert_eq!(right.status, 200, "{right:?}");
    Scrape::parse(&right.body);
}
