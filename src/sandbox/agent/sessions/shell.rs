//! The shell that keeps its state: an interactive one with a terminal, in a runner of its own.
//!
//! It reads its commands from a pipe and says how each ended on another; the terminal has what the commands print and
//! read, and nothing else. A script is one word of a command, `eval 'script'`, so that whatever is wrong with it is an
//! error of that command; and it has neither pipe, so that nothing it prints can be taken for its end. Where in the
//! terminal's output a script ends is marked by the agent itself, with bytes that nobody can know before.
//!
//! An interactive shell survives the interrupt that ends its command. What is left to be read is dropped by some shells
//! then, so the question for the status is put again.

mod begin;
mod current;
mod keeping;
mod steps;
mod texts;
pub(super) mod tty;

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{io::unix::AsyncFd, net::unix::pipe, sync::mpsc, task::coop::consume_budget, time::Instant};
use tokio_util::sync::CancellationToken;

use self::{
    current::{Asker, Current, Due},
    steps::Step,
    texts::{Said, parse, process_end, quoted, used, with_end},
};
pub(super) use self::{
    keeping::{Answer, Keeping, Run, ToCall, Word},
    texts::how,
};
use super::{
    super::{
        calls::agent_failed,
        gauge::{Behind, Gauge},
        stdio::Input,
    },
    at,
    feed::Feed,
    lock, next_look,
    pace::Pace,
    with_limit,
};
use crate::{
    sandbox::slot::{DEATH, Runner, RunnerEnd, SlotError},
    tool::{
        Executed, chain,
        job::{End, Exceeded, Stop},
    },
};

