//! One process of a slot, from its start until everything about it is answered.

use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::{
    net::unix::pipe,
    sync::mpsc,
    time::{sleep_until, timeout_at},
};

use super::capture::Capture;
use crate::{
    pb::sandbox::{CallOutput, Event, event},
    sandbox::{
        outgoing::Outgoing,
        slot::{Runner, RunnerEnd, SlotError, Stdio},
        wire,
    },
    tool::job::{End, Ending, Exit, OutputLimits, Phases, Process, ProcessEnd, Stop, Usage},
};

/// Live output that a call may send before any of it has been granted again, in bytes.
const LIVE_WINDOW: u32 = 256 << 10;
/// How long a process may be held up by whoever should read its live output; then it runs on, with a gap.
const LIVE_PATIENCE: Duration = Duration::from_secs(1);
/// How long output may still come after every process of the call has ended: only somebody else can hold the pipe.
const DRAIN: Duration = Duration::from_millis(50);
/// Of one read, before and after a process has shown that it has much to say.
const SMALL_READ: usize = 4 << 10;
const LARGE_READ: usize = 64 << 10;
/// The pipe of a process that has much to say.
const LARGE_PIPE: usize = 256 << 10;

/// What is asked of a call that runs.
#[derive(Debug)]
pub(super) enum Control {
    Input { data: Bytes, end_of_file: bool },
    Cancel,
    /// More live output, in bytes.
    Grant(u32),
}

/// A call that is to run.
pub(super) struct Call {
    pub(super) slot: u32,
    pub(super) number: u64,
    pub(super) process: Process,
    pub(super) timeout: Duration,
    pub(super) limits: OutputLimits,
    pub(super) stream_output: bool,
    pub(super) max_pending_input: usize,
    pub(super) arrived: Instant,
    pub(super) events: Arc<Outgoing<Event>>,
}

/// One stream that a process writes.
struct Output {
    /// None after its end.
    pipe: Option<pipe::Receiver>,
    capture: Capture,
}

/// What a process reads.
struct Input {
    pipe: pipe::Sender,
    pending: BytesMut,
    /// Close it once nothing is pending.
    ends: bool,
}

/// Live output: how much may be sent, and since when nothing may.
struct Live {
    credit: u32,
    starved: Option<tokio::time::Instant>,
}

/// A call whose process has been started.
struct Running {
    call: Call,
    stdout: Output,
    stderr: Output,
    stdin: Option<Input>,
    live: Option<Live>,
    stop: Option<Stop>,
    max_pending: usize,
    buffer: Vec<u8>,
}

impl Call {
    /// Runs it to its end, answers, and gives the runner back if it can take another.
    pub(super) async fn run(mut self, mut runner: Runner, mut control: mpsc::UnboundedReceiver<Control>) -> Option<Runner> {
        let mut early = Vec::new();
        while let Ok(control) = control.try_recv() {
            if matches!(control, Control::Cancel) {
                self.answer(End::CancelledEarly, Phases::default());
                return Some(runner);
            }
            early.push(control);
        }
        let (stdout, stderr, stdin, stdio) = match self.pipes() {
            Ok(pipes) => pipes,
            Err(error) => {
                self.answer(End::NotRun(format!("no pipes could be made: {error}")), Phases::default());
                return Some(runner);
            }
        };
        let started = runner.start(&self.process, stdio).await;
        let initial = std::mem::take(&mut self.process.stdin);
        // It has gone to the runner, and may be large.
        self.process.program = Default::default();
        if let Err(error) = started {
            self.answer(lost(&error), Phases { dispatch: self.arrived.elapsed(), ..Phases::default() });
            return None;
        }
        let mut running = Running {
            stdout: Output { pipe: Some(stdout), capture: Capture::new(self.limits) },
            stderr: Output { pipe: Some(stderr), capture: Capture::new(self.limits) },
            max_pending: self.max_pending_input.max(initial.len()),
            stdin: stdin.map(|pipe| Input {
                pipe,
                pending: BytesMut::from(initial),
                ends: !self.process.interactive,
            }),
            live: self.stream_output.then_some(Live { credit: LIVE_WINDOW, starved: None }),
            stop: None,
            buffer: Vec::new(),
            call: self,
        };
        for control in early {
            running.on_control(control, &runner);
        }
        running.finish(runner, control).await
    }

