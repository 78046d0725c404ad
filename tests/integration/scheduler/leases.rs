//! A slot from the grant to its return, whichever way it comes back.

use tool_executor::{
    id::{Generation, Opening},
    sandbox::client::SlotEvent,
};

use super::{
    Bed,
    agent::{Asked, Manner},
    assert_waits,
    backend::{FakeBackend, Start},
    granted, rules, slot_event,
};

fn assign(owner: &str, generation: u64) -> Asked {
    Asked::Assign { slot: 0, owner: owner.to_owned(), generation }
}

const RELEASE: Asked = Asked::Release { slot: 0, keep: false };
const KEEP: Asked = Asked::Release { slot: 0, keep: true };

#[tokio::test]
async fn a_slot_is_assigned_wiped_and_given_on() {
    let bed = Bed::new(rules());
    let grant = bed.granted("a").await;
    assert_eq!((&**grant.isolation(), grant.network_isolated(), grant.kept()), ("none", true, false));
    assert_eq!((&grant.location().container, &*grant.location().node), (&bed.backend.id(0), "here"));
    let lease = grant.open(Generation(1), Opening(1));
    assert_eq!(bed.backend.asked().await, assign("a", 1));
    let mut waiting = bed.acquire("b");
    assert_waits(&bed, &mut waiting).await;
    lease.release(false);
    let lease = granted(&mut waiting).await.open(Generation(4), Opening(1));
    assert_eq!(bed.backend.asked().await, RELEASE);
    assert_eq!(bed.backend.asked().await, assign("b", 4));
    // One that is lost on the way out comes back, too.
    drop(lease);
    assert_eq!(bed.backend.asked().await, RELEASE);
    bed.status_when("it is free again", |pool| pool.available_slots == 1).await;
}

#[tokio::test]
async fn a_slot_that_was_never_opened_comes_back_as_it_was() {
    let bed = Bed::new(rules());
    drop(bed.granted("a").await);
    // Granted, and gone before anybody looked.
    let waiting = bed.acquire("b");
    bed.status_when("it is granted", |pool| pool.acquired_slots == 1).await;
    drop(waiting);
    let _lease = bed.granted("c").await.open(Generation(1), Opening(1));
    assert_eq!(bed.backend.asked().await, assign("c", 1), "nothing was wiped");
}

#[tokio::test]
async fn whoever_gives_up_and_comes_back_at_once_is_served() {
    let bed = Bed::new(rules());
    for _ in 0..100 {
        drop(bed.acquire("a"));
    }
    let _grant = bed.granted("a").await;
}

#[tokio::test]
async fn kept_files_are_there_for_their_owner() {
    let bed = Bed::new(rules());
    bed.granted("a").await.open(Generation(1), Opening(1)).release(true);
    let grant = bed.granted("a").await;
    assert!(grant.kept());
    grant.open(Generation(1), Opening(1)).release(true);
    let grant = bed.granted("b").await;
    assert!(!grant.kept());
    let asked = [assign("a", 1), KEEP, assign("a", 1), KEEP, RELEASE];
    for expected in asked {
        assert_eq!(bed.backend.asked().await, expected);
    }
}

#[tokio::test]
async fn files_that_an_agent_did_not_keep_are_not_promised() {
    let bed = Bed::over(FakeBackend::new(1).plan([Start::Good(Manner::KeepsNothing)]), rules());
    bed.granted("a").await.open(Generation(1), Opening(1)).release(true);
    assert!(!bed.granted("a").await.kept());
}

#[tokio::test]
async fn a_container_whose_slots_cannot_be_wiped_is_replaced() {
    let bed = Bed::over(FakeBackend::new(1).plan([Start::Good(Manner::Quarantines)]), rules());
    bed.granted("a").await.open(Generation(1), Opening(1)).release(false);
    assert_eq!(bed.granted("b").await.location().container, bed.backend.id(1));
}

#[tokio::test]
async fn the_end_of_a_container_reaches_whoever_holds_a_slot_of_it() {
    let bed = Bed::new(rules());
    let mut lease = bed.granted("a").await.open(Generation(1), Opening(1));
    bed.backend.kill_agent(&bed.backend.id(0));
    match slot_event(&mut lease).await {
        SlotEvent::ContainerLost(evidence) => {
            assert_eq!(evidence.location.as_ref().expect("a place").container, bed.backend.id(0));
            assert!(evidence.cause.contains("could not be reached"), "{}", evidence.cause);
        }
        other => panic!("{other:?}"),
    }
    bed.backend.until_stopped(1).await;
    let grant = bed.granted("b").await;
    assert_eq!(grant.location().container, bed.backend.id(1));
    // The lease of a lost container frees nothing.
    drop(lease);
    let mut waiting = bed.acquire("a");
    assert_waits(&bed, &mut waiting).await;
}
