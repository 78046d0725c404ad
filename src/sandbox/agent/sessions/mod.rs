//! What outlives its calls in a slot: background processes, the shell that keeps its state, and the terminal with a
//! screen. Each is in a runner of its own, and ends with the slot's holder, a reset, or the slot. No call waits for one
//! unless it asks to.

mod background;
mod feed;
mod log;
mod pace;
mod script;
mod shell;
mod table;
mod tmux;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time::sleep_until};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{background::Background, feed::Feed, shell::Keeping, table::Table, tmux::Tmux};
use super::{
    call::Control,
    calls::agent_failed,
    gauge::{Behind, Gauge},
};
use crate::{
    pb::sandbox::{Event, event},
    sandbox::{outgoing::Outgoing, slot::Runner, wire},
    tool::{
        Executed, chain,
        job::{Captured, End, Ending, Exceeded, Exit, OutputLimits, Phases, ProcessEnd, Stop},
        session::{self, ProcessAction, Request, TmuxAction, Told},
    },
};

/// A call of a session.
pub(super) struct SessionCall {
    pub(super) slot: u32,
    pub(super) number: u64,
    /// The slot's, where that is not the agent's own.
    pub(super) user: Option<u32>,
    pub(super) timeout: Duration,
    pub(super) limits: OutputLimits,
    pub(super) stream_output: bool,
    /// Of what was typed for it and nobody has read, in bytes.
    pub(super) max_pending_input: usize,
    pub(super) arrived: Instant,
    pub(super) events: Arc<Outgoing<Event>>,
    pub(super) gauge: Gauge,
    /// How long the shell that keeps its state may take until it runs scripts.
    pub(super) shell_start: Duration,
}

/// All of one slot.
#[derive(Clone, Default)]
pub(super) struct Sessions {
    table: Arc<Mutex<Table>>,
    shell: Arc<Mutex<Keeping>>,
    tmux: Arc<Mutex<Option<Arc<Tmux>>>>,
    end: CancellationToken,
    tasks: TaskTracker,
}

impl Sessions {
    /// Whether it begins something, for which there must be a runner.
    pub(super) fn needs_runner(&self, request: &Request) -> bool {
        match request {
            Request::Background { .. } => true,
            Request::Run { .. } => !lock(&self.shell).is_alive(),
            Request::Tmux(TmuxAction::Start { reset, .. }) => *reset || self.tmux().is_none(),
            Request::Tmux(_) | Request::List | Request::Process { .. } => false,
        }
    }

    /// Does what is asked and answers it. Gives the runner back if it was not needed.
    pub(super) async fn carry_out(
        self,
        call: SessionCall,
        request: Request,
        mut runner: Option<Runner>,
        mut control: mpsc::UnboundedReceiver<Control>,
    ) -> Option<Runner> {
        let mut began = Instant::now();
        let end = match request {
            Request::Run { command, input } => self.run(&call, command, input, &mut runner, control, &mut began).await,
            Request::Background { command } => self.begin(&call, command, &mut runner),
            Request::Tmux(action) => tokio::select! {
                // The keys come before what is typed meanwhile.
                biased;
                end = self.see_to_tmux(&call, action, &mut runner) => end,
                stop = self.stop_of_tmux(&call, &mut control) => stopped(stop),
            },
            Request::List => End::Told(self.table().list()),
            Request::Process { id, action } => tokio::select! {
                told = self.process(&call, id, action) => End::Told(told),
                () = cancelled(&mut control) => stopped(Stop::Cancelled),
            },
        };
        let dispatch = began.duration_since(call.arrived);
        let phases = Phases { dispatch, execution: began.elapsed(), ..Phases::default() };
        let ended = wire::from_ending(call.slot, call.number, Ending { end, phases });
        call.events.push(Event { event: Some(event::Event::Ended(ended)) });
        runner
    }

    /// The terminal with a screen, if there is one that has not ended.
    fn tmux(&self) -> Option<Arc<Tmux>> {
        lock(&self.tmux).clone().filter(|tmux| !tmux.has_ended())
    }

