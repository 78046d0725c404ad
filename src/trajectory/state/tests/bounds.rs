//! What is accepted of a batch that is more than there is room for.

use super::*;

/// A world whose service holds this beside the trajectory.
fn beside(others: Holdings, limits: Limits) -> World {
    let mut world = World { others, ..World::with(limits, options()) };
    world.act(|state, at| state.on_open(open(), at).expect("it opens"));
    world.take();
    world
}

fn sized(name: &str, bytes: usize) -> Call {
    let process = Process { stdin: vec![0; bytes].into(), ..Process::default() };
    let work = Work { action: ActionHash([1; 16]), task: Task::Slot { job: Job::Process(process), kind: Kind::Shell } };
    Call { work: Ok(work), ..call(name, false) }
}

fn refused(world: &mut World) -> usize {
    let results = world.results();
    assert!(results.iter().all(|result| result.reason == Some(Reason::QueueFull)), "{results:?}");
    let faults = || results.iter().map(|result| result.fault.as_ref().expect("it has a fault"));
    assert!(faults().all(|fault| fault.retry_after.is_some()), "{results:?}");
    results.len()
}

#[test]
fn the_service_takes_no_more_calls_than_it_has_room_for_in_one_batch_either() {
    let mut world = beside(Holdings { calls: 997, ..Holdings::default() }, limits());
    world.batch((0..6).map(|n| call(&n.to_string(), false)).collect());
    assert_eq!((refused(&mut world), world.state.load().0), (3, 3));
}

#[test]
fn what_calls_carry_is_bounded_and_given_back_with_their_end() {
    let mut world = beside(Holdings::default(), Limits { max_call_bytes_in_flight: 1000, ..limits() });
    world.batch(vec![sized("a", 500), sized("b", 600), sized("c", 400)]);
    assert_eq!((refused(&mut world), world.state.load().0), (1, 2));
    world.act(|state, at| state.on_request(Request::Cancel(vec![CallId::parse("a").expect("a name")]), 0, at));
    world.results();
    world.batch(vec![sized("b", 500), sized("d", 500)]);
    assert_eq!((refused(&mut world), world.state.load().0), (1, 2));
    world.act(|state, at| state.on_request(Request::Cancel(Vec::new()), 0, at));
    assert_eq!(world.state.part().call_bytes, 0);
}

/// Whose log is full with one result.
fn small_log() -> World {
    let mut world = beside(Holdings::default(), Limits { max_kept_result_bytes: 1, ..limits() });
    world.batch(vec![call("a", false), call("b", false), call("c", true)]);
    world.granted();
    assert_eq!(runs(&world.take()), [CallNumber(1), CallNumber(3)]);
    world.act(|state, at| state.on_ended(CallNumber(1), ended(None), at));
    world
}

#[test]
fn a_client_that_does_not_read_is_waited_for() {
    let mut world = small_log();
    assert_eq!(runs(&world.take()), [], "nobody has been sent the first result");
    world.at = Duration::from_secs(7);
    world.act(|state, at| state.sent(Sequence(1), at));
    assert_eq!(runs(&world.take()), [CallNumber(2)]);
    world.act(|state, at| state.on_ended(CallNumber(2), ended(None), at));
    let timings = world.results()[0].timings;
    assert_eq!((timings.queued, timings.slot_wait), (Duration::from_secs(7), Duration::ZERO));
}

#[test]
fn a_client_that_is_away_is_waited_for_until_its_lease_ends() {
    let mut world = small_log();
    world.act(State::on_detached);
    assert_eq!(world.state.deadline(), None, "a call runs");
    world.act(|state, at| state.on_ended(CallNumber(3), ended(None), at));
    assert_eq!(world.state.deadline(), Some(world.start + LEASE));
    world.act(|state, at| state.on_open(open(), at).expect("it resumes"));
    assert_eq!(world.state.deadline(), None, "its client is back");
    world.act(State::on_detached);
    world.take();
    world.at = LEASE;
    assert!(!world.act(State::on_deadline));
    assert!(world.take().contains(&Effect::ReleaseSlot { keep: false }));
    world.act(|state, at| state.on_execute(call("b", false), false, 1, at)).expect("what is known is answered");
    let result = &world.results()[0];
    assert_eq!((result.outcome, result.executed), (Outcome::NoCapacity, Executed::No));
    assert_eq!((result.reason, result.sequence), (Some(Reason::QueueFull), Sequence(3)));
}

#[test]
fn a_full_service_holds_up_those_who_do_not_read() {
    let others = Holdings { kept_bytes: 1 << 30, ..Holdings::default() };
    let mut world = beside(Holdings::default(), limits());
    world.batch(vec![call("a", false), call("b", false), call("c", false)]);
    world.granted();
    world.others = others;
    world.act(|state, at| state.on_ended(CallNumber(1), ended(None), at));
    world.act(|state, at| state.sent(Sequence(1), at));
    assert_eq!(runs(&world.take()), [CallNumber(1), CallNumber(2)], "this one reads");
    world.act(|state, at| state.on_ended(CallNumber(2), ended(None), at));
    assert_eq!(runs(&world.take()), [], "it has not yet");
}

#[test]
fn what_the_calls_of_all_carry_is_bounded() {
    let others = Holdings { call_bytes: (1 << 30) - 1000, ..Holdings::default() };
    let mut world = beside(others, limits());
    world.batch(vec![sized("a", 600), sized("b", 600), sized("c", 300)]);
    assert_eq!((refused(&mut world), world.state.load().0), (1, 2));
}

#[test]
fn results_of_all_are_bounded_by_dropping_what_was_sent_and_else_by_refusing() {
    let others = Holdings { kept_bytes: (1 << 30) - 1, ..Holdings::default() };
    let mut world = beside(others, limits());
    world.batch(vec![call("a", false)]);
    world.granted();
    world.act(|state, at| state.on_ended(CallNumber(1), ended(None), at));
    world.take();
    world.batch(vec![call("b", false)]);
    assert_eq!(refused(&mut world), 1, "its result waits for its client");
    world.act(|state, at| state.sent(Sequence(1), at));
    world.act(State::on_pressure);
    world.batch(vec![call("b", false), call("a", false)]);
    let results = world.results();
    assert_eq!(results[0].reason, Some(Reason::ResultDropped));
    assert_eq!((results.len(), world.state.load()), (1, (0, 1)));
}
