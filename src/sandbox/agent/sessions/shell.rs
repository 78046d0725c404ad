//! The shell that keeps its state: an interactive one with a terminal, in a runner of its own.
//!
//! It reads its commands from a pipe and says how each ended on another; the terminal has what the commands print and
//! read, and nothing else. A script is one word of a command, `eval 'script'`, so that whatever is wrong with it is an
//! error of that command; and it has neither pipe, so that nothing it prints can be taken for its end. Where in the
//! terminal's output a script ends is marked by the agent itself, with bytes that nobody can know before.
//!
//! An interactive shell survives the interrupt that ends its command. What is left to be read is dropped by some shells
//! then, so the question for the status is put again.

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

use bytes::Bytes;
use tokio::{
    io::unix::AsyncFd,
    net::unix::pipe,
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub(super) use self::keeping::{Keeping, Run, Word};
use self::{
    steps::{STEPS, Step},
    texts::{how, parse, process_end, quoted, with_end},
    tty::plain,
};
use super::{
    super::{
        calls::agent_failed,
        capture::Capture,
        stdio::{Input, pipe_of},
    },
    lock,
};
use crate::{
    sandbox::slot::{DEATH, Runner, RunnerEnd, SlotError, Terminal},
    tool::{
        Executed, chain,
        job::{End, Exit, OutputLimits, Process, Program, Stop},
    },
};

const BEGIN: &str = "read -r _; if command -v bash >/dev/null 2>&1; then exec bash --norc --noprofile --noediting -i; fi; exec /bin/sh -i";

const PREPARE: &str = "exec 7>&1 8>&2 >/dev/null 2>&1; PS1= PS2=; unset HISTFILE; ";

/// That a shell which finds one of them is dumb, and that nothing waits for a key.
const ENVIRONMENT: [(&str, &str); 5] =
    [("TERM", "dumb"), ("PAGER", "cat"), ("GIT_PAGER", "cat"), ("PS1", ""), ("PS2", "")];

/// How long the mark may take to arrive: the terminal may be held up.
const MARK_PATIENCE: Duration = Duration::from_millis(500);

/// Of one read.
const READ: usize = 64 << 10;
/// Of what was typed and nobody has read, in bytes.
const MAX_TYPED: usize = 1 << 20;

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

/// What runs.
struct Current {
    sequence: u64,
    /// Of preparation, nobody's.
    run: Option<(u64, oneshot::Sender<End>)>,
    capture: Capture,
    /// What may be the begin of the mark.
    held: Vec<u8>,
    mark: Mark,
    code: Option<i32>,
    stop: Option<Stop>,
    /// What is done next to end it, or when the mark is not waited for any more.
    next_step: usize,
    due: Option<Instant>,
}

/// Bytes that stand in the terminal's output where a script's ends.
struct Mark {
    bytes: [u8; 16],
    written: usize,
}

/// See the module.
pub(super) struct Shell {
    runner: Runner,
    terminal: AsyncFd<OwnedFd>,
    slave: OwnedFd,
    commands: Input,
    status: pipe::Receiver,
    said: Vec<u8>,
    typed: VecDeque<u8>,
    words: mpsc::UnboundedReceiver<Word>,
    current: Option<Current>,
    waiting: VecDeque<Run>,
    sequence: u64,
    buffer: Vec<u8>,
}

impl Shell {
    /// `user`: the slot's, where that is not the agent's own.
    pub(super) async fn begin(
        mut runner: Runner,
        user: Option<u32>,
    ) -> Result<(Self, mpsc::UnboundedSender<Word>), ShellError> {
        let (commands, stdin) = Input::new(Bytes::new(), true, usize::MAX, user)?;
        let (status, stdout) = pipe_of(user)?;
        let environment = ENVIRONMENT.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let process = Process { program: Program::Shell(BEGIN.to_owned()), environment, ..Process::default() };
        let started = runner.start_in_terminal(&process, stdin, stdout).await?;
        let Terminal { master, slave } = started.map_err(ShellError::Terminal)?;
        plain(&master)?;
        let (sender, words) = mpsc::unbounded_channel();
        let mut shell = Self {
            runner,
            terminal: tty::watched(master)?,
            slave,
            commands,
            status: pipe::Receiver::from_owned_fd(status)?,
            said: Vec::new(),
            typed: VecDeque::new(),
            words,
            current: None,
            waiting: VecDeque::new(),
            sequence: 0,
            buffer: vec![0; READ],
        };
        // It has waited until the terminal is as it is to stay: it goes back to what it has found.
        shell.say("\n");
        shell.start(PREPARE, OutputLimits { head: 0, tail: 0 }, None);
        Ok((shell, sender))
    }

    /// Until it ends, by itself or by `end`. What becomes of it is told through `keeping`.
    pub(super) async fn run(mut self, end: CancellationToken, keeping: Arc<Mutex<Keeping>>) {
        let (mut death, mut ending, mut speaks): (Option<Instant>, _, _) = (None, false, true);
        let ended = loop {
            let due = self.current.as_ref().and_then(|current| current.due);
            // Cancel-safe: nothing is read or written before the choice is made.
            tokio::select! {
                ended = self.runner.ended() => break ended,
                ready = self.terminal.readable() => {
                    // An error means that the runtime is gone.
                    if let Ok(mut ready) = ready {
                        match rustix::io::read(ready.get_inner(), &mut self.buffer) {
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
                        death = death.or(Some(Instant::now() + DEATH));
                    }
                }
                () = self.commands.writable() => self.commands.write(),
                Some(word) = self.words.recv() => self.on_word(word),
                () = at(due) => self.on_due(),
                () = at(death) => break Err(SlotError::Undying("shell")),
                () = end.cancelled(), if !ending => {
                    ending = true;
                    self.runner.cancel();
                    death = Some(Instant::now() + DEATH);
                }
            }
        };
        // From now on nobody finds it; what was asked before is answered or, by dropping it, refused.
        let how = how(&ended);
        lock(&keeping).lose(how.clone());
        while let Ok(read @ 1..) = rustix::io::read(&self.terminal, &mut self.buffer) {
            self.on_output(read);
        }
        self.end_with(ended, &how);
    }

    /// The last answer.
    fn end_with(mut self, ended: Result<RunnerEnd, SlotError>, how: &str) {
        for run in self.waiting.drain(..) {
            let _ = run.done.send(agent_failed(format!("the shell {how}"), Executed::No));
        }
        let Some(mut current) = self.current.take() else { return };
        let Some((_, done)) = current.run.take() else { return };
        let ran = current.capture.total() > 0;
        let end = match ended {
            Ok(RunnerEnd::Ended { exit, .. }) => {
                let notice = format!("\n[the shell {how}: the next terminal_stateful call has a new one]\n");
                let captured = with_end(current.capture.finish(), &notice);
                process_end(exit, current.stop, captured)
            }
            Ok(RunnerEnd::NotStarted { kind, message }) => End::NotStarted { kind, message },
            Err(error) if error.ends_slot() => End::SlotLost { cause: chain(&error), ran },
            Err(error) => agent_failed(chain(&error), if ran { Executed::Yes } else { Executed::Unknown }),
        };
        let _ = done.send(end);
    }

    fn start(&mut self, command: &str, limits: OutputLimits, run: Option<(u64, oneshot::Sender<End>)>) {
        self.current = Some(Current {
            sequence: self.sequence,
            run,
            capture: Capture::new(limits),
            held: Vec::new(),
            mark: Mark { bytes: fastrand::u128(..).to_ne_bytes(), written: 0 },
            code: None,
            stop: None,
            next_step: 0,
            due: None,
        });
        self.say(command);
        self.say("\n");
        self.ask();
    }

    fn say(&mut self, text: &str) {
        // Its bound is the largest number.
        let _ = self.commands.push(text.as_bytes(), false);
    }

    /// For the status of what it ran last.
    fn ask(&mut self) {
        let question = format!("echo \"{} $?\" >&7\n", self.sequence);
        self.say(&question);
    }

    fn on_word(&mut self, word: Word) {
        match word {
            Word::Run(run) => {
                self.waiting.push_back(run);
                self.go_on();
            }
            Word::Type { call, data } if self.is_current(call) => {
                if self.typed.len() + data.len() > MAX_TYPED {
                    self.stop(Stop::InputLimit);
                } else {
                    self.typed.extend(data);
                }
            }
            Word::Stop { call, stop } if self.is_current(call) => self.stop(stop),
            Word::Stop { call, .. } => {
                if let Some(place) = self.waiting.iter().position(|run| run.call == call)
                    && let Some(run) = self.waiting.remove(place)
                {
                    let _ = run.done.send(End::CancelledEarly);
                }
            }
            // The call has ended, or not begun.
            Word::Type { .. } => {}
        }
    }

    fn is_current(&self, call: u64) -> bool {
        let run = self.current.as_ref().and_then(|current| current.run.as_ref());
        run.is_some_and(|(number, _)| *number == call)
    }

    /// The next script, if none runs.
    fn go_on(&mut self) {
        if self.current.is_some() {
            return;
        }
        let Some(Run { call, command, limits, before, done }) = self.waiting.pop_front() else { return };
        self.sequence += 1;
        // What was typed for another script is not this one's.
        self.typed.clear();
        let _ = rustix::termios::tcflush(&self.slave, rustix::termios::QueueSelector::IFlush);
        let script = format!("command eval {} <&8 >&8 2>&8 7>&- 8>&-", quoted(&command));
        self.start(&script, limits, Some((call, done)));
        if let (Some(how), Some(current)) = (before, &mut self.current) {
            let notice = format!("[this is a new shell: the one before {how}; its variables and jobs are gone]\n");
            current.capture.push(notice.as_bytes());
        }
    }

    /// The first cause stands.
    fn stop(&mut self, stop: Stop) {
        if let Some(current) = &mut self.current
            && current.stop.is_none()
            && current.code.is_none()
        {
            current.stop = Some(stop);
            current.due = Some(Instant::now());
        }
    }

    fn on_due(&mut self) {
        let Some(current) = &mut self.current else { return };
        if current.code.is_some() {
            return self.finish();
        }
        let step = STEPS.get(current.next_step).map(|(_, step)| *step);
        current.next_step += 1;
        current.due = STEPS.get(current.next_step).map(|(after, _)| Instant::now() + *after);
        match step {
            Some(Step::Type(key)) => self.typed.extend(key),
            Some(Step::Ask) => self.ask(),
            Some(Step::Kill) => self.runner.cancel(),
            None => {}
        }
    }

    /// Reads what the shell says; false once it says nothing more.
    fn on_status(&mut self) -> bool {
        match self.status.try_read(&mut self.buffer) {
            Ok(0) => return false,
            Ok(read) => self.said.extend_from_slice(&self.buffer[..read]),
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
        while let Some(end) = self.said.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.said.drain(..=end).collect();
            if let Some((sequence, code)) = parse(&line)
                && let Some(current) = &mut self.current
                && current.sequence == sequence
                && current.code.is_none()
            {
                current.code = Some(code);
                current.due = Some(Instant::now() + MARK_PATIENCE);
                self.write_mark();
            }
        }
        true
    }

    /// As much of it as the terminal takes now.
    fn write_mark(&mut self) {
        let Some(current) = &mut self.current else { return };
        if current.code.is_some()
            && let Ok(written) = rustix::io::write(&self.slave, &current.mark.bytes[current.mark.written..])
        {
            current.mark.written += written;
        }
    }

    /// So many bytes of the buffer.
    fn on_output(&mut self, read: usize) {
        // Between scripts, it is of jobs that they left.
        let Some(current) = &mut self.current else { return };
        let data = &self.buffer[..read];
        if current.code.is_none() {
            return current.capture.push(data);
        }
        current.held.extend_from_slice(data);
        let mark = &current.mark.bytes;
        if let Some(end) = current.held.windows(mark.len()).position(|window| window == mark) {
            current.held.truncate(end);
            return self.finish();
        }
        let sure = current.held.len().saturating_sub(mark.len() - 1);
        current.capture.push(&current.held[..sure]);
        current.held.drain(..sure);
        self.write_mark();
    }

    /// The script has ended, and all that it printed is here.
    fn finish(&mut self) {
        let Some(mut current) = self.current.take() else { return };
        current.capture.push(&current.held);
        if let (Some((_, done)), Some(code)) = (current.run, current.code) {
            let _ = done.send(process_end(Exit::Code(code), current.stop, current.capture.finish()));
        }
        self.go_on();
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