    fn pipes(&self) -> io::Result<(pipe::Receiver, pipe::Receiver, Option<pipe::Sender>, Stdio)> {
        let (stdout, their_stdout) = output_pipe()?;
        let (stderr, their_stderr) = output_pipe()?;
        let (stdin, their_stdin) = if self.process.stdin.is_empty() && !self.process.interactive {
            (None, None)
        } else {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            (Some(pipe::Sender::from_owned_fd(ours)?), Some(theirs))
        };
        Ok((stdout, stderr, stdin, Stdio { stdin: their_stdin, stdout: their_stdout, stderr: their_stderr }))
    }

    fn answer(&self, end: End, phases: Phases) {
        let ended = wire::from_ending(self.slot, self.number, Ending { end, phases });
        self.events.push(Event { event: Some(event::Event::Ended(ended)) });
    }
}

fn output_pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((pipe::Receiver::from_owned_fd(ours)?, theirs))
}

fn lost(error: &SlotError) -> End {
    End::SlotLost(error.to_string())
}

enum Step {
    Ended(Result<RunnerEnd, SlotError>),
    Control(Control),
    TimedOut,
    Progress,
}

impl Running {
    async fn finish(mut self, runner: Runner, mut control: mpsc::UnboundedReceiver<Control>) -> Option<Runner> {
        let deadline = tokio::time::Instant::now() + self.call.timeout;
        let ended = loop {
            match self.step(&runner, &mut control, deadline).await {
                Step::Ended(ended) => break ended,
                Step::Control(control) => self.on_control(control, &runner),
                Step::TimedOut => self.stop(Stop::TimedOut, &runner),
                Step::Progress => {}
            }
        };
        let ended_at = Instant::now();
        self.drain().await;
        let collection = ended_at.elapsed();
        let since_arrival = ended_at.duration_since(self.call.arrived);
        let phases = |execution: Duration| Phases {
            dispatch: since_arrival.saturating_sub(execution),
            execution,
            collection,
        };
        match ended {
            Ok(RunnerEnd::NotStarted { kind, message }) => {
                self.call.answer(End::NotStarted { kind, message }, phases(Duration::ZERO));
                Some(runner)
            }
            Ok(RunnerEnd::Ended { exit, usage, execution }) => {
                let call = self.end(exit, usage, phases(execution));
                drop(call);
                Some(runner)
            }
            Err(error) => {
                self.call.answer(lost(&error), phases(Duration::ZERO));
                None
            }
        }
    }

    fn end(self, exit: Exit, usage: Usage, phases: Phases) -> Call {
        // One that had ended before the kill reached it was not stopped.
        let killed = exit == Exit::Signal(rustix::process::Signal::KILL.as_raw());
        let end = ProcessEnd {
            exit,
            stop: self.stop.filter(|_| killed),
            stdout: self.stdout.capture.finish(),
            stderr: self.stderr.capture.finish(),
            usage,
        };
        self.call.answer(End::Process(end), phases);
        self.call
    }

    /// Waits for the next thing to happen. Cancel-safe: nothing is read or written but by what is returned.
    async fn step(
        &mut self,
        runner: &Runner,
        control: &mut mpsc::UnboundedReceiver<Control>,
        deadline: tokio::time::Instant,
    ) -> Step {
        let may_read = self.live.as_ref().is_none_or(Live::may_read);
        let patience = self.live.as_ref().and_then(|live| live.starved).map(|since| since + LIVE_PATIENCE);
        let stopped = self.stop.is_some();
        let happening = tokio::select! {
            ended = runner.ended() => return Step::Ended(ended),
            // Its sender lives as long as the call.
            Some(control) = control.recv() => return Step::Control(control),
            () = sleep_until(deadline), if !stopped => return Step::TimedOut,
            () = readable(&self.stdout), if may_read => Side::Stdout,
            () = readable(&self.stderr), if may_read => Side::Stderr,
            () = writable(self.stdin.as_ref()) => Side::Stdin,
            () = sleep_until(patience.unwrap_or(deadline)), if !may_read && patience.is_some() => return Step::Progress,
        };
        match happening {
            Side::Stdout => self.read(false),
            Side::Stderr => self.read(true),
            Side::Stdin => self.write(),
        }
        Step::Progress
    }

