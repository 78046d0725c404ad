//! What those hear who wait.

use std::time::Duration;

use tool_executor::scheduler::{PoolConfig, WaitEvent, WaitFailure};

use super::{
    Bed,
    agent::Manner,
    assert_waits,
    backend::{FakeBackend, Start},
    failed, granted, key, next, rules,
};

#[tokio::test]
async fn they_are_served_in_order_and_hear_where_they_stand() {
    let bed = Bed::new(rules());
    let first = bed.granted("a").await;
    let mut second = bed.acquire("b");
    let mut third = bed.acquire("c");
    for (waiting, expected) in [(&mut second, 1), (&mut third, 2)] {
        match next(waiting).await {
            WaitEvent::Position { position, reason } => {
                assert_eq!(position, expected);
                assert!(reason.expect("a reason").contains("its most containers (1)"));
            }
            other => panic!("{other:?}"),
        }
    }
    drop(first);
    let second = granted(&mut second).await;
    assert!(matches!(next(&mut third).await, WaitEvent::Position { position: 1, .. }));
    drop(second);
    granted(&mut third).await;
}

#[tokio::test]
async fn one_who_leaves_holds_up_nobody() {
    let bed = Bed::new(rules());
    let first = bed.granted("a").await;
    let leaver = bed.acquire("b");
    let mut stayer = bed.acquire("c");
    assert_waits(&bed, &mut stayer).await;
    drop(leaver);
    assert_eq!(bed.status_when("one waits", |pool| pool.waiting_trajectories == 1).await.acquired_slots, 1);
    drop(first);
    granted(&mut stayer).await;
}

#[tokio::test]
async fn they_wait_for_so_long_and_no_longer() {
    let bed = Bed::new(PoolConfig { acquire_timeout: Duration::from_millis(50), ..rules() });
    let _held = bed.granted("a").await;
    let failure = failed(&mut bed.acquire("b")).await;
    assert!(
        matches!(&failure, WaitFailure::TimedOut { waited, evidence: None } if waited.as_millis() >= 50),
        "{failure:?}"
    );
}

#[tokio::test]
async fn a_full_line_takes_nobody() {
    let bed = Bed::new(PoolConfig { max_waiting: 1, ..rules() });
    let _held = bed.granted("a").await;
    let mut waiting = bed.acquire("b");
    assert_waits(&bed, &mut waiting).await;
    assert!(matches!(failed(&mut bed.acquire("c")).await, WaitFailure::LineFull { .. }));
    assert_waits(&bed, &mut waiting).await;
}

#[tokio::test]
async fn without_a_container_they_hear_why_at_once() {
    let bed = Bed::over(FakeBackend::new(1).plan([Start::Fails("no such image")]), rules());
    match failed(&mut bed.acquire("a")).await {
        WaitFailure::StartFailed { evidence, retry_after } => {
            assert_eq!(evidence.cause, "no such image");
            assert!(retry_after > Duration::ZERO);
        }
        other => panic!("{other:?}"),
    }
    let pool = bed.status_when("it says why", |pool| pool.last_start_failure.is_some()).await;
    assert_eq!(pool.last_start_failure.as_deref(), Some("no such image"));
    // The next is tried after a while.
    let mut tries = 0;
    while !matches!(next(&mut bed.acquire("a")).await, WaitEvent::Granted(_) | WaitEvent::Position { .. }) {
        tries += 1;
        tokio::task::yield_now().await;
    }
    assert!(tries > 0, "not at once");
    granted(&mut bed.acquire("a")).await;
    assert_eq!(bed.scheduler.status().await[0].last_start_failure, None);
}

#[tokio::test]
async fn beside_a_good_container_they_wait_and_the_start_is_tried_again() {
    let backend = FakeBackend::new(1).plan([Start::Good(Manner::Good), Start::Fails("no room")]);
    let bed = Bed::over(backend, PoolConfig { max_containers: 2, ..rules() });
    let _held = bed.granted("a").await;
    let mut waiting = bed.acquire("b");
    granted(&mut waiting).await;
    bed.backend.until_started(3).await;
}

#[tokio::test]
async fn nobody_gets_two_slots_or_one_of_a_pool_that_is_not_there() {
    let bed = Bed::new(PoolConfig { max_containers: 2, ..rules() });
    let _held = bed.granted("a").await;
    let failure = failed(&mut bed.acquire("a")).await;
    assert!(matches!(&failure, WaitFailure::StartFailed { evidence, .. } if evidence.cause.contains("has a slot")));
    let elsewhere = tool_executor::id::PoolName::new("elsewhere");
    assert!(!bed.scheduler.knows_pool(&elsewhere));
    let failure = failed(&mut bed.scheduler.acquire(&elsewhere, &key("b"))).await;
    assert!(matches!(&failure, WaitFailure::StartFailed { evidence, .. } if evidence.cause.contains("elsewhere")));
}
