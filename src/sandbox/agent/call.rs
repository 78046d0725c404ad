//! One process of a slot, from its start until everything about it is answered.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{sleep, sleep_until},
};

use super::{
    calls::agent_failed,
    gauge::{Gauge, INTERVAL, Mark},
    stdio::{Input, Live, Output, TooMuch},
};
use crate::{
    pb::sandbox::{CallOutput, Event, event},
    sandbox::{
        outgoing::Outgoing,
        slot::{DEATH, Runner, RunnerEnd, SlotError, Stdio},
        wire,
    },
    tool::{
        Executed, chain,
        job::{End, Ending, Exceeded, Exit, OutputLimits, Phases, Process, ProcessEnd, Stop, Usage},
    },
};

/// How long the end of the output is waited for after every process of the call has ended, once the pipes are empty:
/// only somebody else can hold them.
const DRAIN: Duration = Duration::from_millis(50);
/// What an ordinary user's pipe holds at most (fs.pipe-max-size), in bytes. If more comes after the end, it is somebody
/// else's.
const LARGEST_PIPE: usize = 1 << 20;

/// What is asked of a call that runs.
#[derive(Debug)]
pub(super) enum Control {
    Input {
        data: Bytes,
        end_of_file: bool,
    },
    /// There was more input than could be brought here.
    InputLost,
    Cancel,
    /// More live output, in bytes.
    Grant(u32),
    /// Another executor listens, and what the one before it has not granted it will never grant: the window of live
    /// output begins anew.
    Anew,
}

/// A call that is to run.
pub(super) struct Call {
    pub(super) slot: u32,
    pub(super) number: u64,
    /// The slot's, where that is not the agent's own.
    pub(super) user: Option<u32>,
    pub(super) process: Process,
    pub(super) timeout: Duration,
    pub(super) limits: OutputLimits,
    pub(super) stream_output: bool,
    pub(super) max_pending_input: usize,
    pub(super) arrived: Instant,
    pub(super) events: Arc<Outgoing<Event>>,
    pub(super) gauge: Gauge,
}

/// A call whose process has been started.
struct Running {
    call: Call,
    runner: Runner,
    stdout: Output,
    stderr: Output,
    stdin: Input,
    live: Option<Live>,
    stop: Option<Stop>,
    mark: Mark,
    /// Why it was stopped, if for a limit.
    exceeded: Option<Box<Exceeded>>,
    buffer: Vec<u8>,
}

impl Call {
    /// Runs it to its end, answers, and gives the runner back if it can take another. What `control` says before the
    /// start counts, too; its sender lives as long as the call.
    pub(super) async fn run(
        mut self,
        mut runner: Runner,
        mut control: mpsc::UnboundedReceiver<Control>,
    ) -> Option<Runner> {
        let mut early = Vec::new();
        while let Ok(control) = control.try_recv() {
            if matches!(control, Control::Cancel) {
                self.answer(End::CancelledEarly, Phases::default());
                return Some(runner);
            }
            early.push(control);
        }
        let (stdout, stderr, stdin, stdio) = match self.streams() {
            Ok(streams) => streams,
            Err(error) => {
                let failed = agent_failed(format!("no pipes could be made: {error}"), Executed::No);
                self.answer(failed, Phases::default());
                return Some(runner);
            }
        };
        let mark = self.gauge.begin();
        if let Err(error) = runner.start(&self.process, stdio) {
            let phases = Phases { dispatch: self.arrived.elapsed(), ..Phases::default() };
            let cause = chain(&error);
            self.answer(if error.ends_slot() { End::NotRun(cause) } else { agent_failed(cause, Executed::No) }, phases);
            return None;
        }
        // It has gone to the runner, and may be large.
        self.process = Process::default();
        let live = self.stream_output.then(Live::new);
        let mut running = Running {
            call: self,
            runner,
            stdout,
            stderr,
            stdin,
            live,
            stop: None,
            mark,
            exceeded: None,
            buffer: Vec::new(),
        };
        early.into_iter().for_each(|control| running.on_control(control));
        running.finish(control).await
    }

