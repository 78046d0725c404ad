//! Streams coming and going, release, lease, drain.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Effect, Moment, Releasing, State, Stream,
    slot::{Resetting, Slot},
};
use crate::{
    id::{Generation, Sequence},
    journal::{Record, Workspace},
    tool::CancelCause,
    trajectory::{
        ledger::Phase,
        request::{Notice, Open, OpenError, Opened, ReleaseCause, Response, StreamError},
    },
};

impl State {
    /// A stream asks to be the trajectory's. On success [`Effect::Attach`] comes before anything that is sent to it.
    pub(in crate::trajectory) fn on_open(&mut self, open: Open, at: Moment) -> Result<(), OpenError> {
        let resumed = self.resumes(&open, at)?;
        self.untouched = false;
        if self.stream.is_some() {
            self.send(Response::Notice(Notice::TakenOver));
            self.end_stream(Some(StreamError::TakenOver));
        }
        if self.ledger.phase != Phase::Open {
            self.commit(Record::Opened { options: open.options.into(), at: at.wall });
            self.recorded_sent = Sequence(0);
            self.resetting = None;
        }
        if !resumed && self.ledger.options.acquire_slot {
            self.acquire();
        }
        self.effects.push(Effect::Attach);
        self.stream = Some(Stream { half_closed: false });
        self.send(Response::Opened(Box::new(Opened {
            resumed,
            generation: self.ledger.generation,
            lease: self.ledger.options.lease,
            oldest_sequence: self.ledger.oldest_sequence(),
        })));
        // Its client has the others, whoever sent them.
        self.ledger.mark_sent_through(open.last_sequence);
        let kept = self.ledger.results_after(open.last_sequence).cloned();
        self.effects.extend(kept.map(|result| Effect::Send(Response::Result { result, replayed: false })));
        self.trim();
        self.send_printed();
        self.settle(at);
        Ok(())
    }

    /// Whether the stream goes on with the life that there is.
    fn resumes(&self, open: &Open, at: Moment) -> Result<bool, OpenError> {
        if self.releasing.is_some() {
            return Err(OpenError::Releasing);
        }
        let must_exist = open.require_existing || open.last_sequence > Sequence(0);
        match self.ledger.phase {
            Phase::Released | Phase::Expired if must_exist => return Err(OpenError::NotFound),
            Phase::Open if self.untouched => return if must_exist { Err(OpenError::NotFound) } else { Ok(false) },
            Phase::Released | Phase::Expired => {
                return match at.tenant.trajectories_exhausted() {
                    _ if self.draining => Err(OpenError::Draining),
                    Some(max) => Err(OpenError::TooManyOfTenant { max }),
                    None => Ok(false),
                };
            }
            Phase::Open => {}
        }
        if self.stream.is_some() && !open.take_over {
            return Err(OpenError::AlreadyAttached);
        }
        let (oldest, last) = (self.ledger.oldest_sequence(), self.ledger.last_sequence());
        let asked = open.last_sequence;
        let first_kept = if oldest == Sequence(0) { last.next() } else { oldest };
        if asked > last || asked.next() < first_kept {
            return Err(OpenError::OutOfRange { asked, oldest, last });
        }
        Ok(true)
    }

    /// The attached stream's client sends no more, and reads on.
    pub(in crate::trajectory) fn on_half_close(&mut self, at: Moment) {
        if let Some(stream) = &mut self.stream {
            stream.half_closed = true;
            self.close_inputs();
        }
        self.settle(at);
    }

    /// The attached stream is gone; everything goes on without it.
    pub(in crate::trajectory) fn on_detached(&mut self, at: Moment) {
        self.stream = None;
        self.settle(at);
    }

    /// The attached stream did what has no meaning: it ends, the trajectory lives on.
    pub(in crate::trajectory) fn on_stream_fault(&mut self, error: StreamError, at: Moment) {
        self.end_stream(Some(error));
        self.settle(at);
    }

