//! What the status page remembers of the last minutes: how calls ended, how long their phases took, and the latest
//! faults with what is known of them. Bounded whatever the load: a ring of steps, and a few faults of each cause.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::{
    id::{CallId, Tenant, TrajectoryKey},
    tool::{Attribution, Evidence, Location, Outcome, Reason, Timings, ToolLabel},
    trajectory::{Answered, Failed},
};

/// Of time.
pub(super) const STEP: Duration = Duration::from_secs(5);
/// Steps that are remembered: ten minutes.
pub(super) const STEPS: usize = 120;
/// Faults that are remembered of each cause: so many of one never hide another, and there are at most a hundred causes.
const FAULTS: usize = 16;
/// Of a text of a fault, in bytes.
const TEXT: usize = 1_000;
/// Of a container's last words, in bytes.
const LAST_WORDS: usize = 2_000;
/// Of a container, the latest.
const EVENTS: usize = 8;

/// The phases of a call, in their order, and all of them together.
pub(super) const PHASES: [&str; 6] = ["queued", "slot wait", "dispatch", "execution", "collection", "in all"];
/// The longest time that is told from longer ones, in microseconds: more than the longest call.
const LONGEST: u64 = 24 * 3600 * 1_000_000;

/// Whose doing the end of a call was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Whose {
    Infrastructure,
    Client,
    Model,
    /// It succeeded.
    Nobody,
}

impl Whose {
    const ALL: usize = 4;

    fn of(failure: Option<&Failed>) -> Self {
        match failure.map(|failed| failed.attribution) {
            None => Self::Nobody,
            Some(Some(Attribution::Model)) => Self::Model,
            Some(Some(Attribution::Client)) => Self::Client,
            // Nobody has said that it was somebody else's.
            Some(Some(Attribution::Infrastructure) | None) => Self::Infrastructure,
        }
    }
}

/// Why calls did not succeed; what is to be seen to first comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cause {
    pub(super) whose: Whose,
    /// As metrics have it.
    pub(super) label: &'static str,
}

impl Cause {
    fn new(whose: Whose, outcome: Outcome, reason: Option<Reason>) -> Self {
        Self { whose, label: reason.map_or(outcome.label(), Reason::label) }
    }
}

/// One call that did not succeed.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) at: SystemTime,
    pub(super) cause: Cause,
    pub(super) trajectory: TrajectoryKey,
    pub(super) call: CallId,
    pub(super) tool: ToolLabel,
    pub(super) error: String,
    /// Of the slot, as far as it is known.
    pub(super) place: Option<Location>,
    pub(super) evidence: Option<Evidence>,
}

impl Fault {
    fn new(cause: Cause, trajectory: &TrajectoryKey, answered: &Answered, failed: &Failed, at: SystemTime) -> Self {
        let known = failed.evidence.as_deref();
        Self {
            at,
            cause,
            trajectory: trajectory.clone(),
            call: answered.call.clone(),
            tool: answered.tool.clone(),
            error: start(&failed.error, TEXT),
            place: known.and_then(|evidence| evidence.location.clone()).or_else(|| failed.place.clone()),
            evidence: known.map(short),
        }
    }
}

fn start(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].to_owned()
}

/// As much of it as a page shows.
fn short(evidence: &Evidence) -> Evidence {
    let tail = &evidence.stderr_tail;
    let events = evidence.events.iter().skip(evidence.events.len().saturating_sub(EVENTS));
    Evidence {
        location: evidence.location.clone(),
        cause: start(&evidence.cause, TEXT),
        events: events.map(|event| start(event, TEXT)).collect(),
        stderr_tail: tail[tail.ceil_char_boundary(tail.len().saturating_sub(LAST_WORDS))..].to_owned(),
    }
}

/// How many calls were answered in a step, by whose doing their end was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ends([u32; Whose::ALL]);

impl Ends {
    pub(super) fn of(&self, whose: Whose) -> u32 {
        self.0[whose as usize]
    }

    pub(super) fn all(&self) -> u32 {
        self.0.iter().sum()
    }

    fn add(&mut self, whose: Whose) {
        self.0[whose as usize] += 1;
    }
}

/// How long one phase took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Spread {
    pub(super) median: Duration,
    pub(super) p90: Duration,
    pub(super) p99: Duration,
    pub(super) longest: Duration,
}

struct Step {
    number: u64,
    ends: Ends,
    causes: BTreeMap<Cause, u32>,
    phases: [Histogram<u32>; PHASES.len()],
}

