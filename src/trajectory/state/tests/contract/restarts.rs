//! The executor ends at any moment, and another goes on with its records.

use proptest::prelude::*;

use super::*;
use crate::trajectory::ledger::Ledger;

#[derive(Debug, Clone)]
pub(super) struct Restart {
    /// Its records have been restated before.
    checkpoint: bool,
    /// The agent is still there.
    agent_lives: bool,
    /// Of the calls that were handed over, those that arrived, by their places.
    arrived: u8,
}

pub(super) fn restart() -> impl Strategy<Value = Restart> {
    let fields = (any::<bool>(), prop::bool::weighted(0.7), any::<u8>());
    fields.prop_map(|(checkpoint, agent_lives, arrived)| Restart { checkpoint, agent_lives, arrived })
}

impl Restart {
    fn has_arrived(&self, place: usize) -> bool {
        self.arrived >> (place % 8) & 1 == 1
    }
}

impl Contract {
    pub(super) fn restart(&mut self, restart: Restart) {
        let was_reset = std::mem::take(&mut self.resetting);
        if restart.checkpoint {
            self.world.records = self.world.state.restate();
        }
        let records = self.world.records.clone();
        let mut folded = Ledger::fold(records.clone()).expect("they begin with a life");
        let last = folded.last_sequence();
        folded.mark_sent_through(last);
        self.world.state.ledger.mark_sent_through(last);
        assert_eq!(folded, self.world.state.ledger, "the records say all there is");

        let limits = self.world.state.limits.clone();
        let at = moment(self.world.start, self.world.at);
        let at = Moment { others: self.world.others, ..at };
        self.world.state = State::restore(limits, records, at).expect("they begin with a life");
        self.world.act(|_, _| ());

        // Nobody is there any more who was, and what they asked for and were not told of is forgotten.
        (self.attached, self.half_closed, self.releasing, self.draining) = (false, false, false, false);
        self.outbox.clear();
        self.waiters.clear();
        self.asked.clear();
        self.elsewhere.clear();
        self.running.values_mut().for_each(|running| running.cancelled = false);
        self.in_line = false;
        // A reset that was not done, too: whoever is not told of it asks again.
        self.lost |= matches!(self.world.state.ledger.workspace, Workspace::Gone(_));
        if self.life == Life::New {
            self.life = Life::Open;
        }
        let sent = self.world.state.ledger.sent_through().0;
        self.delivered = self.log.keys().copied().filter(|sequence| *sequence <= sent).collect();
        // What was printed before is not known any more, nor all of what somebody has been sent.
        (self.short, self.restarted) = (true, true);
        match self.world.state.wanted_slot() {
            // A slot that is being emptied has another workspace when it is asked for.
            Some(_) => self.reclaiming = Some(Restart { agent_lives: restart.agent_lives && !was_reset, ..restart }),
            None => {
                (self.holds, self.reclaiming) = (false, None);
                self.running.clear();
            }
        }
    }

    pub(super) fn reclaim(&mut self) {
        let Some(restart) = self.reclaiming.take() else { return };
        if restart.agent_lives {
            let running: Vec<CallNumber> = self.running.keys().copied().collect();
            let (arrived, lost): (Vec<_>, Vec<_>) =
                running.into_iter().enumerate().partition(|(place, _)| restart.has_arrived(*place));
            for (_, number) in lost {
                let running = self.running.remove(&number).expect("it was handed over");
                self.ids.get_mut(&running.id).expect("it was accepted").runs -= 1;
            }
            let arrived = arrived.into_iter().map(|(_, number)| number).collect();
            self.world.act(|state, at| state.on_reclaimed(place(), &arrived, true, at));
        } else {
            self.lose();
            self.holds = false;
            self.running.clear();
            self.world.act(|state, at| state.on_not_reclaimed(&Arc::default(), at));
        }
    }
}
