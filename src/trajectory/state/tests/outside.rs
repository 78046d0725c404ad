//! Calls of tools that run elsewhere.

use super::*;
use crate::tool::{ExternalCall, ExternalEnd, ExternalEnding};

fn external(name: &str) -> Call {
    let call = ExternalCall { source: "s".into(), tool: "t".to_owned(), arguments: "{}".to_owned() };
    let work = Work { action: ActionHash([2; 16]), task: Task::External(call) };
    Call { work: Ok(work), ..super::call(name, false) }
}

fn answered() -> ExternalEnding {
    let end = ExternalEnd::Answered { success: true, output: "o".to_owned(), error: String::new(), metadata: vec![] };
    ExternalEnding { end, phases: Phases::default() }
}

fn asked(effects: &[Effect]) -> Vec<u64> {
    effects
        .iter()
        .filter_map(|effect| if let Effect::AskOutside(call, _) = effect { Some(call.0) } else { None })
        .collect()
}

fn room(world: &mut World, call: u64) {
    world.act(|state, at| state.on_outside_room(CallNumber(call), at));
}

#[test]
fn they_need_no_slot_and_are_asked_for_a_few_at_a_time() {
    let mut world = World::attached();
    world.batch(vec![external("a"), external("b"), external("c")]);
    let effects = world.take();
    assert_eq!(asked(&effects), [1, 2], "as many as may run at once");
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Acquire(_))));
    assert_eq!(world.state.load(), (3, 0));
    room(&mut world, 1);
    assert!(world.records.contains(&Record::HandedOver(CallNumber(1))));
    assert_eq!(world.state.load(), (2, 1));
    world.take();
    world.act(|state, at| state.on_external_ended(CallNumber(1), answered(), at));
    assert_eq!(asked(&world.effects), [3]);
    assert_eq!(world.results()[0].output, "o");
}

#[test]
fn a_loss_of_the_slot_is_nothing_to_them() {
    let mut world = World::attached();
    world.batch(vec![call("slot", false), external("runs"), external("asked"), external("waits")]);
    world.granted();
    room(&mut world, 2);
    world.take();
    world.act(|state, at| state.on_container_lost(&Arc::default(), at));
    let ids: Vec<_> = world.results().iter().map(|result| result.call_id.to_string()).collect();
    assert_eq!(ids, ["slot"]);
    // The lost slot is given back although a call runs elsewhere, and calls elsewhere are taken.
    assert!(matches!(world.state.slot, Slot::None));
    world.act(|state, at| state.on_external_ended(CallNumber(2), answered(), at));
    world.batch(vec![external("later")]);
    let outcomes: Vec<_> = world.results().iter().map(|result| result.outcome).collect();
    assert_eq!(outcomes, [Outcome::Succeeded]);
    assert_eq!(world.state.load(), (3, 0));
}

#[test]
fn a_cancel_says_what_is_known_and_late_answers_are_nothing() {
    let mut world = World::attached();
    world.batch(vec![external("runs"), external("asked"), external("waits")]);
    room(&mut world, 1);
    world.take();
    world.act(|state, at| state.on_request(Request::Cancel(Vec::new()), 0, at));
    let dropped = world.effects.iter().filter(|effect| matches!(effect, Effect::DropExternal(_))).count();
    assert_eq!(dropped, 2);
    let mut executed: Vec<_> =
        world.results().iter().map(|result| (result.call_id.to_string(), result.executed)).collect();
    executed.sort_by(|(a, _), (b, _)| a.cmp(b));
    let expected = [("asked", Executed::No), ("runs", Executed::Unknown), ("waits", Executed::No)];
    assert_eq!(executed, expected.map(|(id, executed)| (id.to_owned(), executed)));
    world.act(|state, at| state.on_external_ended(CallNumber(1), answered(), at));
    room(&mut world, 2);
    assert!(world.results().is_empty() && world.state.load() == (0, 0));
}

#[test]
fn after_a_restart_what_was_handed_over_is_in_doubt_and_what_was_not_goes_on() {
    let mut world = World::attached();
    world.batch(vec![external("runs"), external("asked")]);
    room(&mut world, 1);
    let at = moment(world.start, world.at);
    let mut state = State::restore(Arc::new(limits()), world.records, at).expect("it has a life");
    let records = state.take_records();
    let ended = records.iter().find_map(|record| match record {
        Record::Ended { result, .. } => Some(result.clone()),
        _ => None,
    });
    let ended = ended.expect("one has ended");
    assert_eq!((ended.call_id.as_str(), ended.outcome, ended.executed), ("runs", Outcome::Internal, Executed::Unknown));
    assert_eq!(asked(&state.take_effects()), [2]);
    assert_eq!(state.load(), (1, 0));
}

#[test]
fn a_call_whose_task_broke_is_answered_and_says_why() {
    let mut world = World::attached();
    world.batch(vec![external("runs"), external("asked"), external("next")]);
    room(&mut world, 1);
    world.take();
    for call in [1, 2, 2] {
        world.act(|state, at| state.on_outside_broken(CallNumber(call), "it panicked", at));
    }
    assert_eq!(asked(&world.effects), [3], "its place is another's");
    let results = world.results();
    let told: Vec<_> =
        results.iter().map(|result| (result.call_id.as_str(), result.outcome, result.executed)).collect();
    assert_eq!(told, [("runs", Outcome::Internal, Executed::Unknown), ("asked", Outcome::Internal, Executed::No)]);
    for result in results {
        let evidence = result.fault.as_ref().and_then(|fault| fault.evidence.clone()).expect("it has evidence");
        assert_eq!(evidence.cause, "it panicked");
    }
}
