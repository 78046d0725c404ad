//! Calls coming in: which are known, which are refused at the door, which are accepted and wait.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{DISK_IS_FULL, Effect, LOG_IS_FULL, Live, Moment, Stage, State, Waiter};
use crate::{
    id::{CallId, CallNumber, Sequence},
    journal::{AcceptedCall, Errand, Record, Workspace},
    tool::{
        CallResult, CancelCause, Chooser, Task, Timings, ToolLabel, Verdict,
        job::{Order, Phases},
    },
    trajectory::{
        ledger::{self, Known, Phase},
        request::{Call, OpenError, Request, Response, StreamError, Unfit},
    },
};

/// The shortest execution timeout: the old system's.
const MIN_TIMEOUT: Duration = Duration::from_secs(1);

impl State {
    /// A message of the attached stream, whose client has `unread` messages to read.
    pub(in crate::trajectory) fn on_request(&mut self, request: Request, unread: usize, at: Moment) {
        // Beyond what the log and the calls in flight account for, only a client that asks and does not read has any.
        if unread > 2 * self.limits.max_calls_in_flight + self.limits.max_kept_results {
            return self.on_stream_fault(StreamError::NotReading { unread }, at);
        }
        match request {
            Request::Batch(calls) => calls.into_iter().for_each(|call| self.accept(call, None, at)),
            Request::Cancel(calls) => self.cancel_named(&calls, at),
            Request::Input { call, data, end_of_file } => self.on_input(&call, data, end_of_file, at),
            Request::Reset(generation) => self.on_reset(generation, at),
            Request::Release { keep_workspace } => self.begin_release(keep_workspace, at),
        }
        self.settle(at);
    }

    /// A unary call. Whoever waits for it is answered exactly once, unless the trajectory had to be open and is not.
    pub(in crate::trajectory) fn on_execute(
        &mut self,
        call: Call,
        require_existing: bool,
        waiter: Waiter,
        at: Moment,
    ) -> Result<(), OpenError> {
        let unseen = self.ledger.lookup(ledger::hash(&call.id), call.action()) == Known::Nothing;
        if unseen && require_existing && (self.untouched || self.ledger.phase != Phase::Open) {
            return Err(OpenError::NotFound);
        }
        self.untouched = false;
        self.accept(call, Some(waiter), at);
        self.settle(at);
        Ok(())
    }

    fn accept(&mut self, call: Call, waiter: Option<Waiter>, at: Moment) {
        let hash = ledger::hash(&call.id);
        match self.ledger.lookup(hash, call.action()) {
            Known::Ended(result) => return self.answer(waiter, result, true),
            // The stream hears of it when it ends, as it does anyway.
            Known::Pending(number) => {
                if let (Some(live), Some(waiter)) = (self.live.get_mut(&number), waiter) {
                    live.waiters.push(waiter);
                }
                return;
            }
            Known::Reused => return self.refuse(call.id, call.tool, waiter, Verdict::call_id_reused(), at),
            Known::Dropped => return self.refuse(call.id, call.tool, waiter, Verdict::result_dropped(), at),
            Known::Nothing => {}
        }
        let work = match call.work {
            Ok(work) => work,
            Err(Unfit { rejection, chooser }) => {
                return self.refuse(call.id, call.tool, waiter, Verdict::rejected(&rejection, chooser), at);
            }
        };
        let bytes = (call.id.as_str().len() + work.task.size()) as u64;
        let is_external = matches!(work.task, Task::External(_));
        if let Some(verdict) = self.refusal(bytes, is_external, at) {
            return self.refuse(call.id, call.tool, waiter, verdict, at);
        }
        if self.ledger.phase == Phase::Released {
            self.commit(Record::Reopened);
        }
        let number = self.ledger.next_number();
        let timeout = call.timeout.unwrap_or(self.ledger.options.default_timeout);
        let timeout = timeout.clamp(MIN_TIMEOUT, self.limits.max_timeout);
        let errand = match work.task {
            Task::Slot { job, kind } => Errand::Slot {
                kind,
                order: Order {
                    job,
                    timeout,
                    limits: self.ledger.options.output_limits,
                    stream_output: call.stream_output,
                    max_pending_input: self.limits.max_pending_input_bytes,
                },
            },
            Task::External(call) => Errand::External { call, timeout },
        };
        self.live.insert(
            number,
            Live {
                id: call.id.clone(),
                tool: call.tool,
                hash,
                bytes,
                is_external,
                received: at.now,
                turn: None,
                stage: Stage::Waiting,
                cancelled: None,
                waiters: waiter.into_iter().collect(),
            },
        );
        self.live_bytes += bytes;
        match (is_external, call.concurrent) {
            (true, _) => &mut self.outside.waiting,
            (false, true) => &mut self.beside,
            (false, false) => &mut self.in_order,
        }
        .push_back(number);
        self.commit(Record::Accepted(Arc::new(AcceptedCall {
            id: call.id,
            number,
            action: work.action,
            errand,
            concurrent: call.concurrent,
            received_at: at.wall,
        })));
    }

