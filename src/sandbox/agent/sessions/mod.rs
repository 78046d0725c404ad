//! What outlives its calls in a slot: background processes. Each is in a runner of its own, and ends with the slot's
//! holder, a reset, or the slot. No call waits for one unless it asks to.

mod background;
mod log;
mod table;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{background::Background, table::Table};
use super::{call::Control, calls::agent_failed};
use crate::{
    pb::sandbox::{Event, event},
    sandbox::{outgoing::Outgoing, slot::Runner, wire},
    tool::{
        Executed, chain,
        job::{Captured, End, Ending, Exit, Phases, ProcessEnd, Stop, Usage},
        session::{ProcessAction, Request, Told},
    },
};

/// A call of a session.
pub(super) struct SessionCall {
    pub(super) slot: u32,
    pub(super) number: u64,
    /// The slot's, where that is not the agent's own.
    pub(super) user: Option<u32>,
    pub(super) timeout: Duration,
    pub(super) arrived: Instant,
    pub(super) events: Arc<Outgoing<Event>>,
}

/// All of one slot.
#[derive(Clone, Default)]
pub(super) struct Sessions {
    table: Arc<Mutex<Table>>,
    end: CancellationToken,
    tasks: TaskTracker,
}

impl Sessions {
    /// Whether it begins something, for which there must be a runner.
    pub(super) fn needs_runner(&self, request: &Request) -> bool {
        matches!(request, Request::Background { .. })
    }

    /// Does what is asked and answers it. Gives the runner back if it was not needed.
    pub(super) async fn carry_out(
        self,
        call: SessionCall,
        request: Request,
        mut runner: Option<Runner>,
        mut control: mpsc::UnboundedReceiver<Control>,
    ) -> Option<Runner> {
        let began = Instant::now();
        let dispatch = began.duration_since(call.arrived);
        let end = tokio::select! {
            end = self.answer(&call, request, &mut runner) => end,
            () = cancelled(&mut control) => stopped(Stop::Cancelled),
        };
        let phases = Phases { dispatch, execution: began.elapsed(), ..Phases::default() };
        let ended = wire::from_ending(call.slot, call.number, Ending { end, phases });
        call.events.push(Event { event: Some(event::Event::Ended(ended)) });
        runner
    }

    async fn answer(&self, call: &SessionCall, request: Request, runner: &mut Option<Runner>) -> End {
        match request {
            Request::Background { command } => self.begin(call, command, runner),
            Request::List => End::Told(self.table().list()),
            Request::Process { id, action } => {
                let found = self.table().get(id);
                End::Told(match found {
                    Some(process) => see_to(id, &process, action, call.timeout).await,
                    None => Told::failed(format!("There is no background process {id}")),
                })
            }
        }
    }

    fn begin(&self, call: &SessionCall, command: String, runner: &mut Option<Runner>) -> End {
        if let Some(refusal) = self.table().is_full() {
            return End::Told(refusal);
        }
        let Some(runner) = runner.take() else {
            return agent_failed("no runner was made".to_owned(), Executed::No);
        };
        match Background::begin(command, runner, call.user) {
            Ok(driver) => {
                let id = self.table().add(driver.shared());
                self.tasks.spawn(driver.run(self.end.clone()));
                End::Told(Told::new(format!("Started background process {id}")).with("id", id))
            }
            Err(error) => agent_failed(chain(&error), Executed::No),
        }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all of it. Afterwards nothing is known of it any more.
    pub(super) async fn end(&mut self) {
        let ending = std::mem::take(self);
        ending.end.cancel();
        ending.tasks.close();
        ending.tasks.wait().await;
    }
}

/// What the call's sender asks of it beside.
async fn cancelled(control: &mut mpsc::UnboundedReceiver<Control>) {
    while let Some(control) = control.recv().await {
        if matches!(control, Control::Cancel) {
            return;
        }
    }
    std::future::pending().await
}

/// Of a call that was ended while it waited. What it waited for goes on.
fn stopped(stop: Stop) -> End {
    End::Process(ProcessEnd {
        exit: Exit::Signal(rustix::process::Signal::KILL.as_raw()),
        stop: Some(stop),
        stdout: Captured::default(),
        stderr: Captured::default(),
        usage: Usage::default(),
        exceeded: None,
    })
}

async fn see_to(id: u64, process: &Background, action: ProcessAction, timeout: Duration) -> Told {
    match action {
        ProcessAction::Poll => table::poll(id, process),
        ProcessAction::Wait { milliseconds } => {
            process.wait(Duration::from_millis(milliseconds).min(timeout)).await;
            table::poll(id, process)
        }
        ProcessAction::Log { offset, max_bytes } => table::log(id, process, offset, max_bytes as usize),
        ProcessAction::Write { input, end_of_input } => {
            let bytes = input.len();
            match process.write(input.into_bytes(), end_of_input).await {
                Ok(()) => Told::new(format!("Wrote {bytes} bytes to process {id}")).with("id", id),
                Err(why) => Told::failed(format!("Process {id} takes no input: {why}")),
            }
        }
        ProcessAction::Kill => match process.ended() {
            Some(_) => Told::failed(format!("Process {id} {}: it cannot be killed", table::state(process))),
            None => {
                process.kill();
                // It may have been about to end by itself.
                process.wait(timeout).await;
                table::poll(id, process)
            }
        },
    }
}
