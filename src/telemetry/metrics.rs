//! What Prometheus is told, in the text format of OpenMetrics.
//!
//! Counters and histograms grow as things happen; what the rooms count by themselves is read at each scrape,
//! and cannot drift. Every label has few values: tools beyond [`MAX_TOOLS`] are counted together.

use std::{
    collections::HashSet,
    fmt::{self, Write as _},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

/// Names that a service ever counts by themselves: sources of tools may change what they offer all the time.
const MAX_TOOLS: usize = 200;
/// The name of all others.
const OTHER_TOOLS: &str = "other";

/// Upper bounds, in seconds: from what a warm slot takes to the longest timeout.
const BOUNDS: [f64; 18] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

/// The phases of a call, in their order.
const PHASES: [&str; 5] = ["queued", "slot_wait", "dispatch", "execution", "collection"];

/// One answer to a call.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    pub tool: &'a Arc<str>,
    pub outcome: &'static str,
    /// Empty for a call that needs none.
    pub reason: &'static str,
    /// How long each of [`PHASES`] took; none of a call that was refused at the door.
    pub phases: Option<[Duration; PHASES.len()]>,
}

/// What is so at the moment of a scrape.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub draining: bool,
    pub attended_trajectories: u64,
    /// Whose lease runs, since nobody attends to them.
    pub leased_trajectories: u64,
    pub waiting_calls: u64,
    pub running_calls: u64,
    pub call_bytes: u64,
    pub result_bytes: u64,
    /// Of clients, open.
    pub connections: u64,
    pub max_connections: u64,
    /// Since the start, for there were too many.
    pub refused_connections: u64,
    /// In seconds since 1970; none without TLS.
    pub certificate_expires: Option<i64>,
    pub pools: Vec<Pool>,
    /// Of Nomad so far: call, result, number.
    pub requests: Vec<(&'static str, &'static str, u64)>,
}

