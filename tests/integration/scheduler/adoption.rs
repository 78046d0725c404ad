//! What the scheduler makes of containers that an executor before this one has left, and of slots in them that
//! trajectories claim.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tool_executor::{
    backend::ContainerEvent,
    id::{CallNumber, ContainerId, Generation, Opening},
    pb::sandbox::{SlotSnapshot, SlotState},
    sandbox::{PROTOCOL_VERSION, client::SlotEvent},
    scheduler::{Claim, ContainerState, FormerOwner, FormerOwners, PoolConfig, Reclaimed},
    tool::{Evidence, Location},
};

use super::{
    Bed,
    agent::{Asked, Manner, Told},
    assert_waits,
    backend::FakeBackend,
    granted, key, rules, slot_event,
};
use crate::support::client::PATIENCE;

type Answer = Result<Reclaimed, Arc<Evidence>>;

/// A claim that one waits for the answer to.
struct Claimed(oneshot::Receiver<Answer>);

impl Claimed {
    async fn answer(self) -> Answer {
        timeout(PATIENCE, self.0).await.expect("an answer in time").expect("an answer")
    }

    async fn reclaimed(self) -> Reclaimed {
        self.answer().await.unwrap_or_else(|evidence| panic!("{evidence:?}"))
    }

    /// Why not.
    async fn refused(self) -> Arc<Evidence> {
        self.answer().await.err().expect("it is refused")
    }
}

fn claim(name: &str, container: ContainerId, slot: u32, generation: u64) -> (Claim, Claimed) {
    let (reply, answer) = oneshot::channel();
    let location = Location { container, node: "here".to_owned(), slot };
    (
        Claim {
            owner: key(name),
            location,
            generation: Generation(generation),
            opening: Opening(1),
            is_complete: true,
            reply,
        },
        Claimed(answer),
    )
}

/// A slot as the trajectory of this name has left it, in its third workspace.
fn slot_of(name: &str) -> SlotSnapshot {
    SlotSnapshot {
        state: SlotState::Assigned.into(),
        owner: key(name).to_string(),
        generation: 3,
        running_calls: vec![7],
        ended_calls: vec![5],
        ..SlotSnapshot::default()
    }
}

/// An agent with one slot of each of these, and a clean one.
fn agent_with(names: &[&str]) -> Told {
    let mut told = Told::new(1);
    told.slots.splice(..0, names.iter().map(|name| slot_of(name)));
    told
}

/// The one container that was left is there, with this agent; "a" claims its slot in it.
fn left(agent: Option<(Told, Manner)>, rules: PoolConfig) -> (Bed, Claimed) {
    left_telling(agent, rules, None)
}

fn left_telling(
    agent: Option<(Told, Manner)>,
    rules: PoolConfig,
    former_owners: Option<mpsc::UnboundedSender<FormerOwners>>,
) -> (Bed, Claimed) {
    let backend = FakeBackend::new(2).leave_with("", agent);
    let (claim, claimed) = claim("a", backend.id(0), 0, 3);
    (Bed::telling(backend, rules, vec![claim], former_owners), claimed)
}

const RELEASE: Asked = Asked::Release { slot: 0, keep: false };

#[tokio::test]
async fn a_slot_that_is_still_its_trajectorys_goes_on() {
    let (bed, claimed) = left(Some((agent_with(&["a", "b"]), Manner::Good)), rules());
    let mut reclaimed = claimed.reclaimed().await;
    assert_eq!(reclaimed.location.container, bed.backend.id(0));
    assert_eq!((reclaimed.location.slot, &*reclaimed.isolation, reclaimed.network_isolated), (0, "none", true));
    assert_eq!(reclaimed.calls, BTreeSet::from([CallNumber(5), CallNumber(7)]));
    assert!(reclaimed.is_exact);
    assert_eq!(bed.backend.asked().await, Asked::Release { slot: 1, keep: false }, "nobody claims b's");
    let pool = bed.status_when("b's is wiped", |pool| pool.available_slots == 2).await;
    assert_eq!((pool.acquired_slots, pool.total_slots), (1, 3));
    // It cannot have a second one, and it is told what becomes of it.
    let mut second = bed.acquire("a");
    assert!(matches!(super::failed(&mut second).await, super::WaitFailure::StartFailed { .. }));
    bed.backend.event(&bed.backend.id(0), ContainerEvent::Draining("its node".to_owned())).await;
    let told = slot_event(&mut reclaimed.lease).await;
    assert!(matches!(&told, SlotEvent::ContainerDraining(why) if &**why == "its node"), "{told:?}");
    drop(reclaimed);
    // Nobody is in it then: it ends, and its slot need not be wiped.
    bed.backend.until_stopped(1).await;
}