    /// Why no new call of so many bytes is accepted now, if none is.
    fn refusal(&self, bytes: u64, is_external: bool, at: Moment) -> Option<Verdict> {
        let limits = &self.limits;
        if self.draining {
            return Some(Verdict::draining(Some(limits.retry_after)));
        }
        // It would hold up the release, which is to end everything.
        if self.releasing.is_some() {
            return Some(Verdict::queue_full("the trajectory is being released", Some(limits.retry_after)));
        }
        let gone = matches!(self.ledger.workspace, Workspace::Gone(_));
        if self.ledger.phase == Phase::Expired || gone && !is_external {
            return Some(Verdict::workspace_gone(None));
        }
        if self.ledger.accepted() >= limits.max_call_ids {
            let why = format!("the trajectory has had {} calls, the most that one may have", limits.max_call_ids);
            return Some(Verdict::queue_full(&why, None));
        }
        let (own, others) = (self.part(), at.others);
        let total_calls = self.live.len() + others.calls;
        let full = if self.live.len() >= limits.max_calls_in_flight {
            format!("the trajectory has {} calls waiting or running", self.live.len())
        } else if total_calls >= limits.max_total_calls_in_flight {
            format!("the service has {total_calls} calls waiting or running")
        } else if let Some(max) = at.tenant.calls_exhausted(self.live.len()) {
            format!("the tenant has {max} calls waiting or running, the most that it may have")
        } else if let Some(max) = at.tenant.trajectories_exhausted().filter(|_| !self.is_open()) {
            format!("the tenant has {max} trajectories open, the most that it may have")
        } else if own.call_bytes + bytes > limits.max_call_bytes_in_flight {
            format!("the trajectory's waiting and running calls have {} bytes", own.call_bytes)
        } else if own.call_bytes + others.call_bytes + bytes > limits.max_total_call_bytes_in_flight {
            "waiting and running calls fill the service's memory for them".to_owned()
        } else if !at.can_record {
            DISK_IS_FULL.to_owned()
        } else if self.log_is_full() {
            LOG_IS_FULL.to_owned()
        } else if own.kept_bytes + others.kept_bytes >= limits.max_total_result_bytes {
            "kept results fill the service's memory for them".to_owned()
        } else {
            return None;
        };
        Some(Verdict::queue_full(&full, Some(limits.retry_after)))
    }

    /// Calls in flight count as results to come: each will need its place.
    fn log_is_full(&self) -> bool {
        self.ledger.unsent_results() + self.live.len() >= self.limits.max_kept_results
            || self.ledger.unsent_bytes() >= self.limits.max_kept_result_bytes
    }

    /// Answers a call that was never accepted; it leaves no trace.
    fn refuse(&mut self, call: CallId, tool: ToolLabel, waiter: Option<Waiter>, verdict: Verdict, at: Moment) {
        let result = verdict.into_result(call, Sequence(0), self.ledger.generation, Timings::none(at.wall));
        self.count(tool, &result);
        self.answer(waiter, Arc::new(result), false);
    }

    pub(super) fn answer(&mut self, waiter: Option<Waiter>, result: Arc<CallResult>, replayed: bool) {
        match waiter {
            Some(waiter) => self.effects.push(Effect::Answer { waiter, result, replayed }),
            None => self.send(Response::Result { result, replayed }),
        }
    }

    /// For a call that runs, or that waits: then it is kept until it runs. Of any other it has no meaning, since the
    /// call may have ended while it was on its way.
    fn on_input(&mut self, call: &CallId, data: Bytes, end_of_file: bool, at: Moment) {
        let Some(number) = self.ledger.pending(ledger::hash(call)) else { return };
        let Some(live) = self.live.get(&number) else { return };
        let Some(order) = self.ledger.pending_call(number).and_then(|call| call.order()) else { return };
        if !matches!(live.stage, Stage::Waiting) {
            return self.effects.push(Effect::Input { call: number, data, end_of_file });
        }
        let Some(kept) = order.job.input_kept() else { return };
        if kept + data.len() > order.max_pending_input as usize {
            let max = order.max_pending_input.into();
            return self.end_waiting(number, Verdict::input_limit_waiting(max, Chooser::Client), at);
        }
        self.commit(Record::Input { call: number, data, end_of_file });
    }

    /// The client sends no more: who reads input sees its end.
    pub(super) fn close_inputs(&mut self) {
        let interactive = self.ledger.pending_calls().filter(|pending| pending.call.is_interactive());
        let readers: Vec<(CallNumber, bool)> =
            interactive.map(|pending| (pending.call.number, pending.handed_over)).collect();
        for (call, handed_over) in readers {
            let data = Bytes::new();
            match handed_over {
                true => self.effects.push(Effect::Input { call, data, end_of_file: true }),
                false => self.commit(Record::Input { call, data, end_of_file: true }),
            }
        }
    }

    fn cancel_named(&mut self, calls: &[CallId], at: Moment) {
        if calls.is_empty() {
            return self.cancel_all(CancelCause::Client, at);
        }
        for call in calls {
            if let Some(number) = self.ledger.pending(ledger::hash(call)) {
                self.cancel(number, CancelCause::Client, at);
            }
        }
    }

    pub(super) fn cancel_all(&mut self, cause: CancelCause, at: Moment) {
        let waiting = Verdict::cancelled_waiting(cause);
        self.end_all_waiting(waiting.clone(), at);
        self.end_all_waiting_outside(waiting, at);
        let mut numbers: Vec<CallNumber> = self.live.keys().copied().collect();
        numbers.sort_unstable();
        numbers.into_iter().for_each(|number| self.cancel(number, cause, at));
    }

    fn cancel(&mut self, number: CallNumber, cause: CancelCause, at: Moment) {
        let Some(live) = self.live.get_mut(&number) else { return };
        match live.stage {
            Stage::Waiting => self.end_waiting(number, Verdict::cancelled_waiting(cause), at),
            // Nothing of it is here: what becomes of it there is not waited for.
            Stage::Running { .. } if live.is_external => {
                self.effects.push(Effect::DropExternal(number));
                self.end_run(number, Verdict::cancelled_outside(cause), Phases::default(), at);
            }
            Stage::Running { .. } => {
                // The first cause stands; the agent is told once.
                if live.cancelled.replace(live.cancelled.unwrap_or(cause)).is_none() {
                    self.effects.push(Effect::CancelRun(number));
                }
            }
        }
    }
}
