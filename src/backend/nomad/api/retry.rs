//! Whether a call that failed is made again, and after how long.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

use super::{call::Effect, error::ApiError};

/// Tries of a call, the first among them.
pub(super) const MAX_TRIES: usize = 3;
/// An agent that is restarted refuses connections for a second and more.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const MAX_DELAY: Duration = Duration::from_secs(2);

/// Whether the call may be made again after this error: only where twice is the same as once.
pub(super) fn again(effect: Effect, error: &ApiError) -> bool {
    let transient = match error {
        ApiError::Retryable { .. } | ApiError::Unreachable { .. } => true,
        // Only the caller knows whether it has more time.
        ApiError::TimedOut { .. } => false,
        // A proxy's page, or an answer that was cut.
        ApiError::Malformed { .. } => effect == Effect::Read,
        ApiError::Conflict { .. } | ApiError::Denied { .. } | ApiError::NotFound { .. } | ApiError::Invalid { .. } => {
            false
        }
    };
    transient
        && match effect {
            Effect::Read | Effect::Repeatable => true,
            // The second would lose against the first.
            Effect::Compared => !error.may_have_applied(),
            Effect::Once | Effect::Blocking => false,
        }
}

/// The pauses between the tries; jittered, so that many callers do not come back at once.
pub(super) fn delays() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(FIRST_DELAY)
        .with_max_delay(MAX_DELAY)
        .with_max_times(MAX_TRIES - 1)
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EFFECTS: [Effect; 5] = [Effect::Read, Effect::Blocking, Effect::Repeatable, Effect::Compared, Effect::Once];

    fn text() -> String {
        String::new()
    }

    #[test]
    fn nothing_that_may_have_applied_is_repeated_unless_it_may_be() {
        let doubtful = ApiError::Retryable { call: "", text: text(), may_have_applied: true };
        let repeated: Vec<_> = EFFECTS.into_iter().filter(|effect| again(*effect, &doubtful)).collect();
        assert_eq!(repeated, [Effect::Read, Effect::Repeatable]);
    }

    #[test]
    fn a_dispatch_and_a_blocking_query_are_never_repeated() {
        for error in [
            ApiError::Retryable { call: "", text: text(), may_have_applied: false },
            ApiError::Unreachable { call: "", text: text() },
        ] {
            let repeated: Vec<_> = EFFECTS.into_iter().filter(|effect| again(*effect, &error)).collect();
            assert_eq!(repeated, [Effect::Read, Effect::Repeatable, Effect::Compared]);
        }
    }

    #[test]
    fn what_will_not_go_better_is_not_repeated() {
        let final_errors = [
            ApiError::TimedOut { call: "", after: Duration::ZERO, may_have_applied: false },
            ApiError::Conflict { call: "", text: text() },
            ApiError::Denied { call: "", text: text(), capability: None },
            ApiError::NotFound { call: "", text: text() },
            ApiError::Invalid { call: "", text: text() },
        ];
        for error in final_errors {
            assert!(EFFECTS.into_iter().all(|effect| !again(effect, &error)), "{error:?}");
        }
    }

    #[test]
    fn tries_are_counted_and_pauses_grow() {
        let delays: Vec<_> = delays().collect();
        assert_eq!(delays.len(), MAX_TRIES - 1);
        assert!(delays.iter().all(|delay| (FIRST_DELAY..=2 * MAX_DELAY).contains(delay)), "{delays:?}");
        assert!(delays[1] >= 2 * FIRST_DELAY);
    }
}