#[tokio::test]
async fn who_had_slots_is_told_and_then_no_more() {
    let mut agent = agent_with(&["a", "b", "c"]);
    agent.slots[1].state = SlotState::Kept.into();
    agent.slots[2].state = SlotState::Lost.into();
    let (tell, mut former_owners) = mpsc::unbounded_channel();
    let (bed, claimed) = left_telling(Some((agent, Manner::Good)), rules(), Some(tell));
    let told = timeout(PATIENCE, former_owners.recv()).await.expect("it is told in time").expect("it is told");
    let owner = |name| FormerOwner { key: key(name), pool: rules().name, generation: Generation(3) };
    assert_eq!(told.owners, ["a", "b", "c"].map(owner));
    assert!(timeout(PATIENCE, former_owners.recv()).await.expect("it ends in time").is_none());
    // What is about to be forgotten is there until somebody has heard whose it was.
    let reclaimed = claimed.reclaimed().await;
    assert_eq!(reclaimed.location.slot, 0);
    assert_eq!(bed.scheduler.status().await[0].resetting_slots, 2);
    assert!(bed.backend.asked_nothing().await);
    told.heard.send(()).expect("it is waited for");
    let emptied = [bed.backend.asked().await, bed.backend.asked().await];
    assert_eq!(emptied, [1, 2].map(|slot| Asked::Release { slot, keep: false }));
}

#[tokio::test]
async fn where_nobody_answers_no_former_owners_are_waited_for() {
    let (tell, mut former_owners) = mpsc::unbounded_channel();
    let rules = PoolConfig { start_timeout: Duration::from_millis(50), ..rules() };
    let (_bed, claimed) = left_telling(None, rules.clone(), Some(tell));
    assert!(timeout(PATIENCE, former_owners.recv()).await.expect("it ends in time").is_none());
    claimed.refused().await;
    let (tell, mut former_owners) = mpsc::unbounded_channel();
    let _bed = Bed::telling(FakeBackend::new(1), rules, Vec::new(), Some(tell));
    assert!(timeout(PATIENCE, former_owners.recv()).await.expect("it ends in time").is_none());
}

/// Any of them may be somebody's.
#[tokio::test]
async fn where_not_all_are_known_none_is_ended_unasked() {
    let backend = FakeBackend::new(1);
    let left = ["a", "b", "c"].map(|name| Some((agent_with(&[name]), Manner::Good)));
    let backend = left.into_iter().fold(backend, |backend, agent| backend.leave_with("", agent));
    let (tell, mut former_owners) = mpsc::unbounded_channel();
    let bed = Bed::telling(backend, rules(), Vec::new(), Some(tell));
    let mut names = Vec::new();
    while let Some(FormerOwners { owners, heard }) =
        timeout(PATIENCE, former_owners.recv()).await.expect("it is told in time")
    {
        names.extend(owners.into_iter().map(|owner| owner.key.to_string()));
        // It may be one too many, and gone.
        let _ = heard.send(());
    }
    names.sort();
    assert_eq!(names, ["a", "b", "c"]);
    bed.backend.until_stopped(2).await;
}

/// A slot that cannot be wiped is no matter of those who have theirs.
#[tokio::test]
async fn a_claim_is_answered_before_the_other_slots_are_wiped() {
    let (bed, claimed) = left(Some((agent_with(&["a", "b"]), Manner::Mute)), rules());
    let reclaimed = claimed.reclaimed().await;
    let _third = bed.granted("c").await;
    let mut waiting = bed.acquire("b");
    assert_waits(&bed, &mut waiting).await;
    assert_eq!(bed.scheduler.status().await[0].resetting_slots, 1, "b's was not wiped, and is nobody's");
    drop(reclaimed);
    assert_waits(&bed, &mut waiting).await;
}

#[tokio::test]
async fn what_is_not_ones_own_is_refused_and_wiped() {
    let agent = agent_with(&["a", "b"]);
    let backend = FakeBackend::new(2).leave_with("", Some((agent, Manner::Good))).leave("gone");
    let [here, gone] = [0, 1].map(|index| backend.id(index));
    let claims = [
        claim("a", here.clone(), 0, 2),
        claim("c", here.clone(), 1, 3),
        claim("d", here.clone(), 2, 3),
        claim("e", here.clone(), 9, 3),
        claim("f", ContainerId::new("unheard-of"), 0, 3),
        claim("g", gone.clone(), 0, 3),
    ];
    let (claims, claimed): (Vec<_>, Vec<_>) = claims.into_iter().unzip();
    let bed = Bed::after_another(backend, rules(), claims);
    let expected = [
        (&here, 0, "another workspace"),
        (&here, 1, "another trajectory's"),
        (&here, 2, "nobody's any more"),
        (&here, 9, "nobody's any more"),
        (&ContainerId::new("unheard-of"), 0, "not there any more"),
        (&gone, 0, "not among the settings"),
    ];
    for (claimed, (container, slot, why)) in claimed.into_iter().zip(expected) {
        let evidence = claimed.refused().await;
        assert!(evidence.cause.contains(why), "{} and not {why}", evidence.cause);
        let location = evidence.location.as_ref().expect("it says where");
        assert_eq!((&location.container, location.slot), (container, slot));
    }
    bed.status_when("all are wiped", |pool| pool.available_slots == 3).await;
    assert_eq!(bed.backend.asked().await, RELEASE);
    assert_eq!(bed.backend.asked().await, Asked::Release { slot: 1, keep: false });
    bed.granted("a").await;
}

