//! Containers from their start to their end, as the scheduler sees to them.

use std::time::Duration;

use tool_executor::{
    backend::ContainerEvent,
    id::{Generation, Opening},
    sandbox::client::SlotEvent,
    scheduler::{ContainerState, PoolConfig, WaitFailure},
    tool::Evidence,
};

use super::{
    Bed,
    agent::Asked,
    backend::{FakeBackend, Start},
    failed, rules, slot_event,
};

#[tokio::test]
async fn the_least_number_starts_by_itself_and_others_as_they_are_needed() {
    let bed = Bed::new(PoolConfig { min_containers: 2, max_containers: 4, slots_per_container: 2, ..rules() });
    let pool = bed.status_when("two are ready", |pool| pool.available_slots == 4).await;
    assert!(pool.containers.iter().all(|container| container.state == ContainerState::Ready));
    assert!(pool.containers.iter().all(|container| container.id.is_some() && container.isolation == "none"));
    let mut held = Vec::new();
    for index in 0..8 {
        held.push(bed.granted(&format!("t{index}")).await);
    }
    let pool = bed.scheduler.status().await.remove(0);
    assert_eq!((pool.containers.len(), pool.total_slots, pool.acquired_slots), (4, 8, 8));
}

#[tokio::test]
async fn what_an_earlier_executor_has_left_is_wiped_and_used() {
    let backend = FakeBackend::new(2).leave("").leave("").leave("").leave("another pool");
    let rules = PoolConfig { min_containers: 1, max_containers: 2, slots_per_container: 2, ..rules() };
    let bed = Bed::over(backend, rules);
    let pool = bed.status_when("two are ready", |pool| pool.available_slots == 4).await;
    assert_eq!(pool.containers.len(), 2, "more than the pool may have are not taken");
    bed.backend.until_stopped(2).await;
    for _ in 0..4 {
        assert!(matches!(bed.backend.asked().await, Asked::Release { keep: false, .. }));
    }
    bed.granted("a").await.open(Generation(1), Opening(1));
    assert!(matches!(bed.backend.asked().await, Asked::Assign { generation: 1, .. }));
    bed.scheduler.shut_down().await;
    assert!(bed.backend.is_empty() && bed.backend.is_closed());
}

#[tokio::test]
async fn an_idle_container_is_stopped() {
    let bed = Bed::new(PoolConfig { scale_down_after: Duration::from_millis(20), ..rules() });
    drop(bed.granted("a").await);
    bed.backend.until_stopped(1).await;
    bed.status_when("it is gone", |pool| pool.containers.is_empty() && pool.total_slots == 0).await;
    bed.granted("b").await;
}

#[tokio::test]
async fn a_start_has_its_time() {
    let plan = [Start::Never, Start::Deaf];
    let rules = PoolConfig { start_timeout: Duration::from_millis(50), ..rules() };
    let bed = Bed::over(FakeBackend::new(1).plan(plan), rules);
    for words in ["", "its last words"] {
        let evidence = loop {
            match failed(&mut bed.acquire("a")).await {
                WaitFailure::StartFailed { evidence, .. } if evidence.stderr_tail == words => break evidence,
                WaitFailure::StartFailed { .. } => tokio::task::yield_now().await,
                other => panic!("{other:?}"),
            }
        };
        assert!(evidence.cause.contains("50ms"), "{}", evidence.cause);
    }
    assert!(bed.backend.is_empty(), "what was started is stopped");
}

#[tokio::test]
async fn what_the_backend_sees_of_an_end_reaches_everybody() {
    let bed = Bed::new(PoolConfig { min_containers: 1, ..rules() });
    let mut lease = bed.granted("a").await.open(Generation(1), Opening(1));
    let evidence = Evidence { cause: "the node is on fire".to_owned(), ..Evidence::default() };
    bed.backend.event(&bed.backend.id(0), ContainerEvent::Lost(evidence)).await;
    match slot_event(&mut lease).await {
        SlotEvent::ContainerLost(evidence) => assert_eq!(evidence.cause, "the node is on fire"),
        other => panic!("{other:?}"),
    }
    bed.backend.until_started(2).await;
    bed.status_when("another takes its place", |pool| pool.available_slots == 1).await;
}

#[tokio::test]
async fn a_draining_container_serves_whom_it_has_and_goes() {
    let bed = Bed::new(PoolConfig { max_containers: 2, ..rules() });
    let lease = bed.granted("a").await.open(Generation(1), Opening(1));
    bed.backend.event(&bed.backend.id(0), ContainerEvent::Draining("its node is drained".to_owned())).await;
    let draining = |pool: &tool_executor::scheduler::PoolStatus| {
        pool.containers.iter().any(|container| container.state == ContainerState::Draining)
    };
    assert_eq!(bed.status_when("it drains", draining).await.acquired_slots, 1);
    assert_eq!(bed.granted("b").await.location().container, bed.backend.id(1));
    lease.release(true);
    bed.backend.until_stopped(1).await;
}

#[tokio::test]
async fn at_the_end_nothing_is_left() {
    let bed = Bed::over(FakeBackend::new(1), PoolConfig { min_containers: 2, max_containers: 2, ..rules() });
    let lease = bed.granted("a").await.open(Generation(1), Opening(1));
    let _other = bed.granted("b").await;
    let mut waiting = bed.acquire("c");
    let (_, failure) = tokio::join!(bed.scheduler.shut_down(), failed(&mut waiting));
    assert!(matches!(failure, WaitFailure::ShuttingDown));
    assert!(bed.backend.is_empty());
    bed.task.await.expect("it has ended well");
    drop(lease);
    assert!(matches!(
        failed(&mut bed.scheduler.acquire(&tool_executor::id::PoolName::new(""), &super::key("d"))).await,
        WaitFailure::ShuttingDown
    ));
    assert!(bed.scheduler.status().await.is_empty());
    bed.scheduler.shut_down().await;
}

#[tokio::test]
async fn a_start_that_is_under_way_at_the_end_is_given_up() {
    let bed =
        Bed::over(FakeBackend::new(1).plan([Start::Never, Start::Deaf]), PoolConfig { max_containers: 2, ..rules() });
    let _waiting = (bed.acquire("a"), bed.acquire("b"));
    bed.backend.until_started(2).await;
    bed.scheduler.shut_down().await;
    assert!(bed.backend.is_empty());
}

#[tokio::test]
async fn without_anybody_who_could_ask_everything_ends() {
    let Bed { scheduler, task, backend } = Bed::new(PoolConfig { min_containers: 1, ..rules() });
    backend.until_started(1).await;
    drop(scheduler);
    task.await.expect("it has ended well");
    assert!(backend.is_empty());
}
