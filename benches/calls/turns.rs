//! Two servers in turns, a short while each, so that the machine's mood is the same for both.

use std::time::Duration;

use crate::{
    Result,
    load::{self, Kind},
};

/// Of the second server to the first, each the median over all rounds; and the first one's own figures.
pub(crate) struct Ratios {
    pub(crate) median: f64,
    pub(crate) rate: f64,
    pub(crate) first_median: Duration,
    pub(crate) first_rate: f64,
}

pub(crate) struct Plan {
    pub(crate) rounds: usize,
    /// Of one trajectory, in each round.
    pub(crate) calls: usize,
    /// At once, and for how long in each round; 0 for none.
    pub(crate) trajectories: usize,
    pub(crate) time: Duration,
}

pub(crate) async fn compare(first: &str, second: &str, kind: Kind, plan: &Plan) -> Result<Ratios> {
    let (mut medians, mut rates) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..plan.rounds {
        // Each goes first as often as the other.
        for turn in [round % 2, 1 - round % 2] {
            let address = [first, second][turn];
            medians[turn].push(load::one_trajectory(address, kind, plan.calls).await?.median);
            if plan.trajectories > 0 {
                rates[turn].push(load::many_trajectories(address, kind, plan.trajectories, plan.time).await?.rate);
            }
        }
    }
    let [first_medians, second_medians] = medians;
    let [first_rates, second_rates] = rates;
    Ok(Ratios {
        median: middle(first_medians.iter().zip(&second_medians).map(|(a, b)| b.as_secs_f64() / a.as_secs_f64())),
        rate: middle(first_rates.iter().zip(&second_rates).map(|(a, b)| b / a)),
        first_median: Duration::from_secs_f64(middle(first_medians.iter().map(Duration::as_secs_f64))),
        first_rate: middle(first_rates.into_iter()),
    })
}

/// The median; not a number if there is none.
pub(crate) fn middle(all: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = all.collect();
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