/// To within a sixteenth, which takes 2 KiB at most.
fn histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1, LONGEST, 1).expect("the bounds are in order")
}

impl Step {
    fn new(number: u64) -> Self {
        Self { number, ends: Ends::default(), causes: BTreeMap::new(), phases: std::array::from_fn(|_| histogram()) }
    }

    fn record(&mut self, cause: Cause, timings: Option<&Timings>) {
        self.ends.add(cause.whose);
        if cause.whose != Whose::Nobody {
            *self.causes.entry(cause).or_default() += 1;
        }
        if let Some(timings) = timings {
            let phases = [
                timings.queued,
                timings.slot_wait,
                timings.dispatch,
                timings.execution,
                timings.collection,
                timings.total(),
            ];
            for (histogram, took) in self.phases.iter_mut().zip(phases) {
                histogram.saturating_record(u64::try_from(took.as_micros()).unwrap_or(LONGEST));
            }
        }
    }
}

#[derive(Default)]
struct Ring {
    /// Those in which calls were answered.
    steps: VecDeque<Step>,
    /// The latest last.
    faults: BTreeMap<Cause, VecDeque<Arc<Fault>>>,
}

/// See the module.
pub struct History {
    started: Instant,
    ring: Mutex<Ring>,
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").finish_non_exhaustive()
    }
}

/// What the last minutes were like.
#[derive(Debug, Clone, Default)]
pub(super) struct Recent {
    /// One for each step, the present one last; fewer than [`STEPS`] while the service is young. None where the reader
    /// may not know how everybody's calls went: then there are no phases and no causes either.
    pub(super) steps: Vec<Ends>,
    /// How much of the present step is over.
    pub(super) present: Duration,
    /// By [`PHASES`]; empty if no accepted call has ended.
    pub(super) phases: Vec<Spread>,
    pub(super) causes: BTreeMap<Cause, u32>,
    /// Of one tenant, the latest first.
    pub(super) faults: Vec<Arc<Fault>>,
}

impl Default for History {
    fn default() -> Self {
        Self { started: Instant::now(), ring: Mutex::default() }
    }
}

impl History {
    /// One call has been answered. Takes a microsecond, and a lock for that long.
    pub fn record(&self, trajectory: &TrajectoryKey, answered: &Answered) {
        let failure = answered.failure.as_deref();
        let cause = Cause::new(Whose::of(failure), answered.outcome, answered.reason);
        let fault = failure.map(|failed| Fault::new(cause, trajectory, answered, failed, SystemTime::now()));
        let number = self.number();
        let mut ring = self.lock();
        if let Some(fault) = fault {
            let faults = ring.faults.entry(cause).or_default();
            if faults.len() == FAULTS {
                faults.pop_front();
            }
            faults.push_back(Arc::new(fault));
        }
        // Whoever came first to the lock may have begun a later step.
        if ring.steps.back().is_none_or(|step| step.number < number) {
            if ring.steps.len() == STEPS {
                ring.steps.pop_front();
            }
            ring.steps.push_back(Step::new(number));
        }
        if let Some(step) = ring.steps.back_mut() {
            step.record(cause, answered.timings.as_ref());
        }
    }

    /// The last minutes, with the faults of one tenant; `whole`: and with the ends and times of everybody's calls.
    pub(super) fn recent(&self, tenant: &Tenant, whole: bool) -> Recent {
        let mut recent = if whole { self.of_all() } else { Recent::default() };
        let ring = self.lock();
        let own = ring.faults.values().flatten().filter(|fault| fault.trajectory.tenant == *tenant);
        recent.faults = own.cloned().collect();
        drop(ring);
        recent.faults.sort_by_key(|fault| Reverse(fault.at));
        recent
    }

    /// The last minutes without their faults.
    fn of_all(&self) -> Recent {
        let elapsed = self.started.elapsed();
        let now = self.number();
        let first = (now + 1).saturating_sub(STEPS as u64);
        let mut recent = Recent {
            steps: vec![Ends::default(); (now + 1 - first) as usize],
            present: elapsed.saturating_sub(STEP * u32::try_from(now).unwrap_or(u32::MAX)),
            ..Recent::default()
        };
        let mut phases: [Histogram<u32>; PHASES.len()] = std::array::from_fn(|_| histogram());
        let ring = self.lock();
        for step in ring.steps.iter().filter(|step| step.number >= first) {
            if let Some(ends) = recent.steps.get_mut((step.number - first) as usize) {
                *ends = step.ends;
            }
            for (cause, count) in &step.causes {
                *recent.causes.entry(*cause).or_default() += count;
            }
            for (all, of_step) in phases.iter_mut().zip(&step.phases) {
                all.add(of_step).expect("they have the same bounds");
            }
        }
        drop(ring);
        if !phases[0].is_empty() {
            recent.phases = phases.iter().map(spread).collect();
        }
        recent
    }