    fn on_control(&mut self, control: Control, runner: &Runner) {
        match control {
            Control::Cancel => self.stop(Stop::Cancelled, runner),
            Control::Grant(bytes) => {
                if let Some(live) = &mut self.live {
                    live.credit = live.credit.saturating_add(bytes);
                    live.starved = None;
                }
            }
            Control::Input { data, end_of_file } => {
                // A process that has closed its input wants no more of it.
                let Some(input) = &mut self.stdin else { return };
                if input.pending.len() + data.len() > self.max_pending {
                    return self.stop(Stop::InputLimit, runner);
                }
                input.pending.extend_from_slice(&data);
                input.ends |= end_of_file;
                self.write();
            }
        }
    }

    /// The first cause stands.
    fn stop(&mut self, stop: Stop, runner: &Runner) {
        if self.stop.is_none() {
            self.stop = Some(stop);
            runner.cancel();
        }
    }

    /// Writes what the pipe takes now.
    fn write(&mut self) {
        let Some(input) = &mut self.stdin else { return };
        while !input.pending.is_empty() {
            match input.pipe.try_write(&input.pending) {
                Ok(written) => input.pending.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The process has closed it.
                Err(_) => return self.stdin = None,
            }
        }
        if input.ends {
            self.stdin = None;
        }
    }

    /// Reads once.
    fn read(&mut self, stderr: bool) {
        let output = if stderr { &mut self.stderr } else { &mut self.stdout };
        let Some(pipe) = &output.pipe else { return };
        let much = output.capture.total() > LARGE_READ as u64;
        let mut size = if much { LARGE_READ } else { SMALL_READ };
        if much && self.buffer.len() < LARGE_READ {
            // It matters for speed alone: a kernel that refuses gives the smaller pipe.
            let _ = fcntl_setpipe_size(pipe, LARGE_PIPE);
        }
        if let Some(live) = &self.live
            && live.credit > 0
        {
            size = size.min(live.credit as usize);
        }
        if self.buffer.len() < size {
            self.buffer.resize(size, 0);
        }
        match pipe.try_read(&mut self.buffer[..size]) {
            Ok(0) => output.pipe = None,
            Ok(count) => {
                let data = &self.buffer[..count];
                let offset = output.capture.total();
                output.capture.push(data);
                if let Some(live) = &mut self.live
                    && live.spend(count)
                {
                    let output = CallOutput {
                        slot: self.call.slot,
                        call: self.call.number,
                        is_stderr: stderr,
                        offset,
                        data: Bytes::copy_from_slice(data),
                    };
                    self.call.events.push(Event { event: Some(event::Event::Output(output)) });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => output.pipe = None,
        }
    }

    /// Reads what is left after the end. Nothing holds the pipes open any more, unless it was handed to another call.
    async fn drain(&mut self) {
        for stderr in [false, true] {
            // For each anew: the runtime must have looked once before it can say that there is nothing.
            let deadline = tokio::time::Instant::now() + DRAIN;
            loop {
                let output = if stderr { &self.stderr } else { &self.stdout };
                if output.pipe.is_none() || timeout_at(deadline, readable(output)).await.is_err() {
                    break;
                }
                self.read(stderr);
            }
        }
    }
}

enum Side {
    Stdout,
    Stderr,
    Stdin,
}

/// Ready when there is something to read, or nothing more to come; never after that.
async fn readable(output: &Output) {
    match &output.pipe {
        // An error is found again by the read.
        Some(pipe) => drop(pipe.readable().await),
        None => std::future::pending().await,
    }
}

/// Ready when something that is pending can be written.
async fn writable(input: Option<&Input>) {
    match input {
        // An error is found again by the write.
        Some(input) if !input.pending.is_empty() || input.ends => drop(input.pipe.writable().await),
        _ => std::future::pending().await,
    }
}

impl Live {
    /// With nothing to spend the process is held up, but not for ever.
    fn may_read(&self) -> bool {
        match self.starved {
            Some(since) => since.elapsed() >= LIVE_PATIENCE,
            None => true,
        }
    }

    /// Whether so many bytes may be sent.
    fn spend(&mut self, bytes: usize) -> bool {
        let sent = self.credit as usize >= bytes;
        if sent {
            self.credit -= u32::try_from(bytes).unwrap_or(self.credit);
        }
        if self.credit == 0 {
            self.starved.get_or_insert_with(tokio::time::Instant::now);
        }
        sent
    }
}