    fn streams(&mut self) -> io::Result<(Output, Output, Input, Stdio)> {
        let Process { stdin, interactive, .. } = &mut self.process;
        let (input, stdin) = Input::new(std::mem::take(stdin), *interactive, self.max_pending_input, self.user)?;
        let (output, stdout) = Output::new(self.limits, self.user)?;
        let (errors, stderr) = Output::new(self.limits, self.user)?;
        Ok((output, errors, input, Stdio { stdin, stdout, stderr }))
    }

    fn answer(&self, end: End, phases: Phases) {
        let ended = wire::from_ending(self.slot, self.number, Ending { end, phases });
        self.events.push(Event { event: Some(event::Event::Ended(ended)) });
    }
}

/// One of the ways to read an [`Output`].
type Read = for<'a> fn(&mut Output, &'a mut Vec<u8>, usize) -> Option<(u64, &'a [u8])>;

/// What a call waits for.
enum Happening {
    Ended(Result<RunnerEnd, SlotError>),
    Control(Control),
    Stdout,
    Stderr,
    Stdin,
    TimeIsUp,
    /// To look at its limits.
    Look,
    /// Its output need not be read any more, or may be read again.
    Waited,
}

impl Running {
    async fn finish(mut self, mut control: mpsc::UnboundedReceiver<Control>) -> Option<Runner> {
        let timer = sleep(if self.stop.is_some() { DEATH } else { self.call.timeout });
        let look = sleep(INTERVAL);
        tokio::pin!(timer, look);
        let ended = loop {
            let stopping = self.stop.is_some();
            let (may_read, held_up) = self.may_read();
            // Cancel-safe: nothing is read or written before the choice is made.
            let happening = tokio::select! {
                ended = self.runner.ended() => Happening::Ended(ended),
                Some(control) = control.recv() => Happening::Control(control),
                () = &mut timer => Happening::TimeIsUp,
                () = &mut look, if !stopping => Happening::Look,
                () = self.stdout.readable(), if may_read => Happening::Stdout,
                () = self.stderr.readable(), if may_read => Happening::Stderr,
                () = self.stdin.writable() => Happening::Stdin,
                () = sleep_until(held_up), if !may_read => Happening::Waited,
            };
            match happening {
                Happening::Ended(ended) => break ended,
                Happening::TimeIsUp if stopping => break Err(SlotError::Undying("call")),
                Happening::Look => {
                    look.as_mut().reset(tokio::time::Instant::now() + INTERVAL);
                    self.look();
                }
                other => self.on(other),
            }
            if self.stop.is_some() && !stopping {
                timer.as_mut().reset(tokio::time::Instant::now() + DEATH);
            }
        };
        let ended_at = Instant::now();
        self.drain(control).await;
        self.end(ended, ended_at).await
    }

    /// Reads what is left after the end: all of it is in the pipes. They end with it, unless one was handed to another
    /// call, which has nothing to say in this one.
    async fn drain(&mut self, mut control: mpsc::UnboundedReceiver<Control>) {
        self.stdout.let_end();
        self.stderr.let_end();
        let mut left = 2 * LARGEST_PIPE;
        let mut deadline = None;
        while left > 0 {
            let mut read = 0;
            for is_stderr in [false, true] {
                // The other stream may have used up what may be sent.
                if self.may_read().0 {
                    read += self.read(is_stderr, Output::read_now);
                }
            }
            left = left.saturating_sub(read);
            if read > 0 {
                continue;
            }
            let (may_read, held_up) = self.may_read();
            if !self.stdout.is_open() && !self.stderr.is_open() {
                return;
            }
            let until = if may_read { *deadline.get_or_insert(tokio::time::Instant::now() + DRAIN) } else { held_up };
            let happening = tokio::select! {
                Some(control) = control.recv() => Happening::Control(control),
                () = self.stdout.readable(), if may_read => Happening::Stdout,
                () = self.stderr.readable(), if may_read => Happening::Stderr,
                () = sleep_until(until) => Happening::Waited,
            };
            match happening {
                Happening::Waited if may_read => return,
                other => self.on(other),
            }
        }
    }

    /// Whether output may be read; if not, until when. One that is being stopped is held up by nobody.
    fn may_read(&self) -> (bool, tokio::time::Instant) {
        let now = tokio::time::Instant::now();
        let live = self.live.as_ref().filter(|_| self.stop.is_none());
        match live.and_then(|live| live.held_up(now.into_std())) {
            Some(until) => (false, until.into()),
            None => (true, now),
        }
    }

    fn on(&mut self, happening: Happening) {
        match happening {
            Happening::Control(control) => self.on_control(control),
            Happening::Stdout => _ = self.read(false, Output::read),
            Happening::Stderr => _ = self.read(true, Output::read),
            Happening::Stdin => self.stdin.write(),
            Happening::TimeIsUp => self.stop(Stop::TimedOut),
            Happening::Waited | Happening::Look | Happening::Ended(_) => {}
        }
    }

    fn on_control(&mut self, control: Control) {
        match control {
            Control::Cancel => self.stop(Stop::Cancelled),
            Control::InputLost => self.stop(Stop::InputLimit),
            Control::Grant(bytes) => {
                if let Some(live) = &mut self.live {
                    live.grant(bytes);
                }
            }
            Control::Anew => {
                if let Some(live) = &mut self.live {
                    *live = Live::new();
                }
            }
            Control::Input { data, end_of_file } => {
                if let Err(TooMuch) = self.stdin.push(&data, end_of_file) {
                    self.stop(Stop::InputLimit);
                }
            }
        }
    }

    fn look(&mut self) {
        self.exceeded = self.mark.look().map(Box::new);
        if self.exceeded.is_some() {
            self.stop(Stop::Exceeded);
        }
    }

    /// The first cause stands.
    fn stop(&mut self, stop: Stop) {
        if self.stop.is_none() {
            self.stop = Some(stop);
            self.runner.cancel();
        }
    }

    /// Reads once; how much there was.
    fn read(&mut self, is_stderr: bool, read: Read) -> usize {
        let output = if is_stderr { &mut self.stderr } else { &mut self.stdout };
        let max = self.live.as_ref().map_or(usize::MAX, Live::max_read);
        let Some((offset, data)) = read(output, &mut self.buffer, max) else { return 0 };
        let read = data.len();
        if let Some(live) = &mut self.live
            && live.spend(read, tokio::time::Instant::now().into_std())
        {
            let Call { slot, number: call, .. } = self.call;
            let output = CallOutput { slot, call, is_stderr, offset, data: Bytes::copy_from_slice(data) };
            self.call.events.push(Event { event: Some(event::Event::Output(output)) });
        }
        read
    }

    async fn end(self, ended: Result<RunnerEnd, SlotError>, ended_at: Instant) -> Option<Runner> {
        let since_arrival = ended_at.duration_since(self.call.arrived);
        let phases = |execution: Duration| Phases {
            dispatch: since_arrival.saturating_sub(execution),
            execution,
            collection: ended_at.elapsed(),
        };
        match ended {
            Ok(RunnerEnd::NotStarted { kind, message }) => {
                self.call.answer(End::NotStarted { kind, message }, phases(Duration::ZERO));
            }
            Ok(RunnerEnd::Ended { exit, usage, execution, limit, written }) => {
                let concluded = self.mark.conclude(exit, limit, Some(written)).await;
                let exceeded = self.exceeded.or(concluded.map(Box::new));
                let end = process_end(exit, usage, self.stop, exceeded, self.stdout, self.stderr);
                self.call.answer(End::Process(end), phases(execution));
            }
            Err(error) => {
                let (cause, ran) = (chain(&error), self.stdout.total() + self.stderr.total() > 0);
                let end = match error.ends_slot() {
                    true => End::SlotLost { cause, ran },
                    false => agent_failed(cause, if ran { Executed::Yes } else { Executed::Unknown }),
                };
                self.call.answer(end, phases(Duration::ZERO));
                return None;
            }
        }
        Some(self.runner)
    }
}

fn process_end(
    exit: Exit,
    usage: Usage,
    stop: Option<Stop>,
    exceeded: Option<Box<Exceeded>>,
    stdout: Output,
    stderr: Output,
) -> ProcessEnd {
    // One that had ended before the kill reached it was not stopped.
    let killed = exit == Exit::Signal(rustix::process::Signal::KILL.as_raw());
    let (stdout, stderr) = (stdout.finish(), stderr.finish());
    ProcessEnd { exit, stop: stop.filter(|_| killed), stdout, stderr, usage: Some(usage), exceeded }
}
