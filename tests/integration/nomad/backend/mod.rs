//! The Nomad backend over the stand-in: what a trainer and an operator see when the cluster does what clusters do.

mod adoption;
mod dispatch;
mod ends;
mod nodes;
mod silence;
mod starts;

use std::time::{Duration, Instant};

use tool_executor::pb::toolexecutor::{
    CallResult, ContainerStatus, Evidence, Outcome, Reason, notice::Event, trajectory_response::Message,
};

use crate::support::{
    client::{Stream, bash, execute},
    nomad::{AllocationView, Nomad, Options},
    server::Server,
};

/// A cluster that is quicker than a real one, in what tests do not look at.
fn nomad() -> Nomad {
    Nomad::start_with(quick())
}

fn quick() -> Options {
    Options {
        task_start: Duration::from_millis(10),
        running_after: Duration::from_millis(100),
        report_after: Duration::from_millis(50),
        failed_after: Duration::from_secs(3),
        ..Options::default()
    }
}

/// One slot a container, so that each trajectory has its own.
const SINGLE: [(&str, &str); 2] = [("SLOTS", "1"), ("MAX_CONTAINERS", "2")];

async fn works(server: &Server, trajectory: &str, call: &str) {
    let result = execute(server, trajectory, bash(call, "echo works")).await;
    assert_eq!((result.success, &*result.output), (true, "works"), "{result:?}");
}

/// The same, as a trainer does it that was told to come again later.
async fn works_in_a_while(server: &Server, trajectory: &str) {
    let asked = Instant::now();
    for attempt in 1.. {
        let result = execute(server, trajectory, bash(&format!("attempt-{attempt}"), "echo works")).await;
        if result.success {
            return;
        }
        let fault = result.fault.clone().unwrap_or_else(|| panic!("{result:?}"));
        assert!(fault.retryable && asked.elapsed() < Duration::from_secs(20), "{result:?}");
        let after = fault.retry_after.and_then(|after| Duration::try_from(after).ok()).unwrap_or_default();
        tokio::time::sleep(after).await;
    }
}

/// The one container that there is, once it is ready.
async fn only_container(server: &Server) -> ContainerStatus {
    let pool = server.pool_until("a container is ready", |pool| pool.available_slots + pool.acquired_slots > 0).await;
    assert_eq!(pool.containers.len(), 1, "{pool:?}");
    pool.containers[0].clone()
}

fn running(nomad: &Nomad) -> Vec<AllocationView> {
    nomad.allocations().into_iter().filter(|allocation| allocation.pid.is_some()).collect()
}

/// Children that are neither stopped nor purged.
fn live(nomad: &Nomad) -> usize {
    nomad.children().iter().filter(|child| !child.stopped && !child.purged).count()
}

/// The evidence of a call that found no slot.
fn no_capacity(result: &CallResult) -> Evidence {
    assert_eq!(result.outcome(), Outcome::NoCapacity, "{result:?}");
    result.fault.clone().and_then(|fault| fault.evidence).unwrap_or_else(|| panic!("there is no evidence: {result:?}"))
}

/// The evidence of the loss that an attached trajectory is told of.
async fn lost(stream: &mut Stream) -> Evidence {
    let lost = stream
        .until(|message| match message {
            Message::Notice(notice) => match notice.event {
                Some(Event::SandboxLost(lost)) => Some(lost),
                _ => None,
            },
            _ => None,
        })
        .await;
    lost.evidence.expect("it has evidence")
}

/// Why an attached trajectory's container will be taken away.
async fn draining(stream: &mut Stream) -> String {
    stream
        .until(|message| match message {
            Message::Notice(notice) => match notice.event {
                Some(Event::SandboxDraining(draining)) => Some(draining.cause),
                _ => None,
            },
            _ => None,
        })
        .await
}

async fn refused_as_gone(stream: &mut Stream, call: &str) {
    let refused = stream.bash(call, "true").await;
    assert_eq!((refused.outcome(), refused.reason()), (Outcome::SandboxLost, Reason::WorkspaceGone));
}

fn within(what: &str, since: Instant, limit: Duration) {
    assert!(since.elapsed() < limit, "{what} took {:?}", since.elapsed());
}