#[tokio::test]
async fn nobody_gets_two_slots_by_claiming() {
    let agent = agent_with(&["a", "a"]);
    let backend = FakeBackend::new(2).leave_with("", Some((agent, Manner::Good)));
    let (one, claimed) = claim("a", backend.id(0), 0, 3);
    let (other, refused) = claim("a", backend.id(0), 1, 3);
    let bed = Bed::after_another(backend, rules(), vec![one, other]);
    let _reclaimed = claimed.reclaimed().await;
    let evidence = refused.refused().await;
    assert!(evidence.cause.contains("another slot"), "{}", evidence.cause);
    assert_eq!(bed.backend.asked().await, Asked::Release { slot: 1, keep: false });
}

#[tokio::test]
async fn an_agent_that_does_not_answer_is_given_up() {
    let (bed, claimed) = left(None, PoolConfig { start_timeout: Duration::from_millis(100), ..rules() });
    let evidence = claimed.refused().await;
    assert!(evidence.cause.contains("not ready within 100ms"), "{}", evidence.cause);
    assert_eq!(evidence.stderr_tail, "its last words");
    bed.backend.until_stopped(1).await;
}

#[tokio::test]
async fn the_end_of_a_container_answers_its_claims() {
    let (bed, claimed) = left(None, rules());
    let end = Evidence { cause: "exit status 1".to_owned(), ..Evidence::default() };
    bed.backend.event(&bed.backend.id(0), ContainerEvent::Lost(end)).await;
    assert_eq!(claimed.refused().await.cause, "exit status 1");
}

#[tokio::test]
async fn the_end_of_everything_answers_claims() {
    let (bed, claimed) = left(None, rules());
    bed.scheduler.shut_down().await;
    assert!(claimed.refused().await.cause.contains("stopped"));
    assert!(bed.backend.is_closed() && !bed.backend.is_left_alone());
}

/// It is known to go away before its agent has answered: whoever has a slot there keeps it until then.
#[tokio::test]
async fn a_container_that_drains_is_taken_over_all_the_same() {
    let agent = agent_with(&["a", "b"]);
    let backend = FakeBackend::new(2).leave_with("", Some((agent, Manner::Good)));
    let (claim, claimed) = claim("a", backend.id(0), 0, 3);
    let container = backend.id(0);
    backend.event(&container, ContainerEvent::Draining("its settings".to_owned())).await;
    let bed = Bed::after_another(backend, PoolConfig { max_containers: 2, ..rules() }, vec![claim]);
    let mut reclaimed = claimed.reclaimed().await;
    let told = slot_event(&mut reclaimed.lease).await;
    assert!(matches!(&told, SlotEvent::ContainerDraining(why) if &**why == "its settings"), "{told:?}");
    assert_eq!(bed.granted("c").await.location().container, bed.backend.id(1), "it gives nothing");
    reclaimed.lease.release(true);
    bed.backend.until_stopped(1).await;
}

#[tokio::test]
async fn an_agent_of_the_version_before_drains() {
    let told = Told { version: PROTOCOL_VERSION - 1, ..agent_with(&["a"]) };
    let backend = FakeBackend::new(2).leave_with("", Some((told, Manner::Good)));
    let (claim, claimed) = claim("a", backend.id(0), 0, 3);
    let bed = Bed::after_another(backend, PoolConfig { max_containers: 2, ..rules() }, vec![claim]);
    // One that waits from the beginning gets none of its clean slots.
    let mut waiting = bed.acquire("b");
    let mut reclaimed = claimed.reclaimed().await;
    assert_eq!(granted(&mut waiting).await.location().container, bed.backend.id(1));
    let told = slot_event(&mut reclaimed.lease).await;
    assert!(matches!(&told, SlotEvent::ContainerDraining(why) if why.contains("earlier version")), "{told:?}");
    assert!(!reclaimed.is_exact, "builds before did not tell which calls have ended");
    let drains = |pool: &tool_executor::scheduler::PoolStatus| {
        pool.containers.iter().any(|container| container.state == ContainerState::Draining)
    };
    bed.status_when("it drains", drains).await;
    drop(reclaimed);
    // Nobody is in it then: it ends, and its slot need not be wiped.
    bed.backend.until_stopped(1).await;
}

