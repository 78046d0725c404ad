//! The core, driven by hand; and at random in `contract`.

mod bounds;
mod contract;
mod outside;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::*;
use crate::trajectory::accounts::Allowance;
use crate::{
    id::{CallId, ContainerId},
    tool::{
        ActionHash, Evidence, Executed, Kind, Location, Outcome, Reason, Task, ToolLabel, Verdict,
        job::{Captured, End, Ending, Exit, Job, OutputLimits, Phases, Process, ProcessEnd, Stop, Usage},
    },
    trajectory::request::{Call, Defaults, Open, OpenError, Request, Work},
};

const HOUR: Duration = Duration::from_secs(3600);
const LEASE: Duration = Duration::from_secs(600);

fn limits() -> Limits {
    Limits {
        max_calls_in_flight: 8,
        max_concurrent_calls: 2,
        max_kept_results: 6,
        max_kept_result_bytes: 1 << 20,
        max_total_result_bytes: 1 << 30,
        max_total_calls_in_flight: 1000,
        max_call_bytes_in_flight: 1 << 20,
        max_total_call_bytes_in_flight: 1 << 30,
        max_call_ids: 1000,
        logged_payload_bytes: 0,
        max_pending_input_bytes: 100,
        max_timeout: HOUR,
        retry_after: Duration::from_millis(100),
        default_options: Defaults {
            lease: LEASE,
            timeout: Duration::from_secs(30),
            output_limits: OutputLimits::default(),
        },
    }
}

fn options() -> Options {
    Options {
        lease: LEASE,
        labels: BTreeMap::new(),
        pool: PoolName::new(""),
        acquire_slot: false,
        output_limits: OutputLimits::default(),
        default_timeout: Duration::from_secs(30),
    }
}

fn open() -> Open {
    Open { options: options(), take_over: false, last_sequence: Sequence(0), require_existing: false, trace: None }
}

fn call(name: &str, concurrent: bool) -> Call {
    let id = CallId::parse(name).expect("it is a name");
    let work = Work {
        action: ActionHash([1; 16]),
        task: Task::Slot { job: Job::Process(Process::default()), kind: Kind::Shell },
    };
    Call { id, tool: ToolLabel::Command, work: Ok(work), timeout: None, stream_output: false, concurrent }
}

fn ended(stop: Option<Stop>) -> Ending {
    let end = ProcessEnd {
        exit: Exit::Code(0),
        stop,
        stdout: Captured::default(),
        stderr: Captured::default(),
        usage: Some(Usage::default()),
        exceeded: None,
    };
    Ending { end: End::Process(end), phases: Phases::default() }
}

fn place() -> Place {
    let location = Location { container: ContainerId::new("c"), node: "n".to_owned(), slot: 0 };
    Place { location, isolation: "L0".into(), network_isolated: true }
}

fn moment(start: Instant, at: Duration) -> Moment {
    Moment {
        now: start + at,
        wall: SystemTime::UNIX_EPOCH + at,
        others: Holdings::default(),
        tenant: Allowance::default(),
        can_record: true,
    }
}

/// A state and the clock that it is shown.
struct World {
    state: State,
    start: Instant,
    at: Duration,
    /// Of the service's other trajectories.
    others: Holdings,
    effects: Vec<Effect>,
    /// All that there have been.
    records: Vec<Record>,
}

impl World {
    fn new() -> Self {
        Self::with(limits(), options())
    }

    fn with(limits: Limits, options: Options) -> Self {
        let start = Instant::now();
        let mut state = State::new(Arc::new(limits), options, moment(start, Duration::ZERO));
        let (others, effects, records) = (Holdings::default(), Vec::new(), state.take_records());
        Self { state, start, at: Duration::ZERO, others, effects, records }
    }

    fn attached() -> Self {
        let mut world = Self::new();
        world.act(|state, at| state.on_open(open(), at).expect("it opens"));
        world.take();
        world
    }

    fn act<T>(&mut self, act: impl FnOnce(&mut State, Moment) -> T) -> T {
        let at = Moment { others: self.others, ..moment(self.start, self.at) };
        let answer = act(&mut self.state, at);
        self.records.extend(self.state.take_records());
        self.effects.extend(self.state.take_effects());
        answer
    }

