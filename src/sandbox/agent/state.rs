//! What a slot is at the moment, and what it may become. Pure.
//!
//! ```text
//!            assign                    release, keep
//!   Clean ------------> Assigned ------------------------> Kept
//!     ^                  |    ^ '--- its processes die ---.   | assign by the same owner: Assigned
//!     |                  |    '--- reset ---.             v   |
//!     '--- release ------+------------------'--------- Lost <-'
//!     '--- release ----------------------------------- Kept
//!
//!   any that was to be emptied and could not be: Quarantined, for good
//! ```
//!
//! Invariants: a slot is clean only with an empty workspace and new processes; it never goes from one owner to another
//! without having been clean.

use std::fmt;

use crate::pb::sandbox::{SlotSnapshot, SlotState};

/// Whose a slot is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) owner: String,
    pub(super) generation: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Clean,
    Assigned(Holder),
    /// Released with its files kept for its owner.
    Kept(Holder),
    /// Its processes died under its holder.
    Lost(Holder),
    /// It could not be emptied: why. Nothing is tried a second time, since what an attempt left behind is not known.
    Quarantined(String),
}

impl State {
    /// Gives it to an owner, if it may be: the slot is lost to whoever is refused.
    pub(super) fn assign(&mut self, to: Holder) -> Result<(), String> {
        match self {
            Self::Clean => {}
            Self::Kept(holder) if holder.owner == to.owner => {}
            other => return Err(format!("the slot cannot be given to {:?}: it is {other}", to.owner)),
        }
        *self = Self::Assigned(to);
        Ok(())
    }

    /// Calls may run in it.
    pub(super) fn is_usable(&self) -> bool {
        matches!(self, Self::Assigned(_))
    }

    /// Whose workspace is to be emptied, if it is anybody's.
    pub(super) fn to_be_reset(&self) -> Option<&Holder> {
        match self {
            Self::Assigned(holder) | Self::Lost(holder) => Some(holder),
            Self::Clean | Self::Kept(_) | Self::Quarantined(_) => None,
        }
    }

    /// It was released so that its files stay. False if there is nothing to keep: then it must be emptied.
    pub(super) fn keep(&mut self) -> bool {
        match self {
            Self::Assigned(holder) | Self::Kept(holder) => *self = Self::Kept(std::mem::take(holder)),
            Self::Clean | Self::Lost(_) | Self::Quarantined(_) => return false,
        }
        true
    }

    /// Its processes died. True if somebody has lost something by it and is to be told.
    pub(super) fn lose(&mut self) -> bool {
        match self {
            Self::Assigned(holder) => {
                *self = Self::Lost(std::mem::take(holder));
                true
            }
            // Its owner is told if it comes back for it.
            Self::Kept(holder) => {
                *self = Self::Lost(std::mem::take(holder));
                false
            }
            Self::Clean | Self::Lost(_) | Self::Quarantined(_) => false,
        }
    }

    pub(super) fn snapshot<'a>(&self, running_calls: impl Iterator<Item = &'a u64>) -> SlotSnapshot {
        let (state, holder) = match self {
            Self::Clean => (SlotState::Clean, None),
            Self::Assigned(holder) => (SlotState::Assigned, Some(holder)),
            Self::Kept(holder) => (SlotState::Kept, Some(holder)),
            Self::Lost(holder) => (SlotState::Lost, Some(holder)),
            Self::Quarantined(_) => (SlotState::Quarantined, None),
        };
        let Holder { owner, generation } = holder.cloned().unwrap_or_default();
        let mut running_calls: Vec<u64> = running_calls.copied().collect();
        running_calls.sort_unstable();
        SlotSnapshot { state: state.into(), owner, generation, running_calls, ..SlotSnapshot::default() }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clean => "nobody's",
            Self::Assigned(_) => "in use",
            Self::Kept(_) => "kept for its owner",
            Self::Lost(_) => "lost",
            Self::Quarantined(_) => "not to be used any more",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holder(owner: &str) -> Holder {
        Holder { owner: owner.to_owned(), generation: 1 }
    }

    #[test]
    fn a_kept_slot_is_its_owners() {
        let mut state = State::Clean;
        assert_eq!(state.assign(holder("a")), Ok(()));
        assert!(state.keep());
        assert!(state.assign(holder("b")).is_err());
        assert_eq!(state, State::Kept(holder("a")));
        assert_eq!(state.assign(holder("a")), Ok(()));
        assert!(state.is_usable());
    }

    #[test]
    fn only_a_holder_hears_of_a_loss() {
        for (mut state, told) in [
            (State::Clean, false),
            (State::Assigned(holder("a")), true),
            (State::Kept(holder("a")), false),
            (State::Lost(holder("a")), false),
            (State::Quarantined("cause".to_owned()), false),
        ] {
            assert_eq!(state.lose(), told);
            assert!(!state.is_usable());
        }
    }

    #[test]
    fn a_snapshot_says_whose_it_is_and_what_runs() {
        let snapshot = State::Assigned(holder("a")).snapshot([7, 3].iter());
        assert_eq!((snapshot.state(), &*snapshot.owner), (SlotState::Assigned, "a"));
        assert_eq!((snapshot.generation, snapshot.running_calls), (1, vec![3, 7]));
    }

    proptest! {
        /// Emptying is what makes a slot clean; nothing else may.
        #[test]
        fn no_owner_gets_what_was_anothers(steps in proptest::collection::vec((0..3_u8, 0..3_u8), 0..60)) {
            let mut state = State::Clean;
            let mut last: Option<String> = None;
            for (step, owner) in steps {
                let owner = owner.to_string();
                match step {
                    0 => {
                        let may = state == State::Clean || matches!(&state, State::Kept(kept) if kept.owner == owner);
                        prop_assert_eq!(state.assign(holder(&owner)).is_ok(), may);
                        if may {
                            prop_assert!(last.is_none() || last.as_ref() == Some(&owner));
                            last = Some(owner);
                        }
                    }
                    1 => drop(state.keep()),
                    _ => drop(state.lose()),
                }
                prop_assert_eq!(state == State::Clean, last.is_none());
            }
        }
    }
}
