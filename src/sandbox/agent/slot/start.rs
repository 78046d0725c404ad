//! Starting what a slot's holder sends: files at once, everything else as a task of its own.

use std::time::Instant;

use tokio::sync::mpsc;

use super::SlotTask;
use crate::{
    pb::sandbox::RunCall,
    sandbox::{
        agent::{call::Call, calls::agent_failed, files, sessions::SessionCall},
        slot::{Runner, Slot, SlotError},
        wire,
    },
    tool::{
        Executed, chain,
        job::{End, Job, Order},
    },
};

impl SlotTask {
    pub(super) async fn start(&mut self, run: RunCall) {
        let arrived = Instant::now();
        let number = run.call;
        let order = match wire::to_order(run) {
            Ok(order) => order,
            Err(error) => return self.answer(number, agent_failed(error.to_string(), Executed::No)),
        };
        let Some(slot) = self.slot.as_ref().filter(|_| self.state.is_usable()) else {
            return self.answer(number, End::NotRun(format!("the slot is {}", self.state)));
        };
        let Order { job, timeout, limits, stream_output, max_pending_input } = order;
        // Bounded by what may be sent to one call before it has received it.
        let (controls, control) = mpsc::unbounded_channel();
        let task = match job {
            Job::ReadFile { path, max_bytes } => {
                return self.tell_ended(number, files::read(&slot.workspace(), &path, max_bytes));
            }
            Job::WriteFile { path, content } => {
                return self.tell_ended(number, files::write(&slot.workspace(), &path, &content));
            }
            Job::Session(request) => {
                let runner = match self.sessions.needs_runner(&request) {
                    true => match runner(slot, &mut self.idle).await {
                        Ok(runner) => Some(runner),
                        Err(error) => return self.answer(number, no_runner(&error)),
                    },
                    false => None,
                };
                let (user, events) = (self.config.host_id, self.agent.events.clone());
                let max_pending_input = max_pending_input as usize;
                let call = SessionCall {
                    slot: self.index,
                    number,
                    user,
                    timeout,
                    limits,
                    stream_output,
                    max_pending_input,
                    arrived,
                    events,
                    gauge: self.gauge.clone(),
                    shell_start: self.config.limits.shell_start,
                };
                self.running.spawn(self.sessions.clone().carry_out(call, request, runner, control))
            }
            Job::Process(process) => {
                let runner = match runner(slot, &mut self.idle).await {
                    Ok(runner) => runner,
                    Err(error) => return self.answer(number, no_runner(&error)),
                };
                let call = Call {
                    slot: self.index,
                    number,
                    user: self.config.host_id,
                    process,
                    timeout,
                    limits,
                    stream_output,
                    max_pending_input: max_pending_input as usize,
                    arrived,
                    events: self.agent.events.clone(),
                    gauge: self.gauge.clone(),
                };
                self.running.spawn(call.run(runner, control))
            }
        };
        self.calls.add(number, controls, task.id());
    }
}

/// One that waits, or a new one.
async fn runner(slot: &Slot, idle: &mut Vec<Runner>) -> Result<Runner, SlotError> {
    // One that has been killed took no call along, and is replaced.
    idle.retain(Runner::is_alive);
    match idle.pop() {
        Some(runner) => Ok(runner),
        None => slot.runner().await,
    }
}

fn no_runner(error: &SlotError) -> End {
    let cause = format!("no runner could be made: {}", chain(error));
    if error.ends_slot() { End::NotRun(cause) } else { agent_failed(cause, Executed::No) }
}