    fn take(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    fn batch(&mut self, calls: Vec<Call>) {
        self.act(|state, at| state.on_request(Request::Batch(calls), 0, at));
    }

    fn granted(&mut self) {
        self.act(|state, at| state.on_granted(place(), at));
    }

    fn results(&mut self) -> Vec<Arc<CallResult>> {
        let results = self.take().into_iter().filter_map(|effect| match effect {
            Effect::Send(Response::Result { result, .. }) | Effect::Answer { result, .. } => Some(result),
            _ => None,
        });
        results.collect()
    }
}

fn runs(effects: &[Effect]) -> Vec<CallNumber> {
    effects.iter().filter_map(|effect| if let Effect::Run(call, _) = effect { Some(*call) } else { None }).collect()
}

#[test]
fn calls_wait_for_a_slot_and_run_in_order() {
    let mut world = World::attached();
    world.batch(vec![call("a", false), call("b", false), call("c", true)]);
    assert_eq!(world.take(), [Effect::Acquire(PoolName::new(""))]);
    world.at = Duration::from_secs(2);
    world.granted();
    let effects = world.take();
    assert_eq!(effects[0], Effect::OpenSlot(Generation(1)));
    assert_eq!(runs(&effects), [CallNumber(1), CallNumber(3)], "one in order, and one beside it");
    world.at = Duration::from_secs(5);
    world.act(|state, at| state.on_ended(CallNumber(1), ended(None), at));
    assert_eq!(runs(&world.effects), [CallNumber(2)]);
    let results = world.results();
    let timings = results[0].timings;
    assert_eq!(timings.slot_wait, Duration::from_secs(2));
    assert_eq!(timings.total(), Duration::from_secs(5));
    world.at = Duration::from_secs(6);
    world.act(|state, at| state.on_ended(CallNumber(2), ended(None), at));
    let timings = world.results()[0].timings;
    assert_eq!(timings.total(), Duration::from_secs(6));
    assert_eq!((timings.queued, timings.slot_wait), (Duration::from_secs(5), Duration::ZERO));
}

/// Of execution alone: what was spent in waiting is not taken from it.
#[test]
fn a_timeout_is_handed_over_as_it_was_asked_for_from_a_second_to_an_hour() {
    let asked = |timeout: Option<Duration>| {
        let mut world = World::attached();
        world.batch(vec![Call { timeout, ..call("a", false) }]);
        world.at = Duration::from_secs(500);
        world.granted();
        let handed_over = world.take().into_iter().find_map(|effect| match effect {
            Effect::Run(_, order) => Some(order.timeout),
            _ => None,
        });
        handed_over.expect("it runs")
    };
    let second = Duration::from_secs(1);
    for timeout in [second, second * 3, HOUR - second / 1_000, HOUR] {
        assert_eq!(asked(Some(timeout)), timeout);
    }
    assert_eq!(asked(None), options().default_timeout);
    assert_eq!((asked(Some(Duration::ZERO)), asked(Some(HOUR * 24))), (second, HOUR));
}

#[test]
fn the_whole_line_ends_when_no_slot_comes() {
    let mut world = World::attached();
    world.batch(vec![call("a", false), call("b", false)]);
    world.take();
    world.act(|state, at| state.on_wait_failed(Verdict::slot_timeout(Duration::from_secs(30), None), at));
    let results = world.results();
    assert_eq!(results.len(), 2);
    assert!(results.iter().all(|result| result.outcome == Outcome::NoCapacity && result.executed == Executed::No));
    world.batch(vec![call("c", false)]);
    assert_eq!(world.take(), [Effect::Acquire(PoolName::new(""))], "the next call tries again");
}

#[test]
fn a_line_that_nobody_needs_any_more_is_left() {
    let mut world = World::attached();
    world.batch(vec![call("a", false)]);
    world.act(|state, at| state.on_request(Request::Cancel(Vec::new()), 0, at));
    assert!(world.take().contains(&Effect::LeaveLine));
}

#[test]
fn after_a_loss_nothing_runs_until_a_reset() {
    let mut world = World::attached();
    world.batch(vec![call("a", false), call("b", false)]);
    world.granted();
    world.take();
    let evidence = Arc::new(Evidence::default());
    world.act(|state, at| state.on_container_lost(&evidence, at));
    assert!(world.effects.contains(&Effect::ReleaseSlot { keep: false }));
    let results = world.results();
    let executed: Vec<Executed> = results.iter().map(|result| result.executed).collect();
    assert_eq!(executed, [Executed::Unknown, Executed::No]);
    world.batch(vec![call("c", false)]);
    assert_eq!(world.results()[0].reason, Some(Reason::WorkspaceGone));
    world.act(|state, at| state.on_request(Request::Reset(Generation(1)), 0, at));
    assert_eq!(world.take(), [Effect::Send(Response::WorkspaceReset(Generation(2)))]);
    world.batch(vec![call("c", false)]);
    world.granted();
    let effects = world.take();
    assert!(effects.contains(&Effect::OpenSlot(Generation(2))), "{effects:?}");
}

#[test]
fn a_slot_is_given_on_only_after_its_last_call_has_ended() {
    let mut world = World::attached();
    world.batch(vec![call("a", false)]);
    world.granted();
    world.take();
    world.act(|state, at| state.on_request(Request::Release { keep_workspace: true }, 0, at));
    assert_eq!(world.take(), [Effect::CancelRun(CallNumber(1))]);
    world.act(|state, at| state.on_ended(CallNumber(1), ended(Some(Stop::Cancelled)), at));
    let effects = world.take();
    let place = |wanted: &dyn Fn(&Effect) -> bool| effects.iter().position(wanted);
    let answered = place(&|effect| matches!(effect, Effect::Send(Response::Result { .. })));
    let released = place(&|effect| *effect == Effect::ReleaseSlot { keep: true });
    assert!(answered.is_some() && answered < released, "{effects:?}");
    assert!(effects.contains(&Effect::EndStream(None)));
}

#[test]
fn a_lease_runs_only_while_nobody_attends() {
    let mut world = World::attached();
    assert_eq!(world.state.deadline(), None);
    world.batch(vec![call("a", false)]);
    world.act(State::on_detached);
    assert_eq!(world.state.deadline(), None, "a call waits");
    world.granted();
    world.at = Duration::from_secs(10);
    world.act(|state, at| state.on_ended(CallNumber(1), ended(None), at));
    assert_eq!(world.state.deadline(), Some(world.start + world.at + LEASE));
    world.at += LEASE;
    assert!(!world.act(State::on_deadline));
    assert!(world.take().contains(&Effect::ReleaseSlot { keep: false }));
    let unseen = world.act(|state, at| state.on_execute(call("b", false), true, 1, at));
    assert_eq!(unseen, Err(OpenError::NotFound));
    world.act(|state, at| state.on_execute(call("a", false), true, 2, at)).expect("what is known is answered");
    assert_eq!(world.results()[0].sequence, Sequence(1));
    world.at += LEASE;
    assert!(world.act(State::on_deadline), "a lease later the ledger is gone, too");
}

#[test]
fn unsent_results_are_never_dropped() {
    let mut world = World::attached();
    world.granted();
    for n in 0..10_u64 {
        world.batch(vec![call(&format!("c{n}"), false)]);
        world.act(|state, at| state.on_ended(CallNumber(n + 1), ended(None), at));
    }
    let results = world.results();
    let kept = results.iter().filter(|result| result.sequence > Sequence(0)).count();
    assert_eq!(kept, 6, "the log takes no more than it may keep");
    assert!(results[6..].iter().all(|result| result.reason == Some(Reason::QueueFull)));
    world.act(|state, at| state.sent(Sequence(1), at));
    world.batch(vec![call("next", false)]);
    world.act(|state, at| state.on_ended(CallNumber(7), ended(None), at));
    assert_eq!(world.results()[0].sequence, Sequence(7));
    world.batch(vec![call("c0", false)]);
    assert_eq!(world.results()[0].reason, Some(Reason::ResultDropped));
}
