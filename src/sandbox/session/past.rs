//! What an agent's events that nobody has acknowledged say of its slots: to an executor that is new to the agent they
//! come again, all of them, and each must reach the trajectory that it is about, or nobody.

use std::collections::BTreeSet;

use crate::pb::sandbox::{Event, SlotQuarantined, SlotReady, event::Event as Kind};

/// Of one slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::sandbox) struct Past {
    /// Events of the slot up to this number are about those who had it before; 0 if there are none.
    pub(in crate::sandbox) of_others: u64,
    /// The calls of whoever has the slot now whose ends are among the events.
    pub(in crate::sandbox) ended: BTreeSet<u64>,
}

/// Of so many slots, from the events in order, each with its number.
pub(in crate::sandbox) fn pasts<'a>(slots: usize, events: impl Iterator<Item = (u64, &'a Event)>) -> Vec<Past> {
    let mut pasts = vec![Past::default(); slots];
    for (number, Event { event }) in events {
        match event {
            Some(Kind::Ended(ended)) => {
                if let Some(past) = pasts.get_mut(ended.slot as usize) {
                    past.ended.insert(ended.call);
                }
            }
            // With the end of a release it is another's, or the same one's for another life, whose calls are numbered
            // anew.
            Some(
                Kind::Ready(SlotReady { slot, released: true, .. }) | Kind::Quarantined(SlotQuarantined { slot, .. }),
            ) => {
                if let Some(past) = pasts.get_mut(*slot as usize) {
                    *past = Past { of_others: number, ended: BTreeSet::new() };
                }
            }
            Some(Kind::Ready(_) | Kind::Output(_) | Kind::Lost(_)) | None => {}
        }
    }
    pasts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::sandbox::CallEnded;

    #[test]
    fn an_end_is_of_whoever_has_the_slot_now() {
        let ended = |slot, call| Kind::Ended(CallEnded { slot, call, ..CallEnded::default() });
        let ready = |slot, released| Kind::Ready(SlotReady { slot, released, kept: false });
        let quarantined = Kind::Quarantined(SlotQuarantined { slot: 2, cause: String::new() });
        let events = [
            ended(0, 1),
            ready(0, false),
            ended(0, 2),
            ended(1, 1),
            ended(2, 1),
            ready(1, true),
            ended(1, 2),
            quarantined,
            // A slot that is not there.
            ended(9, 1),
        ]
        .map(|event| Event { event: Some(event) });
        let past = |of_others, ended: &[u64]| Past { of_others, ended: ended.iter().copied().collect() };
        assert_eq!(pasts(3, (5..).zip(&events)), [past(0, &[1, 2]), past(10, &[2]), past(12, &[])]);
    }
}