    /// Of the present step.
    fn number(&self) -> u64 {
        self.started.elapsed().as_secs() / STEP.as_secs()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // What is counted may be off by one after a panic, and is whole all the same.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spread(phase: &Histogram<u32>) -> Spread {
    let at = |quantile| Duration::from_micros(phase.value_at_quantile(quantile));
    Spread { median: at(0.5), p90: at(0.9), p99: at(0.99), longest: Duration::from_micros(phase.max()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TrajectoryId;

    fn key(tenant: &str) -> TrajectoryKey {
        TrajectoryKey { tenant: Tenant::new(tenant), id: TrajectoryId::parse("t").expect("it is a name") }
    }

    fn answered(failure: Option<Failed>, execution: Duration) -> Answered {
        Answered {
            call: CallId::parse("c").expect("it is a name"),
            tool: ToolLabel::Command,
            outcome: if failure.is_some() { Outcome::SandboxLost } else { Outcome::Succeeded },
            reason: failure.is_some().then_some(Reason::ContainerLost),
            timings: Some(Timings { execution, ..Timings::none(SystemTime::UNIX_EPOCH) }),
            failure: failure.map(Box::new),
        }
    }

    fn failed(attribution: Attribution, text: &str) -> Failed {
        let evidence = Evidence {
            cause: text.to_owned(),
            events: vec![text.to_owned(); 100],
            stderr_tail: text.to_owned(),
            ..Evidence::default()
        };
        Failed {
            attribution: Some(attribution),
            error: text.to_owned(),
            evidence: Some(Arc::new(evidence)),
            place: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_old_is_forgotten() {
        let history = History::default();
        history.record(&key(""), &answered(None, Duration::from_millis(10)));
        tokio::time::advance(STEP * 2).await;
        history.record(&key(""), &answered(None, Duration::from_millis(1000)));
        let recent = history.recent(&key("").tenant, true);
        let ends: Vec<u32> = recent.steps.iter().map(Ends::all).collect();
        assert_eq!(ends, [1, 0, 1]);
        let execution = recent.phases[3];
        let about = |took: Duration, millis: u64| took.abs_diff(Duration::from_millis(millis)) < took / 10;
        assert!(about(execution.median, 10) && about(execution.longest, 1000), "{execution:?}");
        tokio::time::advance(STEP * STEPS as u32).await;
        let later = history.recent(&key("").tenant, true);
        assert_eq!(later.steps, vec![Ends::default(); STEPS]);
        assert!(later.phases.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_of_faults_is_held_to_little_and_hides_no_other() {
        let history = History::default();
        let long = "é".repeat(100_000);
        history.record(&key(""), &answered(Some(failed(Attribution::Infrastructure, &long)), Duration::ZERO));
        for _ in 0..1_000 {
            let gone = answered(Some(failed(Attribution::Infrastructure, &long)), Duration::ZERO);
            history.record(&key(""), &Answered { reason: Some(Reason::WorkspaceGone), ..gone });
        }
        let recent = history.recent(&key("").tenant, true);
        assert_eq!(recent.faults.len(), FAULTS + 1);
        assert_eq!(recent.causes.values().sum::<u32>(), 1_001);
        let lost = recent.faults.iter().find(|fault| fault.cause.label == "container_lost");
        assert!(lost.is_some(), "its evidence is what somebody looks for");
        for fault in &recent.faults {
            let evidence = fault.evidence.as_ref().expect("it came with evidence");
            let bytes = evidence.events.iter().map(String::len).sum::<usize>() + evidence.stderr_tail.len();
            assert!(fault.error.len() + evidence.cause.len() + bytes <= 2 * TEXT + LAST_WORDS + EVENTS * TEXT);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn faults_are_told_to_their_tenant_alone() {
        let history = History::default();
        history.record(&key("a"), &answered(Some(failed(Attribution::Model, "secret")), Duration::ZERO));
        assert_eq!(history.recent(&Tenant::new("a"), true).faults.len(), 1);
        assert!(history.recent(&Tenant::new("b"), true).faults.is_empty());
        let own = history.recent(&Tenant::new("a"), false);
        assert_eq!(own.faults.len(), 1);
        assert!(own.steps.is_empty() && own.phases.is_empty() && own.causes.is_empty(), "how others do is not told");
    }
}