/// Of one read.
const READ: usize = 64 << 10;
/// What the shell may say of one script, in lines, and in bytes of one: far more than it is asked.
const MAX_LINES: usize = 64;
const MAX_LINE: usize = 256;
/// How fast is read what jobs print between scripts, in bytes each second.
const RATE: u32 = 16 << 20;
/// What is read at most of what was printed before, in bytes: more than a terminal holds.
const LEFT_OVER: usize = 256 << 10;

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShellError {
    #[error("no pipes could be made")]
    Pipes(#[from] io::Error),
    #[error("the shell could not be handed over")]
    Start(#[from] SlotError),
    #[error("no terminal could be opened: {0}")]
    Terminal(String),
}

/// See the module.
pub(super) struct Shell {
    runner: Runner,
    terminal: AsyncFd<OwnedFd>,
    slave: OwnedFd,
    commands: Input,
    status: pipe::Receiver,
    said: Vec<u8>,
    times: Vec<(Duration, Duration)>,
    /// That it has said since the script began.
    lines: usize,
    typed: VecDeque<u8>,
    /// Of what was typed and nobody has read, in bytes.
    max_typed: usize,
    words: mpsc::UnboundedReceiver<Word>,
    current: Option<Current>,
    waiting: VecDeque<Run>,
    sequence: u64,
    /// Of what jobs print between scripts.
    pace: Pace,
    gauge: Gauge,
    /// How long it may take until it runs scripts.
    patience: Duration,
    behind: Behind,
    /// Why it was ended between scripts, if for a limit.
    exceeded: Option<Exceeded>,
    /// When it must have ended.
    death: Option<Instant>,
    buffer: Vec<u8>,
}

impl Shell {
    /// Until it ends, by itself or by `end`. What becomes of it is told through `keeping`.
    pub(super) async fn run(mut self, end: CancellationToken, keeping: Arc<Mutex<Keeping>>) {
        let (mut ending, mut speaks) = (false, true);
        let mut look = next_look(&self.behind);
        let ended = loop {
            let (due, death) = (self.current.as_ref().and_then(|current| current.due), self.death);
            let held_up = self.held_up();
            // What is always ready must let others have their turn.
            consume_budget().await;
            // Cancel-safe: nothing is read or written before the choice is made.
            tokio::select! {
                ended = self.runner.ended() => break ended,
                () = at(held_up), if held_up.is_some() => {}
                ready = self.terminal.readable(), if held_up.is_none() => {
                    let max = self.current.as_ref().map_or(READ, Current::max_read).min(READ);
                    // An error means that the runtime is gone.
                    if let Ok(mut ready) = ready {
                        match rustix::io::read(ready.get_inner(), &mut self.buffer[..max]) {
                            Ok(read) if read > 0 => self.on_output(read),
                            _ => ready.clear_ready(),
                        }
                    }
                }
                ready = self.terminal.writable(), if !self.typed.is_empty() => {
                    if let Ok(mut ready) = ready {
                        match rustix::io::write(ready.get_inner(), self.typed.as_slices().0) {
                            Ok(written) => _ = self.typed.drain(..written),
                            Err(_) => ready.clear_ready(),
                        }
                    }
                }
                _ = self.status.readable(), if speaks => {
                    speaks = self.on_status();
                    if !speaks {
                        // It exits, unless it has gone mad.
                        self.death.get_or_insert(Instant::now() + DEATH);
                    }
                }
                () = self.commands.writable() => self.commands.write(),
                Some(word) = self.words.recv() => self.on_word(word),
                () = at(due) => self.on_due(),
                () = at(look), if self.exceeded.is_none() => {
                    look = next_look(&self.behind);
                    self.exceeded = self.behind.look();
                    if self.exceeded.is_some() {
                        self.kill();
                    }
                }
                () = at(death) => break Err(SlotError::Undying("shell")),
                () = end.cancelled(), if !ending => {
                    ending = true;
                    self.kill();
                }
            }
        };
        // From now on nobody finds it; what was asked before is answered or, by dropping it, refused.
        let how = match &self.current {
            Some(current) if current.came_too_late() => format!("was not ready within {:?}", self.patience),
            _ => with_limit(how(&ended), self.exceeded.as_ref()),
        };
        lock(&keeping).lose(how.clone());
        for run in self.waiting.drain(..) {
            let _ = run.done.send(agent_failed(format!("the shell {how}"), Executed::No).into());
        }
        let mut left = LEFT_OVER;
        while left > 0
            && let Ok(read @ 1..) = rustix::io::read(&self.terminal, &mut self.buffer)
        {
            left = left.saturating_sub(read);
            self.on_output(read);
        }
        self.end_with(ended, &how);
    }

    /// With all that it has started. Then it ends, or nothing ends it.
    fn kill(&mut self) {
        self.runner.cancel();
        self.death.get_or_insert(Instant::now() + DEATH);
    }

    /// The last answer.
    fn end_with(mut self, ended: Result<RunnerEnd, SlotError>, how: &str) {
        let Some((Some(asker), stop, captured)) = self.current.take().map(Current::cut_short) else { return };
        let ran = captured.total > 0;
        let mut seen = None;
        let end = match ended {
            Ok(RunnerEnd::Ended { exit, limit, .. }) => {
                seen = limit;
                let notice = format!("\n[the shell {how}: the next terminal_stateful call has a new one]\n");
                process_end(exit, stop, with_end(captured, &notice), None)
            }
            Ok(RunnerEnd::NotStarted { kind, message }) => End::NotStarted { kind, message },
            Err(error) if error.ends_slot() => End::SlotLost { cause: chain(&error), ran },
            Err(error) => agent_failed(chain(&error), if ran { Executed::Yes } else { Executed::Unknown }),
        };
        let _ = asker.done.send(Answer { end, seen });
    }

    fn start(&mut self, command: &str, current: Current) {
        self.current = Some(current);
        self.lines = 0;
        self.say(command);
        self.say("\n");
        self.ask();
    }

    /// Until when the terminal is not to be read: by whoever reads the script's output live, or between scripts by the
    /// pace.
    fn held_up(&self) -> Option<Instant> {
        match &self.current {
            Some(current) => current.held_up(),
            None => self.pace.held_up(),
        }
    }

    fn say(&mut self, text: &str) {
        // Its bound is the largest number.
        let _ = self.commands.push(text.as_bytes(), false);
    }

    /// For the status of what it ran last.
    fn ask(&mut self) {
        // The status is in the text before `times` has another.
        let question = format!("eval \"times; command echo {} $?\" >&7\n", self.sequence);
        self.say(&question);
    }

    fn on_word(&mut self, word: Word) {
        match word {
            Word::Run(run) => {
                self.waiting.push_back(run);
                self.go_on();
            }
            Word::ToCall { call, what } => {
                if self.current.as_ref().is_some_and(|current| current.is_of(call)) {
                    self.tell(what);
                } else if let Some(place) = self.waiting.iter().position(|run| run.call == call) {
                    self.tell_waiting(place, what);
                }
            }
        }
    }

    /// The script that runs.
    fn tell(&mut self, what: ToCall) {
        let Some(current) = &mut self.current else { return };
        match what {
            ToCall::Type(data) if self.typed.len() + data.len() > self.max_typed => current.stop(Stop::InputLimit),
            ToCall::Type(data) => self.typed.extend(data),
            ToCall::Stop(stop) => current.stop(stop),
            ToCall::End(stop) => {
                current.stop(stop);
                self.kill();
            }
            ToCall::Grant(bytes) => _ = current.feed().map(|feed| feed.grant(bytes)),
            ToCall::Anew => _ = current.feed().map(Feed::begin_anew),
        }
    }

    /// A script whose turn has not come. It has printed nothing.
    fn tell_waiting(&mut self, place: usize, what: ToCall) {
        match what {
            ToCall::Type(data) if self.waiting[place].typed.len() + data.len() <= self.waiting[place].max_typed => {
                self.waiting[place].typed.extend(data);
            }
            ToCall::Type(_) | ToCall::Stop(Stop::InputLimit) => {
                if let Some(run) = self.waiting.remove(place) {
                    let _ = run.done.send(End::InputLimitEarly { max: run.max_typed as u64 }.into());
                }
            }
            ToCall::Stop(_) | ToCall::End(_) => {
                if let Some(run) = self.waiting.remove(place) {
                    let _ = run.done.send(End::CancelledEarly.into());
                }
            }
            ToCall::Grant(_) | ToCall::Anew => {}
        }
    }

    /// The next script, if none runs.
    fn go_on(&mut self) {
        if self.current.is_some() {
            return;
        }
        let Some(Run { call, command, limits, before, typed, max_typed, feed, begun, done }) = self.waiting.pop_front()
        else {
            return;
        };
        self.sequence += 1;
        // What was typed for another script is not this one's, nor is what jobs have printed.
        let _ = rustix::termios::tcflush(&self.slave, rustix::termios::QueueSelector::IFlush);
        let mut left = LEFT_OVER;
        while left > 0
            && let Ok(read @ 1..) = rustix::io::read(&self.terminal, &mut self.buffer)
        {
            left = left.saturating_sub(read);
        }
        (self.typed, self.max_typed) = (typed, max_typed);
        let mut current = Current::new(self.sequence, limits, Some(Asker { call, done }), feed);
        if let Some(how) = before {
            let notice = format!("[this is a new shell: the one before {how}; its variables and jobs are gone]\n");
            current.print(notice.as_bytes());
        }
        // Whoever asked may be gone.
        let _ = begun.send(self.gauge.begin());
        let script = format!("times >&7; command eval {} <&8 >&8 2>&8 7>&- 8>&-", quoted(&command));
        self.start(&script, current);
    }

    fn on_due(&mut self) {
        match self.current.as_mut().map(Current::on_due) {
            Some(Due::Finish) => self.finish(),
            Some(Due::Step(Some(Step::Type(key)))) => self.typed.extend(key),
            Some(Due::Step(Some(Step::Ask))) => self.ask(),
            Some(Due::Step(Some(Step::Kill))) => self.kill(),
            Some(Due::Step(None)) | None => {}
        }
    }

    /// Reads what the shell says; false once it says nothing more.
    fn on_status(&mut self) -> bool {
        match self.status.try_read(&mut self.buffer) {
            Ok(0) => return false,
            Ok(read) => self.said.extend_from_slice(&self.buffer[..read]),
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
        while self.lines <= MAX_LINES
            && let Some(end) = self.said.iter().position(|byte| *byte == b'\n')
        {
            self.lines += 1;
            let line: Vec<u8> = self.said.drain(..=end).collect();
            match parse(&line) {
                Some(Said::Times(user, system)) => self.times.push((user, system)),
                Some(Said::Status { sequence, code }) => {
                    let times = std::mem::take(&mut self.times);
                    if let Some(current) = &mut self.current
                        && current.sequence == sequence
                        && current.on_code(code, used(&times))
                    {
                        self.write_mark();
                    }
                }
                None => {}
            }
        }
        // Some trap of the shell's own has got hold of the pipe.
        if self.lines > MAX_LINES || self.said.len() > MAX_LINE {
            self.said.clear();
            self.kill();
        }
        true
    }

    /// As much of it as the terminal takes now.
    fn write_mark(&mut self) {
        if let Some(current) = &mut self.current
            && !current.mark().is_empty()
            && let Ok(written) = rustix::io::write(&self.slave, current.mark())
        {
            current.mark_written(written);
        }
    }

    /// So many bytes of the buffer.
    fn on_output(&mut self, read: usize) {
        // Between scripts, it is of jobs that they left.
        let Some(current) = &mut self.current else {
            return self.pace.spend_bytes(read, RATE);
        };
        if current.on_output(&self.buffer[..read]) {
            self.finish();
        } else {
            self.write_mark();
        }
    }

    /// The script has ended.
    fn finish(&mut self) {
        if let Some(current) = self.current.take() {
            current.finish();
        }
        self.go_on();
    }
}