/// One that is started anew, from a program of the version before, would be replaced for ever.
#[tokio::test]
async fn a_new_agent_of_the_version_before_is_used() {
    let told = Told { version: PROTOCOL_VERSION - 1, ..Told::new(1) };
    let bed = Bed::over(FakeBackend::new(1).starts_with(told), rules());
    let mut lease = bed.granted("a").await.open(Generation(1), Opening(1));
    bed.scheduler.status().await;
    assert!(timeout(Duration::from_millis(50), lease.slot().next()).await.is_err(), "it hears of no drain");
    assert_eq!(bed.backend.id(0), bed.scheduler.status().await[0].containers[0].id.clone().expect("it has a name"));
}

#[tokio::test]
async fn an_agent_of_a_version_that_nobody_speaks_is_ended() {
    let told = Told { version: PROTOCOL_VERSION + 1, ..agent_with(&["a"]) };
    let (bed, claimed) = left(Some((told, Manner::Good)), rules());
    let evidence = claimed.refused().await;
    let says = format!("speaks version {} of the protocol", PROTOCOL_VERSION + 1);
    assert!(evidence.cause.contains(&says), "{}", evidence.cause);
    bed.backend.until_stopped(1).await;
}

#[tokio::test]
async fn containers_that_are_too_many_drain_as_long_as_somebody_is_in_them() {
    let backend = ["a", "b", "c"]
        .iter()
        .fold(FakeBackend::new(2), |backend, name| backend.leave_with("", Some((agent_with(&[name]), Manner::Good))));
    // Nobody is in this one.
    let backend = backend.leave("");
    let (claims, claimed): (Vec<_>, Vec<_>) =
        (0..3).map(|index| claim(["a", "b", "c"][index], backend.id(index), 0, 3)).unzip();
    let bed = Bed::after_another(backend, PoolConfig { max_containers: 1, ..rules() }, claims);
    bed.backend.until_stopped(1).await;
    let mut reclaimed = Vec::new();
    for claimed in claimed {
        reclaimed.push(claimed.reclaimed().await);
    }
    let one_serves = |pool: &tool_executor::scheduler::PoolStatus| {
        let count = |state| pool.containers.iter().filter(|container| container.state == state).count();
        (count(ContainerState::Ready), count(ContainerState::Draining)) == (1, 2)
    };
    let pool = bed.status_when("one serves", one_serves).await;
    assert_eq!((pool.acquired_slots, pool.available_slots), (3, 1));
    let serving = pool.containers.iter().find(|container| container.state == ContainerState::Ready).expect("one does");
    let _granted = bed.granted("d").await;
    let (stays, go): (Vec<_>, Vec<_>) =
        reclaimed.into_iter().partition(|reclaimed| Some(&reclaimed.location.container) == serving.id.as_ref());
    drop(go);
    bed.backend.until_stopped(3).await;
    let pool = bed.status_when("the others are gone", |pool| pool.containers.len() == 1).await;
    assert_eq!((pool.acquired_slots, stays.len()), (2, 1));
}

/// Nothing is stopped, nothing is wiped, and nobody hears anything.
#[tokio::test]
async fn what_is_handed_over_is_left_as_it_is() {
    let (bed, claimed) = left(Some((agent_with(&["a"]), Manner::Good)), PoolConfig { max_containers: 2, ..rules() });
    let mut reclaimed = claimed.reclaimed().await;
    let mut opened = bed.granted("b").await.open(Generation(1), Opening(1));
    assert!(matches!(bed.backend.asked().await, Asked::Assign { slot: 1, .. }));
    let granted = [bed.granted("c").await, bed.granted("d").await];
    let mut waiting = [bed.acquire("e"), bed.acquire("f"), bed.acquire("g")];
    for waiting in &mut waiting {
        assert_waits(&bed, waiting).await;
    }
    timeout(PATIENCE, bed.scheduler.hand_over()).await.expect("in time");

    assert!(bed.backend.is_left_alone() && !bed.backend.is_closed());
    let events = async {
        tokio::select! {
            event = reclaimed.lease.slot().next() => panic!("{event:?}"),
            event = opened.slot().next() => panic!("{event:?}"),
            event = waiting[2].next() => panic!("{event:?}"),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    };
    events.await;
    drop((reclaimed, granted, waiting));
    opened.release(false);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(bed.backend.asked_nothing().await, "no slot is given back");
    assert!(!bed.backend.is_empty(), "no container is stopped");
    assert!(!bed.task.is_finished());
}
