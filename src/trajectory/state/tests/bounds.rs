//! What is accepted of a batch that is more than there is room for.

use super::*;

/// A world whose service holds this beside the trajectory.
fn beside(others: Holdings, limits: Limits) -> World {
    let state = State::new(Arc::new(limits), options(), SystemTime::UNIX_EPOCH);
    let mut world = World { state, others, ..World::new() };
    world.act(|state, at| state.on_open(open(), true, at).expect("it opens"));
    world.take();
    world
}

fn sized(name: &str, bytes: usize) -> Call {
    let process = Process { stdin: vec![0; bytes].into(), ..Process::default() };
    let work = Work { action: ActionHash([1; 16]), job: Job::Process(process), kind: Kind::Shell };
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
    assert_eq!(world.state.holdings().call_bytes, 0);
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
    let others = Holdings { result_bytes: (1 << 30) - 1, ..Holdings::default() };
    let mut world = beside(others, limits());
    world.batch(vec![call("a", false)]);
    world.granted();
    world.act(|state, at| state.on_ended(CallNumber(1), ended(None), at));
    world.take();
    world.batch(vec![call("b", false)]);
    assert_eq!(refused(&mut world), 1, "its result waits for its client");
    world.act(|state, at| state.sent(Sequence(1), at));
    world.batch(vec![call("b", false), call("a", false)]);
    let results = world.results();
    assert_eq!(results[0].reason, Some(Reason::ResultDropped));
    assert_eq!((results.len(), world.state.load()), (1, (0, 1)));
}
