//! `GET /status`: how much there is to do, and with what.

use axum::{Json, extract::State, http::request::Parts};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Gateway, Refusal};
use crate::scheduler::PoolStatus;

#[derive(Serialize)]
pub(super) struct Status {
    /// Calls that were accepted and do not run yet.
    queue_size: u64,
    total_requests: u64,
    total_errors: u64,
    pool: Pool,
}

/// All pools together: the old system had one.
#[derive(Serialize)]
struct Pool {
    total_slots: u32,
    available_slots: u32,
    acquired_slots: u32,
    containers: usize,
    /// Without the states that no slot is in.
    slots_by_state: Map<String, Value>,
    started: bool,
}

pub(super) async fn status(State(gateway): State<Gateway>, request: Parts) -> Result<Json<Status>, Refusal> {
    let caller = gateway.access.onlooker(|unasked| unasked.status, &request.headers, &request.extensions)?;
    let pools = gateway.scheduler.status().await;
    let counts = match caller {
        Some(caller) if !caller.is_operator => gateway.directory.counts_of(&caller.tenant),
        _ => gateway.directory.counts(),
    };
    Ok(Json(Status {
        queue_size: counts.waiting_calls,
        total_requests: counts.answers,
        total_errors: counts.unsuccessful_answers,
        pool: pool(&pools),
    }))
}

fn pool(pools: &[PoolStatus]) -> Pool {
    let sum = |count: fn(&PoolStatus) -> u32| pools.iter().map(count).sum::<u32>();
    let (available_slots, acquired_slots) = (sum(|pool| pool.available_slots), sum(|pool| pool.acquired_slots));
    let states = [
        ("available", available_slots),
        ("acquired", acquired_slots),
        ("starting", sum(|pool| pool.starting_slots)),
        ("resetting", sum(|pool| pool.resetting_slots)),
        ("quarantined", sum(|pool| pool.quarantined_slots)),
    ];
    let slots_by_state = states.into_iter().filter(|(_, slots)| *slots > 0);
    Pool {
        total_slots: sum(|pool| pool.total_slots),
        available_slots,
        acquired_slots,
        containers: pools.iter().map(|pool| pool.containers.len()).sum(),
        slots_by_state: slots_by_state.map(|(state, slots)| (state.to_owned(), slots.into())).collect(),
        started: true,
    }
}