    async fn see_to_tmux(&self, call: &SessionCall, action: TmuxAction, runner: &mut Option<Runner>) -> End {
        let there_is = self.tmux();
        let told = match (action, there_is) {
            (TmuxAction::Start { width, height, reset }, there_is) => match (there_is, runner.take()) {
                (Some(_), unused) if !reset => {
                    *runner = unused;
                    Told::new("The terminal is started already: stop it, or start it with reset, for a new one")
                }
                (_, None) => return agent_failed("no runner was made".to_owned(), Executed::No),
                (old, Some(new)) => {
                    if let Some(old) = old {
                        old.stop().await;
                    }
                    match Tmux::begin(new, call, (width, height)).await {
                        Ok((tmux, driver)) => {
                            self.tasks.spawn(driver.run(self.end.clone()));
                            *lock(&self.tmux) = Some(tmux.clone());
                            tmux.until_prompt().await;
                            match tmux.how_ended() {
                                None => Told::new(format!("Started a terminal of {width} columns and {height} rows")),
                                Some(how) => Told::failed(format!("The terminal has ended, since its shell {how}")),
                            }
                        }
                        Err(error) => return agent_failed(chain(&error), Executed::No),
                    }
                }
            },
            (_, None) => match lock(&self.tmux).take() {
                Some(ended) => {
                    let how = ended.how_ended().unwrap_or_else(|| "has ended".to_owned());
                    Told::failed(format!("The terminal has ended, since its shell {how}: start it again"))
                }
                None => Told::failed("There is no terminal: start it first"),
            },
            (TmuxAction::SendKeys { keys, block, min_wait_ms, max_wait_ms, input }, Some(tmux)) => {
                let [min, max] = [min_wait_ms, max_wait_ms].map(|ms| Duration::from_millis(ms).min(call.timeout));
                tmux.send(call, &keys, &input.0, block, (min, max)).await
            }
            (TmuxAction::Capture { entire }, Some(tmux)) => tmux.capture(entire),
            (TmuxAction::Stream { max_bytes, reset }, Some(tmux)) => tmux.stream(max_bytes as usize, reset),
            (TmuxAction::Resize { width, height }, Some(tmux)) => tmux.resize(width, height),
            (TmuxAction::Stop, Some(tmux)) => {
                lock(&self.tmux).take();
                tmux.stop().await;
                Told::new("Stopped the terminal")
            }
        };
        End::Told(told)
    }

    async fn process(&self, call: &SessionCall, id: u64, action: ProcessAction) -> Told {
        let found = self.table().get(id);
        match found {
            Some(process) => see_to(id, &process, action, call.timeout).await,
            None => Told::failed(format!("There is no background process {id}")),
        }
    }

    /// Brings the terminal with a screen what its call is told, until that is to stop it.
    async fn stop_of_tmux(&self, call: &SessionCall, control: &mut mpsc::UnboundedReceiver<Control>) -> Stop {
        while let Some(control) = control.recv().await {
            match (control, self.tmux()) {
                (Control::Cancel, _) => return Stop::Cancelled,
                (Control::InputLost, _) => return Stop::InputLimit,
                (Control::Input { data, end_of_file }, Some(tmux)) => {
                    if !tmux.type_in(&session::typed(&data, end_of_file), call.max_pending_input) {
                        return Stop::InputLimit;
                    }
                }
                (Control::Grant(bytes), Some(tmux)) => tmux.tell_feed(call.number, |feed| feed.grant(bytes)),
                (Control::Anew, Some(tmux)) => tmux.tell_feed(call.number, Feed::begin_anew),
                (Control::Input { .. } | Control::Grant(_) | Control::Anew, None) => {}
            }
        }
        std::future::pending().await
    }

    fn begin(&self, call: &SessionCall, command: String, runner: &mut Option<Runner>) -> End {
        if let Some(refusal) = self.table().is_full() {
            return End::Told(refusal);
        }
        let Some(runner) = runner.take() else {
            return agent_failed("no runner was made".to_owned(), Executed::No);
        };
        match Background::begin(command, runner, call.user, &call.gauge) {
            Ok(driver) => {
                let id = self.table().add(driver.shared());
                self.tasks.spawn(driver.run(self.end.clone()));
                End::Told(Told::new(format!("Started background process {id}")).with("id", id))
            }
            Err(error) => agent_failed(chain(&error), Executed::No),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    /// Ends all of it. Afterwards nothing is known of it any more.
    pub(super) async fn end(&mut self) {
        let ending = std::mem::take(self);
        ending.end.cancel();
        ending.tasks.close();
        ending.tasks.wait().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn at(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// When it is to be looked at next.
fn next_look(behind: &Behind) -> Option<tokio::time::Instant> {
    behind.interval().map(|interval| tokio::time::Instant::now() + interval)
}

/// How something ended, with the limit that it ran into.
fn with_limit(how: String, exceeded: Option<&Exceeded>) -> String {
    match exceeded {
        Some(exceeded) => format!("{how} ({exceeded})"),
        None => how,
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
        usage: None,
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