/// One pool of containers.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    pub name: String,
    /// By state.
    pub slots: Vec<(&'static str, u64)>,
    /// By state.
    pub containers: Vec<(&'static str, u64)>,
    pub max_containers: u64,
    pub waiting_trajectories: u64,
    /// The last container did not start, and none has since.
    pub start_failing: bool,
}

/// See the module.
pub struct Metrics {
    registry: Registry,
    calls: Family<CallLabels, Counter>,
    duration: Histogram,
    phases: [Histogram; PHASES.len()],
    tools: RwLock<HashSet<Name>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Name(Arc<str>);

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl EncodeLabelValue for Name {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.write_str(&self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    tool: Name,
    outcome: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    phase: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    pool: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolStateLabels {
    pool: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    call: &'static str,
    result: &'static str,
}

impl Metrics {
    /// Of a service that starts now, over this backend.
    pub fn new(backend: &'static str) -> Self {
        let mut registry = Registry::with_prefix("tool_executor");
        let calls = Family::<CallLabels, Counter>::default();
        registry.register("calls", "Answers to calls, by tool, outcome and reason", calls.clone());
        let duration = Histogram::new(BOUNDS);
        registry.register_with_unit(
            "call_duration",
            "From the arrival of an accepted call to its end",
            Unit::Seconds,
            duration.clone(),
        );
        let by_phase = Family::<PhaseLabels, Histogram>::new_with_constructor(|| Histogram::new(BOUNDS));
        registry.register_with_unit(
            "call_phase_duration",
            "How long each phase of accepted calls took",
            Unit::Seconds,
            by_phase.clone(),
        );
        let phases = PHASES.map(|phase| by_phase.get_or_create(&PhaseLabels { phase }).clone());
        let build = Info::new([("version", env!("CARGO_PKG_VERSION")), ("backend", backend)]);
        registry.register("build", "What serves", build);
        let started: Gauge<f64, std::sync::atomic::AtomicU64> = Gauge::default();
        started.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        registry.register_with_unit("start_time", "When the service started, since 1970", Unit::Seconds, started);
        Self { registry, calls, duration, phases, tools: RwLock::default() }
    }

    pub fn answered(&self, answer: &Answer<'_>) {
        let labels = CallLabels { tool: self.tool(answer.tool), outcome: answer.outcome, reason: answer.reason };
        self.calls.get_or_create(&labels).inc();
        if let Some(phases) = answer.phases {
            self.duration.observe(phases.iter().sum::<Duration>().as_secs_f64());
            self.phases.iter().zip(phases).for_each(|(histogram, took)| histogram.observe(took.as_secs_f64()));
        }
    }

    /// Its name, if there is room for it.
    fn tool(&self, name: &Arc<str>) -> Name {
        if let Some(known) = self.tools.read().unwrap_or_else(PoisonError::into_inner).get(&**name) {
            return known.clone();
        }
        let mut tools = self.tools.write().unwrap_or_else(PoisonError::into_inner);
        if tools.len() >= MAX_TOOLS && !tools.contains(&**name) {
            return Name(OTHER_TOOLS.into());
        }
        let name = Name(name.clone());
        tools.insert(name.clone());
        name
    }

    /// The answer to a scrape.
    pub fn render(&self, snapshot: &Snapshot) -> String {
        let mut rendered = String::new();
        let of_snapshot = of_snapshot(snapshot);
        let written = text::encode_registry(&mut rendered, &self.registry)
            .and_then(|()| text::encode_registry(&mut rendered, &of_snapshot))
            .and_then(|()| text::encode_eof(&mut rendered));
        written.expect("a string takes every text");
        rendered
    }
}

/// What is known from the snapshot alone.
fn of_snapshot(snapshot: &Snapshot) -> Registry {
    let mut registry = Registry::with_prefix("tool_executor");
    let value = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let by_state = |registry: &mut Registry, name: &str, help: &str, states: &[(&'static str, u64)]| {
        let family = Family::<StateLabels, Gauge>::default();
        for (state, count) in states {
            family.get_or_create(&StateLabels { state }).set(value(*count));
        }
        registry.register(name, help, family);
    };
    let trajectories = [("attended", snapshot.attended_trajectories), ("leased", snapshot.leased_trajectories)];
    by_state(&mut registry, "trajectories", "Open trajectories; leased: nobody attends to them", &trajectories);
    let in_flight = [("waiting", snapshot.waiting_calls), ("running", snapshot.running_calls)];
    by_state(&mut registry, "calls_in_flight", "Calls that were accepted and have not ended", &in_flight);
    for (name, help, bytes) in [
        ("calls_in_flight", "What calls in flight carry", snapshot.call_bytes),
        ("results_kept", "Results in memory, and the output of calls that run", snapshot.result_bytes),
    ] {
        let gauge: Gauge = Gauge::default();
        gauge.set(value(bytes));
        registry.register_with_unit(name, help, Unit::Bytes, gauge);
    }
    let draining: Gauge = Gauge::default();
    draining.set(snapshot.draining.into());
    registry.register("draining", "1 while nothing new is taken", draining);

    of_connections(&mut registry, snapshot);

    let slots = Family::<PoolStateLabels, Gauge>::default();
    let containers = Family::<PoolStateLabels, Gauge>::default();
    let (max, waiting, failing) = (
        Family::<PoolLabels, Gauge>::default(),
        Family::<PoolLabels, Gauge>::default(),
        Family::<PoolLabels, Gauge>::default(),
    );
    for pool in &snapshot.pools {
        for (family, states) in [(&slots, &pool.slots), (&containers, &pool.containers)] {
            for (state, count) in states {
                let labels = PoolStateLabels { pool: pool.name.clone(), state };
                family.get_or_create(&labels).set(value(*count));
            }
        }
        let counts =
            [(&max, pool.max_containers), (&waiting, pool.waiting_trajectories), (&failing, pool.start_failing.into())];
        for (family, count) in counts {
            family.get_or_create(&PoolLabels { pool: pool.name.clone() }).set(value(count));
        }
    }
    registry.register("slots", "Slots by pool and state", slots);
    registry.register("containers", "Containers by pool and state", containers);
    registry.register("containers_max", "How many containers a pool may have", max);
    registry.register("waiting_trajectories", "Trajectories that wait for a slot", waiting);
    let requests = Family::<RequestLabels, Counter>::default();
    for &(call, result, count) in &snapshot.requests {
        requests.get_or_create(&RequestLabels { call, result }).inc_by(count);
    }
    registry.register("nomad_requests", "Requests to Nomad, each try by itself, by call and result", requests);
    registry.register("container_start_failing", "1 while containers of the pool do not start", failing);
    registry
}

fn of_connections(registry: &mut Registry, snapshot: &Snapshot) {
    let gauge = |value: i64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(value);
        gauge
    };
    let count = |number: u64| gauge(i64::try_from(number).unwrap_or(i64::MAX));
    registry.register("connections", "Connections of clients that are open", count(snapshot.connections));
    registry.register("connections_max", "How many there may be", count(snapshot.max_connections));
    let refused: Counter = Counter::default();
    refused.inc_by(snapshot.refused_connections);
    registry.register("connections_refused", "Connections that were closed at once, for there were too many", refused);
    if let Some(expires) = snapshot.certificate_expires {
        let help = "When the certificate of new connections is over, since 1970";
        registry.register_with_unit("certificate_expiry", help, Unit::Seconds, gauge(expires));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beyond_the_bound_are_counted_together() {
        let metrics = Metrics::new("local");
        for number in 0..1_000 {
            let tool = format!("tool-{number}\"\\\n").into();
            metrics.answered(&Answer { tool: &tool, outcome: "succeeded", reason: "", phases: None });
        }
        let text = metrics.render(&Snapshot::default());
        let calls: Vec<&str> = text.lines().filter(|line| line.starts_with("tool_executor_calls_total{")).collect();
        assert_eq!(calls.len(), MAX_TOOLS + 1, "{text}");
        let other = calls.iter().find(|line| line.contains("tool=\"other\"")).expect("the others");
        assert!(other.ends_with(&format!(" {}", 1_000 - MAX_TOOLS)), "{other}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn phases_are_seconds() {
        let metrics = Metrics::new("local");
        let phases = Some([1, 2, 3, 4, 5].map(Duration::from_millis));
        metrics.answered(&Answer { tool: &"bash".into(), outcome: "failed", reason: "exit_status", phases });
        let text = metrics.render(&Snapshot::default());
        for line in [
            "tool_executor_calls_total{tool=\"bash\",outcome=\"failed\",reason=\"exit_status\"} 1",
            "tool_executor_call_duration_seconds_sum 0.015",
            "tool_executor_call_phase_duration_seconds_sum{phase=\"execution\"} 0.004",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