    /// A unary release. [`Effect::Released`] follows, at once if there is nothing to release.
    pub(in crate::trajectory) fn on_release(&mut self, keep: bool, at: Moment) {
        // Its workspace went with its lease, and now its client knows: whatever it sends next goes on in an empty one.
        if self.ledger.phase == Phase::Expired {
            self.commit(Record::Released);
        }
        self.begin_release(keep, at);
        self.settle(at);
    }

    /// A cancel of all trajectories with these labels: how many calls of this one it ends; none if it is not meant. With
    /// `release`, [`Effect::Released`] follows as after a release.
    pub(in crate::trajectory) fn on_cancel_labelled(
        &mut self,
        labels: &BTreeMap<String, String>,
        release: bool,
        at: Moment,
    ) -> Option<usize> {
        let own = &self.ledger.options.labels;
        let meant = labels.iter().all(|(name, value)| own.get(name) == Some(value));
        if !self.is_open() || !meant {
            return None;
        }
        let calls = self.live.len();
        if release {
            self.begin_end(false, ReleaseCause::CancelledByLabel, CancelCause::Label, at);
        } else {
            self.cancel_all(CancelCause::Label, at);
        }
        self.settle(at);
        Some(calls)
    }

    pub(super) fn begin_release(&mut self, keep: bool, at: Moment) {
        self.begin_end(keep, ReleaseCause::Client, CancelCause::Released, at);
    }

    pub(super) fn begin_end(&mut self, keep: bool, cause: ReleaseCause, cancel: CancelCause, at: Moment) {
        if self.ledger.phase != Phase::Open {
            if !keep {
                self.effects.push(Effect::ForgoKept);
            }
            self.effects.push(Effect::Released);
            return;
        }
        match &mut self.releasing {
            // Whoever wants the files gone has the last word.
            Some(releasing) => releasing.keep &= keep,
            None => self.releasing = Some(Releasing { keep, cause }),
        }
        self.cancel_all(cancel, at);
    }

    /// The slot is given on only after the last call of it has ended.
    pub(super) fn advance_release(&mut self, at: Moment) {
        let Some(Releasing { keep, cause }) = self.releasing.take_if(|_| self.live.is_empty()) else { return };
        self.give_back_slot(keep);
        self.resetting = None;
        self.commit(Record::Workspace(Workspace::None));
        self.commit(Record::Released);
        self.send(Response::Released(cause));
        self.end_stream(None);
        self.effects.push(Effect::Released);
        self.idle_since = Some(at.now);
    }

    pub(super) fn give_back_slot(&mut self, keep: bool) {
        match std::mem::replace(&mut self.slot, Slot::None) {
            Slot::None => {}
            Slot::Waiting => self.effects.push(Effect::LeaveLine),
            // It will be given back by whoever finds that nobody wants it any more.
            Slot::Reclaimed => self.effects.push(Effect::ReleaseSlot { keep: false }),
            Slot::Held { lost, .. } => self.effects.push(Effect::ReleaseSlot { keep: keep && !lost }),
        }
    }

    /// The service is going to stop: nothing new, and what is accepted may finish until `remaining` has passed.
    pub(in crate::trajectory) fn on_drain(&mut self, remaining: Duration, at: Moment) {
        self.draining = true;
        self.send(Response::Notice(Notice::Draining { remaining }));
        self.settle(at);
    }

    /// The time for draining is over.
    pub(in crate::trajectory) fn on_drain_deadline(&mut self, at: Moment) {
        self.begin_end(false, ReleaseCause::Drained, CancelCause::Drained, at);
        self.settle(at);
    }

    /// Replaces the workspace by an empty one. An older generation than the present is only answered.
    pub(super) fn on_reset(&mut self, generation: Generation, at: Moment) {
        if generation < self.ledger.generation || self.releasing.is_some() {
            return self.send(Response::WorkspaceReset(self.ledger.generation));
        }
        if generation > self.ledger.generation {
            return self.end_stream(Some(StreamError::Malformed {
                field: "reset.generation".to_owned(),
                description: format!("is {generation}, and the workspace's is {}", self.ledger.generation),
            }));
        }
        if self.resetting.is_some() {
            return; // The answer is on its way.
        }
        self.cancel_all(CancelCause::Client, at);
        self.resetting = Some(Resetting { generation: generation.next(), under_way: false });
    }
}
